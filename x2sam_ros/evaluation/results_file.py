"""Results as JSON: written whole or not at all, NaN as null, and read back exactly."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from x2sam_ros.errors import ResultsError, told
from x2sam_ros.evaluation.results import FORMAT, Results, SequenceResult
from x2sam_ros.evaluation.whole_file import write_whole

T = TypeVar("T")


def write_results(results: Results, path: Path) -> None:
    """Write results; the file appears when it is whole.

    Raises:
        ResultsError: it cannot be written.
    """
    write_json({"format": FORMAT, **asdict(results)}, path)


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write plain values as JSON, NaN as null; the file appears when it is whole.

    Raises:
        ResultsError: it cannot be written.
    """
    try:
        text = _to_text(value)
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path} cannot be written: {told(error)}; give plain values") from error
    write_whole(path, text.encode())


def read_results(path: Path) -> Results:
    """Read what ``write_results`` wrote.

    Raises:
        ResultsError: there is no such file, or it is damaged, or of another format.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {told(error)}; give the results.json of x2sam eval") from error
    return _from_text(Results, text, str(path))


def sequence_result_to_json(result: SequenceResult) -> str:
    """Return the JSON of one sequence, from which an interrupted run goes on."""
    return _to_text({"format": FORMAT, **asdict(result)})


def sequence_result_from_json(text: str, name: str) -> SequenceResult:
    """Read what ``sequence_result_to_json`` returned.

    Args:
        text: the JSON.
        name: of its file, for messages.

    Raises:
        ResultsError: it is damaged, or of another format.
    """
    return _from_text(SequenceResult, text, name)


def _to_text(value: Any) -> str:
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value with null for every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _from_text(kind: type[T], text: str, name: str) -> T:
    try:
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("it is no object")
        found = said.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"its format is {found!r:.40}, expected {FORMAT!r}")
        return _typed(kind, said)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ResultsError(f"{name} holds no results of x2sam eval: {error}; make it again, or give another") from error


def _typed(kind: Any, value: Any) -> Any:
    """Return a value of JSON as ``kind``, which is built of dataclasses, tuples, dictionaries and plain types."""
    if kind is Any:
        return value
    if get_origin(kind) is types.UnionType:
        return None if value is None else _typed(get_args(kind)[0], value)
    if kind is float and value is None:
        return math.nan
    if is_dataclass(kind):
        return _record(kind, value)
    of = get_args(kind)
    expected: Any = get_origin(kind) or kind
    if not _fits(expected, value):
        raise ValueError(f"{value!r:.40} is no {expected.__name__}")
    if expected is tuple:
        return tuple(_typed(of[0], item) for item in value)
    if expected is dict:
        return {key: _typed(of[1], item) for key, item in value.items()}
    return expected(value)


def _fits(expected: type, value: Any) -> bool:
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is tuple:
        return isinstance(value, list)
    return type(value) is expected


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    known = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    if value.keys() != names:
        odd = min(value.keys() ^ names)
        raise ValueError(f"{kind.__name__} {'has no' if odd in names else 'knows no'} {odd!r:.40}")
    return kind(**{name: _typed(known[name], item) for name, item in value.items()})

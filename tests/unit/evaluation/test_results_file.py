"""Results come back from their file exactly, or with an error that names it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.unit.evaluation.made_results import CELL, cell_result, made_results, scored
from x2sam_ros.errors import ResultsError
from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.results_file import (
    read_results,
    sequence_result_from_json,
    sequence_result_to_json,
    write_results,
)


def test_results_come_back_exactly(tmp_path: Path) -> None:
    results = made_results(
        cell_result({"a/1": 1, "ü": 4}, CELL, SequenceResult("broken", error="why"), fingerprint="f"),
        cell_result({"a": 2}),
    )
    path = tmp_path / "results.json"
    write_results(results, path)
    read = read_results(path)
    np.testing.assert_equal(asdict(read), asdict(results))
    assert read.cells[0].sequences[0].curves == results.cells[0].sequences[0].curves
    assert math.isnan(read.cells[0].metrics["reacquired_s"]) and '"reacquired_s":null' in path.read_text()
    write_results(read, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["again.json", "results.json"]


def test_a_sequence_comes_back_exactly() -> None:
    result = scored("a", 3)
    assert sequence_result_to_json(sequence_result_from_json(sequence_result_to_json(result), "a")) == (
        sequence_result_to_json(result)
    )


def changed(text: str, *path: str | int, value: object) -> str:
    """Replace one value of a JSON text; a value of None removes it."""
    said = json.loads(text)
    inner = said
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), "x2sam-results-9", "its format is 'x2sam-results-9', expected 'x2sam-results-1'"),
        (("format",), None, "its format is None"),
        (("cells",), 5, "5 is no tuple"),
        (("cells", 0), "x", "'x' is no CellResult"),
        (("cells", 0, "cell", "dataset"), None, "Cell has no 'dataset'"),
        (("cells", 0, "more"), 1, "CellResult knows no 'more'"),
        (("cells", 0, "metrics", "J"), "high", "'high' is no float"),
        (("cells", 0, "sequences", 0, "num_frames"), 1.5, "1.5 is no int"),
        (("cells", 0, "sequences", 0, "num_frames"), True, "True is no int"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, path: tuple[str | int, ...], value: object, said: str):
    file = tmp_path / "results.json"
    write_results(made_results(cell_result({"a": 1})), file)
    file.write_text(changed(file.read_text(), *path, value=value))
    with pytest.raises(ResultsError, match=f"{file} holds no results of x2sam eval: {said}"):
        read_results(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "results.json"
    with pytest.raises(ResultsError, match=f"{file} cannot be read"):
        read_results(file)
    file.write_bytes(content)
    with pytest.raises(ResultsError, match=str(file)):
        read_results(file)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be written"):
        write_results(made_results(), tmp_path / "missing" / "results.json")
    file = tmp_path / "results.json"
    file.write_text("old")
    bad = made_results()
    bad.configuration["odd"] = object()
    with pytest.raises(ResultsError, match="cannot be written"):
        write_results(bad, file)
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 1

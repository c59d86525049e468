"""Measure in pieces: what is known of each case stands in a file, so that a run that was stopped goes on."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt


class Notes:
    """Results of single cases in a JSON lines file; its first line says of which options they are.

    Args:
        file: where; None keeps them until the process ends.
        options: whatever a result depends on, by name, in values that JSON knows.

    Raises:
        SystemExit: the file holds results of other options, or is no such file.
    """

    def __init__(self, file: Path | None, options: Mapping[str, Any]) -> None:
        self._file, self._found = file, dict[str, Any]()
        if file is None:
            return
        ours = json.loads(json.dumps(options))  # tuples become lists, as in the file
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"options": ours}) + "\n", encoding="utf-8")
            return
        try:
            text = file.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            first, *others = map(json.loads, whole.splitlines() or ["null"])
            theirs: dict[str, Any] = dict(first["options"])
            self._found = {found["case"]: found["result"] for found in others}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{file} holds no results of a benchmark: {error}; name another file") from error
        differ = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
        if differ:
            told = ", ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in differ)
            raise SystemExit(f"{file} holds results of other options: {told}; use the same, or another file")
        if whole != text:  # half a line, which a killed process left
            file.write_text(whole, encoding="utf-8")

    def of(self, case: str, measure: Callable[[], Any]) -> Any:
        """Return the result of a case, measured and noted where it is not known yet; in values that JSON knows."""
        if case not in self._found:
            self._found[case] = result = measure()
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"case": case, "result": result}) + "\n")
        return self._found[case]


def in_pieces(parser: argparse.ArgumentParser) -> None:
    """Add what a script takes that can be stopped and goes on."""
    parser.add_argument("--out", type=Path, help="JSON lines file of the results of single cases; kept, a run goes on")
    minutes(parser)


def minutes(parser: argparse.ArgumentParser) -> None:
    """Add how long a run may take."""
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0 goes to the end")


def stop_after(minutes: float) -> None:
    """Have this process stop as Ctrl-C would; 0 never does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit("time is up; the same command goes on")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def network(options: argparse.Namespace) -> dict[str, str]:
    """Return what a result depends on in ``--model`` and ``--device``."""
    from x2sam_ros.checkpoint.load import weights_sha256

    return {"weights": weights_sha256(options.model), "device": options.device}


def mean_and_error(values: npt.ArrayLike | Iterable[float]) -> tuple[float, float]:
    """Return the mean of what is no NaN, and its standard error: NaN for fewer than two values."""
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    mean = float(kept.mean()) if len(kept) else float("nan")
    return mean, float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else float("nan")

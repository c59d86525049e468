"""Results of single cases stay, belong to their options, and survive a process that is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from pieces import Notes, mean_and_error, stop_after


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    file, options = tmp_path / "new" / "results.jsonl", {"frames": 40, "sizes": (1, 2)}
    for notes in (Notes(file, options), Notes(None, options)):
        assert notes.of("a", lambda: [0.5, None]) == [0.5, None]
        assert notes.of("a", lambda: pytest.fail("it is known")) == [0.5, None]
    again = Notes(file, options)
    assert again.of("a", lambda: pytest.fail("it is known")) == [0.5, None]
    assert again.of("b", lambda: 2) == 2 and len(file.read_text().splitlines()) == 3


def test_results_of_other_options_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    Notes(file, {"frames": 40, "device": "cpu"}).of("a", lambda: 1)
    before = file.read_bytes()
    with pytest.raises(SystemExit, match="frames: 40 there, 200 here, policy: None there, fifo here"):
        Notes(file, {"frames": 200, "device": "cpu", "policy": "fifo"})
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "foreign", [b"no JSON\n", b"one line", b"", b'{"case": 1}\nhalf', b"\xff\xfe\n", b"[1]\n", b"1\n"]
)
def test_a_foreign_file_is_left_as_it_is(foreign: bytes, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_bytes(foreign)
    with pytest.raises(SystemExit, match="name another file"):
        Notes(file, {})
    assert file.read_bytes() == foreign
    with pytest.raises(SystemExit, match="name another file"):
        Notes(tmp_path, {})


def test_half_a_line_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    notes = Notes(file, {})
    for case in ("a", "b"):
        notes.of(case, lambda: 1)
    file.write_text(file.read_text()[:-5])
    again = Notes(file, {})
    assert again.of("a", lambda: 2) == 1 and again.of("b", lambda: 2) == 2
    assert Notes(file, {}).of("b", lambda: 3) == 2


def test_a_run_stops_when_its_time_is_up() -> None:
    with pytest.raises(SystemExit, match="the same command goes on"):
        stop_after(0.001)
        time.sleep(10)
    stop_after(0.0)
    time.sleep(0.1)


def test_errors_are_of_what_is_known() -> None:
    assert mean_and_error([1.0, float("nan"), 3.0, None]) == (2.0, 1.0)
    assert mean_and_error([True, False, True, False]) == (0.5, pytest.approx(0.2887, abs=1e-4))
    nothing = mean_and_error([None])
    assert nothing[0] != nothing[0] and nothing[1] != nothing[1]

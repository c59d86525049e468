"""``x2sam distill`` as typed: the built-in network into one of half its size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.commands import Run, program_runner
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.model.config import preset


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return program_runner(monkeypatch, capfd, "distill", "--cpu", "--workers", "0")


def test_a_short_run_ends_in_a_checkpoint(run: Run, tmp_path: Path) -> None:
    steps = ("--features-steps", 1, "--clicks-steps", 1, "--prompts-steps", 1, "--rounds", 2)
    code, _, errors = run("--out", tmp_path, *steps)
    assert code == 0, errors
    assert load_model(tmp_path / "weights").config == preset("nano-half")
    code, _, errors = run("--out", tmp_path, *steps, "--seed", 7)
    assert code == 2 and "holds a run of another configuration" in errors


def test_a_student_that_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("--out", tmp_path, "--student", "release")
    assert code == 2 and errors.startswith("error: ") and "decoder.hidden is 256" in errors
    code, _, errors = run("--out", tmp_path, "--workers", -1)
    assert code == 2 and "--workers" in errors

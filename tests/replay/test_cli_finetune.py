"""``x2sam finetune`` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.replay.commands import Run, program_runner
from tests.training.test_finetune import write_scene_bag


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr("x2sam_ros.cli.finetune.KEPT_CLIPS", 1)
    monkeypatch.setattr("x2sam_ros.cli.finetune.KEPT_FRAMES", 2)
    return program_runner(monkeypatch, capfd, "finetune", "--cpu", "--workers", "0")


def test_a_model_is_trained_and_compared_with_what_it_was(run: Run, tmp_path: Path) -> None:
    bag, out = write_scene_bag(tmp_path / "a.mcap", damaged=(0,)), tmp_path / "run"
    options = ("--bag", bag, "--out", out, "--steps", 2, "--batch", 1, "--frames", 2, "--prompt", "box")
    code, said, errors = run(*options)
    assert code == 0, errors
    assert said.startswith("a: image 0 left out: image data has")
    assert "A before, B after, on the last 20% of the annotated images of 1 bag" in said
    assert f"wrote {out / 'weights'}" in said and (out / "weights/model.safetensors").is_file()
    results = json.loads((out / "report/results.json").read_text())
    tested = [(cell["cell"]["dataset"], cell["cell"]["checkpoint"]) for cell in results["cells"]]
    assert sorted(tested) == sorted(
        (name, of) for name in ("a", "kept: generated") for of in ("nano", f"{out}/weights")
    )
    assert "A before, B after, on what must not be forgotten" in said
    assert [" ".join(line.split()) for line in said.splitlines() if line.lstrip("│ ").startswith("kept: generated")]
    assert (out / "report/report.html").stat().st_size > 10_000
    again = run(*options)  # all is done; the same numbers
    assert again[0] == 0 and json.loads((out / "report/results.json").read_text())["cells"] == results["cells"]


def test_what_leaves_nothing_to_test_with_is_refused(run: Run, tmp_path: Path) -> None:
    bag, other = write_scene_bag(tmp_path / "a.mcap"), write_scene_bag(tmp_path / "b.mcap", seed=4)
    for options, said in (
        (("--held-out", 0), "nothing is left to test with"),
        (("--held-out", 0.5, "--test", other), "two ways to test"),
        (("--test", bag), "share recordings, which would be both trained on and tested with"),
        (("--test", tmp_path), "share recordings, which would be both trained on and tested with"),
        (("--prompt", "whistle"), "there is no prompt 'whistle'"),
        (("--rehearsal", 1), "rehearsal is 1.0, expected a share from 0 to below 1"),
        (("--rehearse", tmp_path / "none"), "none does not exist"),
        (("--test", other, "--rehearse", other), "b.mcap, a --bag or --test, share recordings"),
        (("--rehearse", tmp_path), "a.mcap, a --bag or --test, share recordings"),
        (("--steps", 0), "steps is 0, expected at least 1"),
        (("--preset", "nano", "--checkpoint", "x"), "--preset and --checkpoint name two models"),
    ):
        code, _, errors = run("--bag", bag, "--out", tmp_path / "run", *options)
        assert code == 2 and said in errors, errors

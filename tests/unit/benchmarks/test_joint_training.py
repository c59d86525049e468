"""The comparison of joint with separate training: same samples, same start, and what the tables count."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.model.networks import new_nano
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import TrainConfig
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.feed import SceneSource, SceneSources
from x2sam_ros.training.ledger import Ledger

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import joint_training
from joint_training import (
    CHAINED,
    CLIPS,
    FEWER,
    JOINT,
    PICTURES,
    RESULTS,
    Run,
    cost_row,
    runs,
    score_row,
    worked,
    write_start,
)
from scene_cases import HELD_OUT_SEED


def test_the_joint_run_sees_the_batches_of_both_others() -> None:
    model = load_model("nano")
    scenes = TrainConfig(image=PICTURES, video=CLIPS)
    seen = {}
    for run in runs(7, 3, 0.5):
        sources = tuple(SceneSource(phase, count) for phase, count in run.steps.items())
        steps = sum(run.steps.values())
        seen[run.name] = SceneSources(scenes, model.config, model.tokenizer, sources, steps).plan
    assert sorted(seen[JOINT]) == sorted(seen["images"] + seen["clips"]) and len(seen[JOINT]) == 10
    assert seen[JOINT] != sorted(seen[JOINT]), "in turns"
    assert seen[CHAINED] == seen["clips"]
    assert set(seen[FEWER]) < set(seen[JOINT])
    assert FEWER not in [run.name for run in runs(7, 3, 0.0)]


def test_the_start_has_a_segmentor_that_knows_nothing(tmp_path: Path) -> None:
    write_start("nano", tmp_path / "start", 0)
    start, shipped = load_model(tmp_path / "start").state_dict(), load_model("nano").state_dict()
    same = {name for name in shipped if torch.equal(start[name], shipped[name])}
    learnt = {name for name in shipped if name.startswith(("segmentor.encoder.", "language."))}
    assert learnt <= same
    fresh = {"segmentor.pixel_decoder.", "segmentor.decoder.", "segmentor.memory_attention.", "mlm_projector."}
    assert {part for name in shipped.keys() - same for part in fresh if name.startswith(part)} == fresh
    before = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    write_start("nano", tmp_path / "start", 1)
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == before


def test_a_start_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(model: X2SAM, folder: Path) -> None:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(joint_training, "save_model", half)
        with pytest.raises(KeyboardInterrupt):
            write_start("nano", tmp_path / "start", 0)
    write_start("nano", tmp_path / "start", 0)
    load_model(tmp_path / "start")


def test_costs_of_runs_are_added() -> None:
    ledgers = [Ledger("cpu"), Ledger("cpu")]
    ledgers[0].add("image", 8, 8, 3600.0, 360.0, 1800.0)
    ledgers[1].add("video", 4, 16, 3600.0, 0.0, 1800.0)
    row = ("both", "2", "8", "4", "24", "2.000", "1.000", "5%", "36.5%")
    assert cost_row("both", ledgers, 1, 0.365) == row
    assert cost_row("both", ledgers * 2, 2, 0.365) == row, "costs are those of one seed"
    assert (worked(ledgers, "cpu"), worked(ledgers, "cuda")) == (3600.0, 7200.0)


def test_a_scene_counts_once_and_differences_have_errors_of_their_own() -> None:
    row = score_row("images", [[0.1, 0.3]], [[0.3, 0.5]])
    assert row == ("images", "0.200", "0.100", "-", "0.200", "0.000", "-")
    seeds = score_row("images", [[0.1, 0.3], [0.3, 0.5]], [[0.3, 0.5], [0.3, 0.5]])
    assert seeds == ("images", "0.300", "0.100", "0.100", "0.100", "0.000", "0.100")


def test_prompts_of_one_scene_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(iter(joint_training.pictures(HELD_OUT_SEED)))
    values = iter([0.2, 0.6])
    score = SimpleNamespace(j=SimpleNamespace(mean=lambda: next(values)))
    monkeypatch.setattr(joint_training, "evaluate_case", lambda session, case: score)
    assert joint_training.scene_score(new_nano, lambda seed: [case, case], 7) == pytest.approx(0.4)
    assert joint_training.scene_score(new_nano, lambda seed: [], 7) is None


def test_results_go_on_and_those_of_other_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def train(run: Run, origin: Path, folder: Path, scenes: TrainConfig, device: str, workers: int) -> dict[str, Any]:
        trained.append(f"{scenes.seed} {run.name} {origin.relative_to(tmp_path)}")
        ledger = Ledger(device)
        for phase, steps in run.steps.items():
            ledger.add(phase, steps, steps, 1.0, 0.0, 1.0)
        return ledger.state()

    monkeypatch.setattr(joint_training, "train", train)
    monkeypatch.setattr(joint_training, "write_start", lambda *args: None)
    monkeypatch.setattr(joint_training, "scene_score", lambda load, cases, seed: (seed % 10) / 10)

    def call(*options: str) -> str:
        given = ["--out", str(tmp_path), "--image-scenes", "4", "--clip-scenes", "2", "--markdown", *options]
        monkeypatch.setattr(sys, "argv", ["joint_training.py", *given])
        joint_training.main()
        return capsys.readouterr().out

    assert "| both | 2 | 200 | 80 | 280 |" in call()
    assert len(trained) == 5 and f"0 {CHAINED} seed-0/images/weights" in trained
    call("--seeds", "0", "1")
    assert len(trained) == 10 and all(name.startswith("1 ") for name in trained[5:]), "the other seed alone"
    with pytest.raises(SystemExit, match="frames: 16 there, 8 here"):
        call("--frames", "8")
    assert len(trained) == 10 and (tmp_path / RESULTS).exists()

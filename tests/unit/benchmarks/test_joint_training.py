"""The comparison of joint with separate training: same samples, same start, and what the tables count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import TrainConfig
from x2sam_ros.training.feed import SceneSource, SceneSources
from x2sam_ros.training.ledger import Ledger

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from joint_training import CHAINED, CLIPS, FEWER, JOINT, PICTURES, cost_row, runs, score_row, write_start


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


def test_costs_of_runs_are_added() -> None:
    ledgers = [Ledger("cpu"), Ledger("cpu")]
    ledgers[0].add("image", 8, 8, 3600.0, 360.0, 1800.0)
    ledgers[1].add("video", 4, 16, 3600.0, 0.0, 1800.0)
    assert cost_row("both", ledgers) == ("both", "2", "8", "4", "24", "2.000", "1.000", "5%")


def test_differences_have_errors_of_their_own() -> None:
    own, joint = {"images": [0.1, 0.3], "clips": [0.5, 0.5]}, {"images": [0.3, 0.5], "clips": [0.5, 0.7]}
    row = score_row("images", own, joint)
    assert row[:5] == ("images", "0.200", "0.100", "0.200", "0.000")
    assert float(row[7]) == pytest.approx(0.1) and float(row[8]) == pytest.approx(0.1)

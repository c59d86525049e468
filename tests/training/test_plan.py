"""Joint runs from a file: datasets on disk to a checkpoint."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.training.test_samples import equal
from tests.unit.model.networks import nano_tokenizer
from tests.unit.truth.layouts import (
    moving_boxes,
    write_bag,
    write_chats,
    write_coco_instances,
    write_davis,
    write_youtube_vos,
)
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.config import preset
from x2sam_ros.training.data.joint import JointSources
from x2sam_ros.training.held_out import HeldOut
from x2sam_ros.training.ledger import HELD_OUT
from x2sam_ros.training.plan import check_held_out, held_out_sources, read_plan, train_plan

WHOLE = """
stage: whole
steps: 4
recipe: {learning_rate: 1.0e-4, bf16: false, loss: {points: 32}, betas: [0.9, 0.98]}
data: {parts: {video: 2}, workers: 0}
sources:
  - {path: coco, name: pictures}
  - {path: davis, name: clips, frames: 2, span: [0.0, 0.6], sequences: [0.0, 0.5]}
held_out:
  batches: 2
  sources:
    - {path: davis, name: ends, span: [0.6, 1.0]}
    - {path: davis, name: others, sequences: [0.5, 1.0], weight: 5.0}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_from_datasets_to_a_checkpoint(tmp_path: Path) -> None:
    write_coco_instances(tmp_path / "coco")
    write_davis(tmp_path / "davis")
    plan = read_plan(written(tmp_path, WHOLE))
    assert plan.recipe.loss.points == 32 and plan.recipe.loss.classes == 2.0, "the others stay as published"
    console = Console(file=io.StringIO())
    ledger = train_plan(plan, "nano", tmp_path / "run", console, "float32", cpu=True)
    assert set(ledger.accounts) == {"pictures", "clips", HELD_OUT}
    clips = ledger.accounts["clips"]
    assert clips.samples == 2 * clips.steps and clips.frames == 2 * clips.samples
    assert "clips" in str([*ledger.table().columns[0].cells])
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 <= rows[-1][f"score/{name}"] <= 1 for name in ("ends", "others"))
    assert "score" not in rows[0], "every 500 steps and at the end"
    load_model(tmp_path / "run" / "weights")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["x2sam_ros.cli.main", "tests.training.sharded_run"], ids=["ddp", "fsdp2"])
def test_two_processes(tmp_path: Path, module: str) -> None:
    """Each has its own samples, both have the same weights, and everything is counted; resumed, it is the same run."""
    write_coco_instances(tmp_path / "coco")
    write_davis(tmp_path / "davis")
    text = WHOLE.replace("steps: 4", "steps: 2").replace("recipe: {", "recipe: {checkpoint_every: 1, ")
    plan, out = written(tmp_path, text), tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", module, "joint", str(plan), "--out", str(out), "--cpu"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append({name: tensor.clone() for name, tensor in load_model(out / "weights").state_dict().items()})
        assert json.loads((out / "run.json").read_text())["processes"] == 2
        accounts = json.loads((out / "step-00000002" / "progress.json").read_text())["accounts"]
        steps, samples = (sum(row[name] for row in accounts.values()) for name in ("steps", "samples"))
        clips = accounts.get("clips", {"steps": 0})["steps"]
        assert (steps, samples) == (2, 2 * (2 + clips)), "a clip's step has two batches"
        shutil.rmtree(out / "step-00000002")
    assert not [name for name, tensor in found[0].items() if not torch.equal(tensor, found[1][name])]
    assert (out / "step-00000001" / "pytorch_model_fsdp_0").exists() == (module != "x2sam_ros.cli.main")


def test_settings_of_a_recipe(tmp_path: Path) -> None:
    text = WHOLE.replace("stage: whole", "stage: finetune").replace("recipe: {", "recipe: {lora: {rank: 2}, ")
    plan = read_plan(written(tmp_path, text))
    assert plan.recipe.lora is not None and plan.recipe.lora.rank == 2
    assert plan.recipe.betas == (0.9, 0.98) and plan.settings.epochs == 4
    assert plan.sources[0].path == str(tmp_path / "coco")
    none = read_plan(written(tmp_path, text.replace("lora: {rank: 2}", "lora: null")))
    assert none.recipe.lora is None


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("span: [0.6, 1.0]", "span: [0.5, 1.0]", "ends is to be held out, but clips has the same annotations"),
        ("sequences: [0.5, 1.0]", "sequences: [0.4, 1.0]", "others is to be held out, but clips has the same"),
        ("name: others", "name: ends", "sources need names of their own, got ends, ends"),
    ],
)
def test_what_is_learnt_from_cannot_be_held_out(tmp_path: Path, was: str, becomes: str, message: str) -> None:
    write_coco_instances(tmp_path / "coco")
    write_davis(tmp_path / "davis")
    plan = read_plan(written(tmp_path, WHOLE.replace(was, becomes)))
    with pytest.raises(ConfigError, match=message):
        train_plan(plan, "nano", tmp_path / "run", Console(), "float32", cpu=True)


FOLDER = """
{stage: finetune, steps: 1, sources: [{path: drives, name: all SOURCE}],
 held_out: {sources: [{path: drives/b.mcap, name: one PART}]}}
"""


@pytest.mark.parametrize(
    ("source", "part", "is_shared"),
    [
        ("", "", True),
        (", layout: bag", "", True),
        (", span: [0.0, 0.5]", ", span: [0.5, 1.0]", False),
        (", sequences: [0.0, 0.5]", "", False),
        (", sequences: [0.5, 1.0]", "", True),
    ],
)
def test_a_bag_that_lies_in_a_folder_that_is_learnt_from_cannot_be_held_out(
    tmp_path: Path, source: str, part: str, is_shared: bool
) -> None:
    (tmp_path / "drives").mkdir()
    for name in "ab":
        write_bag(tmp_path / f"drives/{name}.mcap", [10, 20, 30, 40], moving_boxes(), info={1: "cup", 2: "box"})
    text = FOLDER.replace(" SOURCE", source).replace(" PART", part)
    plan = read_plan(written(tmp_path, text))
    learnt = JointSources(plan.sources, preset("nano"), nano_tokenizer())
    scored = [JointSources([one], preset("nano"), nano_tokenizer(), training=False) for one in plan.held_out]
    if is_shared:
        with pytest.raises(ConfigError, match=r"one is to be held out, but all has the same recording, .*b\.mcap, and"):
            check_held_out(learnt, scored)
    else:
        check_held_out(learnt, scored)


def test_chats_have_no_part_in_the_first_stage(tmp_path: Path) -> None:
    write_coco_instances(tmp_path / "coco")
    write_chats(tmp_path / "talk")
    text = "{stage: segmentor, steps: 9, sources: [{path: coco}, {path: talk/chats.json, media: talk/images}]}"
    with pytest.raises(ConfigError, match="chats have none: take chats out of the plan"):
        train_plan(read_plan(written(tmp_path, text)), "nano", tmp_path / "run", Console(), "float32", cpu=True)


def test_scores_of_runs_that_are_trained_otherwise_compare(tmp_path: Path) -> None:
    """Each source is scored on its own batches, which nothing that is said about learning changes."""
    for split in ("train", "valid"):
        write_youtube_vos(tmp_path / "videos", split)
    write_davis(tmp_path / "davis")
    text = "{stage: joint, steps: 9, data: DATA, sources: [{path: videos}], held_out: {batches: 2, sources: ["
    text += "{path: videos}, {path: davis, name: clips, frames: 2, weight: 9.0}]}}"
    found = []
    for data in ("{}", "{seed: 4, balance: 0.9, clip_share: 0.0, canonical_share: 0.0, parts: {video: 3}}"):
        plan = read_plan(written(tmp_path, text.replace("DATA", data)))
        held_out = HeldOut(held_out_sources(plan, load_model("nano")), plan.held_out_batches)
        assert [item.source for item in held_out.batches] == ["valid", "valid", "clips", "clips"]
        assert all(int(item.batch.grid[0, 0]) == 1 for item in held_out.batches) and not held_out.problems
        found.append(held_out)
    for one, other in zip(found[0].batches, found[1].batches, strict=True):
        assert one.names == other.names and equal(one.batch, other.batch)
    assert found[0].describe() == found[1].describe() == json.loads(json.dumps(found[0].describe()))


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("stage: whole", "stage: half", "stage is 'half', expected one of segmentor, joint"),
        ("steps: 4", "stepps: 4", "needs stage, steps and sources"),
        ("steps: 4", "steps: four", "steps is 'four', expected a whole number of at least 1"),
        ("learning_rate", "learning_speed", "recipe: .*learning_speed"),
        ("recipe: {", "recipe: {steps: 3, ", "recipe has steps"),
        ("points: 32", "dots: 32", "recipe: loss: .*dots"),
        ("path: coco", "pth: coco", "source 1 has no path"),
        ("name: clips", "nom: clips", "source 2: .*nom"),
        ("batches: 2", "batches: 0", "held_out: batches is 0"),
        ("batches: 2", "batch: 2", "held_out needs sources, may have batches"),
        ("name: ends", "nom: ends", "held_out: source 1: .*nom"),
        ("data: {parts: {video: 2}, workers: 0}", "data: 3", "data is 3, expected settings with names"),
        ("recipe: {learning_rate: 1.0e-4", "recipe: [3] #{", "recipe is .*, expected settings with names"),
        ("sources:", "sources: [", "cannot read the plan"),
    ],
)
def test_plans_that_make_no_sense(tmp_path: Path, was: str, becomes: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(written(tmp_path, WHOLE.replace(was, becomes)))

"""``x2sam vgd`` and ``x2sam export`` as typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.replay.commands import Run, program_runner
from tests.unit.evaluation.class_videos import SIZE, block, write_videos
from tests.unit.evaluation.made_sequences import answered, prompt
from tests.unit.evaluation.tiny_bags import write_bag
from tests.unit.truth.layouts import write_davis
from x2sam_ros.cli.eval_inputs import reopen
from x2sam_ros.evaluation.predictions import write_predictions
from x2sam_ros.evaluation.results import Cell, CellResult, Results
from x2sam_ros.evaluation.results_file import write_results
from x2sam_ros.truth.dataset import Kind
from x2sam_ros.truth.open import open_dataset


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return program_runner(monkeypatch, capfd)


def write_evaluation(folder: Path, truth: Path, cells: tuple[str, ...] = ("only",)) -> None:
    """Write what x2sam eval would: in each cell one target, a cat, on the first frame of yard."""
    classes = prompt("classes", "classes", ids=(1, 2), status="ok")
    said = answered([{2: block(3, 4)}, {}, {}], (classes,), {2: "cat"}, scores={2: 0.75}, name="yard", size=SIZE)
    files = [str(truth.parent / f"JPEGImages/yard/{index:05d}.jpg") for index in range(3)]
    frames = tuple(replace(frame, source=file) for frame, file in zip(said.frames, files, strict=True))
    results = []
    for name in cells:
        predictions = folder / "cells" / name / "predictions"
        predictions.mkdir(parents=True)
        write_predictions(replace(said, frames=frames), predictions / "yard.json.gz")
        cell = Cell("instances", "instances", "x2sam", "nano", "fifo", "classes", "stream")
        results.append(CellResult(cell, f"cells/{name}", {}, (), str(truth), "youtube-vis"))
        fingerprint = open_dataset(truth).fingerprint if truth.is_file() else ""
        said_truth = {"paths": [str(truth)], "layout": "", "options": {}, "fingerprint": fingerprint}
        (folder / "cells" / name / "truth.json").write_text(json.dumps(said_truth))
    write_results(Results(tuple(results)), folder / "results.json")


def test_vgd_makes_a_dataset_and_bags(run: Run, tmp_path: Path) -> None:
    source, out = write_videos(tmp_path), tmp_path / "vgd.json"
    code, said, errors = run("vgd", source, "--out", out, "--bags", tmp_path / "bags", "--seed", 3, "--clip-length", 2)
    assert (code, errors) == (0, "")
    assert "left out: empty: nothing in it can be shown" in said and "5 regions in 3 sequences" in said
    dataset = open_dataset(out)
    assert dataset.kind is Kind.VISUAL and json.loads(out.read_text())["seed"] == 3
    names = [sequence.name.replace("/", "_") for sequence in dataset.sequences]
    assert sorted(path.stem for path in (tmp_path / "bags").iterdir()) == sorted(names)
    again = tmp_path / "again.json"
    assert run("vgd", source, "--out", again, "--seed", 3, "--clip-length", 2)[0] == 0
    assert again.read_bytes() == out.read_bytes()


def test_vgd_leaves_nothing_behind_when_it_fails(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("vgd", tmp_path / "nowhere", "--out", tmp_path / "vgd.json")
    assert code == 2 and "nowhere does not exist" in errors and not list(tmp_path.iterdir())
    code, _, errors = run("vgd", tmp_path, "--out", tmp_path / "vgd.txt")
    assert code == 2 and "ends in .json" in errors


def test_export_to_every_format(run: Run, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    write_evaluation(evaluation, write_videos(tmp_path))
    for to, out in (("davis", "davis"), ("mcap", "bags"), ("coco", "coco.json"), ("ytvis", "vis.json")):
        code, said, errors = run("export", evaluation, "--to", to, "--out", tmp_path / out)
        assert (code, errors) == (0, "") and f"1 sequence as {to}" in said
    with Image.open(tmp_path / "davis/yard/00000.png") as picture:
        assert np.array_equal(np.asarray(picture), block(3, 4) * 2)
    assert (tmp_path / "bags/yard.mcap").is_file()
    coco = COCO(str(tmp_path / "coco_truth.json")).loadRes(str(tmp_path / "coco.json"))
    assert np.array_equal(coco.annToMask(coco.anns[1]), block(3, 4)) and coco.anns[1]["category_id"] == 8
    (track,) = json.loads((tmp_path / "vis.json").read_text())
    assert (track["video_id"], track["category_id"], track["score"]) == (2, 8, 0.75)  # yard is video 2 of its file


@pytest.mark.parametrize("case", ("bags", "split"))
def test_the_ground_truth_is_opened_as_it_was_evaluated(
    case: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: tuple[object, ...] = (write_bag(tmp_path / "one"), write_bag(tmp_path / "two", num_frames=6), "--stride", 2)
    if case == "split":
        write_davis(tmp_path / "davis")
        (tmp_path / "davis/ImageSets/2017/train.txt").write_text("bear\n")
        given = ("davis", "--split", "train")
        monkeypatch.chdir(tmp_path)
    evaluation, out = tmp_path / "evaluation", tmp_path / "out.json"
    assert run("eval", *given, "--method", "copy_first", "--out", evaluation)[0] == 0
    monkeypatch.chdir("/")
    (evaluation / "results.json").unlink()  # as a run that was broken off, or went on with other cells
    (cell,) = (evaluation / "cells").iterdir()
    assert reopen(cell).fingerprint == json.loads((cell / "truth.json").read_text())["fingerprint"]
    code, _, errors = run("export", evaluation, "--to", "ytvis", "--out", out)
    assert (code, errors) == (0, ""), errors
    truth = json.loads((tmp_path / "out_truth.json").read_text())
    assert [video["length"] for video in truth["videos"]] == ([2, 3] if case == "bags" else [4])
    assert truth["categories"] == [{"id": 1, "name": "object"}]
    assert {each["category_id"] for each in (*truth["annotations"], *json.loads(out.read_text()))} == {1}
    noted = json.loads((cell / "truth.json").read_text())
    (cell / "truth.json").write_text(json.dumps({**noted, "fingerprint": "0"}))
    code, _, errors = run("export", evaluation, "--to", "ytvis", "--out", out)
    assert code == 2 and "is another one than was scored" in errors


def test_export_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    code, _, errors = run("export", tmp_path, "--to", "davis", *out)
    assert code == 2 and "holds no predictions; give a folder that x2sam eval made" in errors
    write_evaluation(tmp_path, tmp_path, ("one", "two"))
    code, _, errors = run("export", tmp_path, "--to", "davis", *out)
    assert code == 2 and "which cell? None does not name one of one, two" in errors
    assert run("export", tmp_path, "--to", "davis", *out, "--cell", "two")[0] == 0
    code, _, errors = run("export", tmp_path, "--to", "gif", *out)
    assert code == 2 and "cannot export to 'gif'; expected davis, ytvis, coco, mcap" in errors
    (tmp_path / "cells/one/truth.json").write_text("{}")
    code, _, errors = run("export", tmp_path, "--to", "coco", "--out", tmp_path / "out.json", "--cell", "one")
    assert code == 2 and "truth.json does not say where the ground truth is" in errors
    (tmp_path / "cells/one/predictions/yard.json.gz").unlink()
    code, _, errors = run("export", tmp_path, "--to", "davis", *out, "--cell", "one")
    assert code == 2 and "holds no predictions; run x2sam eval again" in errors

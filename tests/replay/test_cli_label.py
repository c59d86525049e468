"""``x2sam label`` as typed: masks of a replay out, corrected, and back in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.replay.commands import Run, program_runner
from tests.replay.recordings import START_NS, STEP_NS
from tests.training.labels import FRAMES, write_published, write_recording
from x2sam_ros.truth.open import open_dataset


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return program_runner(monkeypatch, capfd, "label")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "clip.mcap")


@pytest.fixture
def published(tmp_path: Path, recording: Path) -> Path:
    return write_published(tmp_path / "results.mcap", recording)


def test_masks_are_exported_corrected_and_imported(run: Run, tmp_path: Path, recording: Path, published: Path) -> None:
    out, truth = tmp_path / "labels", tmp_path / "truth.mcap"
    code, said, errors = run(recording, "--masks", published, "--to", "coco", "--out", out)
    assert (code, errors) == (0, "") and "annotations.json: 8 masks on 5 images" in said
    assert len(list((out / "images").iterdir())) == FRAMES
    content = json.loads((out / "annotations.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1]
    next(one for one in content["annotations"] if one["image_id"] == 2)["attributes"] = {}  # as if drawn anew
    for one in content["categories"]:
        one["name"] = {"red": "red square", "object": "blue square"}[one["name"]]
    (out / "corrected.json").write_text(json.dumps(content))
    code, said, errors = run(recording, "--corrected", out / "corrected.json", "--out", truth)
    assert (code, errors) == (0, "")
    assert "truth.mcap: 5 of 5 images annotated; objects: 1 red square, 2 blue square" in said
    assert "1 mask without an object_id: taken for the object that has the same label on other images" in said
    dataset = open_dataset(truth)
    assert [category.name for category in dataset.categories] == ["blue square", "red square"]
    (bag,) = dataset.sequences
    frames = list(bag.frames())
    assert [frame.stamp_ns for frame in frames] == [START_NS + index * STEP_NS for index in range(FRAMES)]
    assert [bag.truth(frame).object_ids for frame in frames] == [(), (1,), (1, 2), (1, 2), (1, 2)]


def test_what_contradicts_itself_is_refused_and_leaves_nothing(
    run: Run,
    tmp_path: Path,
    recording: Path,
    published: Path,
) -> None:
    out = tmp_path / "labels"
    for options, said in (
        ((), "give either --to (coco, cvat-images, cvat-video) to export, or --corrected FILE"),
        (("--to", "voc"), "cannot export to 'voc'; expected coco, cvat-images, cvat-video"),
        (("--to", "coco"), "clip.mcap has no masks: no topic of type"),
        (("--to", "coco", "--pictures", tmp_path), "--pictures is for --corrected"),
        (("--corrected", "a.zip"), "a.zip is neither .json (COCO) nor .xml (CVAT); unpack"),
        (("--corrected", "a.json", "--stride", 2), "--stride is for --to"),
        (("--corrected", "a.json"), "a.json cannot be read"),
        (("--corrected", "a.json", "--out", recording), "clip.mcap is there already; give --out a new file"),
        (("--corrected", "a.json", "--out", published), "results.mcap is there already; give --out a new file"),
    ):
        code, _, errors = run(recording, "--out", out, *options)
        assert code == 2 and said in errors, errors
        assert not out.exists()
    assert run(recording, "--masks", published, "--to", "cvat-video", "--out", out)[0] == 0
    code, _, errors = run(recording, "--masks", published, "--to", "cvat-video", "--out", out)
    assert code == 2 and "is there already; give --out a new folder" in errors

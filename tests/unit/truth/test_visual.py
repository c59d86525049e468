"""Reading V-VGD back: regions, frames with and without truth, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.evaluation.class_videos import tracks, write_visual
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Category, Expression
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.visual import VisualSequence


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = write_visual(folder)
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    return path


def opened(path: Path, name: str, **options: Any) -> VisualSequence:
    sequence = open_dataset(path, **options).sequence(name)
    assert isinstance(sequence, VisualSequence)
    return sequence


def test_truth_is_what_it_was_made_from(tmp_path: Path) -> None:
    path = write_visual(tmp_path)
    assert open_dataset(path).categories == (Category(3, "dog"), Category(8, "cat"))
    park = opened(path, "park")
    assert park.expressions == (Expression("3", "", (1, 2)),)
    for frame in park.frames():
        truth = park.truth(frame)
        assert truth is not None
        for object_id in (1, 2):
            expected = tracks()["park"][object_id - 1]["masks"][frame.frame_index]
            assert np.array_equal(
                truth.mask_of(object_id), np.zeros_like(truth.mask_of(1)) if expected is None else expected
            )


def test_a_stride_keeps_the_frame_of_the_prompt_and_the_stamps(tmp_path: Path) -> None:
    path = write_visual(tmp_path)
    stamps = [frame.stamp_ns for frame in opened(path, "park").frames()]
    park = opened(path, "park", stride=2)
    assert [frame.stamp_ns for frame in park.frames()] == stamps[1::2]
    assert (opened(path, "park").prompt_index(), park.prompt_index()) == (1, 0)


def test_a_frame_without_annotation_has_no_truth(tmp_path: Path) -> None:
    def change(said: dict[str, Any]) -> None:
        said["sequences"][0]["frames"][2]["annotated"] = False

    park = opened(changed(tmp_path, change), "park")
    assert [park.truth(frame) is None for frame in park.frames()] == [index == 2 for index in range(6)]


def test_an_image_that_cannot_be_read_moves_the_prompt_or_is_missed(tmp_path: Path) -> None:
    path = write_visual(tmp_path)
    images = tmp_path / "videos/JPEGImages/park"
    (images / "00000.jpg").write_bytes(b"")
    assert opened(path, "park").prompt_index() == 0
    (images / "00001.jpg").unlink()
    with pytest.raises(TruthError, match=r"park: .*00001\.jpg, which the prompt is on, cannot be read"):
        opened(path, "park").prompt_index()


def _another_version(said: dict[str, Any]) -> None:
    said["format"] = "x2sam-vvgd-9"


def _no_images(said: dict[str, Any]) -> None:
    del said["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(_another_version, "is 'x2sam-vvgd-9', expected 'x2sam-vvgd-1'"), (_no_images, "has another structure .*images")],
)
def test_another_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(TruthError, match=message):
        open_dataset(changed(tmp_path, change))


def _late_prompt(record: dict[str, Any]) -> None:
    record["prompt"]["frame"] = 6


def _short_track(record: dict[str, Any]) -> None:
    record["objects"][1]["segmentations"].pop()


def _no_prompt(record: dict[str, Any]) -> None:
    del record["prompt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_late_prompt, "park: the prompt is on frame 6 of 6"),
        (_short_track, "park: object 2 has 5 masks for 6 images"),
        (_no_prompt, "park: its annotation has another structure .*prompt"),
    ],
)
def test_one_damaged_sequence_does_not_cost_the_others(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    dataset = open_dataset(changed(tmp_path, lambda said: change(said["sequences"][0])))
    with pytest.raises(TruthError, match=message):
        dataset.sequence("park").frames()
    assert len(list(dataset.sequence("yard").frames())) == 3


def test_a_damaged_region_is_named(tmp_path: Path) -> None:
    def change(said: dict[str, Any]) -> None:
        said["sequences"][0]["prompt"]["regions"][0]["box"] = {"size": [48, 64], "counts": [1, 2]}

    park = opened(changed(tmp_path, change), "park")
    with pytest.raises(TruthError, match="segmentation is damaged"):
        park.region(park.expressions[0], "box")

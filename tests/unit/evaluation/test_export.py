"""What other programs read of our predictions is what we predicted."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rosbags.highlevel import AnyReader

from tests.unit.evaluation.made_sequences import MadeSequence, answered, columns, made_dataset, prompt
from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.messages import read_grounding, read_tracked_mask_array
from x2sam_ros.bag.writer import GROUNDINGS_TOPIC, MASKS_TOPIC
from x2sam_ros.errors import BagError, ConfigError, TruthError
from x2sam_ros.evaluation.export import export_coco, export_davis, export_mcap, export_ytvis
from x2sam_ros.evaluation.predictions import SequencePredictions
from x2sam_ros.evaluation.scoring import combine, score_sequence
from x2sam_ros.truth.dataset import Category, Kind, TrueObject
from x2sam_ros.types import BoolArray

LEFT, MIDDLE, RIGHT = columns(0, 3), columns(2, 4), columns(4, 6)
CLASSES = prompt("classes", "classes", ids=(1, 2), query="cat, dog", status="ok")
CATEGORIES = (Category(17, "cat"), Category(40, "dog"))


def two_targets(name: str = "clip") -> SequencePredictions:
    """Target 4, a cat, is on top of target 9, a dog, where they overlap; one frame is lost, one is empty."""
    frames = [{4: LEFT, 9: MIDDLE}, None, {}, {9: RIGHT}]
    return answered(frames, (CLASSES,), {4: "cat", 9: "dog"}, scores={4: 0.9, 9: 0.25}, name=name)


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def test_davis_shows_the_surest_target_in_the_palette_of_davis(tmp_path: Path) -> None:
    export_davis([two_targets("a/clip")], tmp_path)
    files = sorted((tmp_path / "a/clip").iterdir())
    assert [file.name for file in files] == [f"{index:05d}.png" for index in range(4)]
    expected = np.where(LEFT, 4, np.where(MIDDLE, 9, 0))
    assert np.array_equal(read_png(files[0]), expected)
    assert not read_png(files[1]).any() and not read_png(files[2]).any()
    assert np.array_equal(read_png(files[3]), RIGHT * 9)
    with Image.open(files[0]) as picture:
        colours = np.array(picture.getpalette()).reshape(-1, 3)
    assert colours[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colours[255].tolist() == [224, 224, 192]


def test_davis_names_the_object_that_a_prompt_means(tmp_path: Path) -> None:
    prompts = (prompt("object-7", ids=(7,)), prompt("object-2", ids=(2,)))
    said = answered([{1: LEFT, 2: RIGHT}], prompts, of_prompt={1: "object-7", 2: "object-2"})
    export_davis([said], tmp_path)
    assert np.array_equal(read_png(tmp_path / "clip/00000.png"), LEFT * 7 + RIGHT * 2)


def test_davis_has_a_folder_for_each_expression(tmp_path: Path) -> None:
    prompts = tuple(prompt(f"expression-{key}", "text", expression_id=key) for key in "01")
    said = answered([{3: LEFT, 5: MIDDLE}] * 2, prompts, of_prompt={3: "expression-0", 5: "expression-0"})
    export_davis([said], tmp_path)
    assert np.array_equal(read_png(tmp_path / "clip/0/00001.png"), LEFT | MIDDLE)
    assert not read_png(tmp_path / "clip/1/00001.png").any()


def test_what_no_png_or_folder_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="id 256 on frame 0 does not fit"):
        export_davis([answered([{256: LEFT}], (CLASSES,))], tmp_path)
    for name in ("../clip", "/clip"):
        with pytest.raises(BagError, match="is no name for a file"):
            export_davis([two_targets(name)], tmp_path / "davis")
    with pytest.raises(BagError, match="a_clip.mcap would hold two sequences, the second is a_clip"):
        export_mcap([two_targets("a/clip"), two_targets("a_clip")], tmp_path / "mcap")
    with pytest.raises(ConfigError, match="ends in .json"):
        export_coco([two_targets()], tmp_path / "coco")
    unknown = made_dataset(Kind.INSTANCES, MadeSequence([None] * 4), categories=CATEGORIES)
    with pytest.raises(TruthError, match="clip: none of its predicted frames has ground truth"):
        export_ytvis([two_targets()], tmp_path / "vis.json", unknown)


def test_pycocotools_loads_the_same_masks(tmp_path: Path) -> None:
    sequences = [MadeSequence([{}] * 4, (TrueObject(1, 17), TrueObject(2, 40)), name=name) for name in ("b", "a")]
    dataset = made_dataset(Kind.INSTANCES, *sequences, categories=CATEGORIES)
    export_coco([two_targets("b"), two_targets("a")], tmp_path / "coco.json", dataset)
    coco = COCO(str(tmp_path / "coco_truth.json")).loadRes(str(tmp_path / "coco.json"))
    assert [coco.imgs[key]["file_name"] for key in (1, 8)] == ["b/00000.jpg", "a/00003.jpg"]
    found = {(row["image_id"], row["category_id"], row["score"]): coco.annToMask(row) for row in coco.anns.values()}
    expected = {(1, 17, 0.9): LEFT, (1, 40, 0.25): MIDDLE, (4, 40, 0.25): RIGHT}
    expected |= {(image + 4, *rest): mask for (image, *rest), mask in expected.items()}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], mask) for key, mask in expected.items())


def test_single_images_keep_the_numbers_of_their_annotation_file(tmp_path: Path) -> None:
    sequences = [MadeSequence([{}], name=name) for name in ("b", "a")]
    for sequence, number in zip(sequences, (139, 25), strict=True):
        sequence.number = number
    said = [answered([{1: LEFT}], (CLASSES,), {1: "  Dog"}, name=sequence.name) for sequence in sequences]
    export_coco(said, tmp_path / "coco.json", made_dataset(Kind.INSTANCES, *sequences, categories=CATEGORIES))
    rows = json.loads((tmp_path / "coco.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(139, 40), (25, 40)]


def test_coco_agrees_with_our_ap_on_what_was_exported(tmp_path: Path) -> None:
    truths = [{1: LEFT, 2: RIGHT}, {1: LEFT, 2: RIGHT}, None, {2: RIGHT, 3: MIDDLE}]
    objects = (TrueObject(1, 17), TrueObject(2, 40), TrueObject(3, 17, is_crowd=True), TrueObject(4))
    dataset = made_dataset(Kind.INSTANCES, MadeSequence(truths, objects), categories=CATEGORIES)
    said = two_targets()
    export_coco([said], tmp_path / "coco.json", dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco_truth.json"))
        evaluated = COCOeval(coco, coco.loadRes(str(tmp_path / "coco.json")), "segm")
        for step in (evaluated.evaluate, evaluated.accumulate, evaluated.summarize):
            step()
    assert len(coco.imgs) == 3 and len(coco.anns) == 6  # one frame is not annotated
    ours = combine(Kind.INSTANCES, [score_sequence(dataset.sequences[0], dataset, said)])
    assert 0 < evaluated.stats[0] == pytest.approx(ours["AP"], abs=1e-12)
    export_ytvis([said], tmp_path / "vis.json", dataset)
    cat, dog, crowd = json.loads((tmp_path / "vis_truth.json").read_text())["annotations"]
    assert [row["category_id"] for row in (cat, dog, crowd)] == [17, 40, 17] and crowd["iscrowd"] == 1
    assert cat["areas"] == [12, 12, None, None] and dog["areas"] == [8, 8, None, 8]
    assert dog["bboxes"][0] == [4, 0, 2, 4]
    assert np.array_equal(coco_mask.decode(dog["segmentations"][3]).astype(bool), RIGHT)


def test_without_a_dataset_labels_are_categories(tmp_path: Path) -> None:
    said = answered([{1: LEFT, 2: RIGHT, 3: MIDDLE}], labels={1: "", 2: "blue cup", 3: "blue cup"})
    export_coco([said], tmp_path / "coco.json")
    index = json.loads((tmp_path / "coco_truth.json").read_text())
    assert index["categories"] == [{"id": 1, "name": "object"}, {"id": 2, "name": "blue cup"}]
    assert [row["category_id"] for row in json.loads((tmp_path / "coco.json").read_text())] == [1, 2, 2]


def test_youtube_vis_has_a_track_for_each_target(tmp_path: Path) -> None:
    dataset = made_dataset(Kind.INSTANCES, MadeSequence([{}] * 4), categories=CATEGORIES)
    export_ytvis([two_targets()], tmp_path / "vis.json", dataset)
    cat, dog = json.loads((tmp_path / "vis.json").read_text())
    assert (cat["video_id"], cat["category_id"], cat["score"]) == (1, 17, 0.9)
    assert (dog["category_id"], dog["score"]) == (40, 0.25)

    def masks(track: dict) -> list[BoolArray | None]:
        return [None if rle is None else coco_mask.decode(rle).astype(bool) for rle in track["segmentations"]]

    assert [mask is None for mask in masks(cat)] == [False, True, True, True]
    assert [mask is None for mask in masks(dog)] == [False, True, True, False]
    assert np.array_equal(masks(cat)[0], LEFT) and np.array_equal(masks(dog)[3], RIGHT)
    (video,) = json.loads((tmp_path / "vis_truth.json").read_text())["videos"]
    assert video == {"id": 1, "name": "clip", "file_names": [f"clip/{k:05d}.jpg" for k in range(4)], "length": 4} | {
        "height": 4,
        "width": 6,
    }


def test_a_recording_holds_the_masks_and_the_answers(tmp_path: Path) -> None:
    phrases = (("a dog", (9,)), ("a bird", ()), ("a cat", (4,)))
    asked = prompt("caption", "caption", 2, status="ok", response="A cat, a dog, and a cat.", phrases=phrases)
    said = two_targets()
    said = SequencePredictions(said.sequence, (CLASSES, asked, prompt("lost")), said.frames)
    export_mcap([said], tmp_path)
    with AnyReader([tmp_path / "clip.mcap"], default_typestore=message_types()) as reader:
        read = [(c.topic, reader.deserialize(data, c.msgtype)) for c, _, data in reader.messages()]
    results = [read_tracked_mask_array(message) for topic, message in read if topic == MASKS_TOPIC]
    assert [result.frame_index for result in results] == [0, 2, 3]  # the lost one has no message
    assert [message.frames_dropped for topic, message in read if topic == MASKS_TOPIC] == [0, 1, 1]
    for result in results:
        frame = said.frames[result.frame_index]
        assert (result.stamp_ns, result.image_size) == (frame.stamp_ns, frame.size)
        assert list(result.target_ids) == [mask.target_id for mask in frame.masks]
        assert result.labels == tuple(mask.label for mask in frame.masks)
        assert np.allclose(result.scores, [mask.score for mask in frame.masks])
        assert all(np.array_equal(mask, frame.mask(row)) for mask, row in zip(result.masks, frame.masks, strict=True))
    first, second = (read_grounding(message) for topic, message in read if topic == GROUNDINGS_TOPIC)
    assert (first.query, first.target_ids) == ("cat, dog", (4, 9))
    assert [(phrase.text, phrase.start) for phrase in second.phrases] == [("a dog", 7), ("a cat", 18)]

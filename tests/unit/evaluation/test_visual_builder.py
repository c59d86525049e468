"""V-VGD: what is shown and what looks like it, as JSON and as bags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from tests.unit.evaluation.class_videos import SIZE, block, tracks, write_videos, write_visual
from tests.unit.evaluation.made_sequences import MadeSequence, columns, made_dataset
from x2sam_ros.bag.source import open_source
from x2sam_ros.errors import BagError, ConfigError, TruthError
from x2sam_ros.evaluation.prompting import make_prompts
from x2sam_ros.evaluation.visual_builder import (
    CAMERA_TOPIC,
    LABEL_TOPIC,
    PROMPT_TOPICS,
    RECORD_TOPIC,
    build_visual,
    write_bags,
)
from x2sam_ros.truth.dataset import Category, Kind, TrueObject
from x2sam_ros.truth.label_maps import mask_of_segmentation
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.shown_regions import REGION_KINDS, draw_region
from x2sam_ros.truth.visual import VisualSequence


def built(folder: Path, **options: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(write_visual(folder, **options).read_text())
    return said


def test_each_class_of_the_first_frame_with_an_object_is_shown(tmp_path: Path) -> None:
    said = built(tmp_path)
    assert said["categories"] == [{"id": 3, "name": "dog"}, {"id": 8, "name": "cat"}]
    assert said["images"] == "videos/JPEGImages" and said["seed"] == said["clip_length"] == 0
    park, yard = said["sequences"]
    assert park["prompt"]["frame"] == 1  # on frame 0 there are only stuff and a crowd
    assert [region["category_id"] for region in park["prompt"]["regions"]] == [3]
    assert [thing["category_id"] for thing in park["objects"]] == [3, 3]  # the cat came later
    assert [frame["file"] for frame in park["frames"]] == [f"park/{index:05d}.jpg" for index in range(6)]
    assert all(frame["annotated"] for frame in park["frames"])
    assert yard["prompt"]["frame"] == 1  # four pixels on frame 0 are too few to point at
    assert [region["category_id"] for region in yard["prompt"]["regions"]] == [3, 8]


def test_regions_are_drawn_for_an_object_of_the_class_on_that_frame(tmp_path: Path) -> None:
    for record in built(tmp_path, seed=5)["sequences"]:
        for region in record["prompt"]["regions"]:
            chosen = next(thing for thing in record["objects"] if thing["id"] == region["object_id"])
            assert chosen["category_id"] == region["category_id"]
            mask = mask_of_segmentation(chosen["segmentations"][record["prompt"]["frame"]], SIZE)
            for kind in REGION_KINDS:
                drawn = draw_region(mask, kind, f"5/{record['name']}/{chosen['id']}/{kind}")
                assert np.array_equal(mask_of_segmentation(region[kind], SIZE), drawn)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_choice(tmp_path: Path) -> None:
    dataset = open_dataset(write_videos(tmp_path))
    texts = [build_visual(dataset, tmp_path, seed=seed).text for seed in (1, 1, *range(2, 12))]
    assert texts[0] == texts[1]
    chosen = {json.loads(text)["sequences"][0]["prompt"]["regions"][0]["object_id"] for text in texts}
    assert len(chosen) == 2  # either dog


def test_clips_are_cut_as_published(tmp_path: Path) -> None:
    said = built(tmp_path, clip_length=2)["sequences"]
    # park: five frames with objects make clips of 2, 2 and a last one of 1, which is left out
    names = ["park/000", "park/001", "yard/000"]
    assert [record["name"] for record in said] == names
    assert [[frame["file"][-9:-4] for frame in record["frames"]] for record in said] == [
        ["00001", "00002"],
        ["00003", "00004"],
        ["00000", "00001"],
    ]
    assert [record["prompt"]["frame"] for record in said] == [0, 0, 1]
    assert [region["category_id"] for region in said[1]["prompt"]["regions"]] == [3, 8]
    with pytest.raises(ConfigError, match="clip length is -1"):
        build_visual(open_dataset(tmp_path / "vgd.json"), tmp_path, clip_length=-1)


def test_what_is_left_out_is_said_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    made = build_visual(open_dataset(write_videos(tmp_path)), tmp_path)
    assert made.left_out == ("empty: nothing in it can be shown",)
    assert (made.num_sequences, made.num_regions) == (2, 3)
    cats = (Category(1, "cat"),)
    bag = MadeSequence([{1: columns(0, 2)}], (TrueObject(1, 1),))
    with pytest.raises(TruthError, match="made: none of its 1 sequences.*clip: its frames are not image files"):
        build_visual(made_dataset(Kind.INSTANCES, bag, categories=cats), tmp_path)
    with pytest.raises(TruthError, match="made has no classes"):
        build_visual(made_dataset(Kind.OBJECTS, bag), tmp_path)


def test_prompts_are_one_conversation_with_a_region_for_each_class(tmp_path: Path) -> None:
    dataset = open_dataset(write_visual(tmp_path))
    assert dataset.kind is Kind.VISUAL
    yard = dataset.sequence("yard")
    assert isinstance(yard, VisualSequence)
    for kind in REGION_KINDS:
        (planned,) = make_prompts(yard, dataset.kind, kind, dataset.categories)
        assert (planned.given.prompt_id, planned.given.kind) == ("regions", kind)
        assert planned.given.frame_index == 1 and planned.given.object_ids == (1, 2)
        assert planned.prompt.labels == ("dog", "cat") and planned.prompt.task == "vgdseg"
        for region, expression in zip(planned.prompt.regions, yard.expressions, strict=True):
            assert np.array_equal(region.mask, yard.region(expression, kind))


def read_bag(path: Path) -> dict[str, list[Any]]:
    messages: dict[str, list[Any]] = {}
    with AnyReader([path]) as reader:
        for connection, stamp_ns, data in reader.messages():
            messages.setdefault(connection.topic, []).append((stamp_ns, reader.deserialize(data, connection.msgtype)))
    return messages


def pixels(message: Any) -> np.ndarray:
    return np.asarray(message.data).reshape(message.height, message.width)


def test_bags_hold_images_truth_and_prompts(tmp_path: Path) -> None:
    dataset = open_dataset(write_visual(tmp_path))
    paths = write_bags(dataset, tmp_path / "bags")
    assert [path.name for path in paths] == ["park.mcap", "yard.mcap"]
    messages = read_bag(paths[1])
    images = [bytes(message.data) for _, message in messages[CAMERA_TOPIC]]
    assert images == [(tmp_path / f"videos/JPEGImages/yard/{k:05d}.jpg").read_bytes() for k in range(3)]
    (stamp_ns, record), *_ = messages[RECORD_TOPIC]
    assert json.loads(record.data)["regions"] == [{"value": 1, "category_id": 3}, {"value": 2, "category_id": 8}]
    assert stamp_ns == messages[CAMERA_TOPIC][1][0]
    labels = [pixels(message) for _, message in messages[LABEL_TOPIC]]
    cat, dog = tracks()["yard"][0]["masks"][1], tracks()["yard"][1]["masks"][1]
    assert np.array_equal(labels[1] > 0, cat | dog) and labels[0].sum() == 4
    for kind, topic in PROMPT_TOPICS.items():
        ((when, message),) = messages[topic]
        yard = dataset.sequence("yard")
        shown = [yard.region(expression, kind) for expression in yard.expressions]
        assert when == stamp_ns and np.array_equal(pixels(message) > 0, shown[0] | shown[1])
    assert [frame.image.shape for frame in open_source(paths[1])] == [(*SIZE, 3)] * 3
    bag = open_dataset(paths[1])
    frame = list(bag.sequences[0].frames())[2]
    truth = bag.sequences[0].truth(frame)
    assert bag.kind is Kind.OBJECTS and np.array_equal(truth.mask_of(1), block(10, 21))


def test_bags_are_the_same_bytes_and_refuse_two_of_one_name(tmp_path: Path) -> None:
    dataset = open_dataset(write_visual(tmp_path))
    first, second = (write_bags(dataset, tmp_path / name) for name in ("a", "b"))
    one, two = ([path.read_bytes() for path in paths] for paths in (first, second))
    assert one == two and [each.name for each in open_dataset(tmp_path / "a").sequences] == ["park", "yard"]
    twice = made_dataset(Kind.VISUAL, dataset.sequences[0], dataset.sequences[0])
    with pytest.raises(BagError, match="would hold two sequences, the second is park"):
        write_bags(twice, tmp_path / "c")
    with pytest.raises(TruthError, match="clip has no regions to show"):
        write_bags(made_dataset(Kind.VISUAL, MadeSequence([{}])), tmp_path / "d")


def test_an_image_of_another_format_is_packed_as_png(tmp_path: Path) -> None:
    path = write_visual(tmp_path)
    said = json.loads(path.read_text())
    for frame in said["sequences"][1]["frames"]:
        file = tmp_path / "videos/JPEGImages" / frame["file"]
        cv2.imwrite(str(file.with_suffix(".bmp")), cv2.imread(str(file)))
        frame["file"] = frame["file"].replace(".jpg", ".bmp")
    path.write_text(json.dumps({**said, "sequences": said["sequences"][1:]}))
    (bag,) = write_bags(open_dataset(path), tmp_path / "bags")
    assert {message.format for _, message in read_bag(bag)[CAMERA_TOPIC]} == {"png"}
    assert len(list(open_source(bag))) == 3

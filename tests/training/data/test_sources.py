"""Sources: from the official layouts, in tiny copies, to samples that ask for what the annotations say."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared_data import data_folder
from tests.unit.evaluation.class_videos import write_visual
from tests.unit.truth import layouts
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.training.data.sample import Asked, Shown
from x2sam_ros.training.data.sources import Source, SourceConfig, open_training_source
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.types import Task

WORDING = Wording("official")


def source(path: Path, **said: Any) -> Source:
    return open_training_source(SourceConfig(str(path), **said), WORDING)


def read(found: Source, index: int = 0, seed: int = 0) -> Shown:
    return found.samples[index].read(np.random.default_rng(seed))


def mask_of(shown: Shown, asked: Asked, phrase: int, frame: int = 0) -> np.ndarray:
    """The union of what a prompt wants for a phrase."""
    found = [shown.mask(one.runs[frame]) for one in asked.wanted if one.phrase == phrase]
    return np.logical_or.reduce(found) if found else np.zeros(shown.size, bool)


def write_bag(root: Path) -> None:
    labels = layouts.moving_boxes()
    layouts.write_bag(root / "drive.mcap", [10, 20, 30, 40], labels, info={1: "cup", 2: "box"})


# layout, how it is written, what is asked by default, samples of one frame, and of clips of two
LAYOUTS = [
    ("coco-panoptic", layouts.write_coco_panoptic, Task.GENSEG, 2, 0),
    ("coco-instances", layouts.write_coco_instances, Task.GENSEG, 2, 0),
    ("refcoco", layouts.write_refcoco, Task.REFSEG, 4, 0),
    ("coco-images", layouts.write_coco_images, Task.REFSEG, 2, 0),
    ("reasonseg", layouts.write_reasonseg, Task.REFSEG, 2, 0),
    ("gcg", layouts.write_gcg, Task.GCGSEG, 1, 0),
    ("sa-1b", layouts.write_segment_anything, Task.OBJSEG, 2, 0),
    ("youtube-vis", layouts.write_youtube_vis, Task.GENSEG, 4, 2),
    ("youtube-vos", layouts.write_youtube_vos, Task.OBJSEG, 2, 1),
    ("ref-youtube-vos", layouts.write_ref_youtube_vos, Task.REFSEG, 8, 4),
    ("mevis", layouts.write_mevis, Task.REFSEG, 12, 6),
    ("revos", partial(layouts.write_revos, splits=("train",)), Task.REFSEG, 8, 4),
    ("vipseg", layouts.write_vipseg, Task.GENSEG, 4, 2),
    ("davis", layouts.write_davis, Task.OBJSEG, 7, 3),
    ("sequences", layouts.write_sequences, Task.OBJSEG, 8, 4),
    ("camvid", layouts.write_camvid, Task.GENSEG, 4, 1),
    ("sceneparse150", layouts.write_sceneparse, Task.GENSEG, 2, 0),
    ("bag", write_bag, Task.OBJSEG, 4, 2),
]


@pytest.mark.parametrize(("layout", "write", "task", "pictures", "clips"), LAYOUTS, ids=[row[0] for row in LAYOUTS])
@pytest.mark.parametrize("frames", [1, 2])
def test_every_layout_gives_samples(tmp_path, layout, write, task, pictures, clips, frames):
    write(tmp_path)
    split = "train" if layout == "refcoco" else None
    opening = partial(source, tmp_path, layout=layout, split=split, frames=frames, name="it", regions=("box",))
    count = clips if frames == 2 else pictures
    if not count:
        with pytest.raises(TruthError, match="source it gives no sample: .*has 1 annotated frames, a clip needs 2"):
            opening()
        return
    found = opening()
    assert (found.task, found.media, len(found.samples)) == (task, "video" if frames == 2 else "image", count)
    assert len(found.fingerprint) == 64
    for index, sample in enumerate(found.samples):
        assert sample.source == "it" and sample.length > 300 * (frames // 2) and sample.task is task
        shown = read(found, index)
        assert shown.frames.shape == (frames, *layouts.SIZE, 3)
        assert [one.template.answer is None for one in shown.asked] == [task is Task.GCGSEG]


def test_panoptic_prompts_name_what_is_there_and_some_that_is_not(tmp_path):
    written = layouts.write_coco_panoptic(tmp_path)
    found = source(tmp_path)
    orders = set()
    for seed in range(8):
        shown = read(found, 1, seed)
        (asked,) = shown.asked
        orders.add(asked.phrases)
        assert {"dog", "grass"} <= set(asked.phrases) <= {"cat", "dog", "grass"}
        labels = written["000002"][0]
        for name, value in (("dog", 1), ("grass", 3)):
            np.testing.assert_array_equal(mask_of(shown, asked, asked.phrases.index(name)), labels == value)
        assert "cat" not in [asked.phrases[one.phrase] for one in asked.wanted], "a crowd is not wanted"
        np.testing.assert_array_equal(shown.mask(shown.ignore[0]), (labels == 0) | (labels == 2))
    assert len(orders) > 2, "classes come in any order"
    (few,) = read(source(tmp_path, phrases=1)).asked
    assert len(few.phrases) == 1


def test_instances_of_a_class_are_masks_of_their_own(tmp_path):
    layouts.write_youtube_vis(tmp_path)
    file = tmp_path / "valid.json"
    file.write_text(file.read_text().replace('"category_id": 6', '"category_id": 5'))
    shown = read(source(tmp_path, frames=4))
    (asked,) = shown.asked
    assert {"dog"} <= set(asked.phrases) <= {"cat", "dog"} and len(asked.wanted) == 2
    assert {asked.phrases[one.phrase] for one in asked.wanted} == {"dog"}
    labels = layouts.moving_boxes()
    for value, one in enumerate(asked.wanted, 1):
        for frame, runs in enumerate(one.runs):
            np.testing.assert_array_equal(shown.mask(runs), labels[frame] == value)


def test_expressions_mean_one_several_or_nothing(tmp_path):
    layouts.write_refcoco(tmp_path)
    found = source(tmp_path, split="train", prompts=2)
    assert len(found.samples) == 2 and found.shares_phrases
    asked = [one for index in (0, 1) for one in read(found, index).asked]
    assert [one.phrases for one in asked] == [("the left",), ("both",), ("a whale",), ("bike",)]
    assert [len(one.wanted) for one in asked] == [1, 1, 0, 1], "what several objects are meant by is one mask"
    assert mask_of(read(found, 0), asked[1], 0).sum() == 16 * 12 + 14 * 6
    three = source(tmp_path, split="train", prompts=3)
    assert [one.phrases for one in read(three, 1).asked] == [("bike",), ("the left",), ("both",)]


def test_reasoning_ignores_what_its_annotation_ignores(tmp_path):
    layouts.write_reasonseg(tmp_path)
    shown = read(source(tmp_path, task="reaseg"))
    assert (
        shown.mask(shown.ignore[0]).any()
        and not (shown.mask(shown.ignore[0]) & mask_of(shown, shown.asked[0], 0)).any()
    )


def test_phrases_of_a_caption_are_found_in_it(tmp_path):
    written = layouts.write_gcg(tmp_path)
    shown = read(source(tmp_path))
    (asked,) = shown.asked
    assert asked.caption == "A box and two boxes." and asked.phrases == ("A box", "two boxes")
    labels = written["p"][0]
    np.testing.assert_array_equal(mask_of(shown, asked, 0), labels == 1)
    np.testing.assert_array_equal(mask_of(shown, asked, 1), labels > 0)


@pytest.mark.parametrize("kind", ["point", "box", "scribble", "mask"])
def test_objects_are_pointed_at_on_the_first_frame(tmp_path, kind):
    written = layouts.write_davis(tmp_path)
    found = source(tmp_path, frames=3, regions=(kind,))
    names = [sample.name.split(",")[0] for sample in found.samples]
    for index, name in enumerate(names):
        for seed in range(4):
            shown = read(found, index, seed)
            (asked,) = shown.asked
            start = next(
                at for at in range(len(written[name]) - 2)
                if (mask_of(shown, asked, 0) == (written[name][at] == 1)).all()
                or (mask_of(shown, asked, 0) == (written[name][at] == 2)).all()
            )  # fmt: skip
            for place, region in enumerate(asked.regions):
                assert (shown.mask(region) & mask_of(shown, asked, place)).any()
            visible = set(np.unique(written[name][start])) - {0}
            assert len(asked.regions) == len(visible)


def test_regions_of_a_vgd_file_lie_on_their_frame(tmp_path):
    found = source(write_visual(tmp_path), frames=2, regions=("mask",))
    assert found.task is Task.VGDSEG and len(found.samples) >= 1
    park = next(sample for sample in found.samples if sample.name.startswith("park"))
    shown = park.read(np.random.default_rng(0))
    (asked,) = shown.asked
    assert len(asked.regions) == 1 and len(asked.wanted) == 2, "both dogs look like the one that is shown"
    assert (shown.mask(asked.regions[0]) & mask_of(shown, asked, 0)).any()


def test_without_classes_everything_is_an_object(tmp_path):
    layouts.write_segment_anything(tmp_path)
    found = source(tmp_path, task="genseg")
    (asked,) = read(found, 1).asked
    assert asked.phrases == ("object",) and [one.phrase for one in asked.wanted] == [0, 0]


def test_clips_keep_in_order_and_within_the_sequence(tmp_path):
    layouts.write_davis(tmp_path)
    found = source(tmp_path, frames=2, max_stride=3, regions=("box",))
    strides = {read(found, 0, seed).stride for seed in range(40)}
    assert strides == {1, 2, 3}


@pytest.mark.parametrize("max_stride", [1, 3, 7])
def test_no_beginning_of_a_clip_is_drawn_more_often_than_others(tmp_path, max_stride):
    count = 8
    layouts.write_bag(tmp_path / "a.mcap", [*range(10, 10 * count + 1, 10)], layouts.moving_boxes(count))
    found = source(tmp_path / "a.mcap", frames=2, max_stride=max_stride)
    assert len(found.samples) == 4
    begun: dict[int, Counter[int]] = {stride: Counter() for stride in range(1, max_stride + 1)}
    for index in range(8000):
        clip = found.samples[index % 4].read.args[0]
        first, second = clip.draw(None, np.random.default_rng(index))
        begun[second - first][first] += 1
    for stride, times in begun.items():
        assert sorted(times) == [*range(count - stride)], "up to the last image, and not behind it"
        assert max(times.values()) < 1.5 * min(times.values())


def test_images_without_a_mask_are_never_drawn(tmp_path):
    written = layouts.write_youtube_vos(tmp_path)
    shown = read(source(tmp_path, frames=2, regions=("mask",)))
    assert shown.stride == 5
    np.testing.assert_array_equal(mask_of(shown, shown.asked[0], 0, 1), written["v1"][1] == 1)


def test_sequences_that_cannot_be_used_are_counted_and_the_others_used(tmp_path):
    layouts.write_davis(tmp_path)
    found = source(tmp_path, frames=4, regions=("box",))
    assert len(found.samples) == 1 and found.problems.count == 1
    assert "swan-2 left out: it has 3 annotated frames, a clip needs 4" in found.problems.messages[0]


def test_chats_are_about_pictures_or_clips_or_nothing(tmp_path):
    path = layouts.write_chats(tmp_path)
    pictures = source(path, media=str(tmp_path / "images"))
    assert (pictures.task, pictures.media, len(pictures.samples), pictures.problems.count) == (Task.CHAT, "image", 2, 1)
    assert "chat b#1 left out: it is about a clip" in pictures.problems.messages[0]
    assert read(pictures).asked[0].turns[1] == ("Of what colour, <SEG>?", "Of all.")
    words = read(pictures, 1)
    assert words.is_blank and words.asked[0].turns == (("Of what colour, <SEG>?", "Of all."),)
    assert pictures.lengths[1] < 20 < pictures.lengths[0], "no picture's tokens"
    clips = source(path, media=str(tmp_path / "images"), frames=3)
    assert clips.media == "video" and read(clips).frames.shape[0] == 3
    many = source(path, media=str(tmp_path / "images"), frames=7)
    with pytest.raises(TruthError, match="has 6 frames, a clip needs 7"):
        read(many)


def test_chats_can_be_shared_out_and_take_no_other_setting_of_datasets(tmp_path):
    path, media = layouts.write_chats(tmp_path), str(tmp_path / "images")
    first, last = (source(path, media=media, sequences=part, task="chat") for part in ((0.0, 0.4), (0.4, 1.0)))
    assert [sample.name for sample in first.samples] == ["a#0"]
    assert [sample.name for sample in last.samples] == ["c#2"] and last.problems.count == 1
    said = {"span": (0.0, 0.9), "task": "refseg", "max_stride": 2, "prompts": 3, "split": "train"}
    with pytest.raises(
        ConfigError, match="holds chats, which have no split, no task, no max_stride, no prompts, no span"
    ):
        source(path, media=media, **said)


def test_without_a_split_the_part_for_training_is_learnt_from(tmp_path):
    for split in ("train", "valid"):
        layouts.write_youtube_vos(tmp_path / "both", split)
    assert source(tmp_path / "both").name == "train"
    held_out = open_training_source(SourceConfig(str(tmp_path / "both")), WORDING, training=False)
    assert held_out.name == source(tmp_path / "both", split="valid").name == "valid"
    for split in ("val", "test"):
        layouts.write_youtube_vos(tmp_path / "none", split)
    with pytest.raises(
        TruthError, match="which split\\? 'train' or .* one of .*none/test/meta.json, .*none/val/meta.json"
    ):
        source(tmp_path / "none")


def test_a_task_that_the_annotations_cannot_answer_is_refused(tmp_path):
    layouts.write_davis(tmp_path)
    with pytest.raises(TruthError, match="is of kind objects, of which gcgseg cannot be asked; take one of"):
        source(tmp_path, task="gcgseg")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"task": "dance"}, "no task is called 'dance'"),
        ({"regions": ("knot",)}, "regions are"),
    ],
)
def test_settings_that_make_no_sense_are_refused(said, message):
    with pytest.raises(ConfigError, match=message):
        SourceConfig("x", **said)


REAL = [("davis2016", 4), ("composited", 4), ("coco_images", 1), ("coco_panoptic_sample", 1), ("camvid", 1)]


@pytest.mark.parametrize(("folder", "frames"), [*REAL, ("ade20k_sample", 1), ("rosbags", 3)])
def test_real_data_gives_samples(folder, frames):
    path = data_folder(folder)
    bags = sorted(path.rglob("*.mcap"))
    found = source(bags[0].parent if bags else path, frames=frames)
    shown = read(found, len(found.samples) // 2, 1)
    assert len(shown.frames) == frames and min(shown.size) > 100
    assert any(shown.mask(one.runs[0]).any() for asked in shown.asked for one in asked.wanted)

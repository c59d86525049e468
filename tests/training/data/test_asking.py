"""What is asked of a sample: which classes, which expressions together, and what an empty mask means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.test_sources import mask_of, read, source
from tests.unit.truth import layouts
from x2sam_ros.errors import TruthError
from x2sam_ros.training.data.asking import AskingRules, AskWords
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.truth.dataset import Dataset, Expression, Kind
from x2sam_ros.truth.drawn import DrawnSequence

WORDS = AskWords(Dataset("d", Kind.REFERRING, ()), AskingRules(None, 3, 128, ("box",)), Wording("official"))


def change(path: Path, edit: Any) -> None:
    """Edit a JSON file in place."""
    said = json.loads(path.read_text(encoding="utf-8"))
    edit(said)
    path.write_text(json.dumps(said), encoding="utf-8")


def expressed(*meant: Sequence[int]) -> DrawnSequence:
    said = tuple(Expression(str(k), f"{'-'.join(map(str, ids))} no {k}", tuple(ids)) for k, ids in enumerate(meant))
    return DrawnSequence("it", lambda: (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint8)), (), said)


def test_expressions_of_one_object_come_apart():
    """Three sentences of an object, three of another, two of a third: a sample asks for each once."""
    items = WORDS.items(expressed([1], [1], [1], [2], [2], [2], [3], [3]))
    assert [[said.object_ids for said in item] for item in items] == [[(1,), (2,), (3,)]] * 2 + [[(1,), (2,), (1,)]]
    assert len({said.text for item in items for said in item}) == 8, "all of them are asked"
    several = WORDS.items(expressed([1, 2], [2, 1], [1]))
    assert [said.object_ids for said in several[0]] == [(1, 2), (1,), (2, 1)], "the order of what is meant is no matter"


def classes_asked(found: Any, count: int = 200) -> list[tuple[str, ...]]:
    return [read(found, 0, seed).asked[0].phrases for seed in range(count)]


def test_any_number_of_absent_classes_is_listed(tmp_path):
    """A picture with a bicycle among nine classes."""
    layouts.write_coco_instances(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    change(file, lambda said: said["categories"].extend({"id": k, "name": f"thing {k}"} for k in range(50, 57)))
    asked = classes_asked(source(tmp_path), 300)
    assert all("bicycle" in phrases for phrases in asked)
    counts = np.bincount([len(phrases) for phrases in asked], minlength=10)
    assert counts[0] == 0 and (counts[1:] > 15).all(), "from one class to all nine, each as often"
    few = classes_asked(source(tmp_path, phrases=4), 100)
    assert {len(phrases) for phrases in few} == {1, 2, 3, 4} and all("bicycle" in phrases for phrases in few)


def test_a_list_of_absent_classes_has_one_at_least(tmp_path):
    layouts.write_coco_instances(tmp_path)
    found = source(tmp_path)
    nothing = [read(found, 1, seed).asked[0] for seed in range(40)]
    assert {len(asked.phrases) for asked in nothing} == {1, 2} and not any(asked.wanted for asked in nothing)


def test_of_clips_half_of_the_lists_hold_all_classes(tmp_path):
    layouts.write_youtube_vis(tmp_path)
    change(
        tmp_path / "valid.json",
        lambda said: said["categories"].extend({"id": k, "name": f"c{k}"} for k in range(9, 27)),
    )
    counts = [len(phrases) for phrases in classes_asked(source(tmp_path, frames=4))]
    assert 0.4 < np.mean(np.array(counts) == 20) < 0.65 and len(set(counts)) > 12


def test_the_same_seed_asks_the_same(tmp_path):
    layouts.write_coco_instances(tmp_path)
    assert classes_asked(source(tmp_path), 20) == classes_asked(source(tmp_path), 20)


def no_mask(said: dict[str, Any]) -> None:
    said["annotations"][0]["segmentation"] = layouts.rle(np.zeros(layouts.SIZE, bool))


LEFT_OUT = "empty masks left out: 1, the first is of object 1; draw them, or take them out of the annotations"


@pytest.mark.parametrize("layout", ["instances", "panoptic"])
def test_an_empty_mask_of_a_picture_is_left_out_and_is_no_absence(tmp_path, layout):
    if layout == "instances":
        layouts.write_coco_instances(tmp_path)
        change(tmp_path / "annotations/instances_val2017.json", no_mask)
    else:
        labels = layouts.write_coco_panoptic(tmp_path)["000001"][0]
        colours = np.array([*layouts.PANOPTIC_IDS.values()])[np.where(labels == 1, 0, labels)]
        layouts.write_colours(tmp_path / "annotations/panoptic_val2017/000001.png", colours)
    found = source(tmp_path)
    name = {"instances": "bicycle", "panoptic": "dog"}[layout]
    shown = [read(found, 0, seed) for seed in range(30)]
    assert {one.problems for one in shown} == {(LEFT_OUT,)}
    assert all(one.asked[0].phrases and name not in one.asked[0].phrases for one in shown)
    other = [read(found, 1, seed) for seed in range(30)]
    assert not any(one.problems for one in other) and any(name in one.asked[0].phrases for one in other)


def test_a_picture_of_which_nothing_is_left_is_refused(tmp_path):
    """Nothing but the class of the empty mask could be asked for, listed or not."""
    layouts.write_coco_instances(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    change(file, no_mask)
    change(file, lambda said: (said["annotations"].pop(), said["categories"].pop()))
    message = r"all that could be asked about it has an empty mask \(object 1\).*correct the mask or take it out"
    with pytest.raises(TruthError, match=message):
        read(source(tmp_path), 0)
    assert read(source(tmp_path), 1).asked, "a picture without annotations is another matter"


def test_an_expression_of_an_empty_mask_is_left_out_and_one_of_nothing_is_not(tmp_path):
    layouts.write_refcoco(tmp_path)
    change(tmp_path / "instances.json", no_mask)
    found = source(tmp_path, split="train")
    texts = {}
    for index in range(len(found.samples)):
        try:
            (asked,) = read(found, index).asked
            texts[asked.phrases[0]] = len(asked.wanted)
        except TruthError as error:
            assert "has an empty mask (object 1)" in str(error)
    assert texts == {"both": 1, "a whale": 0}, "what both means is seen in part, and a whale is declared absent"
    two = source(tmp_path, split="train", prompts=2)
    shown = [read(two, index) for index in range(2)]
    said = [[asked.phrases[0] for asked in one.asked] for one in shown]
    assert said == [["both", "both"], ["a whale", "a whale"]], "in place of what is left out"
    assert [one.problems for one in shown] == [(LEFT_OUT,)] * 2


def test_what_is_out_of_sight_in_a_clip_is_absent(tmp_path):
    layouts.write_ref_youtube_vos(tmp_path)
    found = source(tmp_path, frames=1)
    wanted = {(asked.phrases[0], len(asked.wanted)) for k in range(8) for asked in read(found, k).asked}
    assert wanted == {("the upper box", 1), ("the lower box", 1), ("the lower box", 0)}


def test_phrases_of_a_description_without_a_mask_are_words(tmp_path):
    layouts.write_gcg(tmp_path)

    def spoil(said: Any) -> None:
        said[0]["groundings"]["A box"]["rle_masks"] = [layouts.rle(np.zeros(layouts.SIZE, bool))]

    change(tmp_path / "GranDf_HA_GCG_val.json", spoil)
    shown = read(source(tmp_path))
    (asked,) = shown.asked
    assert asked.caption == "A box and two boxes." and asked.phrases == ("two boxes",) and len(asked.wanted) == 1
    assert shown.problems == (LEFT_OUT,)


def test_objects_that_nobody_named_are_ignored_by_class_lists_alone(tmp_path):
    """One bag has names, the other none: what its objects are is not known."""
    labels = layouts.moving_boxes()
    layouts.write_bag(tmp_path / "a.mcap", [10, 20, 30, 40], labels, info={1: "cup", 2: "box"})
    layouts.write_bag(tmp_path / "b.mcap", [10, 20, 30, 40], labels)
    found = source(tmp_path, task="genseg", frames=4)
    shown = read(found, 1)
    assert set(shown.asked[0].phrases) <= {"cup", "box"} and not shown.asked[0].wanted
    for runs, frame in zip(shown.ignore, labels):
        np.testing.assert_array_equal(shown.mask(runs), frame > 0)
    named = read(found, 0)
    assert named.ignore == (None,) * 4 and named.asked[0].wanted
    pointed = read(source(tmp_path, frames=4, regions=("box",)), 1)
    assert pointed.ignore == (None,) * 4 and mask_of(pointed, pointed.asked[0], 0).any()

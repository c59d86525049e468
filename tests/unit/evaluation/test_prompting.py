"""Prompts from ground truth: which, on which frame, meaning what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.unit.evaluation.made_sequences import NOTHING, MadeSequence, columns
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.evaluation.prompting import PROMPTS, PlannedPrompt, make_prompts, own_words
from x2sam_ros.training.data.asking import AskingRules, asking_of
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, TrueObject
from x2sam_ros.truth.sequences import FailedSequence
from x2sam_ros.truth.shown_regions import draw_region
from x2sam_ros.types import BoxPrompt, CaptionPrompt, ClassListPrompt, MaskPrompt, PointPrompt, Task, TextPrompt

CLASSES = (Category(0, "cat"), Category(7, "sky", is_stuff=True))
OBJECTS = (TrueObject(1, 0), TrueObject(2, 7), TrueObject(3), TrueObject(4, 0, is_crowd=True), TrueObject(5, 0))
EXPRESSIONS = (
    Expression("a", "all of them", (1, 2)),
    Expression("b", "the left one", (1,)),
    Expression("c", "the left thing", (1,)),
    Expression("d", "a unicorn", ()),
    Expression("e", "Which one purrs?", (1,)),
)


def clip() -> MadeSequence:
    """Object 1 is seen on frame 1 (frame 0 has no truth), 2 from frame 2 on, 3 too, 4 is a crowd, 5 is never seen."""
    late = {1: columns(0, 3), 2: columns(3, 4), 3: columns(4, 5), 4: columns(5, 6)}
    return MadeSequence([None, {1: columns(1, 3), 2: NOTHING}, late, late], OBJECTS, EXPRESSIONS)


def ids(planned: Sequence[PlannedPrompt]) -> list[str]:
    assert all(item.given.prompt_id == item.prompt.prompt_id for item in planned)
    assert all(item.prompt.stamp_ns is None and item.prompt.target_id is None for item in planned)
    return [item.given.prompt_id for item in planned]


@pytest.mark.parametrize("prompt", [name for name in PROMPTS[Kind.OBJECTS] if name != "text"])
def test_objects_are_pointed_at_on_the_first_frame_that_shows_them(prompt: str) -> None:
    sequence = clip()
    planned = make_prompts(sequence, Kind.OBJECTS, prompt, CLASSES)
    assert ids(planned) == ["object-1", "object-2", "object-3"]
    assert [item.given.frame_index for item in planned] == [1, 2, 2]
    assert [item.given.object_ids for item in planned] == [(1,), (2,), (3,)]
    assert all(item.given.kind == prompt and item.given.query == "" for item in planned)
    assert {item.prompt.task for item in planned} == {Task.OBJSEG}


def test_the_four_ways_to_point() -> None:
    made = {kind: make_prompts(clip(), Kind.OBJECTS, kind, CLASSES, seed=3)[0].prompt for kind in PROMPTS[Kind.OBJECTS]}
    mask, point, scribble, box = (made[kind] for kind in ("mask", "point", "scribble", "box"))
    assert isinstance(mask, MaskPrompt) and np.array_equal(mask.mask, columns(1, 3))
    assert isinstance(box, BoxPrompt) and box.box_px.tolist() == [1, 0, 3, 4]
    assert isinstance(point, PointPrompt) and columns(1, 3)[tuple(point.points_px[0].astype(int)[::-1])]
    assert isinstance(scribble, MaskPrompt)
    assert np.array_equal(scribble.mask, draw_region(columns(1, 3), "scribble", "3/clip/1/scribble"))


def test_an_object_in_words_is_its_first_own_expression_else_its_class_else_left_out() -> None:
    planned = make_prompts(clip(), Kind.OBJECTS, "text", CLASSES)
    assert ids(planned) == ["object-1", "object-2"]
    assert [item.given.query for item in planned] == ["the left one", "sky"]
    assert [item.given.frame_index for item in planned] == [1, 2]
    assert all(isinstance(item.prompt, TextPrompt) and item.prompt.task is Task.REFSEG for item in planned)
    with pytest.raises(TruthError, match="clip has nothing that can be prompted by text"):
        make_prompts(MadeSequence([{1: columns(0, 2)}]), Kind.OBJECTS, "text", ())


def test_a_class_that_several_objects_share_names_none_of_them() -> None:
    seen = [{1: columns(0, 1), 2: columns(1, 2), 3: columns(2, 3), 4: columns(3, 4)}]
    two = (TrueObject(1, 0), TrueObject(2, 0), TrueObject(3, 7), TrueObject(4, 7, is_crowd=True))
    (planned,) = make_prompts(MadeSequence(seen, two), Kind.OBJECTS, "text", CLASSES)
    assert (planned.given.object_ids, planned.given.query) == ((3,), "sky"), "a crowd is nobody's namesake"
    said = (Expression("a", "the left cat", (1,)),)
    assert own_words(MadeSequence(seen, two, said), CLASSES) == {1: "the left cat", 3: "sky"}


def test_a_sequence_without_masks_says_so_rather_than_that_nothing_can_be_prompted() -> None:
    unseen = MadeSequence([{}], ())
    unseen.frames = FailedSequence("clip", TruthError("its masks are missing")).frames  # type: ignore[method-assign]
    with pytest.raises(TruthError, match="its masks are missing"):
        make_prompts(unseen, Kind.OBJECTS, "mask", ())


def test_frames_are_read_only_until_every_object_was_seen() -> None:
    sequence = MadeSequence([{1: columns(0, 2)}] * 50)
    make_prompts(sequence, Kind.OBJECTS, "mask", ())
    assert sequence.source.num_decoded == 1


def test_expressions_are_asked_by_the_task_that_suits_what_they_mean() -> None:
    planned = make_prompts(clip(), Kind.REFERRING, "text", CLASSES)
    assert ids(planned) == [f"expression-{said.expression_id}" for said in EXPRESSIONS]
    assert [item.given.expression_id for item in planned] == list("abcde")
    assert [item.given.object_ids for item in planned] == [(1, 2), (1,), (1,), (), (1,)]
    assert [item.prompt.task for item in planned] == ["grefseg", "refseg", "refseg", "grefseg", "reaseg"]
    assert {item.given.frame_index for item in planned} == {0}


@pytest.mark.parametrize(
    ("kind", "stuff"), [(Kind.INSTANCES, ("sky",)), (Kind.PANOPTIC, ("sky",)), (Kind.SEMANTIC, ("cat", "sky"))]
)
def test_classes_are_one_list(kind: Kind, stuff: tuple[str, ...]) -> None:
    (planned,) = make_prompts(clip(), kind, "classes", CLASSES)
    assert planned.prompt == ClassListPrompt("classes", classes=("cat", "sky"), stuff=stuff)
    assert planned.given.object_ids == (1, 2, 5) and planned.given.query == "cat, sky"


def test_more_classes_than_a_list_holds_are_divided_unless_they_share_the_picture() -> None:
    many = tuple(Category(number, f"class {number}") for number in range(1203))
    planned = make_prompts(MadeSequence([{}], (TrueObject(1, 1202),)), Kind.INSTANCES, "classes", many)
    assert ids(planned) == ["classes-1", "classes-2", "classes-3"]
    assert [item.given.object_ids for item in planned] == [(), (), (1,)]
    listed = [name for item in planned for name in item.prompt.classes]
    assert listed == [category.name for category in many] and all(len(item.prompt.classes) == 401 for item in planned)
    with pytest.raises(TruthError, match="clip: 1203 classes cannot share a picture: one list holds 500"):
        make_prompts(MadeSequence([{}]), Kind.PANOPTIC, "classes", many)


COCO = (Category(3, "potted-plant"), Category(4, "tv_monitor"), Category(187, "sky-other-merged", is_stuff=True))


def test_classes_are_asked_for_in_the_words_they_are_learnt_in() -> None:
    """And under the published evaluation's quirks in those of the published network."""
    dataset = Dataset("d", Kind.PANOPTIC, (), COCO)
    learnt = asking_of(dataset, AskingRules(None, 1, 128, ("box",)), Wording("official")).names
    (planned,) = make_prompts(clip(), Kind.PANOPTIC, "classes", COCO)
    assert planned.prompt == ClassListPrompt("classes", classes=tuple(learnt.values()), stuff=("sky",))
    assert planned.given.query == "potted plant, tv monitor, sky"
    (published,) = make_prompts(clip(), Kind.PANOPTIC, "classes", COCO, official_quirks=True)
    assert published.given.query == "potted plant, tv monitor, sky other"
    thing = MadeSequence([{1: columns(0, 1)}], (TrueObject(1, 4),))
    assert own_words(thing, COCO) == {1: "tv monitor"}


def test_a_caption_means_everything() -> None:
    (planned,) = make_prompts(clip(), Kind.CAPTIONS, "caption", ())
    assert planned.prompt == CaptionPrompt("caption") and planned.given.object_ids == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("kind", Kind)
def test_a_prompt_that_a_kind_does_not_know_is_refused(kind: Kind) -> None:
    with pytest.raises(ConfigError, match=f"{kind.value} cannot be prompted by 'song'; expected {PROMPTS[kind][0]}"):
        make_prompts(clip(), kind, "song", CLASSES)


def test_truth_that_cannot_be_asked_about_names_the_sequence() -> None:
    wordless = MadeSequence([{}], expressions=(Expression("a", " ", ()),))
    with pytest.raises(TruthError, match="clip cannot be asked about by text: prompt text is empty"):
        make_prompts(wordless, Kind.REFERRING, "text", ())
    with pytest.raises(TruthError, match="names a class twice"):
        make_prompts(clip(), Kind.INSTANCES, "classes", (Category(1, "cat"), Category(2, "cat")))
    with pytest.raises(TruthError, match="clip has no regions to show; make them with `x2sam vgd`"):
        make_prompts(clip(), Kind.VISUAL, "point", CLASSES)

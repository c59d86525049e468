"""Lost targets are searched for in the whole image, and keep their ids; leaps are confirmed without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unit.engine.queries import SIZE, candidates, masks
from tests.unit.engine.saved_sessions import clip, prompts, trained
from tests.unit.engine.sessions import ScriptedHead, classes, click, counted, text, use_heads
from tests.unit.model.networks import condition
from x2sam_ros.config import EngineConfig
from x2sam_ros.default_plugins.task_heads.refseg import TEMPLATES, PhraseHead
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import MemoryRecord, open_policy
from x2sam_ros.engine.region import locate
from x2sam_ros.engine.search import LOOK_AGAIN, Search, astray, find_again, leaps, lost_targets
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.task_head import ReadContext
from x2sam_ros.engine.track import Group, Reading, Target
from x2sam_ros.engine.tracker import Tracker
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.types import BoolArray, Frame, Prompt, TargetState

CONFIG = EngineConfig(lost_frames=3, search_frames=2)
HERE = masks((0, 4))[0]


def target(target_id: int, class_index: int = 0, missed: int = 3) -> Target:
    made = Target(target_id, "cup", class_index)
    made.see(Choice(0, class_index, 0.9, HERE), CONFIG)
    for _ in range(missed):
        made.miss(CONFIG)
    return made


def group(*targets: Target, prompt: Prompt | None = None) -> Group:
    memory = MaskMemory(open_policy("fifo", CONFIG))
    memory.store(MemoryRecord(0, 0, 0.9, 0.1), MemoryEntry((torch.zeros(1, 1, 2, 2),)))
    labels = ("cup", "kettle")
    known = {each.target_id: each for each in targets}
    return Group(prompt or classes(), ScriptedHead([]), condition(2, 3), memory, labels, targets=known)


def found_ids(of: Group, found: Any, *others: Target) -> list[int]:
    return [each.target_id for each in find_again(of, found, others, CONFIG)]


def test_only_every_few_frames_and_only_while_someone_is_lost() -> None:
    search, lost, seen = Search(CONFIG), group(target(1)), group(target(2, missed=0))
    assert [search.due([seen]) for _ in range(3)] == [[], [], []]
    assert [[each is lost for each in search.due([seen, lost])] for _ in range(4)] == [[], [True], [], [True]]
    lost.memory.clear()
    assert not any(search.due([lost]) for _ in range(4)), "who rests is asked for anew"
    for off in (replace(CONFIG, search_frames=0), replace(CONFIG, official_quirks=True)):
        assert not any(Search(off).due([group(target(1))]) for _ in range(4))


def test_what_is_sure_enough_is_the_target_again() -> None:
    gone = target(1)
    assert found_ids(group(gone), candidates([[0.49, 0.0], [0.0, 0.9]], (8, 12), (0, 3))) == []
    assert gone.state is TargetState.LOST
    assert found_ids(group(gone), candidates([[0.6, 0.0], [0.0, 0.9]], (8, 12), (0, 3))) == [1]
    assert gone.state is TargetState.TENTATIVE and gone.score == pytest.approx(0.6)
    assert gone.last_mask is not None and torch.equal(gone.last_mask, masks((8, 12))[0] > 0)


def test_who_is_only_hidden_is_not_searched_for() -> None:
    hidden = target(1, missed=2)
    assert lost_targets(group(hidden)) == [] and found_ids(group(hidden), candidates([[0.9, 0.0]], (8, 12))) == []


def test_another_targets_place_is_taken() -> None:
    gone, other = target(1), target(2, missed=0)
    assert found_ids(group(gone), candidates([[0.9, 0.0]], (1, 4)), gone, other) == []
    other.miss(CONFIG)
    assert found_ids(group(gone), candidates([[0.9, 0.0]], (1, 4)), gone, other) == [1], "nobody is seen there"


def test_each_label_finds_its_own_and_the_newest_loss_comes_first() -> None:
    old, new, kettle, seen = target(1, missed=9), target(2, missed=4), target(3, 1), target(4, missed=0)
    of = group(old, new, kettle, seen)
    found = candidates([[0.7, 0.0], [0.0, 0.8], [0.9, 0.0]], (1, 4), (8, 10), (12, 15))
    assert found_ids(of, found, seen) == [2, 3], "what lies on the one that is seen is nobody else"
    assert seen.seen_frames == 1 and old.state is TargetState.LOST


def test_of_several_that_look_like_a_region_none_is_taken() -> None:
    size = (SIZE[0] * 4, SIZE[1] * 4)
    one, two = [0.9, 0.0], [0.8, 0.0]
    of = group(target(1), prompt=click())
    of.regions = (locate(click(x=2, y=2), size),)
    assert found_ids(of, candidates([one, two], (0, 4), (8, 12))) == []
    assert found_ids(of, candidates([one, two], (0, 4), (0, 4))) == [1], "two queries for one object are one"
    words = group(target(1), prompt=text())
    assert found_ids(words, candidates([one, two], (0, 4), (8, 12))) == [1], "words mean the surest"


def reading(of: Group, *continued: Choice, prompted: bool = False) -> Reading:
    """Return what a frame shows of a group's targets, in their order."""
    return Reading(dict(zip(of.targets, continued)), [], prompted)


def test_what_turns_up_where_it_was_not_expected_is_a_leap() -> None:
    here, there = Choice(0, 0, 0.9, HERE), Choice(0, 0, 0.9, masks((8, 12))[0])
    of = group(target(1, missed=0), target(2, missed=2))
    assert leaps(of, reading(of, here, there), CONFIG) == [2]
    assert leaps(of, reading(of, there, here), CONFIG) == [1], "also who has just been seen elsewhere"
    assert leaps(of, reading(of, there, replace(there, score=0.4)), CONFIG) == [1], "too unsure to be seen anyway"
    assert leaps(of, reading(of, there, there, prompted=True), CONFIG) == []
    for free in (replace(CONFIG, official_quirks=True), replace(CONFIG, score_threshold=0.0)):
        assert leaps(of, reading(of, there, there), free) == []
    of.stuff = (0,)
    assert leaps(of, reading(of, there, there), CONFIG) == [], "stuff may be anywhere"


def test_a_faint_leap_of_a_tracked_target_is_one_too() -> None:
    followed = target(1, missed=0)
    followed.state = TargetState.TRACKED
    faint = Choice(0, 0, 0.4, masks((8, 12))[0] / 10)
    assert CONFIG.mask_score_kept < faint.mask_score < CONFIG.mask_score_threshold
    assert CONFIG.confidence_kept < faint.score < CONFIG.score_threshold
    assert leaps(group(followed), reading(group(followed), faint), CONFIG) == [1]


def astray_in(*groups: Group, there: Choice, alone: dict[int, Choice]) -> tuple[dict[int, list[int]], list[list[int]]]:
    """Return what is refused where all targets turn up ``there``, and which groups were looked at alone."""
    asked: list[list[int]] = []

    def look(rows: Sequence[int]) -> list[Reading]:
        asked.append(list(rows))
        return [Reading({i: alone[i] for i in groups[row].targets if i in alone}, (), False) for row in rows]

    readings = [reading(of, *[there] * len(of.targets)) for of in groups]
    return astray(groups, readings, CONFIG, look), asked


def test_a_leap_counts_where_the_target_is_seen_there_without_memory_too() -> None:
    there, elsewhere = Choice(0, 0, 0.9, masks((8, 12))[0]), Choice(0, 0, 0.9, masks((12, 16))[0])
    seen = {1: there, 2: elsewhere, 3: replace(there, score=0.4)}
    groups = [group(target(k)) for k in (1, 2, 3, 4)]
    refused, asked = astray_in(*groups, there=there, alone=seen)
    assert refused == {1: [2], 2: [3], 3: [4]} and asked == [[0, 1, 2, 3]], "one look for all"


def test_only_who_leaps_is_looked_at_and_one_of_a_group_may_be_refused() -> None:
    here, there = Choice(0, 0, 0.9, HERE), Choice(0, 0, 0.9, masks((8, 12))[0])
    stays, both = group(target(1, missed=0)), group(target(2, missed=0), target(3, missed=0))
    refused, asked = astray_in(stays, both, there=here, alone={})
    assert refused == {} and asked == []
    refused, asked = astray_in(stays, both, there=there, alone={1: there, 3: there})
    assert refused == {1: [2]} and asked == [[0, 1]]
    left = reading(both, there, there).without(refused[1])
    assert list(left.continued) == [3]


def test_what_was_refused_is_looked_at_again_now_and_then_or_elsewhere() -> None:
    there, elsewhere = Choice(0, 0, 0.9, masks((8, 12))[0]), Choice(0, 0, 0.9, masks((12, 16))[0])
    gone = target(1, missed=0)
    of = group(gone)
    looked = []
    for _ in range(2 * LOOK_AGAIN):
        refused, asked = astray_in(of, there=there, alone={})
        assert refused == {0: [1]}
        looked.append(bool(asked))
        gone.miss(CONFIG)
    assert [frame for frame, did in enumerate(looked) if did] == [0, LOOK_AGAIN]
    gone.miss(CONFIG)
    assert gone.refused is not None
    assert astray_in(of, there=elsewhere, alone={})[1] == [[0]]
    gone.see(there, CONFIG)
    assert gone.refused is None


@dataclass(frozen=True)
class LeapingHead(PhraseHead):
    """A head whose memory has gone astray: its target is in one place with a memory, and in another without."""

    places: list[torch.Tensor] = field(default_factory=list)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        if not context.tracks:
            return super().read(found, context)
        logits = torch.where(self.places.pop(0), 5.0, -5.0)
        return [Choice(0, 0, 0.99, logits, track=0)]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_memory_that_leads_to_another_object_is_not_believed(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head = LeapingHead("refseg", TEMPLATES)
    use_heads(monkeypatch, head)
    picture, labels = clip().frames[0], clip().labels[0]
    session = Session(trained(), EngineConfig())
    session.submit(prompts()["text"])
    assert session.step(Frame(picture, 0, 0)).states == (TargetState.TENTATIVE,)
    (of,) = session._roster.groups
    side = of.targets[1].last_mask
    assert side is not None
    own, other = (labels[:, ::-1] == number for number in (1, 2))

    def small(mask: BoolArray) -> torch.Tensor:
        shown = torch.from_numpy(mask.astype(np.float32))[None, None]
        return F.interpolate(shown, size=tuple(side.shape), mode="nearest-exact")[0, 0] > 0

    # mirrored, it is elsewhere, and what the memory shows is it, or another object
    head.places[:] = [small(own if is_there else other), small(own)]
    with counted(trained()) as passes:
        result = session.step(Frame(np.ascontiguousarray(picture[:, ::-1]), 33_333_333, 1))
    assert passes["mask decoder"] == 2 and not head.places
    assert result.masks[0].any() == is_there
    assert len(of.memory) == 1 + is_there, "what led astray is not remembered"
    if is_there:
        assert region_similarity(result.masks[0], own) > 0.5
    else:
        assert result.states == (TargetState.OCCLUDED,) and result.scores[0] == 0


@pytest.mark.parametrize("kind", ["text", "click", "classes", "regions"])
def test_what_stays_costs_no_second_look(kind: str) -> None:
    session = Session(trained(), EngineConfig())
    session.submit(prompts()[kind])
    stream = [Frame(clip().frames[index], index * 33_333_333, index) for index in range(4)]
    session.step(stream[0])
    with counted(trained()) as passes:
        for frame in stream[1:]:
            assert session.step(frame).masks.any()
    assert passes["mask decoder"] == passes["pixel decoder"] == 3


def test_no_room_for_a_look_refuses_the_leap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    head = LeapingHead("refseg", TEMPLATES)
    use_heads(monkeypatch, head)
    session = Session(trained(), EngineConfig())
    session.submit(prompts()["text"])
    session.step(Frame(clip().frames[0], 0, 0))
    (of,) = session._roster.groups
    last = of.targets[1].last_mask
    assert last is not None
    head.places[:] = [last.flip(1) & ~last]

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Tracker, "_without_memory", full)
    result = session.step(Frame(clip().frames[1], 33_333_333, 1))
    assert result.states == (TargetState.OCCLUDED,) and session._roster.groups == [of]


def teleported(leave: int, gone: int, back: int) -> tuple[list[Frame], int]:
    """Return a still stream whose first object is painted over for a while, with the first frame it is back."""
    picture, labels = clip().frames[0], clip().labels[0]
    hidden = picture.copy()
    hidden[labels == 1] = np.median(picture[labels == 0], axis=0).astype(np.uint8)
    images = [picture] * leave + [hidden] * gone + [picture] * back
    return [Frame(image, index * 33_333_333, index) for index, image in enumerate(images)], leave + gone


def where_it_is() -> BoolArray:
    inside: BoolArray = clip().labels[0] == 1
    return inside


@pytest.mark.parametrize("kind", ["text", "click"])
def test_a_lost_target_comes_back_under_its_id_and_is_confirmed_anew(kind: str) -> None:
    stream, back = teleported(3, 6, 6)
    session = Session(trained(), EngineConfig(lost_frames=3, search_frames=1))
    session.submit(prompts()[kind])
    results = [session.step(frame) for frame in stream]
    assert results[back - 1].states == (TargetState.LOST,)
    assert {tuple(result.target_ids.tolist()) for result in results} == {(1,)}
    states = [result.states[0] for result in results[back:]]
    assert TargetState.TENTATIVE in states and states[-1] is TargetState.TRACKED
    assert region_similarity(results[-1].masks[0], where_it_is()) > 0.5


def test_the_search_itself_finds_it_and_it_is_remembered() -> None:
    stream, back = teleported(3, 6, 1)
    session = Session(trained(), EngineConfig(lost_frames=3))
    session.submit(prompts()["text"])
    for frame in stream[:back]:
        session.step(frame)
    (of,), tracker = session._roster.groups, session._tracker
    assert of.targets[1].state is TargetState.LOST
    newest = of.memory.records[-1].frame_index
    with torch.inference_mode():
        seen = tracker.encode(replace(stream[back], frame_index=newest))
        tracker.search(seen, [of], session._roster.targets)
    assert of.targets[1].state is TargetState.TENTATIVE
    assert [record.frame_index for record in of.memory.records].count(newest) == 1, "in the place of the empty one"
    assert of.memory.records[-1].score > 0.5
    mask = session._roster.masks(tracker.place(stream[back]))[0]
    assert region_similarity(mask, where_it_is()) > 0.5

"""What is noted of a frame: sizes, stability, motion and distractors, on maps made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.unit.model.networks import frames
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import MemoryRecord, open_policy
from x2sam_ros.engine.observation import STABLE_FRAMES, observe
from x2sam_ros.engine.region import mask_boxes
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.track import SIZES, Group, Target
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import Frame, TextPrompt

SIDE = 40
Place = tuple[int, int, int, int]
"""Rows from and to, columns from and to."""


def spot(place: Place, inside: float = 5.0, outside: float = -5.0) -> Tensor:
    logits = torch.full((SIDE, SIDE), outside)
    top, bottom, left, right = place
    logits[top:bottom, left:right] = inside
    return logits


def group() -> Group:
    rows, real = torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)
    condition = PromptCondition(rows, real, rows, real, rows[:, :1])
    memory = MaskMemory(open_policy("fifo", EngineConfig()))
    return Group(TextPrompt(text="a cup"), installed_plugins().task_head("refseg")(), condition, memory, ("a cup",))


def note(
    of: Group, frame_index: int, sights: Sequence[tuple[Place, float]], others: Sequence[tuple[Place, float]] = ()
) -> MemoryRecord:
    """Bring a group's targets to where they are seen, and note it; ``others`` are what further queries show."""
    for number, (place, score) in enumerate(sights):
        target = of.targets.setdefault(number, Target(number, "a cup"))
        target.logits, target.score = spot(place), score
    for number in range(len(sights), len(of.targets)):
        of.targets[number].logits, of.targets[number].score = None, 0.0
    queries = [*sights, *others]
    probs = torch.tensor([[score] for _, score in queries]).reshape(-1, 1)
    maps = torch.stack([spot(place) for place, _ in queries]) if queries else torch.zeros(0, SIDE, SIDE)
    picture = Frame(frames(1)[0].image, frame_index * 10, frame_index, "camera")
    return observe(of, Candidates(probs, maps), picture, prompted=frame_index == 0)


def test_a_target_that_is_seen() -> None:
    record = note(group(), 0, [((0, 20, 0, 10), 0.8)])
    assert record == MemoryRecord(0, 0, pytest.approx(0.8), 0.125, prompted=True)
    assert record.seen


def test_a_target_that_is_not_seen() -> None:
    of = group()
    note(of, 0, [((0, 20, 0, 10), 0.8)])
    record = note(of, 4, [])
    assert record == MemoryRecord(4, 40, 0.0, 0.0, stability=0.0) and not record.seen
    assert of.targets[0].motion is not None and of.targets[0].motion.unseen == 4


def test_several_targets_are_told_of_together() -> None:
    record = note(group(), 0, [((0, 20, 0, 10), 0.8), ((30, 40, 30, 40), 0.6)])
    assert record.score == pytest.approx(0.8) and record.mask_fraction == pytest.approx(0.125 + 1 / 16)


def test_a_mask_with_a_soft_edge_is_less_stable() -> None:
    of = group()
    note(of, 0, [((0, 20, 0, 20), 0.8)])
    logits = spot((0, 20, 0, 20))
    logits[:, 10:20].clamp_(max=0.5)
    of.targets[0].logits = logits
    record = observe(of, Candidates(torch.ones(1, 1), logits[None]), Frame(frames(1)[0].image, 10, 1), prompted=False)
    assert record.stability == pytest.approx(0.5)


def test_size_is_compared_with_what_is_usual() -> None:
    of = group()
    for index in range(25):
        assert note(of, index, [((0, 10, 0, 10), 0.9)]).size_ratio == 1.0
    assert note(of, 25, [((0, 10, 0, 5), 0.9)]).size_ratio == 0.5, "one odd frame is not usual"
    assert note(of, 26, [((0, 10, 0, 10), 0.9)]).size_ratio == 1.0
    assert len(of.targets[0].sizes) == SIZES == 10


def test_motion_is_relied_on_after_a_while_and_again_after_an_absence() -> None:
    of = group()
    far = [((28, 38, 28, 38), 0.9)]
    for index in range(STABLE_FRAMES - 1):
        assert note(of, index, [((2, 12, 2 + index, 12 + index), 0.9)]).motion_iou == 1.0
    assert note(of, 14, far).motion_iou == 1.0, "not known for long enough"
    of = group()
    for index in range(STABLE_FRAMES + 3):
        record = note(of, index, [((2, 12, 2 + index, 12 + index), 0.9)])
    assert record.motion_iou > 0.8
    assert note(of, index + 1, far).motion_iou == 0.0
    note(of, index + 2, [])
    assert note(of, index + 3, far).motion_iou == 1.0, "after an absence it may be anywhere"


@pytest.mark.parametrize(
    ("other", "score", "count", "overlap"),
    [
        ((10, 20, 30, 40), 0.3, 1, 1 / 3),  # a look-alike beside it
        ((10, 20, 30, 40), 0.05, 0, 1.0),  # something else beside it
        ((10, 20, 12, 20), 0.9, 0, 1.0),  # a part of it
        ((9, 20, 10, 20), 0.9, 0, 1.0),  # the same with a wider edge
        ((10, 20, 18, 23), 0.9, 0, 10 / 13),  # reaches out, but hardly
        ((10, 12, 38, 39), 0.9, 0, 1.0),  # a speck
    ],
)
def test_distractors_are_look_alikes_that_would_change_the_box(
    other: Place, score: float, count: int, overlap: float
) -> None:
    record = note(group(), 0, [((10, 20, 10, 20), 0.9)], [(other, score)])
    assert (record.distractors, record.distractor_iou) == (count, pytest.approx(overlap))


def test_another_target_of_the_same_conversation_is_no_distractor() -> None:
    record = note(group(), 0, [((10, 20, 10, 20), 0.9), ((10, 20, 30, 40), 0.8)])
    assert (record.distractors, record.distractor_iou) == (0, 1.0)


def test_boxes_around_masks() -> None:
    masks = torch.stack([spot((4, 8, 10, 30)), spot((0, 40, 0, 40)), spot((0, 0, 0, 0)), spot((39, 40, 39, 40))]) > 0
    assert mask_boxes(masks).tolist() == [
        pytest.approx([0.25, 0.1, 0.75, 0.2]),
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        pytest.approx([0.975, 0.975, 1, 1]),
    ]


def test_rivals_are_what_looks_like_a_target_and_lies_elsewhere() -> None:
    twins = group()
    note(twins, 0, [((0, 10, 0, 10), 0.8)], [((20, 30, 20, 30), 0.6)])
    assert twins.targets[0].rivalry == 1.0
    note(twins, 1, [((0, 10, 0, 10), 0.8)])
    assert twins.targets[0].rivalry == pytest.approx(0.9), "one frame without it proves little"
    alone = group()
    for index in range(3):
        note(
            alone,
            index,
            [((0, 10, 0, 10), 0.8)],
            [((20, 30, 20, 30), 0.4), ((0, 9, 0, 9), 0.9), ((20, 22, 20, 22), 0.9)],
        )
    assert alone.targets[0].rivalry == 0.0, "unsure, the same object, and much smaller"


def test_targets_of_one_conversation_are_no_rivals_of_each_other() -> None:
    both = group()
    note(both, 0, [((0, 10, 0, 10), 0.8), ((20, 30, 20, 30), 0.8)])
    assert [target.rivalry for target in both.targets.values()] == [0.0, 0.0]

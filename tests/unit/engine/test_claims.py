"""Several regions in one conversation: an instance for each label, and none for two that were apart."""

from __future__ import annotations

import numpy as np
import torch

from x2sam_ros.engine.claims import against_background, one_instance_each
from x2sam_ros.engine.region import Region, locate
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.task_head import ReadContext, Track
from x2sam_ros.types import PointPrompt

SIZE = 32, 32
LEFT, MIDDLE, RIGHT = (slice(10, 18), slice(2, 8)), (slice(10, 18), slice(12, 18)), (slice(10, 18), slice(22, 28))


def mask(*parts: tuple[slice, slice]) -> torch.Tensor:
    drawn = torch.zeros(SIZE, dtype=torch.bool)
    for part in parts:
        drawn[part] = True
    return drawn


def candidates(*queries: tuple[torch.Tensor, tuple[float, ...]]) -> Candidates:
    """Return queries of a mask and the probability of each label."""
    logits = torch.stack([torch.where(inside, 5.0, -5.0) for inside, _ in queries])
    return Candidates(torch.tensor([probs for _, probs in queries]), logits)


def region(x: float, y: float) -> Region:
    return locate(PointPrompt(points_px=np.array([[x, y]])), SIZE)


def context(*tracks: Track, regions: tuple[Region, ...] = (), prompted: bool = False, labels: int = 2) -> ReadContext:
    return ReadContext(labels=("",) * labels, regions=regions, prompted=prompted, tracks=tracks)


def test_look_alikes_do_not_share_what_is_one_category() -> None:
    found = candidates((mask(LEFT), (0.45, 0.45)), (mask(RIGHT), (0.0, 0.0)))
    own = against_background(found, 1)
    assert abs(float(own.probs[0, 1]) - 0.45 / 0.55) < 1e-5 and float(own.probs[0, 0]) == float(found.probs[0, 0])
    assert float(own.probs[1, 1]) == 0.0
    alone = candidates((mask(LEFT), (0.3,)))
    assert against_background(alone, 0) is alone


def test_each_region_gets_what_it_points_at() -> None:
    found = candidates((mask(LEFT), (0.45, 0.45)), (mask(RIGHT), (0.45, 0.45)))
    choices = one_instance_each(found, context(regions=(region(25, 14), region(5, 14)), prompted=True))
    assert [(choice.class_index, choice.track) for choice in choices] == [(0, None), (1, None)]
    assert torch.equal(choices[0].mask, mask(RIGHT)) and torch.equal(choices[1].mask, mask(LEFT))


def test_a_new_region_begins_while_the_others_are_followed() -> None:
    found = candidates((mask(LEFT), (0.4, 0.4)), (mask(RIGHT), (0.4, 0.4)))
    both = (region(16, 31), region(25, 14))  # the first lies where the target was once
    choices = one_instance_each(found, context(Track(0, mask(LEFT)), regions=both, prompted=True))
    where = {choice.class_index: (choice.track, choice.mask) for choice in choices}
    assert where[0][0] == 0 and torch.equal(where[0][1], mask(LEFT))
    assert where[1][0] is None and torch.equal(where[1][1], mask(RIGHT))


def test_a_label_without_a_target_is_not_looked_for_later() -> None:
    found = candidates((mask(LEFT), (0.4, 0.4)), (mask(RIGHT), (0.1, 0.8)))
    choices = one_instance_each(found, context(Track(0, mask(LEFT)), regions=(region(5, 14), region(25, 14))))
    assert [(choice.class_index, choice.track) for choice in choices] == [(0, 0)]


def test_two_that_were_apart_do_not_fall_together() -> None:
    """What the second one was is gone, and the first lies within its reach."""
    found = candidates((mask(LEFT), (0.45, 0.45)))
    near = Track(1, mask(MIDDLE), missed=6)
    alone = one_instance_each(found, context(near))
    assert [choice.class_index for choice in alone] == [1], "it would take it"
    choices = one_instance_each(found, context(Track(0, mask(LEFT)), near))
    assert [(choice.class_index, choice.track) for choice in choices] == [(0, 0)]


def test_of_what_one_query_covers_each_takes_its_own_part() -> None:
    found = candidates((mask(LEFT, RIGHT), (0.45, 0.45)))
    choices = one_instance_each(found, context(Track(1, mask(RIGHT)), Track(0, mask(LEFT))))
    where = {choice.class_index: (choice.track, choice.mask) for choice in choices}
    assert where[0][0] == 1 and torch.equal(where[0][1], mask(LEFT))
    assert where[1][0] == 0 and torch.equal(where[1][1], mask(RIGHT))


def test_two_clicks_on_one_object_both_keep_it() -> None:
    found = candidates((mask(LEFT), (0.45, 0.45)))
    choices = one_instance_each(found, context(Track(0, mask(LEFT)), Track(1, mask(LEFT))))
    assert [choice.class_index for choice in choices] == [0, 1]


def test_without_any_mask_nothing_is_chosen() -> None:
    found = candidates((mask(), (0.4, 0.4)))
    assert one_instance_each(found, context(Track(0, mask(LEFT)), Track(1, mask(RIGHT)))) == []
    assert one_instance_each(found, context(regions=(region(5, 14), region(25, 14)), prompted=True)) == []

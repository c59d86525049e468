"""One object is pointed at and followed: among look-alikes, under one query with them, out of sight for a while."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from x2sam_ros.engine.follow import REACH, REACH_GROWTH, expected, followed, pointed_at
from x2sam_ros.engine.region import locate
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import Track
from x2sam_ros.types import BoxPrompt, MaskPrompt, PointPrompt

SIZE = (24, 32)
LEFT, RIGHT = (2, 4, 8, 10), (20, 4, 26, 10)
"""Two look-alikes: x1, y1, x2, y2 in cells."""

Box = tuple[int, int, int, int]


def drawn(*boxes: Box) -> Tensor:
    """Return the mask of several boxes, bool."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def queries(*answers: tuple[float, tuple[Box, ...]]) -> Candidates:
    """Return a query for each (probability, boxes it covers)."""
    maps = torch.stack([torch.where(drawn(*boxes), 6.0, -6.0) for _, boxes in answers])
    return Candidates(torch.tensor([[score] for score, _ in answers]), maps)


def track(box: Box, **fields: object) -> Track:
    return replace(Track(0, drawn(box)), **fields)  # type: ignore[arg-type]


def chosen(choice: Choice | None) -> Tensor:
    assert choice is not None
    return choice.mask


def moved(box: Box, dx: int, dy: int = 0) -> Box:
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


CLICK = PointPrompt(points_px=np.array([[22.0, 6.0]]))
BOX = BoxPrompt(box_px=np.array([19.0, 3.0, 27.0, 11.0]))
MASK = MaskPrompt(mask=drawn(RIGHT).numpy())


@pytest.mark.parametrize("prompt", [CLICK, BOX, MASK])
def test_a_region_takes_its_own_object_out_of_a_query_that_covers_both(
    prompt: PointPrompt | BoxPrompt | MaskPrompt,
) -> None:
    choice = pointed_at(queries((0.9, (LEFT, RIGHT)), (0.2, (LEFT,))), locate(prompt, SIZE))
    assert torch.equal(chosen(choice), drawn(RIGHT))
    assert choice is not None and choice.query == 0 and choice.score == pytest.approx(0.9)


@pytest.mark.parametrize("prompt", [CLICK, BOX, MASK])
def test_a_region_takes_the_unsure_query_under_it(prompt: PointPrompt | BoxPrompt | MaskPrompt) -> None:
    choice = pointed_at(queries((0.9, (LEFT,)), (0.3, (RIGHT,))), locate(prompt, SIZE))
    assert choice is not None and choice.query == 1


def test_negative_clicks_exclude() -> None:
    found = queries((0.9, ((2, 4, 26, 10),)), (0.4, (RIGHT,)))
    both = PointPrompt(points_px=np.array([[22.0, 6.0], [4.0, 6.0]]), point_labels=np.array([1, 0]))
    assert torch.equal(chosen(pointed_at(found, locate(both, SIZE))), drawn(RIGHT))
    assert torch.equal(chosen(pointed_at(found, locate(CLICK, SIZE))), drawn((2, 4, 26, 10)))


def test_no_mask_is_no_choice() -> None:
    empty = queries((0.9, ()), (0.8, ()))
    assert pointed_at(empty, locate(CLICK, SIZE)) is None and followed(empty, track(LEFT)) is None


def test_a_target_stays_itself_when_a_look_alike_is_surer() -> None:
    found = queries((0.99, (RIGHT,)), (0.3, (moved(LEFT, 1),)))
    choice = followed(found, track(LEFT))
    assert torch.equal(chosen(choice), drawn(moved(LEFT, 1)))
    assert choice is not None and choice.score == pytest.approx(0.3)


def test_a_piece_is_as_sure_as_the_surest_query_that_covers_it() -> None:
    found = queries((0.95, (LEFT, RIGHT)), (0.02, (LEFT,)))
    choice = followed(found, track(LEFT))
    assert torch.equal(chosen(choice), drawn(LEFT))
    assert choice is not None and choice.score == pytest.approx(0.95)


def test_the_mask_is_that_of_the_sure_query_and_not_of_a_better_fitting_shred() -> None:
    grown = (2, 4, 9, 11)
    found = queries((0.95, (grown,)), (0.02, (LEFT,)))
    assert torch.equal(chosen(followed(found, track(LEFT))), drawn(grown))


def test_a_look_alike_far_away_is_not_taken_for_a_target_out_of_sight_but_later_it_is() -> None:
    found = queries((0.99, (RIGHT,)))
    assert followed(found, track(LEFT)) is None
    distance = (RIGHT[0] - LEFT[0]) / 6
    late = int((distance - REACH) / REACH_GROWTH) + 1
    assert followed(found, track(LEFT, missed=late - 2)) is None
    assert torch.equal(chosen(followed(found, track(LEFT, missed=late))), drawn(RIGHT))


def test_a_target_that_nothing_looked_like_is_found_wherever_a_query_is_sure_of_it() -> None:
    sure, unsure = queries((0.95, (RIGHT,))), queries((0.85, (RIGHT,)))
    alone = track(LEFT, has_rivals=False)
    assert torch.equal(chosen(followed(sure, alone)), drawn(RIGHT))
    assert followed(unsure, alone) is None and followed(sure, track(LEFT)) is None
    doubted = queries((0.95, (RIGHT,)), (0.2, (LEFT,)))
    assert torch.equal(chosen(followed(doubted, alone)), drawn(RIGHT)), "what is followed is not it any more"
    assert torch.equal(chosen(followed(doubted, track(LEFT, has_rivals=False, threshold=0.1))), drawn(LEFT))


def test_what_left_the_image_comes_back_over_its_edge() -> None:
    gone = track((30, 4, 32, 10), missed=9, drift=(2.0, 0.0), extent=36 / (24 * 32))
    back = queries((0.7, ((28, 6, 32, 12),)))
    assert torch.equal(chosen(followed(back, gone)), drawn((28, 6, 32, 12)))


def test_how_far_a_target_is_looked_for_depends_on_what_it_measured_before_it_was_a_sliver() -> None:
    sliver, object_there = (2, 4, 3, 10), (8, 4, 14, 10)
    found = queries((0.7, (object_there,)))
    assert followed(found, track(sliver, missed=5)) is None
    assert torch.equal(chosen(followed(found, track(sliver, missed=5, extent=36 / (24 * 32)))), drawn(object_there))


def test_a_target_is_expected_where_its_motion_leads() -> None:
    fast = track(LEFT, drift=(10 / 32, 3 / 24))
    assert torch.equal(expected(fast), drawn(moved(LEFT, 10, 3)))
    assert not expected(track(LEFT, drift=(2.0, 0.0))).any()
    passing = queries((0.9, (LEFT,)), (0.9, (moved(LEFT, 10, 3),)))
    assert torch.equal(chosen(followed(passing, fast)), drawn(moved(LEFT, 10, 3)))
    assert torch.equal(chosen(followed(passing, track(LEFT))), drawn(LEFT))


def test_what_a_target_merges_with_is_cut_off() -> None:
    merged = queries((0.9, ((2, 4, 16, 10),)))
    mask = chosen(followed(merged, track(LEFT)))
    assert (mask & drawn(LEFT)).sum() == 36 and not mask[:, 11:].any()
    alone = track(LEFT, missed=1)
    assert torch.equal(chosen(followed(merged, alone)), drawn((2, 4, 16, 10))), "its size is not known any more"


def test_both_sides_of_a_pole_are_one_object() -> None:
    sides: tuple[Box, Box] = ((2, 4, 4, 10), (5, 4, 8, 10))
    mask = chosen(followed(queries((0.9, (*sides, RIGHT))), track(LEFT)))
    assert torch.equal(mask, drawn(*sides))


def test_of_many_pieces_the_one_under_the_click_is_looked_at() -> None:
    """A query in shreds: more pieces than are looked at, and the one that is meant is the smallest."""
    shreds: list[Box] = [(x, y, x + 2, y + 3) for x in range(0, 18, 3) for y in range(0, 24, 4)]
    found = queries((0.9, (*shreds, (22, 6, 23, 7))))
    assert torch.equal(chosen(pointed_at(found, locate(CLICK, SIZE))), drawn((22, 6, 23, 7)))
    assert torch.equal(chosen(followed(found, track((22, 6, 23, 7)))), drawn((22, 6, 23, 7)))

"""Which query is a target, on its first frame, later, and for class lists."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from x2sam_ros.engine.region import locate
from x2sam_ros.engine.select import Candidates, Choice, best_query, instances, match_tracks
from x2sam_ros.types import PointPrompt


def masks(*columns: tuple[int, int]) -> Tensor:
    """Return one query for each (first, last) range of columns of an 8 x 16 map."""
    maps = torch.full((len(columns), 8, 16), -5.0)
    for row, (first, last) in enumerate(columns):
        maps[row, :, first:last] = 5.0
    return maps


def candidates(probs: list[list[float]], *columns: tuple[int, int]) -> Candidates:
    return Candidates(torch.tensor(probs), masks(*columns))


def test_reading_drops_the_background_and_padding() -> None:
    found = Candidates.read(torch.tensor([[2.0, -1e6, 2.0]]), torch.zeros(1, 2, 2))
    assert found.probs.tolist() == [[0.5, 0.0]]


def test_a_text_takes_the_surest_query() -> None:
    choice = best_query(candidates([[0.2], [0.9], [0.6]], (0, 4), (4, 8), (8, 12)), None, None)
    assert (choice.query, choice.class_index) == (1, 0) and abs(choice.score - 0.9) < 1e-6


def test_later_the_query_where_the_target_was_wins_over_a_slightly_surer_one() -> None:
    found = candidates([[0.7], [0.9]], (0, 4), (8, 12))
    before = masks((0, 4))[0] > 0
    assert best_query(found, None, before).query == 0
    assert best_query(candidates([[0.1], [0.9]], (2, 8), (8, 12)), None, before).query == 1


def test_a_click_decides_between_look_alikes() -> None:
    click = locate(PointPrompt(points_px=np.array([[10.0, 4.0]])), (8, 16))
    assert best_query(candidates([[0.9], [0.3]], (0, 4), (8, 12)), click, None).query == 1


def test_instances_are_one_for_each_object_and_class() -> None:
    found = candidates(
        [[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.6, 0.0], [0.4, 0.0], [0.95, 0.0]],
        (0, 4),
        (0, 4),
        (0, 4),
        (8, 12),
        (12, 16),
        (0, 0),
    )
    chosen = instances(found, 0.5)
    assert [(choice.query, choice.class_index) for choice in chosen] == [(0, 0), (2, 1), (3, 0)]


def choice(class_index: int, first: int, last: int) -> Choice:
    return Choice(0, class_index, 0.9, masks((first, last))[0])


def test_tracks_are_matched_best_overlap_first_and_within_a_class() -> None:
    before = [(0, masks((0, 4))[0] > 0), (0, masks((2, 6))[0] > 0), (1, masks((8, 12))[0] > 0)]
    found = [choice(0, 2, 6), choice(0, 0, 3), choice(0, 8, 12), choice(1, 15, 16)]
    assert match_tracks(found, before) == {1: 0, 0: 1}
    assert match_tracks([], before) == {} and match_tracks(found, []) == {}

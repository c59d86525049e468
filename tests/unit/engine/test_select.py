"""Which query is a target, on its first frame, later, and for class lists."""

from __future__ import annotations

import pytest
import torch

from tests.unit.engine.queries import candidates, masks
from x2sam_ros.engine.select import (
    Candidates,
    Choice,
    best_query,
    continue_tracks,
    instances,
    match_tracks,
    one_per_label,
)
from x2sam_ros.engine.task_head import Track
from x2sam_ros.errors import ModelError


def test_reading_drops_the_background_and_padding() -> None:
    found = Candidates.read(torch.tensor([[2.0, -1e6, 2.0]]), torch.zeros(1, 2, 2))
    assert found.probs.tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("where", ["classes", "masks"])
def test_an_answer_of_nan_is_an_error(where: str) -> None:
    classes, maps = torch.zeros(3, 2), torch.zeros(3, 4, 4)
    (classes if where == "classes" else maps)[1] = torch.nan
    with pytest.raises(ModelError, match="not numbers"):
        Candidates.read(classes, maps)


def test_resizing_crops_the_padding_first() -> None:
    maps = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    found = Candidates(torch.ones(2, 1), maps)
    whole, part = found.resized((5, 7)), found.resized((16, 12), (8, 6))
    assert whole.mask_logits.shape == (2, 5, 7) and part.mask_logits.shape == (2, 16, 12)
    only = Candidates(found.probs, maps[:, :, :6]).resized((16, 12))
    assert torch.equal(part.mask_logits, only.mask_logits)
    assert torch.equal(found.resized((8, 12)).mask_logits, maps)
    assert found.resized((1, 1)).mask_logits.shape == (2, 1, 1)


@pytest.mark.parametrize(("size", "valid"), [((4, 4), (9, 12)), ((4, 4), (8, 13)), ((0, 4), None), ((4, 4), (0, 4))])
def test_resizing_needs_sizes_that_fit(size: tuple[int, int], valid: tuple[int, int] | None) -> None:
    with pytest.raises(ModelError, match="cannot resize"):
        Candidates(torch.ones(1, 1), torch.zeros(1, 8, 12)).resized(size, valid)


def test_a_text_takes_the_surest_query() -> None:
    choice = best_query(candidates([[0.2], [0.9], [0.6]], (0, 4), (4, 8), (8, 12)))
    assert (choice.query, choice.class_index) == (1, 0) and abs(choice.score - 0.9) < 1e-6


def test_later_the_query_where_the_target_was_wins_over_a_slightly_surer_one() -> None:
    found = candidates([[0.7], [0.9]], (0, 4), (8, 12))
    before = masks((0, 4))[0] > 0
    assert best_query(found, before).query == 0
    assert best_query(candidates([[0.1], [0.9]], (2, 8), (8, 12)), before).query == 1


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


def test_each_label_has_its_best_query_and_masks_may_overlap() -> None:
    found = candidates([[0.1, 0.2], [0.7, 0.2], [0.2, 0.6]], (0, 4), (4, 12), (6, 12))
    first, second = one_per_label(found, ())
    assert [(c.query, c.class_index, c.track) for c in (first, second)] == [(1, 0, None), (2, 1, None)]
    assert bool((first.mask & second.mask).any())
    assert one_per_label(Candidates(torch.zeros(3, 0), masks((0, 1), (1, 2), (2, 3))), ()) == []


def test_each_label_follows_its_own_track() -> None:
    found = candidates([[0.6, 0.1], [0.7, 0.1], [0.1, 0.5]], (0, 4), (8, 12), (12, 16))
    tracks = (Track(1, masks((12, 16))[0] > 0), Track(0, masks((0, 4))[0] > 0))
    assert [(c.query, c.track) for c in one_per_label(found, tracks)] == [(0, 1), (2, 0)]
    assert [(c.query, c.track) for c in one_per_label(found, tracks, follow=False)] == [(1, 1), (2, 0)]


def test_stuff_is_continued_wherever_it_is() -> None:
    tracks = (Track(0, masks((0, 4))[0] > 0), Track(1, masks((0, 4))[0] > 0))
    found = [choice(1, 12, 16), choice(0, 12, 16), choice(2, 0, 4)]
    assert [c.track for c in continue_tracks(found, tracks)] == [None, None, None]
    assert [c.track for c in continue_tracks(found, tracks, stuff=(1, 2))] == [1, None, None]


def test_nothing_is_found_where_all_is_background() -> None:
    found = Candidates.read(torch.tensor([[0.0, 9.0]] * 4), masks((0, 4), (4, 8), (8, 12), (12, 16)))
    assert instances(found, 0.5) == []
    assert all(c.score < 0.5 for c in one_per_label(found, ()))
    assert instances(Candidates(torch.zeros(2, 0), masks((0, 4), (4, 8))), 0.0) == []


def test_a_weak_instance_counts_only_where_it_continues_a_tracked_target() -> None:
    found = candidates([[0.9], [0.4], [0.4], [0.2]], (0, 4), (5, 8), (9, 12), (13, 16))
    here = [masks(columns)[0] > 0 for columns in ((0, 4), (5, 8), (9, 12), (13, 16))]
    tracked, hidden = [Track(0, mask, threshold=0.3) for mask in here], [Track(0, mask) for mask in here]
    assert [c.query for c in instances(found, 0.5)] == [0] == [c.query for c in instances(found, 0.5, hidden)]
    chosen = instances(found, 0.5, [tracked[0], hidden[1], tracked[2], tracked[3]])
    assert [(c.query, c.track) for c in chosen] == [(0, None), (2, None)]
    assert [c.query for c in instances(found, 0.5, [tracked[0]])] == [0], "nothing weak where it is sure already"
    beside = instances(candidates([[0.4]], (0, 4)), 0.5, [tracked[2]])
    assert beside == [] and len(instances(candidates([[0.4]], (0, 4)), 0.5, [tracked[2]], stuff=(0,))) == 1


def test_the_mask_score_is_the_mean_inside() -> None:
    logits = torch.tensor([[2.0, 0.0], [-3.0, 1.0]])
    mean = float(torch.tensor([2.0, 1.0]).sigmoid().mean())
    assert abs(Choice(0, 0, 0.9, logits).mask_score - mean) < 1e-6
    assert Choice(0, 0, 0.9, -torch.ones(2, 2)).mask_score == 0.0

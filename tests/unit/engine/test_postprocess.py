"""Pictures of labels: what the published rules get wrong is right here, and hard inputs give the right nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.postprocess import VOID, fused, instance_list, label_map, panoptic, semantic_map, union
from x2sam_ros.engine.select import Candidates, Choice

SIZE = (8, 16)


def masks(*columns: tuple[int, int], logit: float = 5.0) -> Tensor:
    """Return one query for each (first, last) range of columns of an 8 x 16 map."""
    maps = torch.full((len(columns), *SIZE), -logit)
    for row, (first, last) in enumerate(columns):
        maps[row, :, first:last] = logit
    return maps


def candidates(probs: list[list[float]], *columns: tuple[int, int]) -> Candidates:
    return Candidates(torch.tensor(probs), masks(*columns))


def columns(choice: Choice) -> list[int]:
    return choice.mask.any(0).nonzero()[:, 0].tolist()


def smooth(generator: torch.Generator, queries: int, size: tuple[int, int]) -> Tensor:
    return F.interpolate(torch.randn(1, queries, 4, 4, generator=generator) * 6, size=size, mode="bilinear")[0]


def test_every_pixel_has_the_class_with_the_most_evidence() -> None:
    found = candidates([[0.9, 0.0], [0.0, 0.8], [0.3, 0.0]], (0, 6), (4, 10), (4, 10))
    labels = semantic_map(found)
    assert labels.dtype == torch.int64 and labels.shape == SIZE
    assert labels[0].tolist() == [0] * 6 + [1] * 4 + [0] * 6


def test_pixels_that_no_sure_query_covers_are_void_when_asked() -> None:
    found = candidates([[0.9, 0.0], [0.0, 0.8], [0.3, 0.0]], (0, 6), (6, 10), (10, 14))
    assert semantic_map(found, 0.5)[0].tolist() == [0] * 6 + [1] * 4 + [VOID] * 6
    assert bool((semantic_map(found, 0.95) == VOID).all())
    assert bool((semantic_map(Candidates(torch.zeros(1, 0), masks((0, 4)))) == VOID).all())


def test_large_maps_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    found = Candidates(torch.rand(20, 500, generator=generator), smooth(generator, 20, (9, 11)))
    whole = semantic_map(found)
    monkeypatch.setattr("x2sam_ros.engine.postprocess._CHUNK_VALUES", 500 * 11 * 2)
    assert torch.equal(semantic_map(found), whole)


def test_instances_are_scored_by_class_and_mask() -> None:
    found = candidates([[0.9, 0.4], [0.5, 0.8]], (0, 4), (8, 12))
    sure = float(torch.tensor(5.0).sigmoid())
    listed = instance_list(found, 0.0)
    assert [(c.query, c.class_index) for c in listed] == [(0, 0), (1, 1)]
    assert [c.score for c in listed] == pytest.approx([0.9 * sure, 0.8 * sure], abs=1e-5)
    assert [c.class_index for c in instance_list(found, 0.0, things=[1])] == [1]
    assert [c.class_index for c in instance_list(found, 0.0, classes=[7, 3])] == [7, 3]
    assert len(instance_list(found, 0.85)) == 1


def test_one_query_may_be_listed_under_two_classes() -> None:
    listed = instance_list(candidates([[0.5, 0.45], [0.1, 0.1]], (0, 4), (8, 12)), 0.0)
    assert [(c.query, c.class_index) for c in listed] == [(0, 0), (0, 1)]


def test_instances_without_a_pixel_are_not_listed() -> None:
    found = candidates([[0.9], [0.8]], (0, 0), (8, 12))
    assert [c.query for c in instance_list(found, 0.0)] == [1]
    assert {c.query for c in instance_list(found, 0.0, official_quirks=True)} == {0, 1}
    assert instance_list(Candidates(torch.zeros(2, 0), masks((0, 4), (4, 8))), 0.0) == []


def test_a_union_joins_the_sure_queries() -> None:
    found = candidates([[0.9], [0.7], [0.55], [0.1]], (0, 2), (4, 6), (8, 10), (12, 14))
    joined = union(found, 0, 0.5)
    assert columns(joined) == [0, 1, 4, 5] and joined.query == 0
    assert joined.score == pytest.approx(0.8)
    assert columns(union(found, 0, 0.8)) == [0, 1]
    weak = union(candidates([[0.2], [0.1]], (0, 2), (4, 6)), 0, 0.5)
    assert columns(weak) == [0, 1] and weak.score == pytest.approx(0.2)


def test_segments_go_to_the_surest_and_do_not_fill_the_picture() -> None:
    found = candidates([[0.9, 0.0], [0.0, 0.7]], (0, 6), (5, 12))
    first, second = panoptic(found, (), 0.5)
    assert columns(first) == [0, 1, 2, 3, 4, 5] and columns(second) == [6, 7, 8, 9, 10, 11]
    assert [columns(choice) for choice in panoptic(candidates([[0.9]], (0, 6)), (), 0.5)] == [[0, 1, 2, 3, 4, 5]]


def test_stuff_is_one_segment_for_each_class() -> None:
    found = candidates([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.0, 0.6]], (0, 2), (4, 6), (8, 10), (12, 14))
    segments = panoptic(found, (0,), 0.5)
    assert [(c.query, c.class_index, columns(c)) for c in segments] == [
        (0, 0, [0, 1, 4, 5]),
        (2, 1, [8, 9]),
        (3, 1, [12, 13]),
    ]
    assert segments[0].score == pytest.approx(0.9)


def test_joining_keeps_the_surest_name() -> None:
    pieces = [Choice(3, 0, 0.6, masks((0, 2))[0]), Choice(4, 1, 0.9, masks((2, 4))[0])]
    pieces.append(Choice(5, 0, 0.8, masks((6, 8))[0]))
    joined = fused(pieces, (0,))
    assert [(c.query, c.score, columns(c)) for c in joined] == [(5, 0.8, [0, 1, 6, 7]), (4, 0.9, [2, 3])]
    assert [c.query for c in fused(pieces, ())] == [3, 4, 5]


def test_a_segment_that_loses_much_is_dropped_and_leaves_no_hole() -> None:
    found = candidates([[0.9, 0.0], [0.0, 0.7], [0.6, 0.0]], (0, 6), (2, 8), (4, 16))
    segments = panoptic(found, (), 0.5)
    assert [(c.query, columns(c)) for c in segments] == [(0, [0, 1, 2, 3, 4, 5]), (2, list(range(6, 16)))]


@pytest.mark.parametrize("seed", range(5))
def test_segments_never_overlap_not_even_after_resizing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = Candidates(torch.rand(12, 4, generator=generator).softmax(1) * 2, smooth(generator, 12, (16, 20)) - 5)
    segments = panoptic(found, (1,), 0.3)
    assert len(segments) >= 2
    logits = torch.stack([choice.logits for choice in segments])
    for size in ((16, 20), (37, 53), (160, 200), (5, 3), (1, 1)):
        positive = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0] > 0
        assert int(positive.sum(0).max()) <= 1


def test_segments_side_by_side_leave_no_gap_when_resized() -> None:
    # A sure one beside a less sure one: what the border loses on one side it must not lose on the other.
    found = Candidates(torch.tensor([[0.95, 0.0], [0.0, 0.9]]), masks((0, 9), (8, 16)))
    found.mask_logits[1] /= 2
    enlarged = [
        F.interpolate(c.logits[None, None], scale_factor=20, mode="bilinear")[0, 0] for c in panoptic(found, {1}, 0.5)
    ]
    covered = torch.stack(enlarged) > 0
    assert not bool(covered.all(0).any())
    assert float(covered.any(0).float().mean()) > 0.98


def test_two_that_are_as_sure_as_can_be_leave_no_hole() -> None:
    maps = masks((0, 9), (8, 16)) * torch.tensor([6.0, 5.0])[:, None, None]
    segments = panoptic(Candidates(torch.eye(2), maps), (), 0.5)
    assert [columns(choice) for choice in segments] == [list(range(9)), list(range(9, 16))]


def test_two_that_overlap_do_not_drop_each_other() -> None:
    found = candidates([[0.9, 0.0], [0.0, 0.9]], (0, 8), (4, 12))
    found.mask_logits[0, :, 4:6] = 1.0
    assert [columns(choice) for choice in panoptic(found, (), 0.5)] == [list(range(4, 12))]


def test_painting_is_in_order() -> None:
    choices = [Choice(0, 0, 1.0, masks((0, 4))[0]), Choice(1, 1, 1.0, masks((2, 6))[0])]
    assert label_map(choices, [3, 7], SIZE, background=255)[0, :7].tolist() == [3, 3, 7, 7, 7, 7, 255]
    assert label_map([], [], (1, 1)).tolist() == [[0]]


@pytest.mark.parametrize("size", [(1, 1), (8, 16)])
@pytest.mark.parametrize("classes", [1, 500])
def test_where_all_is_background_nothing_is_found(size: tuple[int, int], classes: int) -> None:
    logits = torch.zeros(10, classes + 1)
    logits[:, -1] = 20.0
    found = Candidates.read(logits, torch.ones(10, *size))
    assert panoptic(found, (0,), 0.5) == [] and instance_list(found, 0.5) == []
    assert bool((semantic_map(found, 0.5) == VOID).all())
    assert semantic_map(found).shape == size


def test_many_classes_on_one_pixel() -> None:
    logits = torch.full((200, 501), -10.0)
    logits[torch.arange(200), torch.arange(200) * 2] = 10.0
    found = Candidates.read(logits, torch.full((200, 1, 1), 3.0))
    assert len(panoptic(found, (), 0.5)) <= 1
    assert len(instance_list(found, 0.5)) == 200

"""Panoptic quality, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Segments

SIZE = (2, 10)


def row(*runs: tuple[str, int, int]) -> Segments:
    """Return segments of a picture, each a class and its first and last column."""
    masks = []
    for name, first, last in runs:
        mask = np.zeros(SIZE, bool)
        mask[:, first:last] = True
        masks.append((name, mask))
    return Segments.of_masks(masks, SIZE)


def quality(*pairs: tuple[Segments, Segments], stuff: tuple[str, ...] = ()) -> PanopticQuality:
    found = PanopticQuality(stuff)
    for predicted, truth in pairs:
        found.update(predicted, truth)
    return found


def test_found_missed_and_wrong_count() -> None:
    truth = row(("cup", 0, 4), ("cup", 4, 6), ("sky", 6, 10))
    predicted = row(("cup", 0, 3), ("jar", 4, 6), ("sky", 6, 10))
    score = quality((predicted, truth), stuff=("sky",)).compute()
    cup = score.by_class["cup"]
    assert (cup.sq, cup.rq) == (pytest.approx(0.75), pytest.approx(1 / 1.5))  # one found, one missed
    assert cup.pq == pytest.approx(cup.sq * cup.rq)
    assert score.by_class["jar"].pq == 0.0
    assert score.stuff.pq == 1.0 and score.stuff.num_classes == 1
    assert score.things.pq == pytest.approx(cup.pq / 2) and score.things.num_classes == 2
    assert score.overall.pq == pytest.approx((cup.pq + 1) / 3)


def test_half_an_overlap_is_no_match() -> None:
    half = quality((row(("cup", 0, 4)), row(("cup", 0, 8)))).compute()
    more = quality((row(("cup", 0, 5)), row(("cup", 0, 8)))).compute()
    assert half.overall.pq == 0.0
    assert more.overall.pq == pytest.approx(5 / 8)


def test_what_lies_on_void_is_no_mistake() -> None:
    truth = row(("cup", 0, 4))
    assert quality((row(("cup", 0, 8)), truth)).compute().overall.pq == 1.0
    assert quality((row(("cup", 0, 4), ("jar", 5, 9)), truth)).compute().overall.pq == 1.0
    assert quality((row(("cup", 1, 4), ("jar", 0, 1)), truth)).compute().overall.num_classes == 2


def test_a_crowd_is_neither_missed_nor_wrong() -> None:
    plain = row(("cup", 0, 4), ("cup", 4, 10))
    crowded = Segments(plain.ids, plain.classes, crowds=(2,))
    predicted = row(("cup", 0, 4), ("cup", 4, 6), ("jar", 6, 10))
    assert quality((row(("cup", 0, 4)), crowded)).compute().overall.pq == 1.0
    score = quality((predicted, crowded)).compute()
    assert score.by_class["cup"].pq == 1.0 and score.by_class["jar"].pq == 0.0


def test_parts_merge_to_the_whole() -> None:
    pairs = [
        (row(("cup", 0, 3)), row(("cup", 0, 4), ("sky", 4, 10))),
        (row(("sky", 3, 10)), row(("cup", 0, 4), ("sky", 4, 10))),
    ]
    whole = quality(*pairs, stuff=("sky",))
    merged = quality(pairs[0])
    merged.merge(quality(pairs[1], stuff=("sky",)))
    assert merged.compute() == whole.compute()
    whole.reset()
    assert np.isnan(whole.compute().overall.pq) and not whole.compute().by_class


def test_a_clip_is_scored_as_tubes() -> None:
    ids = np.ones((2, *SIZE), np.uint8)
    moved = ids.copy()
    moved[1, :, :5] = 0
    score = quality((Segments(moved, {1: "cup"}), Segments(ids, {1: "cup"}))).compute()
    assert score.overall.pq == pytest.approx(0.75)


def test_ids_far_apart_and_segments_without_pixels() -> None:
    ids = np.zeros(SIZE, np.uint32)
    ids[:, :4] = 4_000_000_000
    truth = Segments(ids, {4_000_000_000: "cup", 7: "cup"})
    cup = quality((row(("cup", 0, 4)), truth)).compute().by_class["cup"]
    assert cup.sq == 1.0 and cup.rq == pytest.approx(1 / 1.5)


def test_bad_segments_are_errors() -> None:
    with pytest.raises(FrameError, match="segment 3 has no class"):
        Segments(np.full(SIZE, 3), {1: "cup"})
    with pytest.raises(FrameError, match="segment 5 has no class"):
        Segments(np.ones(SIZE, int), {1: "cup"}, crowds=(5,))
    with pytest.raises(FrameError, match="segment 0 is void"):
        Segments(np.ones(SIZE, int), {0: "sky", 1: "cup"})
    with pytest.raises(FrameError, match="overlaps"):
        row(("cup", 0, 4), ("jar", 3, 6))
    with pytest.raises(FrameError, match=r"\(3, 3\)"):
        Segments.of_masks([("cup", np.ones((3, 3), bool))], SIZE)
    with pytest.raises(FrameError, match="shapes"):
        quality((row(), Segments(np.zeros((3, 3), int), {})))

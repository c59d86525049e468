"""Panoptic quality, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Segments, shared_pixels

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
    score = quality((predicted, truth), stuff=("sky",)).quality()
    cup = score.by_class["cup"]
    assert (cup.sq, cup.rq) == (pytest.approx(0.75), pytest.approx(1 / 1.5))  # one found, one missed
    assert cup.pq == pytest.approx(cup.sq * cup.rq)
    assert score.by_class["jar"].pq == 0.0
    assert score.stuff.pq == 1.0 and score.stuff.num_classes == 1
    assert score.things.pq == pytest.approx(cup.pq / 2) and score.things.num_classes == 2
    assert score.overall.pq == pytest.approx((cup.pq + 1) / 3)


def test_half_an_overlap_is_no_match() -> None:
    half = quality((row(("cup", 0, 4)), row(("cup", 0, 8)))).quality()
    more = quality((row(("cup", 0, 5)), row(("cup", 0, 8)))).quality()
    assert half.overall.pq == 0.0
    assert more.overall.pq == pytest.approx(5 / 8)


def test_what_lies_on_void_is_no_mistake() -> None:
    truth = row(("cup", 0, 4))
    assert quality((row(("cup", 0, 8)), truth)).quality().overall.pq == 1.0
    assert quality((row(("cup", 0, 4), ("jar", 5, 9)), truth)).quality().overall.pq == 1.0
    assert quality((row(("cup", 1, 4), ("jar", 0, 1)), truth)).quality().overall.num_classes == 2


def test_a_crowd_is_neither_missed_nor_wrong() -> None:
    plain = row(("cup", 0, 4), ("cup", 4, 10))
    crowded = Segments(plain.ids, plain.classes, crowds=(2,))
    predicted = row(("cup", 0, 4), ("cup", 4, 6), ("jar", 6, 10))
    assert quality((row(("cup", 0, 4)), crowded)).quality().overall.pq == 1.0
    score = quality((predicted, crowded)).quality()
    assert score.by_class["cup"].pq == 1.0 and score.by_class["jar"].pq == 0.0


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)

    def picture() -> Segments:
        cuts = [0, *sorted(rng.choice(np.arange(1, 10), 3, replace=False).tolist()), 10]
        names = rng.choice(["cup", "jar", "sky"], 4)
        return row(*((str(name), first, last) for name, first, last in zip(names, cuts, cuts[1:])))

    pairs = [(picture(), picture()) for _ in range(12)]
    check_merging(lambda: PanopticQuality(("sky",)), [lambda metric, pair=pair: metric.update(*pair) for pair in pairs])
    numbered = Segments(np.ones(SIZE, int), {1: 17})
    check_merging(PanopticQuality, [lambda metric: metric.update(numbered, numbered)])


def test_merging_unites_what_is_stuff() -> None:
    pair = row(("sky", 0, 10)), row(("sky", 0, 10))
    merged = PanopticQuality()
    merged.merge(quality(pair, stuff=("sky",)))
    assert merged.quality().stuff == quality(pair, stuff=("sky",)).quality().stuff


def test_scores_are_those_of_all_of_things_and_of_stuff() -> None:
    scores = quality((row(("cup", 0, 4)), row(("cup", 0, 5), ("sky", 5, 10))), stuff=("sky",)).compute()
    assert scores == pytest.approx(
        {"pq": 0.4, "sq": 0.4, "rq": 0.5, "pq_things": 0.8, "sq_things": 0.8, "rq_things": 1.0}
        | {"pq_stuff": 0.0, "sq_stuff": 0.0, "rq_stuff": 0.0}
    )


def test_shared_pixels_of_any_maps() -> None:
    rng = np.random.default_rng(1)
    for num_ids in (1, 3, 5000):
        true, own = rng.integers(0, num_ids, (2, 31, 37), dtype=np.uint32) * 100_003
        expected: dict[tuple[int, int], int] = {}
        for pair in zip(true.ravel().tolist(), own.ravel().tolist()):
            expected[pair] = expected.get(pair, 0) + 1
        found = shared_pixels(*(Segments(ids, {int(i): "cup" for i in np.unique(ids) if i}) for ids in (own, true)))
        assert found.pixels == expected


def test_a_clip_is_scored_as_tubes() -> None:
    ids = np.ones((2, *SIZE), np.uint8)
    moved = ids.copy()
    moved[1, :, :5] = 0
    score = quality((Segments(moved, {1: "cup"}), Segments(ids, {1: "cup"}))).quality()
    assert score.overall.pq == pytest.approx(0.75)


def test_ids_far_apart_and_segments_without_pixels() -> None:
    ids = np.zeros(SIZE, np.uint32)
    ids[:, :4] = 4_000_000_000
    truth = Segments(ids, {4_000_000_000: "cup", 7: "cup"})
    cup = quality((row(("cup", 0, 4)), truth)).quality().by_class["cup"]
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

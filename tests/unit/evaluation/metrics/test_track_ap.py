"""Track AP: the numbers of the ytvoseval program, and of a slow and obvious one."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from tests.unit.evaluation.metrics.moving_disks import CATEGORIES, HEIGHT, WIDTH, disk, random_clip
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.mask_ap import NAMES
from x2sam_ros.evaluation.metrics.track_ap import Track, TrackAP, TrueTrack
from x2sam_ros.evaluation.predictions import rle_of
from x2sam_ros.rle import decode_rle, from_coco

SIZE = (HEIGHT, WIDTH)

OFFICIAL = {
    0: """0.20851822819644603 0.6233900313108235 0.12343234323432342 0.24554416155901304 0.1539030331604589
          0.6999999999999998 0.2183420745920746 0.2982808857808858 0.2982808857808858 0.3227272727272727
          0.2130952380952381 0.7""",
    100: """0.19854838231075858 0.4865822296515365 0.09900990099009901 0.21485148514851485 0.2590759075907591
            0.19999999999999998 0.1828282828282828 0.2606060606060606 0.2606060606060606 0.2422222222222222
            0.29999999999999993 0.2""",
}
"""Seed of the first of 12 clips of ``random_clip`` -> the summary of X2SAM's copy of ytvoseval (revision 5b0b106, with
NumPy 2.4; ``np.float`` set to float, which it still uses) for the same tracks as YouTube-VIS JSON, a truth's areas the
pixels of its masks, an answer's score ``Track.score``."""


@lru_cache
def tube(track: Track | TrueTrack) -> np.ndarray:
    empty = np.zeros(SIZE, np.bool_)
    coded = [None if rle is None else from_coco({"size": list(SIZE), "counts": rle.encode()}) for rle in track.rles]
    return np.stack([empty if counts is None else decode_rle(counts, *SIZE) for counts in coded])


def slow_ap(clips: list[tuple[list[Track], list[TrueTrack]]], threshold: float) -> float:
    """Return AP at one overlap: classes one by one, answers one by one, precision at 101 recalls."""
    of_classes = []
    for category in CATEGORIES:
        hits: list[tuple[float, bool]] = []
        num_true = 0
        for tracks, truths in clips:
            true = [truth for truth in truths if truth.category_id == category]
            num_true += sum(not truth.is_crowd for truth in true)
            taken: set[int] = set()
            own = [track for track in tracks if track.category_id == category]
            for track in sorted(own, key=lambda track: -track.score):
                overlaps = {}
                for place, truth in enumerate(true):
                    a, b = tube(track), tube(truth)
                    if (a | b).any() and (iou := (a & b).sum() / (a | b).sum()) >= threshold and place not in taken:
                        overlaps[place] = iou
                real = {place: iou for place, iou in overlaps.items() if not true[place].is_crowd}
                if real:
                    taken.add(max(real, key=lambda place: (real[place], place)))
                if real or not overlaps:  # what lies on a crowd alone is neither right nor wrong
                    hits.append((track.score, bool(real)))
        if not num_true:
            continue
        right = np.cumsum([hit for _, hit in sorted(hits, key=lambda hit: -hit[0])])
        precision = right / np.arange(1, len(right) + 1)
        levels = np.linspace(0, 1, 101)
        of_classes.append(np.mean([max(precision[right / num_true >= level], default=0.0) for level in levels]))
    return float(np.mean(of_classes))


@pytest.mark.parametrize("first_seed", OFFICIAL)
def test_equals_the_official_program_and_merges(first_seed: int) -> None:
    clips = [random_clip(first_seed + index) for index in range(12)]
    updates = [partial(TrackAP.update, sequence=f"{n:02d}", tracks=t, truths=g) for n, (t, g) in enumerate(clips)]
    found = check_merging(TrackAP, updates)
    expected = map(float, OFFICIAL[first_seed].split())
    assert found == pytest.approx(dict(zip(NAMES, expected)), abs=1e-15)
    assert found["ap50"] == pytest.approx(slow_ap(clips, 0.5)) and found["ap75"] == pytest.approx(slow_ap(clips, 0.75))


def test_score_of_a_track_is_the_mean_where_it_has_a_mask() -> None:
    rle = rle_of(disk(50, 50, 20))
    assert Track(1, SIZE, (rle, None, rle), (0.5, 0.9, 1.0)).score == 0.75
    assert Track(1, SIZE, (None,), (0.5,)).score == 0.0


def test_tracks_of_one_clip_have_one_length() -> None:
    rle = rle_of(disk(50, 50, 20))
    with pytest.raises(FrameError, match=r"dog: tracks have one size and one length, got .*1\), .*2\)"):
        TrackAP().update("dog", [Track(1, SIZE, (rle,), (1.0,))], [TrueTrack(1, SIZE, (rle, rle))])

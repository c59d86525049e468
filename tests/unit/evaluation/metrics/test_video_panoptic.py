"""Panoptic quality of videos, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Segments, SharedPixels, shared_pixels
from x2sam_ros.evaluation.metrics.video_panoptic import SegmentationTrackingQuality, VideoPanopticQuality

CLASSES = {1: "cup", 2: "cup", 3: "jar", 4: "sky"}


def frame(own: str, true: str, crowds: tuple[int, ...] = ()) -> SharedPixels:
    """Return a picture of one row; a digit is the id of a pixel, and 0 is void."""
    predicted, truth = (
        Segments(ids, {number: CLASSES[number] for number in ids.ravel().tolist() if number}, kept)
        for ids, kept in ((np.array([list(map(int, own))]), ()), (np.array([list(map(int, true))]), crowds))
    )
    return shared_pixels(predicted, truth)


def video(seed: int, num_frames: int = 7) -> list[SharedPixels]:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, (num_frames, 2, 12))
    rows[:, 0] = np.where(rng.random((num_frames, 12)) < 0.7, rows[:, 1], rows[:, 0])
    return [frame(*("".join(map(str, row)) for row in pair)) for pair in rows]


def stq(*clips: list[SharedPixels], official_quirks: bool = False) -> dict[str, float]:
    metric = SegmentationTrackingQuality(("sky",), official_quirks)
    for each in clips:
        metric.update(iter(each))
    return metric.compute()


def test_a_window_is_scored_as_tubes() -> None:
    # Frame by frame the second frame is a match of 3 in 4, with a change of id; as a tube of 8 it has 4.
    clip = [frame("1111", "1111"), frame("2220", "1111")]
    metric = VideoPanopticQuality(windows=(1, 2))
    metric.update(iter(clip))
    scores = metric.compute()
    assert scores["vpq1"] == pytest.approx((1 + 0.75) / 2)
    assert scores["vpq2"] == 0.0
    assert scores["vpq"] == pytest.approx(scores["vpq1"] / 2)
    assert scores["vpq_things"] == scores["vpq"] and math.isnan(scores["vpq_stuff"])


def test_windows_slide_by_one_frame_and_equal_stacked_maps() -> None:
    rng = np.random.default_rng(3)
    true, own = rng.integers(0, 5, (2, 6, 5, 6)).repeat(3, axis=2)
    own = np.where(rng.random(true.shape) < 0.6, true, own)
    metric = VideoPanopticQuality(("sky",), (1, 3, 6))
    pairs = [(Segments(a, CLASSES), Segments(b, CLASSES)) for a, b in zip(own, true)]
    metric.update(shared_pixels(*pair) for pair in pairs)
    for length in (1, 3, 6):
        expected = PanopticQuality(("sky",))
        for start in range(6 - length + 1):
            window = slice(start, start + length)
            expected.update(Segments(own[window], CLASSES), Segments(true[window], CLASSES))
        assert metric.quality(length).quality() == expected.quality()
        assert metric.compute()[f"vpq{length}_stuff"] == expected.quality().stuff.pq


def test_a_video_shorter_than_the_window_has_none() -> None:
    metric = VideoPanopticQuality(windows=(1, 6))
    metric.update([frame("1111", "1111")])
    assert metric.compute()["vpq"] == 1.0 and math.isnan(metric.compute()["vpq6"])


def test_stq_by_hand() -> None:
    # The cup keeps its id in the truth; the prediction changes it half-way: 4 of 8 pixels each, TPA * IoU = 4 * 4/8.
    found = stq([frame("1111", "1111"), frame("2222", "1111")])
    assert found["stq_aq"] == pytest.approx((4 * 0.5 + 4 * 0.5) / 8)
    assert found["stq_sq"] == 1.0
    assert found["stq"] == pytest.approx(math.sqrt(0.5))


def test_stuff_has_no_association_and_void_truth_does_not_count() -> None:
    found = stq([frame("1144", "1144"), frame("1343", "1044")])
    assert found["stq_aq"] == pytest.approx(1.0)
    assert found["stq_sq"] == pytest.approx((3 / 3 + 3 / 4 + 0) / 3)  # cup, sky, and the jar on sky


def test_tubes_of_all_videos_weigh_the_same() -> None:
    good, bad = [frame("1122", "1122")], [frame("0000", "1111")]
    assert stq(good, bad)["stq_aq"] == pytest.approx(2 / 3)


def test_crowds_are_left_out_of_the_association() -> None:
    clip = [frame("1122", "1122", crowds=(1,)), frame("1221", "1122", crowds=(1,))]
    # What is left: the true cup 2 of 4 pixels, of which 2 was predicted on 3 and 1 on one.
    assert stq(clip)["stq_aq"] == pytest.approx((3 * 3 / 4 + 1 * 1 / 4) / 4)
    # The official program has the first listed segment for a crowd, whatever the annotation says.
    plain = [frame("1122", "1122"), frame("1221", "1122")]
    assert stq(plain, official_quirks=True)["stq_aq"] == stq(clip)["stq_aq"]
    assert stq(plain)["stq_aq"] != pytest.approx(stq(clip)["stq_aq"])


def test_no_answer_is_no_class_but_for_the_official_program() -> None:
    clip = [frame("1110", "1111")]
    assert stq(clip)["stq_sq"] == 0.75
    assert stq(clip, official_quirks=True)["stq_sq"] == 0.375


def test_without_things_there_is_no_association() -> None:
    clip = [frame("44", "44")]
    assert math.isnan(stq(clip)["stq"]) and stq(clip)["stq_sq"] == 1.0
    assert stq(clip, official_quirks=True)["stq"] == 0.0


@pytest.mark.parametrize("make", [VideoPanopticQuality, SegmentationTrackingQuality])
def test_parts_merge_to_the_whole(make: type[VideoPanopticQuality] | type[SegmentationTrackingQuality]) -> None:
    check_merging(lambda: make(("sky",)), [lambda metric, seed=seed: metric.update(video(seed)) for seed in range(8)])

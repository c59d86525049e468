"""J and F over objects, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.object_scores import ObjectScores, davis_counted, decay


def test_means_are_over_objects_and_recall_is_above_a_half() -> None:
    scores = ObjectScores()
    scores.update("clip/1", j=[1.0, 0.5, 0.6, 0.1], f=[0.8] * 4)
    scores.update("clip/2", j=[0.2], f=[0.0])
    scores.update("clip/3", j=[], f=[])
    found = scores.compute()
    assert found["j"] == pytest.approx((0.55 + 0.2) / 2)
    assert found["f"] == pytest.approx(0.4)
    assert found["jf"] == pytest.approx((0.375 + 0.4) / 2)
    assert found["j_recall"] == pytest.approx((0.5 + 0.0) / 2) and found["f_recall"] == 0.5
    assert found["f_decay"] == 0.0


def test_the_official_mean_is_over_frames() -> None:
    scores = ObjectScores(official_quirks=True)
    scores.update("clip/1", j=[1.0, 1.0, 1.0], f=[0.0] * 3)
    scores.update("clip/2", j=[0.0], f=[1.0])
    assert (scores.compute()["j"], scores.compute()["f"]) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("num_frames", "first", "last"),
    [(1, (0, 1), (0, 1)), (2, (0, 1), (1, 2)), (4, (0, 2), (2, 4)), (9, (0, 3), (6, 9)), (10, (0, 3), (7, 10))],
)
def test_decay_compares_quarters_that_share_a_frame(
    num_frames: int, first: tuple[int, int], last: tuple[int, int]
) -> None:
    values = np.random.default_rng(num_frames).random(num_frames)
    assert decay(values) == pytest.approx(values[slice(*first)].mean() - values[slice(*last)].mean())


def test_decay_of_a_clip_with_more_frames_than_a_byte_counts() -> None:
    assert decay(np.linspace(1, 0, 1001)) == pytest.approx(0.75)


def test_davis_leaves_out_the_first_and_the_last_frame() -> None:
    assert list(range(5))[davis_counted(5)] == [1, 2, 3]
    assert [list(range(n))[davis_counted(n)] for n in range(3)] == [[], [], []]


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    objects = [(f"clip{i}/1", rng.random(i + 1).tolist(), rng.random(i + 1).tolist()) for i in range(9)]
    updates = [lambda metric, one=one: metric.update(*one) for one in objects]
    check_merging(ObjectScores, updates)
    check_merging(lambda: ObjectScores(official_quirks=True), updates)


def test_nothing_scored_is_nan_and_mistakes_are_errors() -> None:
    scores = ObjectScores()
    assert all(math.isnan(value) for value in scores.compute().values())
    scores.update("clip/1", [1.0], [1.0])
    with pytest.raises(FrameError, match="'clip/1' was scored before"):
        scores.update("clip/1", [1.0], [1.0])
    with pytest.raises(FrameError, match="2 values of J and 1 of F"):
        scores.update("clip/2", [1.0, 1.0], [1.0])
    with pytest.raises(FrameError, match="'clip/1' was scored twice"):
        scores.merge(scores)

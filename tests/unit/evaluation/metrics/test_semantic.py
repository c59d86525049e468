"""IoU of classes, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.panoptic import Segments
from x2sam_ros.evaluation.metrics.semantic import UNMARKED, PanopticMeanIoU, SemanticIoU

CLASSES = ("road", "sky", "bus")


def scored(predicted: list[int], truth: list[int], official_quirks: bool = False) -> dict[str, float]:
    metric = SemanticIoU(CLASSES, official_quirks)
    metric.update(np.array(predicted), np.array(truth))
    return metric.compute()


def test_scores_by_hand() -> None:
    scores = scored([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1])
    assert scores["iou/road"] == pytest.approx(2 / 3) and scores["iou/sky"] == pytest.approx(2 / 4)
    assert "iou/bus" not in scores  # predicted, and not there: a miss of sky
    assert scores["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["fwiou"] == pytest.approx(2 / 3 * 2 / 6 + 1 / 2 * 4 / 6)
    assert scores["macc"] == pytest.approx((1 + 0.5) / 2) and scores["pacc"] == pytest.approx(4 / 6)


def test_unmarked_truth_does_not_count() -> None:
    for unmarked in (UNMARKED, 255, len(CLASSES)):
        assert scored([0, 1, 1], [0, unmarked, 1])["miou"] == 1.0


def test_no_answer_is_a_miss_that_the_official_rule_forgives() -> None:
    assert scored([0, UNMARKED], [0, 0])["miou"] == 0.5
    assert scored([0, UNMARKED], [0, 0], official_quirks=True)["miou"] == 1.0


def test_classes_of_segments() -> None:
    ids = np.array([[1, 1, 2, 0]])
    truth = Segments(ids, {1: "road", 2: "bus"}, crowds=(2,))
    metric, official = PanopticMeanIoU(CLASSES), PanopticMeanIoU(CLASSES, official_quirks=True)
    for each in (metric, official):
        each.update(Segments(np.array([[7, 7, 8, 8]]), {7: "road", 8: "bus"}), truth)
    assert metric.compute()["miou"] == 1.0
    assert official.compute()["miou"] == pytest.approx((2 / 4 + 0 + 0) / 3)
    with pytest.raises(FrameError, match="class 'cat' is none of the 3"):
        metric.update(Segments(ids, {1: "cat", 2: "bus"}), truth)


def test_parts_merge_to_the_whole() -> None:
    maps = np.random.default_rng(0).integers(-1, 4, (12, 2, 5, 6))
    check_merging(lambda: SemanticIoU(CLASSES), [lambda metric, pair=pair: metric.update(*pair) for pair in maps])


def test_nothing_marked_is_nan_and_sizes_must_fit() -> None:
    assert math.isnan(scored([0], [UNMARKED])["miou"])
    with pytest.raises(FrameError, match=r"\(2,\) and \(1,\)"):
        scored([0, 1], [0])

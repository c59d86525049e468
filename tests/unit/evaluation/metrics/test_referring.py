"""cIoU and gIoU with samples that mean nothing, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.referring import ReferringIoU

WIDTH = 10


def run(first: int, last: int) -> np.ndarray:
    mask = np.zeros((2, WIDTH), bool)
    mask[:, first:last] = True
    return mask


EMPTY = run(0, 0)


def test_ious_and_precision() -> None:
    metric = ReferringIoU()
    metric.update(run(0, 7), run(0, 10))
    metric.update(run(0, 1), run(0, 2))
    scores = metric.compute()
    assert scores["giou"] == pytest.approx((0.7 + 0.5) / 2)
    assert scores["ciou"] == pytest.approx(8 / 12)
    shares = [scores[f"precision_{percent}"] for percent in (50, 60, 70, 80, 90)]
    assert shares == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert scores["t_acc"] == 1.0 and math.isnan(scores["n_acc"])


def test_no_target_is_right_only_when_nothing_is_answered() -> None:
    metric = ReferringIoU()
    metric.update(EMPTY, EMPTY)
    metric.update(run(0, 5), EMPTY)
    metric.update(EMPTY, run(0, 5))
    metric.update(run(0, 5), run(0, 5))
    scores = metric.compute()
    assert scores["giou"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert scores["ciou"] == pytest.approx(5 / 15)
    assert (scores["n_acc"], scores["t_acc"], scores["precision_90"]) == (0.5, 0.5, 0.5)


def test_ignored_pixels_are_in_neither() -> None:
    metric = ReferringIoU()
    metric.update(run(0, 6), run(0, 4), ignore=run(4, 10))
    metric.update(run(5, 6), run(4, 7), ignore=run(4, 10))
    assert metric.compute()["giou"] == 1.0 and metric.compute()["n_acc"] == 1.0


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    runs = [run(*sorted(rng.integers(0, WIDTH + 1, 2).tolist())) for _ in range(40)]
    pairs = zip(runs[::2], runs[1::2])
    check_merging(ReferringIoU, [lambda metric, pair=pair: metric.update(*pair) for pair in pairs])


def test_masks_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(FrameError, match=r"answer \(2, 10\), truth \(3, 3\)"):
        ReferringIoU().update(EMPTY, np.zeros((3, 3), bool))
    with pytest.raises(FrameError, match=r"to ignore \(3, 3\)"):
        ReferringIoU().update(EMPTY, EMPTY, ignore=np.zeros((3, 3), bool))

"""cIoU and gIoU against the official program's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shared_data import each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.masks import cumulative_iou, mean_iou
from x2sam_ros.evaluation.metrics.referring import ReferringIoU

IGNORED = 255


@each_fixture("metric_refseg*")
def test_iou_over_samples_equals_the_fixture(folder: Path) -> None:
    tensors, expected = read_fixture(folder)
    for label in (0, 1):
        metric = ReferringIoU()
        for pred, truth in zip(tensors["pred"], tensors["gt"]):
            metric.update(pred == label, truth == label, ignore=truth == IGNORED)
        scores = metric.compute()
        assert 100 * scores["giou"] == pytest.approx(expected["gIoU_both"][label], abs=1e-9)
        if scores["ciou"] == scores["ciou"]:  # the official program has 100 where there is no pixel at all
            assert 100 * scores["ciou"] == pytest.approx(expected["cIoU_both"][label], abs=1e-9)
    counted = tensors["gt"] != IGNORED
    pairs = list(zip((tensors["pred"] == 1) & counted, tensors["gt"] == 1))
    assert 100 * mean_iou(pairs) == pytest.approx(expected["gIoU_foreground"], abs=1e-9)
    assert 100 * cumulative_iou(pairs) == pytest.approx(expected["cIoU_foreground"], abs=1e-9)

"""Mean IoU and accuracy of classes against the official program's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.shared_data import each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.semantic import UNMARKED, SemanticIoU


@each_fixture("metric_semantic_miou*")
def test_scores_equal_the_fixture(folder: Path) -> None:
    tensors, fixture = read_fixture(folder)
    metric = SemanticIoU([str(number) for number in range(fixture["num_classes"])], official_quirks=True)
    for pred, truth in zip(tensors["pred"], tensors["gt"].astype(np.int64)):
        metric.update(pred, np.where(truth == fixture["ignore_value"], UNMARKED, truth))
    np.testing.assert_array_equal(metric.confusion, tensors["confusion_pred_by_gt"])
    header, values = (line.split("|")[2:-1] for line in fixture["table"].splitlines() if line.startswith("|"))
    expected = {name.strip().lower(): float(value) for name, value in zip(header, values)}
    scores = metric.compute()
    for name, percent in expected.items():
        assert 100 * scores[name] == pytest.approx(percent, abs=0.00501)

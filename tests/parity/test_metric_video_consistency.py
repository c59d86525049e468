"""Video consistency against the official program's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shared_data import each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.consistency import VideoConsistency


@each_fixture("metric_video_consistency*")
def test_scores_equal_the_fixture(folder: Path) -> None:
    tensors, fixture = read_fixture(folder)
    metric = VideoConsistency(fixture["windows"], official_quirks=True)
    metric.update(zip(tensors["pred"], tensors["gt"]))
    counts = {int(length): count for length, (_, count) in metric.state().items()}
    for length in fixture["windows"]:
        shares = fixture["per_window"][str(length)]
        assert counts[length] == len(shares)
        if shares:
            assert metric.compute()[f"vc{length}"] == pytest.approx(fixture["mVC"][str(length)], abs=1e-9)

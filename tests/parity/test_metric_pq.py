"""Panoptic quality, and mean IoU from panoptic pictures, against the official program's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared_data import each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Quality, Segments
from x2sam_ros.evaluation.metrics.semantic import PanopticMeanIoU


def segments(ids: np.ndarray, listed: dict[str, Any]) -> Segments:
    """Return one picture of a fixture."""
    infos = listed["segments_info"]
    classes = {info["id"]: info["category_id"] for info in infos}
    return Segments(ids, classes, [info["id"] for info in infos if info.get("iscrowd")])


def pictures(folder: Path) -> tuple[list[tuple[Segments, Segments]], dict[str, Any]]:
    """Return the (predicted, true) pictures of a fixture, and its result file."""
    tensors, fixture = read_fixture(folder)
    own, true = (
        [segments(ids, listed) for ids, listed in zip(tensors[name], fixture[name])] for name in ("pred", "gt")
    )
    return list(zip(own, true)), fixture


def check(found: Quality, expected: dict[str, float]) -> None:
    for name in ("pq", "sq", "rq"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-9)


@each_fixture("metric_pq*")
def test_quality_equals_the_fixture(folder: Path) -> None:
    pairs, fixture = pictures(folder)
    stuff = [category["id"] for category in fixture["categories"] if not category["isthing"]]
    whole, parts = PanopticQuality(stuff), [PanopticQuality(stuff) for _ in range(2)]
    for index, pair in enumerate(pairs):
        whole.update(*pair)
        parts[index % 2].update(*pair)
    parts[0].merge(parts[1])
    expected = fixture["result"]
    for score in (whole.quality(), parts[0].quality()):
        for found, key in ((score.overall, "All"), (score.things, "Things"), (score.stuff, "Stuff")):
            check(found, expected[key])
            assert found.num_classes == expected[key]["n"]
        absent = Quality(0.0, 0.0, 0.0, 0)
        for name, numbers in expected["per_class"].items():
            check(score.by_class.get(int(name), absent), numbers)


@each_fixture("metric_pq*")
def test_mean_iou_equals_the_fixture(folder: Path) -> None:
    pairs, _ = pictures(folder)
    fixture = json.loads((folder / "miou_from_panoptic.json").read_text())
    metric = PanopticMeanIoU([category["id"] for category in fixture["categories"]], official_quirks=True)
    for pair in pairs:
        metric.update(*pair)
    expected = fixture["result"]
    assert metric.compute()["miou"] == pytest.approx(expected["mIoU"], abs=1e-8)
    for category, iou in zip(fixture["categories"], np.nan_to_num(metric.class_ious())):
        assert iou == pytest.approx(expected["IoUs"][category["name"]], abs=1e-8)

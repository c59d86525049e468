"""Panoptic quality against the official program's numbers, on every fixture of its format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.shared_data import PARITY
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Quality, Segments

FOLDERS = sorted(PARITY.glob("metric_pq*"))


def segments(ids: np.ndarray, listed: dict[str, Any]) -> Segments:
    """Return one picture of a fixture."""
    infos = listed["segments_info"]
    classes = {info["id"]: info["category_id"] for info in infos}
    return Segments(ids, classes, [info["id"] for info in infos if info.get("iscrowd")])


def check(found: Quality, expected: dict[str, float]) -> None:
    for name in ("pq", "sq", "rq"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.skipif(not FOLDERS, reason=f"no metric_pq in {PARITY}; set X2SAM_PARITY")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_quality_equals_the_fixture(folder: Path) -> None:
    tensors, fixture = load_file(folder / "data.safetensors"), json.loads((folder / "result.json").read_text())
    stuff = [category["id"] for category in fixture["categories"] if not category["isthing"]]
    whole, parts = PanopticQuality(stuff), [PanopticQuality(stuff) for _ in range(2)]
    for index, (predicted, truth) in enumerate(zip(fixture["pred"], fixture["gt"])):
        pair = segments(tensors["pred"][index], predicted), segments(tensors["gt"][index], truth)
        whole.update(*pair)
        parts[index % 2].update(*pair)
    parts[0].merge(parts[1])
    expected = fixture["result"]
    for score in (whole.compute(), parts[0].compute()):
        for found, key in ((score.overall, "All"), (score.things, "Things"), (score.stuff, "Stuff")):
            check(found, expected[key])
            assert found.num_classes == expected[key]["n"]
        absent = Quality(0.0, 0.0, 0.0, 0)
        for name, numbers in expected["per_class"].items():
            check(score.by_class.get(int(name), absent), numbers)

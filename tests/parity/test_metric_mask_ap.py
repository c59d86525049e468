"""Mask AP against the official program's numbers, on every fixture of its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shared_data import PARITY
from x2sam_ros.evaluation.metrics.mask_ap import NAMES, Detection, MaskAP, TrueMask

FOLDERS = sorted(PARITY.glob("metric_mask_ap*"))


@pytest.mark.skipif(not FOLDERS, reason=f"no metric_mask_ap in {PARITY}; set X2SAM_PARITY")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_average_precision_equals_the_fixture(folder: Path) -> None:
    fixture = json.loads((folder / "result.json").read_text())
    whole, parts = MaskAP(), [MaskAP(), MaskAP()]
    for image in fixture["gt"]["images"]:
        found, true = (
            [entry for entry in entries if entry["image_id"] == image["id"]]
            for entries in (fixture["pred"], fixture["gt"]["annotations"])
        )
        for metric in (whole, parts[image["id"] % 2]):
            metric.update(
                f"{image['id']:09d}",
                (image["height"], image["width"]),
                [Detection(entry["category_id"], entry["score"], entry["segmentation"]["counts"]) for entry in found],
                [TrueMask(t["category_id"], t["segmentation"]["counts"], bool(t["iscrowd"])) for t in true],
            )
    parts[0].merge(parts[1])
    expected = [value if value >= 0 else float("nan") for value in fixture["stats"]]
    for metric in (whole, parts[0]):
        assert metric.compute() == pytest.approx(dict(zip(NAMES, expected)), abs=1e-12, nan_ok=True)

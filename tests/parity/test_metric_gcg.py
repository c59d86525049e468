"""Matching of grounded phrases against the official program's, on every fixture of its format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.shared_data import PARITY
from x2sam_ros.evaluation.metrics.captions import MATCH_IOU, MATCH_TEXT, GroundedMasks, Phrase, match_phrases
from x2sam_ros.evaluation.predictions import rle_of

FOLDERS = sorted(PARITY.glob("metric_gcg*"))


def phrases(masks: np.ndarray) -> list[Phrase]:
    """Return one image's masks with their positions for words."""
    size = (masks.shape[1], masks.shape[2])
    return [Phrase(str(place), size, (rle_of(mask.astype(np.bool_)),)) for place, mask in enumerate(masks)]


@pytest.mark.skipif(not FOLDERS, reason=f"no metric_gcg in {PARITY}; set X2SAM_PARITY")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_phrases_equal_the_fixture(folder: Path) -> None:
    tensors, fixture = load_file(folder / "data.safetensors"), json.loads((folder / "result.json").read_text())
    thresholds = {key: fixture[key] for key in ("iou_threshold", "text_threshold")}
    for index, case in enumerate(fixture["cases"]):
        similarity = tensors[f"text_similarity_{index}"]
        official = match_phrases(tensors["iou_matrix"], similarity, **thresholds, official_quirks=True)
        assert official == [tuple(pair) for pair in case["matches_gt_pred"]]
        ours = match_phrases(tensors["iou_matrix"], similarity, **thresholds)
        assert set(official) <= set(ours)
        assert all(similarity[pair] >= fixture["text_threshold"] for pair in ours)
        if thresholds == {"iou_threshold": MATCH_IOU, "text_threshold": MATCH_TEXT}:
            metric = GroundedMasks(lambda true, own, s=similarity: float(s[int(true), int(own)]), official_quirks=True)
            metric.update("image", phrases(tensors["pred"]), phrases(tensors["gt"]))
            found = metric.compute()
            assert found["gcg_recall"] == pytest.approx(case["recall"], abs=1e-9)
            assert found["gcg_miou"] == pytest.approx(fixture["miou"], abs=1e-9)

"""J and F against the official programs' numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.shared_data import DATA, each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.masks import boundary_map, score_clip
from x2sam_ros.evaluation.metrics.object_scores import ObjectScores, davis_counted

REFERENCE = DATA / "reference_predictions"
EXPECTED = json.loads((REFERENCE / "expected_J_F.json").read_text())["sequences"] if REFERENCE.is_dir() else {}


@each_fixture("metric_jf*")
def test_j_and_f_equal_the_fixture(folder: Path) -> None:
    tensors, expected = read_fixture(folder)
    score = score_clip(tensors["pred"], tensors["gt"])
    np.testing.assert_allclose(score.j, expected["J_per_mask"], atol=1e-9)
    np.testing.assert_allclose(score.f, expected["F_per_mask"], atol=1e-9)
    metric = ObjectScores(official_quirks=True)
    half = len(score.j) // 2
    metric.update("1", score.j[:half].tolist(), score.f[:half].tolist())
    metric.update("2", score.j[half:].tolist(), score.f[half:].tolist())
    for found in (metric.compute(), {"j": score.j_mean, "f": score.f_mean, "jf": score.jf_mean}):
        assert [found[name] for name in ("j", "f", "jf")] == pytest.approx(
            [expected["J"], expected["F"], expected["JF"]]
        )


@each_fixture("metric_jf*")
def test_boundary_maps_equal_the_fixture(folder: Path) -> None:
    tensors, _ = read_fixture(folder)
    for mask, boundary in zip(tensors["gt"], tensors["gt_boundary"]):
        np.testing.assert_array_equal(boundary_map(mask), boundary.astype(bool))


@pytest.mark.skipif(not EXPECTED, reason=f"no {REFERENCE}; set X2SAM_DATA to the folder that holds it")
@pytest.mark.parametrize("clip", sorted(EXPECTED))
def test_davis_numbers_of_a_real_method(clip: str) -> None:
    expected = EXPECTED[clip]
    names = sorted(path.name for path in (DATA / "davis2016" / clip / "masks").glob("*.png"))[: expected["n_frames"]]
    # Palette indices become distinct non-black colours: any colour is "some id", the union of all.
    preds = (cv2.imread(str(REFERENCE / "osvos" / clip / name), cv2.IMREAD_COLOR).any(axis=2) for name in names)
    truths = (cv2.imread(str(DATA / "davis2016" / clip / "masks" / name), cv2.IMREAD_GRAYSCALE) > 0 for name in names)
    score = score_clip(preds, truths)
    np.testing.assert_allclose(score.j, expected["J"], atol=1e-3)
    np.testing.assert_allclose(score.f, expected["F"], atol=1e-3)
    for counted, which in ((slice(None), "all"), (davis_counted(len(names)), "without_first_last")):
        metric = ObjectScores()
        metric.update(clip, score.j[counted].tolist(), score.f[counted].tolist())
        assert metric.compute()["j"] == pytest.approx(expected[f"J_mean_{which}"], abs=1e-3)
        assert metric.compute()["f"] == pytest.approx(expected[f"F_mean_{which}"], abs=1e-3)

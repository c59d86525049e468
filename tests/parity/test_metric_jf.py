"""J, F and IoU against the official programs' numbers."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.shared_data import DATA, PARITY
from x2sam_ros.evaluation.metrics.masks import (
    boundary_accuracy,
    boundary_map,
    cumulative_iou,
    mean_iou,
    region_similarity,
    score_clip,
)

CLIPS = ("blackswan", "bmx-trees", "camel", "car-shadow", "libby", "scooter-black")


def fixture(name: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    folder = PARITY / name
    if not folder.is_dir():
        pytest.skip(f"parity fixture {folder} is not there; set X2SAM_PARITY")
    return load_file(folder / "data.safetensors"), json.loads((folder / "result.json").read_text())


def test_j_and_f_equal_the_fixture() -> None:
    tensors, expected = fixture("metric_jf")
    score = score_clip(tensors["pred"], tensors["gt"])
    np.testing.assert_allclose(score.j, expected["J_per_mask"], atol=1e-9)
    np.testing.assert_allclose(score.f, expected["F_per_mask"], atol=1e-9)
    assert score.j_mean == pytest.approx(expected["J"], abs=1e-9)
    assert score.f_mean == pytest.approx(expected["F"], abs=1e-9)
    assert score.jf_mean == pytest.approx(expected["JF"], abs=1e-9)


def test_boundary_maps_equal_the_fixture() -> None:
    tensors, _ = fixture("metric_jf")
    for mask, boundary in zip(tensors["gt"], tensors["gt_boundary"]):
        np.testing.assert_array_equal(boundary_map(mask), boundary.astype(bool))


def test_iou_over_samples_equals_the_fixture() -> None:
    tensors, expected = fixture("metric_refseg")
    pairs = list(zip(tensors["pred"] == 1, tensors["gt"] == 1))
    assert 100 * mean_iou(pairs) == pytest.approx(expected["gIoU_foreground"], abs=1e-9)
    assert 100 * cumulative_iou(pairs) == pytest.approx(expected["cIoU_foreground"], abs=1e-9)


@pytest.mark.parametrize("clip", CLIPS)
def test_davis_numbers_of_a_real_method(clip: str) -> None:
    folder = DATA / "reference_predictions"
    if not folder.is_dir():
        pytest.skip(f"reference predictions {folder} are not there; set X2SAM_DATA")
    expected = json.loads((folder / "expected_J_F.json").read_text())["sequences"][clip]
    assert expected["n_frames"] == len(expected["J"])
    for index in range(expected["n_frames"]):
        # Palette indices become distinct non-black colours: any colour is "some id", the union of all.
        pred = cv2.imread(str(folder / "osvos" / clip / f"{index:05d}.png"), cv2.IMREAD_COLOR).any(axis=2)
        truth = cv2.imread(str(DATA / "davis2016" / clip / "masks" / f"{index:05d}.png"), cv2.IMREAD_GRAYSCALE) > 0
        assert region_similarity(pred, truth) == pytest.approx(expected["J"][index], abs=1e-3)
        assert boundary_accuracy(pred, truth) == pytest.approx(expected["F"][index], abs=1e-3)

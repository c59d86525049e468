"""Mask metrics on cases computed by hand, and the fast F against the slow obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.masks import (
    boundary_accuracy,
    boundary_map,
    cumulative_iou,
    mean_iou,
    region_similarity,
    score_clip,
)


def square(top: int, left: int, side: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def slow_boundary_accuracy(pred: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """Dilate both boundaries with the disk: what F means, word for word."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    a, b = boundary_map(pred), boundary_map(truth)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (a & binary_dilation(b, disk)).sum() / a.sum()
    recall = (b & binary_dilation(a, disk)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_j_by_hand() -> None:
    # 10x10 against the same moved by 5: 50 in both, 150 in either.
    assert region_similarity(square(0, 0, 10), square(0, 5, 10)) == pytest.approx(50 / 150)
    assert region_similarity(square(0, 0, 10), square(20, 20, 10)) == 0.0
    assert region_similarity(square(3, 4, 7), square(3, 4, 7)) == 1.0


def test_empty_masks() -> None:
    empty, full = np.zeros((8, 9), bool), np.ones((8, 9), bool)
    assert region_similarity(empty, empty) == 1.0
    assert region_similarity(empty, full) == 0.0
    assert boundary_accuracy(empty, empty) == 1.0
    # A mask that fills the picture has no boundary either; DAVIS then counts the boundaries as equal.
    assert boundary_accuracy(empty, full) == 1.0
    assert boundary_accuracy(empty, square(2, 2, 3, size=9)[:8]) == 0.0


def test_boundary_of_one_pixel_is_it_and_its_upper_left_neighbours() -> None:
    mask = np.zeros((4, 4), bool)
    mask[2, 2] = True
    expected = np.zeros((4, 4), bool)
    expected[1:3, 1:3] = True
    np.testing.assert_array_equal(boundary_map(mask), expected)


def test_f_forgives_the_tolerance_and_no_more() -> None:
    # 100x100: diagonal 141.4, 0.008 of it is 1.13, so the radius is 2 px.
    strips = np.zeros((4, 100, 100), bool)
    for strip, left in zip(strips, (20, 20, 22, 23)):
        strip[:, left : left + 30] = True
    truth, same, near, far = strips
    assert boundary_accuracy(same, truth) == 1.0
    assert boundary_accuracy(near, truth) == 1.0
    assert boundary_accuracy(far, truth) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    grain=st.integers(1, 8),
    density=st.sampled_from((0.02, 0.4, 0.97)),
    tolerance=st.sampled_from((0.0, 0.001, 0.008, 0.02, 0.06)),
    seed=st.integers(0, 2**32 - 1),
)
def test_fast_f_equals_dilation(
    height: int, width: int, grain: int, density: float, tolerance: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).random((2, height // grain + 1, width // grain + 1)) < density
    pred, truth = (np.kron(plane, np.ones((grain, grain), bool))[:height, :width] for plane in noise)
    radius = int(np.ceil(tolerance * np.hypot(height, width)))
    expected = slow_boundary_accuracy(pred, truth, radius)
    assert boundary_accuracy(pred, truth, tolerance) == pytest.approx(expected, abs=1e-12)
    assert boundary_accuracy(pred[:, ::-1], truth[:, ::-1].astype(np.uint8) * 255, tolerance) == pytest.approx(
        slow_boundary_accuracy(pred[:, ::-1], truth[:, ::-1], radius), abs=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_boundary_equals_its_definition(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    grown = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    expected = (mask ^ grown[:-1, 1:]) | (mask ^ grown[1:, :-1]) | (mask ^ grown[1:, 1:])
    np.testing.assert_array_equal(boundary_map(mask), expected)


def test_clip_score_averages_frames() -> None:
    truth = [square(0, 0, 10), square(0, 0, 10)]
    score = score_clip([square(0, 0, 10), np.zeros((40, 40), bool)], truth)
    assert score.j.tolist() == [1.0, 0.0]
    assert score.j_mean == score.f_mean == score.jf_mean == 0.5


def test_gathered_iou_by_hand() -> None:
    pairs = [(square(0, 0, 10), square(0, 5, 10)), (square(0, 0, 2), square(0, 0, 2))]
    assert mean_iou(pairs) == pytest.approx((1 / 3 + 1) / 2)
    assert cumulative_iou(pairs) == pytest.approx((50 + 4) / (150 + 4))
    assert np.isnan(mean_iou([])) and np.isnan(cumulative_iou([]))


def test_masks_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(FrameError, match=r"\(40, 40\) and \(8, 8\)"):
        region_similarity(square(0, 0, 1), square(0, 0, 1, size=8))
    with pytest.raises(FrameError, match="2 and 1"):
        score_clip([square(0, 0, 1)] * 2, [square(0, 0, 1)])

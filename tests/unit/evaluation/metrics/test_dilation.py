"""Dilation on packed bits against the obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from x2sam_ros.evaluation.metrics.dilation import dilate_disk


def slow_dilation(mask: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return binary_dilation(mask, x**2 + y**2 <= radius**2)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 200),
    radius=st.integers(0, 12),
    density=st.sampled_from((0.0, 0.003, 0.05, 0.6, 1.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_dilation_with_the_disk(height: int, width: int, radius: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    found = dilate_disk(mask, radius)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, slow_dilation(mask, radius))


@pytest.mark.parametrize("width", [63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("radius", [1, 63, 64, 65, 130])
def test_words_and_radii_that_meet(width: int, radius: int) -> None:
    mask = np.zeros((3, width), bool)
    mask[0, [0, width - 1]] = mask[2, width // 2] = True
    np.testing.assert_array_equal(dilate_disk(mask, radius), slow_dilation(mask, radius))

"""Preprocessing: shapes, ranges, and pictures nobody can use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam_ros.engine.preprocess import clip_patches, mask_encoder_pixels, picture_patches, resize_region
from x2sam_ros.errors import FrameError
from x2sam_ros.model.language_config import LanguageConfig

NANO = LanguageConfig.nano()


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shapes_and_ranges() -> None:
    pixels = mask_encoder_pixels(np.stack([picture(), picture()]), 32)
    assert pixels.shape == (2, 3, 32, 32) and pixels.dtype == torch.float32
    assert torch.equal(pixels[0], mask_encoder_pixels(picture(), 32)[0])
    patches, grid = picture_patches(picture(480, 640), NANO)
    assert patches.shape == (int(grid.prod()), NANO.vision.patch_dim)
    assert patches.min() >= -1 and patches.max() <= 1
    assert int(grid.prod()) * NANO.vision.patch_size**2 <= NANO.max_pixels
    clip, clip_grid = clip_patches(np.stack([picture()] * 3), NANO)
    assert clip_grid[0, 0] == 2 and len(clip) == clip_grid.prod()


def test_read_only_and_strided_pictures() -> None:
    frame = picture()
    expected = mask_encoder_pixels(frame[:, ::-1].copy(), 32)
    flipped = frame[:, ::-1]
    flipped.flags.writeable = False
    assert torch.equal(mask_encoder_pixels(flipped, 32), expected)
    assert torch.equal(picture_patches(flipped, NANO)[0], picture_patches(frame[:, ::-1].copy(), NANO)[0])


def test_a_single_pixel_survives_the_squash() -> None:
    mask = np.zeros((480, 640), bool)
    mask[101, 333] = True
    small = resize_region(mask, 32)
    assert small.sum() == 1 and small[101 * 32 // 480, 333 * 32 // 640]


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_unusable_arrays(bad: np.ndarray) -> None:
    for prepare in (lambda: mask_encoder_pixels(bad, 32), lambda: picture_patches(bad, NANO)):
        with pytest.raises(FrameError, match="uint8 RGB"):
            prepare()


def test_too_elongated() -> None:
    with pytest.raises(FrameError, match="elongated"):
        picture_patches(picture(2, 500), NANO)

"""Preprocessing: shapes, ranges, batches, where a picture lies in the square, and pictures nobody can use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam_ros.engine.preprocess import (
    clip_patches,
    mask_encoder_pixels,
    picture_patches,
    resize_region,
    scaled_size,
)
from x2sam_ros.errors import FrameError
from x2sam_ros.model.config import RESAMPLE_MODES, RESIZE_MODES
from x2sam_ros.model.language_config import LanguageConfig

NANO = LanguageConfig.nano()


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shapes_and_ranges() -> None:
    pixels = mask_encoder_pixels(picture(), 32)
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == torch.float32
    patches, grid = picture_patches(picture(480, 640), NANO)
    assert patches.shape == (int(grid.prod()), NANO.vision.patch_dim)
    assert patches.min() >= -1 and patches.max() <= 1
    assert int(grid.prod()) * NANO.vision.patch_size**2 <= NANO.max_pixels
    clip, clip_grid = clip_patches(np.stack([picture()] * 3), NANO)
    assert clip_grid[0, 0] == 2 and len(clip) == clip_grid.prod()


@pytest.mark.parametrize("resize", RESIZE_MODES)
@pytest.mark.parametrize("resample", RESAMPLE_MODES)
def test_frames_of_one_size_go_together(resize: str, resample: str) -> None:
    frames = np.stack([picture(seed=seed) for seed in range(3)])
    together = mask_encoder_pixels(frames, 32, "cpu", resize, resample)
    for row, frame in zip(together, frames):
        assert torch.equal(row[None], mask_encoder_pixels(frame, 32, "cpu", resize, resample))


def test_pictures_of_one_size_go_together() -> None:
    frames = np.stack([picture(seed=seed) for seed in range(3)])
    patches, grids = picture_patches(frames, NANO)
    alone = [picture_patches(frame, NANO) for frame in frames]
    assert torch.equal(patches, torch.cat([one for one, _ in alone]))
    assert torch.equal(grids, torch.cat([grid for _, grid in alone]))


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_regions_go_together(resize: str) -> None:
    masks = picture()[..., 0] > np.array([100, 254, 255])[:, None, None]
    masks[1] = False
    masks[1, 7, 33] = True
    together = resize_region(masks, 32, "cpu", resize)
    assert together.shape == (3, 32, 32) and together.dtype == torch.bool
    for row, mask in zip(together, masks):
        assert torch.equal(row, resize_region(mask, 32, "cpu", resize))
    assert together[1].sum() == 1 and not together[2].any()


def test_read_only_and_strided_pictures() -> None:
    frame = picture()
    expected = mask_encoder_pixels(frame[:, ::-1].copy(), 32)
    flipped = frame[:, ::-1]
    flipped.flags.writeable = False
    assert torch.equal(mask_encoder_pixels(flipped, 32), expected)
    assert torch.equal(picture_patches(flipped, NANO)[0], picture_patches(frame[:, ::-1].copy(), NANO)[0])
    mask = flipped[..., 0] > 200
    mask.flags.writeable = False
    assert torch.equal(resize_region(mask, 32), resize_region(mask.copy(), 32))


def test_a_single_pixel_survives_the_squash() -> None:
    mask = np.zeros((480, 640), bool)
    mask[101, 333] = True
    small = resize_region(mask, 32)
    assert small.sum() == 1 and small[101 * 32 // 480, 333 * 32 // 640]
    kept = resize_region(mask, 32, resize="longest")
    assert kept.sum() == 1 and kept[101 * 24 // 480, 333 * 32 // 640]


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((480, 640), "square", (32, 32)),
        ((480, 640), "longest", (24, 32)),
        ((640, 480), "longest", (32, 24)),
        ((10, 10), "longest", (32, 32)),
        ((3, 1000), "longest", (1, 32)),
        ((1, 1), "longest", (32, 32)),
    ],
)
def test_the_part_of_the_square_that_a_picture_takes_up(
    size: tuple[int, int], resize: str, expected: tuple[int, int]
) -> None:
    height, width = scaled_size(*size, 32, resize)
    assert (height, width) == expected
    image = np.full((*size, 3), 7, np.uint8)
    pixels = mask_encoder_pixels(image, 32, resize=resize)[0]
    assert (pixels[:, :height, :width] != 0).all()
    assert (pixels[:, height:] == 0).all() and (pixels[..., width:] == 0).all()
    mask = resize_region(np.ones(size, bool), 32, resize=resize)
    assert mask[:height, :width].all() and mask.sum() == height * width


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 255, np.uint8)
    assert mask_encoder_pixels(image, 64).unique().numel() == 3  # white, in each channel's units
    patches, grid = picture_patches(image, NANO)
    assert (patches == 1).all() and grid.prod() * NANO.vision.patch_size**2 >= NANO.min_pixels


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_unusable_arrays(bad: np.ndarray) -> None:
    for prepare in (
        lambda: mask_encoder_pixels(bad, 32),
        lambda: picture_patches(bad, NANO),
        lambda: clip_patches(bad, NANO),
    ):
        with pytest.raises(FrameError, match="uint8 RGB"):
            prepare()


def test_too_elongated() -> None:
    with pytest.raises(FrameError, match="elongated"):
        picture_patches(picture(2, 500), NANO)

"""Preprocessing against the reference's: bit-exact where that is torch, within one level where it is PIL."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.shared_data import PARITY
from x2sam_ros.engine.preprocess import (
    IMAGE_STD,
    clip_patches,
    clip_size,
    mask_encoder_pixels,
    picture_patches,
    picture_size,
    resize_region,
)
from x2sam_ros.model.language_config import LanguageConfig

FACTOR = 32
LEVEL = 1 / 255
ROUNDING = 1e-5
"""Float32 rounding of the normalisation."""


@pytest.fixture(scope="module")
def data() -> dict[str, Tensor]:
    folder = PARITY / "preprocess"
    if not folder.is_dir():
        pytest.skip(f"no preprocess fixture in {PARITY}; set X2SAM_PARITY")
    return load_file(folder / "data.safetensors")


def worst_levels(found: Tensor, expected: Tensor, std: Tensor) -> float:
    """Return the largest difference in units of one of 255 levels."""
    assert found.shape == expected.shape
    return float(((found - expected).abs() * std).max()) / LEVEL


def test_mask_encoder_input(data: dict[str, Tensor]) -> None:
    expected = data["out.sam2_square.pixel_values"].float()
    found = mask_encoder_pixels(data["in.image_rgb"].numpy(), expected.shape[-1])
    assert worst_levels(found, expected, torch.tensor(IMAGE_STD).view(3, 1, 1)) <= 1 + ROUNDING


def test_mask_encoder_input_of_a_clip(data: dict[str, Tensor]) -> None:
    expected = data["out.sam2_square_video.pixel_values_s2"].float()
    found = mask_encoder_pixels(data["in.video_rgb"].numpy(), 2 * expected.shape[-1])
    assert worst_levels(found[..., ::2, ::2], expected, torch.tensor(IMAGE_STD).view(3, 1, 1)) <= 1 + ROUNDING


def test_region_mask(data: dict[str, Tensor]) -> None:
    expected = data["out.sam2_square.vprompt_masks"][0].bool()
    found = resize_region(data["in.prompt_mask"].numpy().astype(bool), expected.shape[-1])
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("key", "suffix", "limits", "precision"),
    [("small", "", (1024, 10_000), 0.0), ("release_limits", "_f16", (3_136, 1_003_520), 2**-11)],
)
def test_language_picture(
    data: dict[str, Tensor], key: str, suffix: str, limits: tuple[int, int], precision: float
) -> None:
    config = replace(LanguageConfig(), min_pixels=limits[0], max_pixels=limits[1])
    patches, grid = picture_patches(data["in.image_rgb"].numpy(), config)
    assert torch.equal(grid, data[f"out.qwen_image_{key}.image_grid_thw"])
    expected = data[f"out.qwen_image_{key}.pixel_values{suffix}"].float()
    assert worst_levels(patches, expected, torch.tensor(0.5)) <= 1 + ROUNDING + precision / LEVEL


def test_language_clip(data: dict[str, Tensor]) -> None:
    # Limits under which 3 frames of 72x112 become the fixture's 64x96.
    config = replace(LanguageConfig(), video_min_pixels=1_024, video_max_pixels=20_000)
    patches, grid = clip_patches(data["in.video_rgb"].numpy(), config)
    assert torch.equal(grid, data["out.qwen_video_odd_frames.video_grid_thw"])
    torch.testing.assert_close(patches, data["out.qwen_video_odd_frames.pixel_values_videos"], rtol=0, atol=ROUNDING)


def test_sizes() -> None:
    path = PARITY / "preprocess" / "smart_resize.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set X2SAM_PARITY")
    sizes = json.loads(path.read_text())
    for row in sizes["image"]:
        assert picture_size(row["h"], row["w"], FACTOR, row["min"], row["max"]) == tuple(row["out"]), row
    for row in sizes["video"]:
        assert clip_size(row["t"], row["h"], row["w"], FACTOR, 2, row["min"], row["max"]) == tuple(row["out"]), row


@pytest.mark.parametrize("kind", ["image", "video"])
def test_full_inputs(kind: str) -> None:
    """The inputs of the whole-network fixtures follow from their pixels."""
    path = PARITY / "full_inputs" / f"{kind}.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}; set X2SAM_PARITY")
    inputs = load_file(path)
    rgb = inputs["rgb_uint8"].numpy()
    if kind == "image":
        patches, grid = picture_patches(rgb, replace(LanguageConfig(), min_pixels=1024, max_pixels=10**6))
        expected, expected_grid = inputs["pixel_values"].float(), inputs["image_grid_thw"]
        square = inputs["extra_pixel_values"].float()[None]
    else:
        patches, grid = clip_patches(rgb, replace(LanguageConfig(), video_min_pixels=1024))
        expected, expected_grid = inputs["pixel_values_videos"].float(), inputs["video_grid_thw"]
        square, rgb = inputs["extra_pixel_values_frame0"].float(), rgb[:1]
    assert torch.equal(grid, expected_grid)
    assert worst_levels(patches, expected, torch.tensor(0.5)) <= 1 + ROUNDING
    found = mask_encoder_pixels(rgb, square.shape[-1])
    assert worst_levels(found, square, torch.tensor(IMAGE_STD).view(3, 1, 1)) <= 1 + ROUNDING
    masks = inputs["vprompt_masks_raw"].numpy().astype(bool)
    for mask, expected_mask in zip(masks, inputs["vprompt_masks"].bool()):
        assert torch.equal(resize_region(mask, expected_mask.shape[-1]), expected_mask)

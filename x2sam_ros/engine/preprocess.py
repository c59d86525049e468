"""From camera pixels to what the two encoders read: uint8 RGB in, normalised float out, all on the chosen device."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from x2sam_ros.engine.resample import resize_levels, resize_nearest
from x2sam_ros.errors import ConfigError, FrameError
from x2sam_ros.model.config import COARSEST_STRIDE, SegmentorConfig
from x2sam_ros.model.language_config import LanguageConfig, VisionConfig
from x2sam_ros.types import BoolArray, Uint8Array

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per-channel statistics the mask encoder was trained with (ImageNet), in units of 255 levels."""

MAX_ASPECT_RATIO = 200
"""Longest side over shortest beyond which the language side refuses a picture, as the published processor does."""


def mask_encoder_pixels(
    images: Uint8Array | Tensor,
    size: int,
    device: torch.device | str = "cpu",
    resize: str = SegmentorConfig.resize,
    resample: str = SegmentorConfig.resample,
) -> Tensor:
    """Scale pictures to the mask encoder's square, level for level as PIL or torch does.

    The two differ by one level at most, in a few per cent of the levels. With the random weights of the fixtures that
    moves mask logits by up to 1, and 1 % of the mask pixels change sides; with the nano weights, one in a million
    (``tests/parity/test_preprocess.py``).

    Args:
        images: uint8 (H, W, 3) or (N, H, W, 3), RGB; a tensor is moved where it has to be.
        size: side of the square, pixels.
        device: where to do it and leave it.
        resize: "square" or "longest", see ``scaled_size``.
        resample: "pil", as the published processor, or "torch", which on a CPU is more than ten times quicker.

    Returns:
        float32 (N, 3, size, size), normalised by ``IMAGE_MEAN`` and ``IMAGE_STD``, then padded with zeros; the same on
        every device.

    Raises:
        FrameError: the array is not a non-empty uint8 RGB picture or stack of them.
    """
    planes = _to_planes(images, device)
    height, width = scaled_size(planes.shape[2], planes.shape[3], size, resize)
    scaled = resize_levels(planes, (height, width), "bilinear", "pil" if resample == "pil" else "torch")
    pixels = _normalised(scaled, IMAGE_MEAN, IMAGE_STD)
    return pixels if (height, width) == (size, size) else F.pad(pixels, (0, size - width, 0, size - height))


def resize_region(
    mask: BoolArray, size: int, device: torch.device | str = "cpu", resize: str = SegmentorConfig.resize
) -> Tensor:
    """Scale prompt masks to the mask encoder's square by the nearest pixel; a thin one keeps at least one.

    Args:
        mask: bool (H, W) or (R, H, W).
        size: side of the square, pixels.
        device: where to do it and leave it.
        resize: "square" or "longest", see ``scaled_size``.

    Returns:
        bool (size, size) or (R, size, size), as ``mask``.
    """
    planes = torch.from_numpy(np.require(mask, bool, ["C", "W"])).to(device)
    rows, columns = planes.shape[-2:]
    height, width = scaled_size(rows, columns, size, resize)
    scaled = F.pad(resize_nearest(planes, (height, width)), (0, size - width, 0, size - height))
    masks, smalls = planes.view(-1, rows, columns), scaled.view(-1, size, size)
    for row in (masks.flatten(1).any(1) & ~smalls.flatten(1).any(1)).nonzero().flatten().tolist():
        y, x = (int(index.median()) for index in masks[row].nonzero(as_tuple=True))
        smalls[row, y * height // rows, x * width // columns] = True
    return scaled


def at_side(config: SegmentorConfig, side: int) -> SegmentorConfig:
    """Return a network's settings with another side of the square that frames are scaled to, pixels; 0 for its own.

    Raises:
        ConfigError: the side is no multiple of what the network can halve, or larger than its own.
    """
    if not side or side == config.image_size:
        return config
    if side % COARSEST_STRIDE or side > config.image_size:
        raise ConfigError(
            f"input_side is {side}, expected a multiple of {COARSEST_STRIDE} up to the model's own, "
            f"{config.image_size}, or 0 for that"
        )
    return replace(config, image_size=side)


def scaled_size(height: int, width: int, side: int, resize: str) -> tuple[int, int]:
    """Return the (height, width) that a picture takes up in the mask encoder's square, from its upper left corner.

    Args:
        height: of the picture, pixels.
        width: of the picture, pixels.
        side: side of the square, pixels.
        resize: "square" (the picture is squashed to fill it) or "longest" (the longer edge fills it, the aspect ratio
            is kept, and the rest is zeros).
    """
    if resize == "square":
        return side, side
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def picture_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the (height, width) of a picture on the language side, multiples of ``factor`` within the area limits.

    Raises:
        FrameError: one side is more than ``MAX_ASPECT_RATIO`` times the other.

    Source: Qwen2-VL's image processor.
    """
    rounded = _rounded_size(height, width, factor)
    return _limited_size((height, width), rounded, 1, 1, factor, (min_pixels, max_pixels))


def clip_size(
    frames: int, height: int, width: int, factor: int, temporal_factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the (height, width) of a clip's frames; the limits are on frames x height x width.

    Raises:
        FrameError: one side is more than ``MAX_ASPECT_RATIO`` times the other.

    Source: Qwen3-VL's video processor.
    """
    rounded = _rounded_size(height, width, factor)
    steps = round(frames / temporal_factor) * temporal_factor
    return _limited_size((height, width), rounded, frames, steps, factor, (min_pixels, max_pixels))


def _rounded_size(height: int, width: int, factor: int) -> tuple[int, int]:
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise FrameError(f"picture of {width}x{height} is too elongated, at most {MAX_ASPECT_RATIO} to 1 is accepted")
    return max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)


def _limited_size(
    size: tuple[int, int], rounded: tuple[int, int], frames: int, steps: int, factor: int, limits: tuple[int, int]
) -> tuple[int, int]:
    """Scale ``size`` so that its area lies within ``limits``; the published rule measures before and after rounding."""
    (height, width), area = size, steps * rounded[0] * rounded[1]
    if area > limits[1]:
        shrink = math.sqrt(frames * height * width / limits[1])
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if area < limits[0]:
        grow = math.sqrt(limits[0] / (frames * height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rounded


def picture_patches(
    images: Uint8Array | Tensor, config: LanguageConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cut pictures into the language side's patches, resized as PIL does, level for level.

    Args:
        images: uint8 (H, W, 3) or (N, H, W, 3), RGB.
        config: area limits and patch sizes.
        device: where to do it and leave the patches.

    Returns:
        Patches float32 (N * P, 1536) in -1..1, one picture after the other, and the grids int64 (N, 3) on the host: 1,
        patch rows, patch columns.

    Raises:
        FrameError: the array is not a non-empty uint8 RGB picture or stack of them, or they are too elongated.
    """
    planes, vision = _to_planes(images, device), config.vision
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = planes.shape[2:]
    size = picture_size(height, width, factor, config.min_pixels, config.max_pixels)
    resized = resize_levels(planes, size, "bicubic", "pil")
    # a still picture is shown as a clip that does not move
    return _cut(resized[:, None].expand(-1, vision.temporal_patch_size, -1, -1, -1), vision)


def clip_patches(
    frames: Uint8Array | Tensor, config: LanguageConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cut clips into the language side's patches; an odd last frame is repeated.

    Resized as torch does on the CPU, level for level: the published video processor uses it.

    Args:
        frames: uint8 (T, H, W, 3) or (N, T, H, W, 3), RGB, already sampled to the frames the model is to see.
        config: area limits and patch sizes.
        device: where to do it and leave the patches.

    Returns:
        Patches float32 (N * P, 1536) in -1..1, one clip after the other, and the grids int64 (N, 3) on the host: frame
        pairs, rows, columns.

    Raises:
        FrameError: the array is not a non-empty stack of uint8 RGB pictures, or they are too elongated.
    """
    several = frames.ndim == 5
    planes, vision = _to_planes(frames.reshape(-1, *frames.shape[2:]) if several else frames, device), config.vision
    factor, pair = vision.patch_size * vision.spatial_merge_size, vision.temporal_patch_size
    (height, width), count = planes.shape[2:], frames.shape[1] if several else len(planes)
    limits = (config.video_min_pixels, config.video_max_pixels)
    size = clip_size(count, height, width, factor, pair, *limits)
    resized = resize_levels(planes, size, "bicubic", "torch").reshape(-1, count, 3, *size)
    repeated = resized[:, -1:].expand(-1, -count % pair, -1, -1, -1)
    return _cut(torch.cat([resized, repeated], dim=1), vision)


def _to_planes(images: Uint8Array | Tensor, device: torch.device | str) -> Tensor:
    """Return uint8 (N, 3, H, W) on ``device``."""
    levels = torch.uint8 if isinstance(images, Tensor) else np.uint8
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.dtype != levels or 0 in images.shape:
        raise FrameError(
            f"expected non-empty uint8 RGB of (H, W, 3) or (N, H, W, 3), got {images.dtype} {tuple(images.shape)}"
        )
    stack = images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return (stack[None] if images.ndim == 3 else stack).to(device).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _normalised(planes: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return float32 of uint8 (..., C, H, W), bit for bit the same on every device."""
    # A GPU turns a division by a number into a multiplication by its inverse; by a tensor it divides.
    levels, device = _column((255.0,), planes.device), planes.device
    return planes.float().div_(levels).sub_(_column(mean, device)).div_(_column(std, device))


def _cut(planes: Tensor, vision: VisionConfig) -> tuple[Tensor, Tensor]:
    """Normalise uint8 (N, T, 3, H, W) to -1..1; cut it, block by merge block, into (channel, time, row, column)."""
    side, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    count, frames, channels, height, width = planes.shape
    values = _normalised(planes, (0.5,), (0.5,))
    steps, rows, columns = frames // pair, height // side, width // side
    blocks = values.reshape(count, steps, pair, channels, rows // merge, merge, side, columns // merge, merge, side)
    patches = blocks.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(count * steps * rows * columns, -1)
    return patches, torch.tensor([[steps, rows, columns]] * count)

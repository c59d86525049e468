"""From camera pixels to what the two encoders read: uint8 RGB in, normalised float out."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from x2sam_ros.errors import FrameError
from x2sam_ros.model.language_config import LanguageConfig, VisionConfig
from x2sam_ros.types import BoolArray, Uint8Array

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per-channel statistics the mask encoder was trained with (ImageNet), in units of 255 levels."""

MAX_ASPECT_RATIO = 200
"""Longest side over shortest beyond which the language side refuses a picture, as the published processor does."""


def mask_encoder_pixels(images: Uint8Array, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Squash pictures to the mask encoder's square; the aspect ratio is not kept.

    Args:
        images: uint8 (H, W, 3) or (N, H, W, 3), RGB.
        size: side of the square, pixels.
        device: where to do it and leave it.

    Returns:
        float32 (N, 3, size, size), normalised by ``IMAGE_MEAN`` and ``IMAGE_STD``.

    Raises:
        FrameError: the array is not a non-empty uint8 RGB picture or stack of them.
    """
    resized = _resize(_to_planes(images, device), (size, size), "bilinear")
    mean = torch.tensor(IMAGE_MEAN, device=resized.device).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD, device=resized.device).view(3, 1, 1)
    return (resized.float() / 255.0 - mean) / std


def resize_region(mask: BoolArray, size: int) -> Tensor:
    """Squash a prompt mask, bool (H, W), to bool (size, size) by the nearest pixel; a thin one keeps at least one."""
    planes = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
    resized = F.interpolate(planes, size=(size, size), mode="nearest-exact")[0, 0] > 0
    if mask.any() and not resized.any():
        row, column = (int(np.median(index)) for index in np.nonzero(mask))
        resized[row * size // mask.shape[0], column * size // mask.shape[1]] = True
    return resized


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
    image: Uint8Array, config: LanguageConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cut one picture into the language side's patches.

    Resized by PIL, on the host: the weights were trained on its bicubic filter, and torch's is up to four levels off.

    Args:
        image: uint8 (H, W, 3), RGB.
        config: area limits and patch sizes.
        device: where to do it and leave the patches.

    Returns:
        Patches float32 (P, 1536) in -1..1, and the grid int64 (1, 3) on the host: 1, patch rows, patch columns.

    Raises:
        FrameError: the array is not a non-empty uint8 RGB picture, or is too elongated.
    """
    _check(image)
    factor = config.vision.patch_size * config.vision.spatial_merge_size
    height, width = image.shape[:2]
    height, width = picture_size(height, width, factor, config.min_pixels, config.max_pixels)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return _cut(_to_planes(np.asarray(resized), device), config.vision)


def clip_patches(
    frames: Uint8Array, config: LanguageConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cut a clip into the language side's patches; an odd last frame is repeated.

    Args:
        frames: uint8 (T, H, W, 3), RGB, already sampled to the frames the model is to see.
        config: area limits and patch sizes.
        device: where to do it and leave the patches.

    Returns:
        Patches float32 (P, 1536) in -1..1, and the grid int64 (1, 3) on the host: frame pairs, rows, columns.

    Raises:
        FrameError: the array is not a non-empty stack of uint8 RGB pictures, or they are too elongated.
    """
    planes, vision = _to_planes(frames, device), config.vision
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = planes.shape[-2:]
    limits = (config.video_min_pixels, config.video_max_pixels)
    size = clip_size(len(planes), height, width, factor, vision.temporal_patch_size, *limits)
    return _cut(_resize(planes, size, "bicubic"), vision)


def _check(images: Uint8Array) -> None:
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise FrameError(
            f"expected non-empty uint8 RGB of (H, W, 3) or (N, H, W, 3), got {images.dtype} {images.shape}"
        )


def _to_planes(images: Uint8Array, device: torch.device | str) -> Tensor:
    """Return uint8 (N, 3, H, W) on ``device``."""
    _check(images)
    stack = np.require(images[None] if images.ndim == 3 else images, requirements=["C", "W"])
    return torch.from_numpy(stack).to(device).permute(0, 3, 1, 2)


def _resize(planes: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize uint8 (N, 3, H, W) with a low-pass filter, rounding to whole levels as PIL does."""
    if tuple(planes.shape[-2:]) == size:
        return planes
    if planes.device.type == "cpu":
        return F.interpolate(planes, size=size, mode=mode, antialias=True)
    resized = F.interpolate(planes.float(), size=size, mode=mode, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _cut(planes: Tensor, vision: VisionConfig) -> tuple[Tensor, Tensor]:
    """Normalise uint8 (T, 3, H, W) to -1..1; cut it, block by merge block, into (channel, time, row, column)."""
    side, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    missing = -len(planes) % pair
    values = (planes.float() / 255.0 - 0.5) / 0.5
    values = torch.cat([values, values[-1:].expand(missing, -1, -1, -1)])
    frames, channels, height, width = values.shape
    steps, rows, columns = frames // pair, height // side, width // side
    blocks = values.reshape(steps, pair, channels, rows // merge, merge, side, columns // merge, merge, side)
    patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(steps * rows * columns, -1)
    return patches, torch.tensor([[steps, rows, columns]])

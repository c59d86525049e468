"""Where a click, box or mask points: as a mask for the language side, and as a score for query selection."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.errors import PromptError
from x2sam_ros.types import BoolArray, BoxPrompt, FloatArray, IntArray, PointPrompt, RegionPrompt

POINT_RADIUS = 10 / 1024
"""Radius of a click's disc, as a share of the image's longer side (X2SAM's V-VGD point prompt)."""

NEGATIVE_RADIUS = 0.05
"""Radius around a negative click that is cut out of a target's mask, as a share of the longer side."""


@dataclass(frozen=True)
class Region:
    """A region prompt on one image.

    Args:
        mask: bool (H, W), what the language side reads features from.
        points: float (K, 2), x and y in 0 to 1; point_labels: int (K,), 1 on the object and 0 not.
        box: x1, y1, x2, y2 in 0 to 1, or None.
        shape: bool (H, W) to overlap with, for a drawn mask; else None.
    """

    mask: BoolArray
    points: FloatArray
    point_labels: IntArray
    box: tuple[float, float, float, float] | None = None
    shape: BoolArray | None = None


def locate(prompt: RegionPrompt, size: tuple[int, int], current: BoolArray | None = None) -> Region:
    """Place a region prompt on an image of ``size`` (height, width).

    Args:
        prompt: clicks, a box or a mask, in pixels of the image.
        size: (height, width) in pixels.
        current: bool (H, W), the mask of the target being refined; needed when all clicks are negative.

    Raises:
        PromptError: it lies outside the image or has another size.
    """
    none = np.zeros((0, 2)), np.zeros(0, int)
    if isinstance(prompt, PointPrompt):
        return _locate_points(prompt, size, current)
    if isinstance(prompt, BoxPrompt):
        return _locate_box(prompt, size)
    if prompt.mask.shape != size:
        raise PromptError(
            f"mask prompt is {prompt.mask.shape[1]}x{prompt.mask.shape[0]}, the image {size[1]}x{size[0]}; "
            "give a mask of the image's size"
        )
    return Region(prompt.mask, *none, shape=prompt.mask)


def _locate_points(prompt: PointPrompt, size: tuple[int, int], current: BoolArray | None) -> Region:
    height, width = size
    labels = np.asarray(prompt.point_labels)
    for x, y in prompt.points_px:
        if not (0 <= x < width and 0 <= y < height):
            raise PromptError(f"click at ({x:g}, {y:g}) is outside the image of {width}x{height} pixels")
    normalised = (prompt.points_px + 0.5) / (width, height)
    if labels.any():
        mask = _discs(prompt.points_px[labels == 1], size, POINT_RADIUS)
    else:
        if current is None or not current.any():
            raise PromptError("only negative clicks, and the target has no mask now; add a positive click (label 1)")
        mask = current & ~_discs(prompt.points_px, size, NEGATIVE_RADIUS)
        if not mask.any():
            raise PromptError("the negative clicks leave nothing of the target; add a positive click (label 1)")
    return Region(mask, normalised, labels, shape=None if labels.any() else mask)


def _locate_box(prompt: BoxPrompt, size: tuple[int, int]) -> Region:
    height, width = size
    x1, y1, x2, y2 = (float(v) for v in prompt.box_px)
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if left >= right or top >= bottom:
        raise PromptError(f"box {[x1, y1, x2, y2]} is outside the image of {width}x{height} pixels")
    mask = np.zeros(size, bool)
    rows = slice(int(top), max(int(np.ceil(bottom)), int(top) + 1))
    mask[rows, int(left) : max(int(np.ceil(right)), int(left) + 1)] = True
    return Region(
        mask, np.zeros((0, 2)), np.zeros(0, int), box=(left / width, top / height, right / width, bottom / height)
    )


def _discs(points: FloatArray, size: tuple[int, int], share: float) -> BoolArray:
    canvas = np.zeros(size, np.uint8)
    radius = max(1, round(share * max(size)))
    for x, y in points:
        cv2.circle(canvas, (int(x), int(y)), radius, 1, thickness=-1)
    return canvas.astype(bool)


def overlap(region: Region, mask_logits: Tensor) -> Tensor:
    """Score how well each query's mask fits a region prompt.

    Args:
        region: the prompt.
        mask_logits: float (Q, h, w) over the whole image.

    Returns:
        float (Q,), at most 1; below 0 when negative clicks are covered.
    """
    parts = []
    if len(region.points):
        parts.append(_point_overlap(region, mask_logits))
    if region.box is not None:
        parts.append(_box_overlap(region.box, mask_logits))
    if region.shape is not None:
        drawn = torch.from_numpy(region.shape.astype(np.float32)).to(mask_logits.device)[None, None]
        small = F.adaptive_avg_pool2d(drawn, (mask_logits.shape[-2], mask_logits.shape[-1]))[0]
        # a thin scribble fills no cell by half: then its fullest cells stand for it
        parts.append(mask_iou(mask_logits > 0, small >= min(0.5, float(small.max()))))
    return torch.stack(parts).mean(0)


def _point_overlap(region: Region, mask_logits: Tensor) -> Tensor:
    grid = torch.from_numpy(2 * region.points - 1).to(mask_logits).view(1, 1, -1, 2)
    inside = F.grid_sample(mask_logits[None], grid, padding_mode="border", align_corners=False)[0, :, 0].sigmoid()
    labels = torch.from_numpy(region.point_labels).to(mask_logits.device)
    score = inside.new_zeros(inside.shape[0])
    if bool((labels == 1).any()):
        score = score + inside[:, labels == 1].mean(1)
    if bool((labels == 0).any()):
        score = score - inside[:, labels == 0].amax(1)
    return score


def _box_overlap(box: tuple[float, float, float, float], mask_logits: Tensor) -> Tensor:
    """Return the IoU between the prompt's box and the box around each query's mask, (Q,)."""
    left, top, right, bottom = mask_boxes(mask_logits > 0).unbind(1)
    x1, y1, x2, y2 = box
    across = (right.clamp(max=x2) - left.clamp(min=x1)).clamp_min(0)
    down = (bottom.clamp(max=y2) - top.clamp(min=y1)).clamp_min(0)
    shared = across * down
    return shared / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared).clamp_min(1e-6)


def mask_boxes(inside: Tensor) -> Tensor:
    """Return the boxes around masks bool (N, h, w): float (N, 4), left, top, right, bottom in 0 to 1; 0 around none."""

    def extent(line: Tensor) -> tuple[Tensor, Tensor]:
        length = line.shape[1]
        low, high = line.float().argmax(1) / length, 1 - line.flip(1).float().argmax(1) / length
        return low, torch.where(line.any(1), high, low)

    (left, right), (top, bottom) = extent(inside.any(1)), extent(inside.any(2))
    return torch.stack([left, top, right, bottom], dim=1)


def mask_iou(masks: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of bool (Q, h, w) with one mask, bool (h, w), or as many; float (Q,), 0 where both are empty."""
    shared = (masks & other).flatten(1).sum(1).float()
    return shared / (masks | other).flatten(1).sum(1).clamp_min(1)

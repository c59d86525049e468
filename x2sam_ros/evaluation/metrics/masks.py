"""Mask metrics in NumPy and OpenCV: region J, boundary F, their mean, and IoU over many samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.dilation import dilate_disk
from x2sam_ros.types import BoolArray

BOUNDARY_TOLERANCE = 0.008
"""How far apart two boundaries may lie and still match, as a share of the image diagonal (DAVIS)."""

_BLOCK = np.ones((2, 2), np.uint8)


def _pair(pred: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[BoolArray, BoolArray]:
    a, b = np.asarray(pred).astype(bool, copy=False), np.asarray(truth).astype(bool, copy=False)
    if a.shape != b.shape or a.ndim != 2:
        raise FrameError(f"masks to compare must both be (H, W) of one size, got {a.shape} and {b.shape}")
    return a, b


def _intersection_union(pred: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[int, int]:
    a, b = _pair(pred, truth)
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a | b))


def region_similarity(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Compute J, the intersection over union of two masks.

    Args:
        pred: bool (H, W); any other type is read as "not zero".
        truth: bool (H, W), same size.

    Returns:
        0 to 1; 1 when both masks are empty.

    Raises:
        FrameError: the sizes differ.

    Source: Perazzi et al., CVPR 2016, section 4 (DAVIS), measure J.
    """
    intersection, union = _intersection_union(pred, truth)
    return intersection / union if union else 1.0


def boundary_map(mask: npt.ArrayLike) -> BoolArray:
    """Mark pixels that differ from their right, lower or lower-right neighbour.

    The image border itself is no boundary: a mask cut off by it is open there.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W).
    """
    inside = np.asarray(mask).astype(bool, copy=False).view(np.uint8)
    # The gradient of a 2x2 block is its largest value minus its smallest; what lies outside the image takes no part.
    return cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, _BLOCK, anchor=(0, 0)).view(np.bool_)


def _crop(mask_a: BoolArray, mask_b: BoolArray) -> tuple[slice, slice]:
    """Return the part of the picture that holds both masks and a background pixel on every side where there is one."""
    left, top, width, height = cv2.boundingRect((mask_a | mask_b).view(np.uint8))
    return slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)


def _share_near(points: BoolArray, target: BoolArray, radius_px: int) -> float:
    """Return the share of ``points`` within ``radius_px`` of a pixel of ``target``; neither is empty."""
    near = np.count_nonzero(points & dilate_disk(target, radius_px))
    return near / int(np.count_nonzero(points))


def boundary_accuracy(pred: npt.ArrayLike, truth: npt.ArrayLike, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """Compute F, the F-measure of the two masks' boundaries.

    A boundary pixel matches when the other boundary has a pixel within a disk of
    ``ceil(tolerance * diagonal)`` pixels.

    Args:
        pred: bool (H, W).
        truth: bool (H, W), same size.
        tolerance: radius as a share of the image diagonal, 0 or more.

    Returns:
        0 to 1; 1 when neither mask has a boundary, 0 when only one has.

    Raises:
        FrameError: the sizes differ.

    Source: Perazzi et al., CVPR 2016, section 4 (DAVIS), measure F; the tolerance and the boundary map are
    those of the davis2017-evaluation program.
    """
    a, b = _pair(pred, truth)
    radius_px = int(np.ceil(tolerance * np.hypot(*a.shape)))
    window = _crop(a, b)
    pred_boundary, true_boundary = boundary_map(a[window]), boundary_map(b[window])
    if not pred_boundary.any() or not true_boundary.any():
        return float(pred_boundary.any() == true_boundary.any())
    precision = _share_near(pred_boundary, true_boundary, radius_px)
    recall = _share_near(true_boundary, pred_boundary, radius_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class ClipScore:
    """J and F of one object over a clip: float64 (T,) each, 0 to 1."""

    j: npt.NDArray[np.float64]
    f: npt.NDArray[np.float64]

    @property
    def j_mean(self) -> float:
        """Mean J over the frames."""
        return float(self.j.mean())

    @property
    def f_mean(self) -> float:
        """Mean F over the frames."""
        return float(self.f.mean())

    @property
    def jf_mean(self) -> float:
        """J&F, the mean of the two."""
        return (self.j_mean + self.f_mean) / 2


def score_clip(preds: Iterable[npt.ArrayLike], truths: Iterable[npt.ArrayLike]) -> ClipScore:
    """Compute J and F of every frame of one object's clip; drops no frame, not even the prompted one.

    Args:
        preds: T masks, bool (H, W).
        truths: T masks, bool (H, W).

    Returns:
        The scores of the T frames.

    Raises:
        FrameError: the clips differ in length or size, or have no frame.
    """
    pred_masks, true_masks = list(preds), list(truths)
    if len(pred_masks) != len(true_masks) or not true_masks:
        raise FrameError(f"clips to compare need one length above 0, got {len(pred_masks)} and {len(true_masks)}")
    pairs = list(zip(pred_masks, true_masks))
    return ClipScore(
        j=np.array([region_similarity(pred, truth) for pred, truth in pairs]),
        f=np.array([boundary_accuracy(pred, truth) for pred, truth in pairs]),
    )


def mean_iou(pairs: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> float:
    """Average the IoU of (predicted, true) mask pairs: the field's gIoU. No pair gives NaN."""
    values = [region_similarity(pred, truth) for pred, truth in pairs]
    return float(np.mean(values)) if values else float("nan")


def cumulative_iou(pairs: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> float:
    """Divide the summed intersections by the summed unions: the field's cIoU. No pixel at all gives NaN."""
    counts = np.array([_intersection_union(pred, truth) for pred, truth in pairs], dtype=np.int64).reshape(-1, 2)
    intersection, union = counts.sum(axis=0)
    return float(intersection / union) if union else float("nan")

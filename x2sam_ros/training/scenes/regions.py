"""Clicks, boxes, scribbles and masks that point at an object of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.training.scenes.clip import Clip

REGION_KINDS: tuple[str, ...] = ("point", "box", "scribble", "mask")
_POINT_RADIUS = 10 / 1024  # of the longer side


@dataclass(frozen=True)
class RegionPrompt:
    """A region that points at an object.

    Attributes:
        kind: One of ``REGION_KINDS``.
        mask: bool (H, W).
        point_xy: The click's pixel, for "point".
        box_xyxy: The box in pixels, right and lower edge exclusive, for "box".
    """

    kind: str
    mask: npt.NDArray[np.bool_]
    point_xy: tuple[int, int] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None


def _inner_pixels(visible: npt.NDArray[np.bool_], rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Return random (x, y) pixels well inside a mask, likelier the farther from its border."""
    depth = cv2.distanceTransform(np.pad(visible, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    ys, xs = np.nonzero(depth >= 0.5 * depth.max())
    weight = depth[ys, xs].astype(np.float64) ** 2
    chosen = rng.choice(len(xs), count, p=weight / weight.sum())
    return [(int(xs[i]), int(ys[i])) for i in chosen]


def region_prompt(clip: Clip, object_index: int, frame_index: int, rng: np.random.Generator, kind: str) -> RegionPrompt:
    """Return a region that points at the visible part of an object.

    Args:
        clip: The clip.
        object_index: Which object.
        frame_index: In which frame; the object must be visible there.
        rng: Chooses the pixel, the stroke or the looseness of the box.
        kind: "point" (a disc of 10 pixels radius at 1024), "box", "scribble" or "mask".

    Raises:
        PromptError: The object is not visible in that frame.
        ConfigError: The kind is unknown.
    """
    visible = clip.labels[frame_index] == object_index + 1
    if not visible.any():
        raise PromptError(f"object {object_index} is not visible in frame {frame_index}; choose another frame")
    height, width = visible.shape
    canvas = np.zeros((height, width), np.uint8)
    radius = max(1, round(_POINT_RADIUS * max(height, width)))
    if kind == "mask":
        return RegionPrompt(kind, visible)
    if kind == "point":
        point = _inner_pixels(visible, rng, 1)[0]
        cv2.circle(canvas, point, radius, 1, -1)
        return RegionPrompt(kind, canvas > 0, point_xy=point)
    if kind == "scribble":
        points = _inner_pixels(visible, rng, 4)
        cv2.polylines(canvas, [np.array(points, np.int32)], False, 1, 2 * radius)
        return RegionPrompt(kind, canvas > 0)
    if kind != "box":
        raise ConfigError(f"region kind is {kind!r}, expected one of {', '.join(REGION_KINDS)}")
    ys, xs = np.nonzero(visible)
    low, high = np.array([xs.min(), ys.min()], float), np.array([xs.max() + 1, ys.max() + 1], float)
    half = (high - low) / 2 * rng.uniform(0.9, 1.1, 2)
    low, high = (low + high) / 2 - half, (low + high) / 2 + half
    x0, y0 = (float(v) for v in np.maximum(low, 0))
    x1, y1 = (float(v) for v in np.minimum(high, [width, height]))
    canvas[int(y0) : max(round(y1), int(y0) + 1), int(x0) : max(round(x1), int(x0) + 1)] = 1
    return RegionPrompt(kind, canvas > 0, box_xyxy=(x0, y0, x1, y1))

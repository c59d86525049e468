"""Masks lifted by depth: where each target is, the box around it, and the coloured points of all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError, SpaceError
from x2sam_ros.space.camera_model import CameraModel
from x2sam_ros.types import BoolArray, IntArray, Uint8Array

Vector = tuple[float, float, float]
"""x, y, z in the camera's optical frame, metres."""

_FARTHEST_M = 10_000.0
"""From here on it is no depth: simulators send their largest float where nothing is hit."""

_BOX_POINTS = 2048
"""Points of a target that its box is measured from; an even sample where there are more."""

_REACH = 2
"""Pixels between the neighbours whose depths are compared; a flying pixel lies within a transition that wide."""

_JUMP = 0.03
"""Share of the depth by which neighbours on one surface differ at most, unless it is seen at a grazing angle."""

_GRAZING = math.tan(math.radians(85.0))
_GAP_M = 0.1
"""Least empty stretch along the depth that parts a target from what lies before or behind it, metres."""

_TAIL = 0.005
"""Share of the points at either end of each side that the box leaves out."""

_YAWS = np.radians(np.arange(-45, 45)).astype(np.float32)
_YAW_POINTS = 512
_NEARLY = 1.15
"""How much larger than the smallest a rectangle may be for its fit to count."""

_TOUCHING = 0.005
"""Distance, as a share of the depth, up to which a point lies on a side: what depth cameras are accurate to."""

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class SpaceBox:
    """One target in space.

    Args:
        target_id: as in the FrameResult.
        centroid: median of its points along each axis.
        centre: of the box.
        size: whole lengths of the box along its own axes: to its right, down, forward.
        yaw: rotation of the box about the camera's y axis, radians, -pi/4 to pi/4.
        num_points: pixels of the mask that have depth.
    """

    target_id: int
    centroid: Vector
    centre: Vector
    size: Vector
    yaw: float
    num_points: int


@dataclass(frozen=True, eq=False)
class Cloud:
    """Coloured points of several targets.

    Args:
        xyz: float32 (N, 3), metres, optical frame.
        rgb: uint8 (N, 3).
        target_ids: uint32 (N,).
    """

    xyz: npt.NDArray[np.float32]
    rgb: Uint8Array
    target_ids: npt.NDArray[np.uint32]


class LiftedMasks:
    """The masks of one image with the depth of their pixels.

    A pixel of several masks is a point of each.

    Args:
        masks: bool (N, H, W).
        target_ids: (N,), 0 or more.
        depth: float32 (H, W), metres along z, registered to the image; NaN, 0 or 10 km and more where there is
            none.
        camera: of the image.

    Raises:
        SpaceError: depth, masks and camera are not of one size.
    """

    def __init__(
        self, masks: BoolArray, target_ids: IntArray, depth: npt.NDArray[np.float32], camera: CameraModel
    ) -> None:
        if depth.shape != masks.shape[1:]:
            (rows, columns), (height, width) = depth.shape, masks.shape[1:]
            raise SpaceError(
                f"depth is {columns}x{rows}, the image {width}x{height}; use depth that is registered to the image"
            )
        camera.check_size(depth.shape[1], depth.shape[0])
        self._camera, self._shape = camera, depth.shape
        self._depth = np.ascontiguousarray(depth, np.float32).reshape(-1)
        order = np.argsort(target_ids)
        known = (depth > 0) & (depth < _FARTHEST_M) & camera.sees
        self._pixels = {int(target_ids[row]): _pixels_of(masks[row], known) for row in order}

    @cached_property
    def boxes(self) -> tuple[SpaceBox, ...]:
        """The targets that have points, in the order of their ids."""
        return tuple(self._box(target, pixels) for target, pixels in self._pixels.items() if len(pixels))

    def cloud(self, image: Uint8Array, max_points: int) -> Cloud:
        """Return the points of all targets, as they were measured.

        Args:
            image: uint8 (H, W, 3), RGB.
            max_points: at least 1; where there are more, so many are taken evenly from all masks.

        Raises:
            FrameError: the image is not of the masks' size.
        """
        if image.shape != (*self._shape, 3):
            raise FrameError(f"image has shape {image.shape}, the masks are {self._shape[1]}x{self._shape[0]}")
        chosen = _evenly(sum(map(len, self._pixels.values())), max_points)
        ends = np.cumsum([0, *map(len, self._pixels.values())])
        cuts = np.searchsorted(chosen, ends)
        picked = [
            pixels[chosen[first:last] - start]
            for pixels, start, first, last in zip(self._pixels.values(), ends, cuts[:-1], cuts[1:], strict=False)
        ]
        pixels = np.concatenate([np.zeros(0, np.intp), *picked])
        target_ids = np.repeat(np.array(list(self._pixels), np.int64), [len(part) for part in picked])
        colours = image.reshape(-1, 3).take(pixels, axis=0)
        return Cloud(self._points(pixels), colours, target_ids.astype(np.uint32))

    def _points(self, pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Lift pixels, float32 (N, 3)."""
        depth = self._depth.take(pixels)
        xyz = np.empty((len(pixels), 3), np.float32)
        np.multiply(self._camera.ray_table.reshape(-1, 2).take(pixels, axis=0), depth[:, None], out=xyz[:, :2])
        xyz[:, 2] = depth
        return xyz

    def _box(self, target_id: int, pixels: npt.NDArray[np.intp]) -> SpaceBox:
        sample = pixels[_evenly(len(pixels), _BOX_POINTS)]
        return _measure(target_id, self._points(sample[self._on_surface(sample)]), len(pixels))

    def _on_surface(self, sample: npt.NDArray[np.intp]) -> BoolArray:
        """Tell which pixels belong to the target's own surface, for masks that reach over its border.

        A flying pixel hangs between two surfaces: beside it one way it is much nearer, the other way much farther, by
        more than a slanted surface explains. What is left of the background, or of what stands before the target, is
        parted from it by an empty stretch of depth; the target is the side of the median.

        Source: depth changes as in Holzer, Rusu, Dixon, Gedikli and Navab, Adaptive neighborhood selection for
        real-time surface normal estimation from organized point cloud data using integral images, IROS 2012.
        """
        z, most = self._depth[sample], len(self._depth) - 1
        jump = max(_JUMP, _REACH * _GRAZING / float(self._camera.k[0, 0]))
        low, high = z * (1 - jump), z * (1 + jump)
        steady = np.ones(len(sample), np.bool_)
        for step in (_REACH, _REACH * self._shape[1]):
            one, other = self._depth.take((sample - step).clip(0)), self._depth.take((sample + step).clip(None, most))
            nearer = np.minimum(one, other)
            steady &= ~((nearer > 0) & (nearer < low) & (np.maximum(one, other) > high))
        if not steady.any():
            steady[:] = True
        ordered = np.sort(z[steady])
        middle = len(ordered) // 2
        gaps = np.flatnonzero(np.diff(ordered) > np.maximum(_GAP_M, jump * ordered[:-1]))
        nearest = ordered[gaps[gaps < middle][-1] + 1] if (gaps < middle).any() else ordered[0]
        farthest = ordered[gaps[gaps >= middle][0]] if (gaps >= middle).any() else ordered[-1]
        return np.asarray(steady & (z >= nearest) & (z <= farthest))


def _pixels_of(mask: BoolArray, known: BoolArray) -> npt.NDArray[np.intp]:
    """Return the places in the flat image of the pixels of a mask that have depth, ascending."""
    _, top, _, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(top, top + height)  # whole rows, so that places need no division
    return np.flatnonzero(mask[rows] & known[rows]) + top * mask.shape[1]


def _evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    """Choose at most so many of ``range(count)``, ascending: one of each of equal stretches, at changing places.

    A fixed step would pick the same columns of every row of a mask.
    """
    if count <= most:
        return np.arange(count)
    places = np.arange(most)
    return ((places + places * _GOLDEN % 1.0) * (count / most)).astype(np.intp)


def _measure(target_id: int, points: npt.NDArray[np.float32], num_points: int) -> SpaceBox:
    """Measure the smallest upright box of points; its sides leave out the outermost."""
    x, y, z = points.T
    yaw = _yaw(x, z)
    cosine, sine = math.cos(yaw), math.sin(yaw)
    (left, right), (top, bottom), (near, far) = (
        _ends(values) for values in (x * cosine - z * sine, y, x * sine + z * cosine)
    )
    across, along = (left + right) / 2, (near + far) / 2
    centre = (across * cosine + along * sine, (top + bottom) / 2, along * cosine - across * sine)
    size = (right - left, bottom - top, far - near)
    centroid = np.median(points, axis=0).tolist()
    return SpaceBox(target_id, (centroid[0], centroid[1], centroid[2]), centre, size, yaw, num_points)


def _ends(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return the ends of what is left of numbers without their tails."""
    ordered = np.sort(values)
    tail = int(_TAIL * len(ordered))
    return float(ordered[tail]), float(ordered[len(ordered) - 1 - tail])


def _yaw(x: npt.NDArray[np.floating], z: npt.NDArray[np.floating]) -> float:
    """Return the yaw of the smallest rectangle around points seen from above.

    A camera sees two sides of a box at most. Around such an L the rectangle along the L is as small as the one along
    its diagonal, so of the rectangles that are nearly the smallest it is the one whose sides the points lie closest to.

    Source: Zhang, Xu, Dong and Dolan, Efficient L-shape fitting for vehicle detection using laser scanners, IV 2017
    (search over angles, criteria of area and closeness).
    """
    chosen = _evenly(len(x), _YAW_POINTS)
    seen = np.stack([x, z])[:, chosen]
    cosine, sine = np.cos(_YAWS), np.sin(_YAWS)
    across, along = np.stack([cosine, -sine], axis=1) @ seen, np.stack([sine, cosine], axis=1) @ seen
    near = [
        (side - side.min(axis=1, keepdims=True), side.max(axis=1, keepdims=True) - side) for side in (across, along)
    ]
    spans = [np.ptp(side, axis=1) for side in (across, along)]
    touching = float(np.median(seen[1])) * _TOUCHING
    distance = np.minimum(np.minimum(*near[0]), np.minimum(*near[1])).clip(touching)
    area = spans[0] * spans[1]
    closeness = np.where(area <= _NEARLY * area.min() + touching**2, (1 / distance).sum(axis=1), 0.0)
    return float(_YAWS[closeness.argmax()])

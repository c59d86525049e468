"""Where a camera's pixels look, and where points in space are seen, from what sensor_msgs/CameraInfo says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import PromptError, SpaceError
from x2sam_ros.types import MAX_IMAGE_PIXELS, BoolArray, FloatArray

PINHOLE_MODELS = ("plumb_bob", "rational_polynomial")
"""Distortion models that ``cv2.projectPoints`` has; the number of coefficients tells which."""
FISHEYE_MODEL = "equidistant"

_PINHOLE_COEFFICIENTS = (0, 4, 5, 8, 12, 14)
_SAME_PIXEL = 0.5
"""Pixels by which a ray may miss its own pixel; where it is more, the distortion cannot be undone there."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """One calibrated camera, for images as they come (not rectified) unless it was made ``from_calibration`` otherwise.

    Points are in the camera's optical frame, metres: x right, y down, z forward. Pixels are (x, y); the centre of the
    upper left one is (0, 0).

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        k: float64 (3, 3), the intrinsic matrix; only fx, fy, cx and cy are read.
        d: float64 (N,), distortion coefficients; none is a pinhole without distortion.
        distortion_model: "plumb_bob" or "rational_polynomial" (0, 4, 5, 8, 12 or 14 coefficients), or "equidistant" (0
            or 4); '' where there are no coefficients.

    Raises:
        SpaceError: not calibrated, a number that is not finite, an unknown model, or coefficients that do not fit it.
    """

    width: int
    height: int
    k: npt.NDArray[np.float64]
    d: npt.NDArray[np.float64]
    distortion_model: str

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0 or self.width * self.height > MAX_IMAGE_PIXELS:
            raise SpaceError(f"camera_info is for an image of {self.width}x{self.height}; check the camera driver")
        k = np.array(self.k, np.float64).reshape(-1)
        d = np.array(self.d, np.float64).reshape(-1)
        if k.size != 9 or not np.isfinite(k).all() or not np.isfinite(d).all():
            raise SpaceError("camera_info holds numbers that are not finite, or too few; calibrate the camera")
        if k[0] <= 0 or k[4] <= 0:
            raise SpaceError(f"camera is not calibrated: fx is {k[0]:g} and fy {k[4]:g}; calibrate it, or set its file")
        _check_distortion(self.distortion_model, d)
        intrinsics = np.array([[k[0], 0, k[2]], [0, k[4], k[5]], [0, 0, 1]])
        for name, values in (("k", intrinsics), ("d", d)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def from_calibration(
        cls,
        size: tuple[int, int],
        k: Sequence[float] | npt.NDArray[Any],
        d: Sequence[float] | npt.NDArray[Any] = (),
        distortion_model: str = "",
        *,
        p: Sequence[float] | npt.NDArray[Any] | None = None,
        binning: tuple[int, int] = (1, 1),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> CameraModel:
        """Make the model of the images that a camera sends, from the calibration of its whole sensor.

        The principal point moves with the region of interest, and is divided by the binning with the focal lengths, as
        image_geometry does it.

        Args:
            size: (width, height) of the sensor, pixels.
            k: 9 numbers, row after row.
            d: distortion coefficients.
            distortion_model: as CameraInfo names it.
            p: 12 numbers; given, the images are rectified: the model has this projection and no distortion.
            binning: in x and y; 0 is 1.
            roi: x, y, width, height of what is sent, in pixels of the whole sensor; a size of 0 is the whole.

        Raises:
            SpaceError: as for the class; or the region does not lie on the sensor.
        """
        width, height = size
        x, y, roi_width, roi_height = roi
        roi_width, roi_height = roi_width or width - x, roi_height or height - y
        if min(x, y) < 0 or min(roi_width, roi_height) <= 0 or x + roi_width > width or y + roi_height > height:
            raise SpaceError(f"camera_info has region {roi}, which does not lie on its {width}x{height} sensor")
        if min(binning) < 0:
            raise SpaceError(f"camera_info has binning {binning}, expected 1 or more")
        step_x, step_y = max(1, binning[0]), max(1, binning[1])
        matrix = np.array(k if p is None else p, np.float64)
        if matrix.size != (9 if p is None else 12):
            raise SpaceError(f"camera_info has a matrix of {matrix.size} numbers, expected 9 in k and 12 in p")
        matrix = matrix.reshape(3, -1)[:, :3]
        matrix[:2, 2] -= (x, y)
        matrix[:2] /= ((step_x,), (step_y,))
        distortion = (np.zeros(0), "") if p is not None else (np.array(d, np.float64), distortion_model)
        return cls(roi_width // step_x, roi_height // step_y, matrix, *distortion)

    def check_size(self, width: int, height: int) -> None:
        """Check that an image is of the camera's size.

        Raises:
            SpaceError: it is not.
        """
        if (width, height) != (self.width, self.height):
            raise SpaceError(
                f"image is {width}x{height}, camera_info is for {self.width}x{self.height}; "
                "check that they are of one camera and one stream"
            )

    def rays(self, pixels: FloatArray) -> npt.NDArray[np.float64]:
        """Return where pixels look.

        Args:
            pixels: (N, 2), x and y; may lie between pixels and outside the image.

        Returns:
            float64 (N, 3) with z = 1: times the depth, it is the point. NaN where the lens model cannot be undone.
        """
        points = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
        if not len(points):
            return np.zeros((0, 3))
        if not self._distorts:
            flat = (points[:, 0] - self.k[:2, 2]) / np.diag(self.k)[:2]
            return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
        accuracy = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-9)
        if self.distortion_model == FISHEYE_MODEL:
            undone = cv2.fisheye.undistortPoints(points, self.k, self._coefficients, criteria=accuracy)
        elif hasattr(cv2, "undistortPointsIter"):  # OpenCV 4
            undone = cv2.undistortPointsIter(points, self.k, self._coefficients, None, None, accuracy)
        else:
            undone = cv2.undistortPoints(points, self.k, self._coefficients, criteria=accuracy)
        rays = np.concatenate([undone.reshape(-1, 2), np.ones((len(points), 1))], axis=1)
        missed = np.abs(self.project(rays) - points[:, 0]).max(axis=1)
        rays[~(missed < _SAME_PIXEL)] = np.nan
        return rays

    @cached_property
    def ray_table(self) -> npt.NDArray[np.float32]:
        """Rays of the whole image without their z, float32 (H, W, 2); made once, 0.5 s at 1280x720 with distortion."""
        table = np.empty((self.height, self.width, 2), np.float32)
        columns = np.arange(self.width, dtype=np.float64)
        # Row by row, since projecting back makes a Jacobian of 240 bytes for each pixel.
        for row in range(self.height):
            table[row] = self.rays(np.stack([columns, np.full_like(columns, row)], axis=1))[:, :2]
        table.setflags(write=False)
        return table

    @cached_property
    def sees(self) -> BoolArray:
        """Which pixels have a ray, bool (H, W)."""
        return np.isfinite(self.ray_table[..., 0])

    def project(self, points: FloatArray) -> npt.NDArray[np.float64]:
        """Return the pixels where points are seen.

        Args:
            points: (N, 3), metres.

        Returns:
            float64 (N, 2), x and y, also outside the image; NaN for points that are not in front of the camera.
        """
        given = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
        ahead = np.isfinite(given).all(axis=1) & (given[:, 2] > 0)
        pixels = np.full((len(given), 2), np.nan)
        if ahead.any():
            seen, still = given[ahead].reshape(-1, 1, 3), np.zeros(3)
            if self.distortion_model == FISHEYE_MODEL and self._distorts:
                found = cv2.fisheye.projectPoints(seen, still, still, self.k, self._coefficients)[0]
            else:
                found = cv2.projectPoints(seen, still, still, self.k, self._coefficients)[0]
            pixels[ahead] = found.reshape(-1, 2)
        return pixels

    def pixel_of(self, point: Sequence[float] | FloatArray) -> tuple[float, float]:
        """Return the pixel where one point is seen, for a click in space.

        Args:
            point: x, y, z in the camera's optical frame, metres.

        Raises:
            PromptError: the point is behind the camera, or outside of its image.
        """
        x, y, z = (float(value) for value in point)
        if not np.isfinite([x, y, z]).all():
            raise PromptError(f"point is ({x:g}, {y:g}, {z:g}), expected finite numbers")
        where = f"point ({x:.3g}, {y:.3g}, {z:.3g}) m in the camera's frame"
        if z <= 0:
            raise PromptError(f"{where} is behind the camera; z points forward in an optical frame")
        pixel = self.project(np.array([[x, y, z]]))
        # A lens polynomial can fold points from far outside back into the image: their ray is another one.
        ray = self.rays(pixel)[0]
        folded = not np.allclose(ray[:2] * z, (x, y), rtol=1e-2, atol=1e-3 * z)
        column, row = pixel[0]
        if folded or not (-0.5 <= column < self.width - 0.5 and -0.5 <= row < self.height - 0.5):
            raise PromptError(
                f"{where} is seen outside of the image, at ({column:.0f}, {row:.0f}) of {self.width}x{self.height}"
            )
        return float(np.clip(column, 0, self.width - 1)), float(np.clip(row, 0, self.height - 1))

    @property
    def _distorts(self) -> bool:
        """Whether it is more than a pinhole; an equidistant lens is, even with coefficients of zero."""
        return self.d.size > 0 and (self.distortion_model == FISHEYE_MODEL or bool(self.d.any()))

    @property
    def _coefficients(self) -> npt.NDArray[np.float64]:
        return self.d if self.d.size else np.zeros(4)


def _check_distortion(model: str, d: npt.NDArray[np.float64]) -> None:
    """Raise where there is no such lens."""
    if model in PINHOLE_MODELS:
        sizes: tuple[int, ...] = _PINHOLE_COEFFICIENTS
    elif model == FISHEYE_MODEL:
        sizes = (0, 4)
    elif not d.any():
        return
    else:
        known = ", ".join((*PINHOLE_MODELS, FISHEYE_MODEL))
        raise SpaceError(f"distortion_model is {model!r}, expected one of: {known}; rectify the images instead")
    if d.size not in sizes:
        raise SpaceError(f"{model} has {d.size} distortion coefficients, expected one of: {', '.join(map(str, sizes))}")

"""A point in space, as RViz publishes it, becomes a click on the camera that sees it best. No node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import PromptError, SpaceError
from x2sam_ros.ros.convert import to_stamp_ns
from x2sam_ros.ros.requests import Reject, Request, Submit
from x2sam_ros.types import PointPrompt

if TYPE_CHECKING:
    from geometry_msgs.msg import PointStamped, Transform, TransformStamped

    from x2sam_ros.ros.camera_infos import View

Vector = npt.NDArray[np.float64]


class Transforms(Protocol):
    """Where TF is asked (ros/transforms.py)."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> TransformStamped:
        """Return what brings points of frame ``source`` to ``target``, at a time or, for 0, the latest; never waits.

        Raises:
            PromptError: there is none; the message is TF's.
        """


class ClickedPoints:
    """Turns points into clicks; of the worker's thread.

    Args:
        cameras: their names.
        view: the newest calibration of a camera; raises SpaceError where there is none.
        new_id: makes a prompt id from a word.
        transforms: TF; None where tf2_ros is not installed.
        sizes: camera to (width, height) of its newest image, where known; a calibration for another size is refused.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        view: Callable[[str], View],
        new_id: Callable[[str], str],
        transforms: Transforms | None,
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        self._cameras, self._view, self._new_id = cameras, view, new_id
        self._transforms, self._sizes = transforms, sizes

    def request(self, message: PointStamped) -> Request:
        """Read a point as a prompt that adds a target, on the camera in whose image it lies nearest to the middle.

        The prompt has no stamp: the point refers to what a person saw, the newest answered image.

        Args:
            message: a point, in any frame.

        Returns:
            The prompt; ``Reject`` with each camera's reason where none sees the point.
        """
        prompt_id = self._new_id("click")
        try:
            camera, pixel = self._seen(message)
        except PromptError as error:
            return Reject(prompt_id, str(error))
        return Submit(PointPrompt(prompt_id, points_px=np.array([pixel])), camera)

    def _seen(self, message: PointStamped) -> tuple[str, tuple[float, float]]:
        """Return the camera and where on its image the point is."""
        frame_id = message.header.frame_id.lstrip("/")
        point = np.array([message.point.x, message.point.y, message.point.z])
        if not frame_id:
            raise PromptError("the point has no frame_id; name the frame that it is in")
        if not np.isfinite(point).all():
            raise PromptError(f"the point is {_listed(point)}, expected finite numbers")
        stamp_ns = to_stamp_ns(message.header.stamp)
        found: list[tuple[float, str, tuple[float, float]]] = []
        reasons = []
        for camera in self._cameras:
            try:
                view = self._view(camera)
                if camera in self._sizes:
                    view.model.check_size(*self._sizes[camera])
                pixel = view.model.pixel_of(self._bring(point, frame_id, view.frame_id, stamp_ns))
            except (PromptError, SpaceError) as error:
                reasons.append(f"{camera}: {error}")
            else:
                found.append((_off_centre(pixel, view.model.width, view.model.height), camera, pixel))
        if not found:
            raise PromptError(f"no camera sees the point {_listed(point)} of frame {frame_id!r}: {'; '.join(reasons)}")
        _, camera, pixel = min(found, key=lambda item: item[0])
        return camera, pixel

    def _bring(self, point: Vector, source: str, target: str, stamp_ns: int) -> Vector:
        """Bring a point into a camera's frame."""
        if source == target:
            return point
        if self._transforms is None:
            raise PromptError(
                f"the point is in frame {source!r}, the camera in {target!r}, and tf2_ros is not installed; "
                "install it, or publish the point in the camera's frame"
            )
        transform = self._lookup(self._transforms, target, source, stamp_ns).transform
        try:
            return transform_point(transform, point)
        except SpaceError as error:
            raise PromptError(f"the transform from {source!r} to {target!r} is unusable: {error}") from error

    @staticmethod
    def _lookup(transforms: Transforms, target: str, source: str, stamp_ns: int) -> Any:
        if stamp_ns:
            try:
                return transforms.lookup(target, source, stamp_ns)
            except PromptError:
                pass  # RViz stamps with the wall clock: TF is always a little behind it, and simulated time far off
        try:
            return transforms.lookup(target, source, 0)
        except PromptError as error:
            raise PromptError(f"no transform from {source!r} to {target!r}: {error}") from error


def transform_point(transform: Transform, point: Vector) -> Vector:
    """Turn and move a point.

    Args:
        transform: geometry_msgs/Transform; its quaternion need not be of length 1.
        point: (3,).

    Raises:
        SpaceError: it holds numbers that are not finite, or a quaternion of zero.
    """
    turn, move = transform.rotation, transform.translation
    quaternion, offset = np.array([turn.x, turn.y, turn.z, turn.w]), np.array([move.x, move.y, move.z])
    length = float(np.linalg.norm(quaternion))
    if not (math.isfinite(length) and length > 1e-6 and np.isfinite(offset).all()):
        raise SpaceError(f"rotation is {_listed(quaternion)} and translation {_listed(offset)}; check who publishes it")
    axis, real = quaternion[:3] / length, quaternion[3] / length
    turned: Vector = point + 2.0 * np.cross(axis, np.cross(axis, point) + real * point)
    return turned + offset


def _off_centre(pixel: tuple[float, float], width: int, height: int) -> float:
    """Return how far a pixel lies from the middle, in widths and heights of the image."""
    return math.hypot((pixel[0] + 0.5) / width - 0.5, (pixel[1] + 0.5) / height - 0.5)


def _listed(numbers: Vector) -> str:
    return f"({', '.join(f'{number:.4g}' for number in numbers)})"

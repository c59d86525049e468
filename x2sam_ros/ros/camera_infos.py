"""The newest calibration of each camera. It comes with every image but hardly changes: it is read when it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

from x2sam_ros.errors import SpaceError, described
from x2sam_ros.ros.cdr import read_stamp
from x2sam_ros.space.camera_model import CameraModel


@dataclass(frozen=True)
class View:
    """From where a camera looks (the TF frame of its lens), and how it sees."""

    frame_id: str
    model: CameraModel


def is_rectified(image_topic: str) -> bool:
    """Tell whether the images of a topic are free of distortion; image_proc names it ``image_rect`` or alike."""
    return image_topic.rpartition("/")[2].startswith("image_rect")


class CameraInfos:
    """Calibrations of cameras.

    Args:
        topics: image topic of each camera to its camera_info topic.
        read: makes the model of a message, for images that are rectified or not; raises SpaceError.
    """

    def __init__(self, topics: Mapping[str, str], read: Callable[[CameraInfo, bool], CameraModel]) -> None:
        self._topics, self._read = topics, read
        self._newest: dict[str, bytes] = {}
        self._views: dict[str, tuple[bytes, View | SpaceError]] = {}

    def offer(self, camera: str, data: bytes) -> None:
        """Take a serialised message; any thread may call."""
        self._newest[camera] = data

    def view(self, camera: str) -> View:
        """Return the newest calibration of a camera; of one thread, the worker's.

        Raises:
            SpaceError: none has come, it is damaged, has no frame, or the camera is not calibrated.
        """
        data = self._newest.get(camera)
        if data is None:
            raise SpaceError(f"no camera_info has come on {self._topics[camera]}; check camera_info_topics")
        timeless = data[:4] + data[12:]
        if camera not in self._views or self._views[camera][0] != timeless:
            self._views[camera] = timeless, self._decode(camera, data)
        found = self._views[camera][1]
        if isinstance(found, SpaceError):
            raise found
        return found

    def _decode(self, camera: str, data: bytes) -> View | SpaceError:
        try:
            read_stamp(data)
            message: Any = deserialize_message(data, CameraInfo)
            frame_id = message.header.frame_id.lstrip("/")
            if not frame_id:
                raise SpaceError("it has no frame_id; let the camera driver name the optical frame")
            return View(frame_id, self._read(message, is_rectified(camera)))
        except Exception as error:  # whatever a damaged message makes rclpy raise
            return SpaceError(f"camera_info on {self._topics[camera]}: {described(error)}")

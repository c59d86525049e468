"""The targets of one camera in space: its masks meet the depth of their time, boxes and clouds go out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from x2sam_ros.errors import described
from x2sam_ros.msg import TargetBox3DArray
from x2sam_ros.ros import space_messages
from x2sam_ros.ros.depth_pairing import DepthPairing, Joined
from x2sam_ros.ros.image_bridge import read_picture, to_depth
from x2sam_ros.ros.interface import message_type
from x2sam_ros.space.lift import LiftedMasks

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

    from x2sam_ros.ros.camera_infos import CameraInfos
    from x2sam_ros.ros.cameras import Camera
    from x2sam_ros.ros.qos import Publishers
    from x2sam_ros.types import Frame, FrameResult

MARKER_LIFETIME_S = 1.0
"""After which RViz shows a box no more when nothing comes."""


class Seen(NamedTuple):
    """A frame and its result, which wait for depth."""

    frame: Frame
    result: FrameResult


class SpaceResults:
    """Publishers of one camera that has depth, and what waits for it. Masks never do.

    Args:
        publishers: opens the publishers, and closes them.
        camera: names them.
        depth_topic: fully resolved.
        slop_ms: how far the stamps of an image and its depth may lie apart.
        max_points: of a cloud.
        infos: calibrations by image topic.
        wake: told, by any thread, that ``publish_ready`` has something to do.
        problem: takes camera, cause and message.

    Attributes:
        trouble: why the newest result is not in space although it has depth; '' where it is.
    """

    def __init__(
        self,
        publishers: Publishers,
        camera: Camera,
        depth_topic: str,
        slop_ms: float,
        max_points: int,
        infos: CameraInfos,
        wake: Callable[[], None],
        problem: Callable[[str, str, str], None],
    ) -> None:
        def publisher(message_type: type, topic: str) -> Publisher:
            self._publishers.append(publishers.open(message_type, camera.own(topic), "reliable"))
            return self._publishers[-1]

        self._publishers: list[Publisher] = []
        self._camera, self._infos, self._max_points = camera.topic, infos, max_points
        self._problem = problem
        self.depth_topic, self.trouble = depth_topic, ""
        self.depth_type = CompressedImage if depth_topic.endswith("/compressedDepth") else Image
        self.pairing: DepthPairing[Seen] = DepthPairing(
            camera.topic, depth_topic, slop_ms, wake, lambda message: problem(camera.topic, "depth", message)
        )
        self._boxes = publisher(TargetBox3DArray, "~/boxes_3d")
        self._cloud = publisher(PointCloud2, "~/cloud")
        self._markers = publisher(MarkerArray, "~/markers")
        self._writer = space_messages.MarkerWriter(MARKER_LIFETIME_S)
        self._detections: Publisher | None = None
        with suppress(ImportError):
            self._detections = publisher(message_type("vision_msgs/msg/Detection3DArray"), "~/detections_3d")

    def publish_ready(self) -> None:
        """Publish the results that have their depth by now; of the worker's thread. Never raises."""
        for joined in self.pairing.take_ready():
            if not any(publisher.get_subscription_count() for publisher in self._publishers):
                continue
            try:
                self._publish(joined)
                self.trouble = ""
            except Exception as error:  # what cannot be lifted costs its image alone
                self.trouble = f"{self.depth_topic}: {described(error)}"
                self._problem(self._camera, "depth", self.trouble)

    def _publish(self, joined: Joined[Seen]) -> None:
        frame, result = joined.result
        depth = to_depth(read_picture(joined.depth, self.depth_type))
        lifted = LiftedMasks(result.masks, result.target_ids, depth, self._infos.view(self._camera).model)
        if self._boxes.get_subscription_count():
            self._boxes.publish(space_messages.box_array(result, lifted.boxes))
        if self._markers.get_subscription_count():
            self._markers.publish(self._writer.write(result, lifted.boxes))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(space_messages.detections_3d(result, lifted.boxes))
        if self._cloud.get_subscription_count():
            self._cloud.publish(space_messages.point_cloud(result, lifted.cloud(frame.image, self._max_points)))

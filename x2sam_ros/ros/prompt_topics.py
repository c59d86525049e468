"""Prompts that come on topics: what each topic's messages ask for, and what is said of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Point, PointStamped
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from x2sam_ros.errors import PromptError
from x2sam_ros.msg import Prompt
from x2sam_ros.ros import convert
from x2sam_ros.ros.clicked_point import ClickedPoints
from x2sam_ros.ros.requests import Reject, Request
from x2sam_ros.ros.transforms import TfTransforms, open_transforms
from x2sam_ros.types import Grounding, GroundingStatus

if TYPE_CHECKING:
    from rclpy.node import Node

    from x2sam_ros.ros.camera_infos import CameraInfos
    from x2sam_ros.ros.cameras import Camera

Listen = Callable[[type, str, Callable[[bytes], None], str], None]
"""Subscribes: message class, topic, callback of the bytes, kind of QoS."""


class PromptTopics:
    """Hands prompts to the worker as bytes, to be read there.

    Args:
        node: has the topics.
        cameras: all of the node.
        clicked_point_topic: of points in space, fully resolved; '' for none.
        infos: calibrations by image topic.
        sizes: image topic to (width, height) of its newest image, where known.
        new_id: makes a prompt id from a word; called on the worker's thread.
        post: queues what reads a request; raises PromptError where there is no room.
        reject: takes what became of a prompt that there is no room for.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[Camera],
        clicked_point_topic: str,
        infos: CameraInfos,
        sizes: Mapping[str, tuple[int, int]],
        new_id: Callable[[str], str],
        post: Callable[[Callable[[], Request]], None],
        reject: Callable[[Grounding], None],
    ) -> None:
        self._node, self._cameras, self._clicked_point_topic = node, cameras, clicked_point_topic
        self._infos, self._sizes, self._new_id, self._post, self._reject = infos, sizes, new_id, post, reject
        self._transforms: TfTransforms | None = None

    def open(self, listen: Listen) -> None:
        """Subscribe to all topics."""
        for camera in self._cameras:
            self._hear(listen, PointStamped, camera.own("~/click"), self._click_reader(camera.topic))
            self._hear(listen, Point, f"{camera.topic}_mouse_left", self._click_reader(camera.topic))
            self._hear(listen, String, camera.own("~/text"), self._text_reader(camera.topic))
        if len(self._cameras) > 1:  # what does not say which is rejected with the names
            self._hear(listen, PointStamped, "~/click", self._click_reader(""))
            self._hear(listen, String, "~/text", self._text_reader(""))
        self._hear(listen, Prompt, "~/prompt", lambda message: convert.request_from_prompt(message, self._new_id))
        if self._clicked_point_topic:
            self._transforms = open_transforms(self._node, self._clicked_point_topic)
            names = [camera.topic for camera in self._cameras]
            points = ClickedPoints(names, self._infos.view, self._new_id, self._transforms, self._sizes)
            self._hear(listen, PointStamped, self._clicked_point_topic, points.request)

    def close(self) -> None:
        """Listen to TF no more; the subscriptions are the caller's."""
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None

    def _click_reader(self, camera: str) -> Callable[[Any], Request]:
        return lambda message: convert.request_from_click(message, self._new_id, camera)

    def _text_reader(self, camera: str) -> Callable[[Any], Request]:
        return lambda message: convert.request_from_text(message, self._new_id, camera)

    def _hear(self, listen: Listen, kind: type, topic: str, to_request: Callable[[Any], Request]) -> None:
        def read(data: bytes) -> Request:
            try:
                return to_request(deserialize_message(data, kind))
            except UnicodeDecodeError as error:
                return Reject("", f"message on {topic} holds text that is not UTF-8 ({error.reason}); send UTF-8")

        def callback(data: bytes) -> None:
            try:
                self._post(partial(read, data))
            except PromptError as error:
                self._reject(Grounding("", GroundingStatus.REJECTED, message=str(error)))

        listen(kind, topic, callback, "prompt")

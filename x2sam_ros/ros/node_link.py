"""Find a running node and be its camera: sure that both sides hear each other, or told why they do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from sensor_msgs.msg import CompressedImage, Image

from x2sam_ros.errors import ConfigError, NodeError
from x2sam_ros.msg import Prompt as PromptMsg
from x2sam_ros.msg import TargetArray
from x2sam_ros.ros.cameras import name_cameras
from x2sam_ros.ros.qos import PROFILES
from x2sam_ros.ros.recorder import QUEUE_DEPTH, Recorder
from x2sam_ros.srv import ListTargets

FIND_TIMEOUT_S = 10.0
"""How long a node that should be there, its topics and its services are looked for."""

ANSWER_TIMEOUT_S = 300.0
"""How long an answer may take: a large model on a CPU needs minutes for an image."""


class NodeLink(Recorder):
    """Talks to one camera of a node. Of one thread.

    Args:
        target: full name of the node.
        is_alive: whether the node's process still runs, where that is known.
        context: of rclpy; the global one by default.

    Raises:
        ConfigError: the name is none.
    """

    def __init__(
        self, target: str, is_alive: Callable[[], bool] = lambda: True, context: Context | None = None
    ) -> None:
        try:
            super().__init__(target, f"x2sam_live_player_{os.getpid()}", context)
        except NameValidationException as error:
            raise ConfigError(f"{target!r} is not the name of a node: {' '.join(str(error).split())}") from error
        self._target, self._is_alive = target, is_alive
        self._camera = self._image_topic = self._masks_topic = ""
        self._owners: dict[int, str] = {}  # target id to prompt id
        self._listing = self.create_client(ListTargets, f"{target}/list_targets")
        self._prompts = self.create_publisher(PromptMsg, f"{target}/prompt", PROFILES["prompt"])

    def connect(self, image_topic: str | None = None, start_timeout_s: float = FIND_TIMEOUT_S) -> None:
        """Wait until the node is active and both sides hear each other.

        Args:
            image_topic: of the camera to be; None takes the node's only one.
            start_timeout_s: how long the node may take to become active.

        Raises:
            NodeError: that does not come about; names node and topic.
        """
        self._wait(lambda: self.is_ready, start_timeout_s, lambda: self._why_not_ready(start_timeout_s))
        cameras = tuple(listing.camera for listing in self._list_targets())
        wanted = image_topic and "/" + image_topic.lstrip("/")
        if wanted not in cameras and (wanted or len(cameras) != 1):
            found = f"no camera {wanted}" if wanted else f"{len(cameras)} cameras"
            raise NodeError(f"{self._target} has {found}; name one of its image topics: {', '.join(cameras)}")
        self._camera = wanted or cameras[0]
        named = name_cameras(cameras, self._target.rpartition("/")[0] or "/")
        camera = next(camera for camera in named if camera.topic == self._camera)
        self._masks_topic = camera.own("~/masks").replace("~", self._target, 1)
        self.hear_masks(self._masks_topic)
        self.create_subscription(
            TargetArray, camera.own("~/targets").replace("~", self._target, 1), self._own, QUEUE_DEPTH
        )
        self._open_image()
        self._wait(lambda: self._is_matched() or bool(self._misfits()), FIND_TIMEOUT_S, self._why_not_matched)
        self._check(not self._misfits(), self._why_not_matched)
        self._wait(lambda: not self._rivals(), FIND_TIMEOUT_S, self._why_not_alone)

    def _own(self, listing: TargetArray) -> None:
        self._owners.update({target.target_id: target.prompt_id for target in listing.targets})

    def _list_targets(self) -> list[TargetArray]:
        listings: list[TargetArray] = self._call(self._listing, ListTargets.Request()).cameras
        for listing in listings:
            if listing.camera == self._camera:
                self._own(listing)
        return listings

    def _call(self, client: Any, request: Any) -> Any:
        """Call a service of the node and return its answer; NodeError where it has none, or a refusal."""
        self._wait(client.service_is_ready, FIND_TIMEOUT_S, lambda: f"there is no service {client.srv_name}")
        future = client.call_async(request)
        self._wait(
            future.done, ANSWER_TIMEOUT_S, lambda: f"{client.srv_name} did not answer in {ANSWER_TIMEOUT_S:.0f} s"
        )
        answer = future.result()
        self._check(answer.success, lambda: f"{client.srv_name}: {answer.message}")
        return answer

    def _wait(self, condition: Callable[[], bool], timeout_s: float, complaint: Callable[[], str]) -> None:
        self.spin_while(lambda: not condition() and self._is_alive(), timeout_s)
        self._check(condition(), complaint)

    def _check(self, is_well: bool, complaint: Callable[[], str] = lambda: "") -> None:
        if not self._is_alive():
            raise NodeError(f"{self._target} has ended")
        if not is_well:
            raise NodeError(complaint())

    def _open_image(self) -> None:
        """Find out whether the node takes raw or compressed images, and be the camera."""
        kinds = {self._camera: Image, f"{self._camera}/compressed": CompressedImage}

        def heard() -> list[str]:
            ends = {topic: self.get_subscriptions_info_by_topic(topic) for topic in kinds}
            return [topic for topic in kinds if self._target in map(_full_name, ends[topic])]

        self._wait(
            lambda: bool(heard()), FIND_TIMEOUT_S, lambda: f"{self._target} subscribes to none of {', '.join(kinds)}"
        )
        self._image_topic = heard()[0]
        # reliable, so that it fits whatever the node asks for; by default that is best effort
        self._image = self.create_publisher(kinds[self._image_topic], self._image_topic, QoSProfile(depth=5))

    def _pairs(self, topic: str) -> list[tuple[Any, Any]]:
        """Return publisher and subscription of a topic, of which one is the node's and one our own."""
        ends = {self._target, self.get_fully_qualified_name()}
        publishers, subscriptions = (
            self.get_publishers_info_by_topic(topic),
            self.get_subscriptions_info_by_topic(topic),
        )
        return [(a, b) for a in publishers for b in subscriptions if {_full_name(a), _full_name(b)} == ends]

    def _topics(self) -> tuple[str, ...]:
        return self._image_topic, f"{self._target}/prompt", self._masks_topic, f"{self._target}/groundings"

    def _misfits(self) -> list[str]:
        """Say of each topic whose quality of service does not fit what is wrong with it."""
        found = []
        for topic in self._topics():
            for publisher, subscription in self._pairs(topic):
                fit, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
                if fit == QoSCompatibility.ERROR:
                    found.append(f"{topic}: {reason.removeprefix('ERROR: ').rstrip('; ')}")
        return found

    def _is_matched(self) -> bool:
        sides = (self._image.get_subscription_count(), self._prompts.get_subscription_count())
        return all(sides) and all(self._pairs(topic) for topic in self._topics())

    def _why_not_matched(self) -> str:
        if misfits := self._misfits():
            return f"quality of service does not fit {self._target} on {'; '.join(misfits)}; change its qos_overrides"
        missing = [topic for topic in self._topics() if not self._pairs(topic)]
        return f"{self._target} was not reached within {FIND_TIMEOUT_S:.0f} s on {', '.join(missing or self._topics())}"

    def _why_not_ready(self, timeout_s: float) -> str:
        names = sorted({f"{space.rstrip('/')}/{name}" for name, space in self.get_node_names_and_namespaces()})
        if self._target in names:
            how = " and then ".join(f"ros2 lifecycle set {self._target} {step}" for step in ("configure", "activate"))
            return f"{self._target} is there and was not active within {timeout_s:.0f} s; first run {how}"
        others = ", ".join(name for name in names if name != self.get_fully_qualified_name()) or "none"
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return (
            f"no node {self._target} within {timeout_s:.0f} s in ROS domain {domain}, whose nodes are: {others}; "
            "start it, or name another"
        )

    def _rivals(self) -> set[str]:
        names = set(map(_full_name, self.get_publishers_info_by_topic(self._image_topic)))
        return names - {self.get_fully_qualified_name()}

    def _why_not_alone(self) -> str:
        return f"{', '.join(sorted(self._rivals()))} publishes on {self._image_topic}, too; stop that camera first"


def _full_name(end: Any) -> str:
    """Return the name of the node that has a publisher or subscription."""
    return f"{end.node_namespace.rstrip('/')}/{end.node_name}"

"""Listen to a running x2sam_node and keep what it says, with the moment each message came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool

from x2sam_ros.bag.messages import read_grounding, read_stamp_ns, read_tracked_mask_array
from x2sam_ros.msg import Grounding as GroundingMsg
from x2sam_ros.msg import TrackedMaskArray
from x2sam_ros.types import FrameResult, Grounding

QUEUE_DEPTH = 200
"""Messages that may wait while this process is busy; a recording must not be what loses them."""

SPIN_PERIOD_S = 0.05
"""How long one wait for messages lasts at most."""


class Answer(NamedTuple):
    """One answered image.

    Attributes:
        result: its targets and the groundings that carry its stamp.
        latency_ms: from the image's stamp to the receipt of its masks; both clocks are this machine's.
        node_latency_ms: the node's part of it, from receipt to publishing.
        frames_dropped: images the node had dropped until then.
    """

    result: FrameResult
    latency_ms: float
    node_latency_ms: float
    frames_dropped: int


class Recorder(Node):
    """Subscribes to the outputs of a node; decoding waits until they are asked for, so that nothing is lost.

    Args:
        target: full name of the node to listen to.
        name: of this one.
        context: of rclpy; the global one by default.
    """

    def __init__(
        self, target: str = "/x2sam_node", name: str = "x2sam_recorder", context: Context | None = None
    ) -> None:
        super().__init__(name, context=context)
        self.is_ready = False
        self.last_heard_s = time.monotonic()
        self._masks: list[tuple[TrackedMaskArray, int]] = []
        self._groundings: list[GroundingMsg] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Bool, f"{target}/ready", self._on_ready, latched)
        self.create_subscription(GroundingMsg, f"{target}/groundings", self._groundings.append, QUEUE_DEPTH)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def hear_masks(self, topic: str) -> None:
        """Subscribe to the masks of a camera."""
        self.create_subscription(TrackedMaskArray, topic, self._on_masks, QUEUE_DEPTH)

    def spin_while(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Listen as long as the condition holds; False when it still held after ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        while condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, SPIN_PERIOD_S))
        return True

    def spin_until_quiet(self, quiet_s: float, timeout_s: float) -> None:
        """Listen until no masks have come for ``quiet_s``."""
        self.last_heard_s = time.monotonic()
        self.spin_while(lambda: time.monotonic() - self.last_heard_s < quiet_s, timeout_s)

    def answers(self) -> list[Answer]:
        """Decode what came, in the order it came."""
        groundings = self.groundings()
        return [
            Answer(
                read_tracked_mask_array(
                    message, tuple(item for item in groundings if item.stamp_ns == read_stamp_ns(message.header))
                ),
                (received_ns - read_stamp_ns(message.header)) * 1e-6,
                message.latency_ms,
                message.frames_dropped,
            )
            for message, received_ns in self._masks
        ]

    def groundings(self) -> list[Grounding]:
        """Decode what became of the prompts, in the order it came."""
        return [read_grounding(message) for message in self._groundings]

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self.destroy_node()

    def _on_ready(self, message: Bool) -> None:
        self.is_ready = message.data

    def _on_masks(self, message: TrackedMaskArray) -> None:
        self.last_heard_s = time.monotonic()
        self._masks.append((message, time.time_ns()))


@contextmanager
def open_recorder(target: str = "/x2sam_node") -> Iterator[Recorder]:
    """Join the ROS graph as a recorder and leave it at the end."""
    rclpy.init()
    try:
        with closing(Recorder(target)) as recorder:
            recorder.hear_masks(f"{target}/masks")
            yield recorder
    finally:
        rclpy.try_shutdown()

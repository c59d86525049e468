"""TF, where tf2_ros is installed. It is listened to from when somebody can click in space: a robot's /tf is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from x2sam_ros.errors import PromptError

if TYPE_CHECKING:
    from geometry_msgs.msg import TransformStamped

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

WATCH_PERIOD_S = 0.5
"""How often it is looked whether somebody publishes points."""


class TfTransforms:
    """Looks transforms up.

    Args:
        node: has the subscriptions, from when there is a publisher of points.
        topic: theirs, fully resolved.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, topic
        self._buffer = tf2_ros.Buffer()
        self._listener: Any = None
        # The clock of a buffer without a node does not know simulated time; one with a node opens a service.
        jumps = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = node.get_clock().create_jump_callback(jumps, post_callback=lambda jump: self._buffer.clear())
        self._timer = node.create_timer(WATCH_PERIOD_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._watch()

    def lookup(self, target: str, source: str, stamp_ns: int) -> TransformStamped:
        """Return what brings points of frame ``source`` to ``target``, at a time or, for 0, the latest; never waits.

        Raises:
            PromptError: there is none.
        """
        if self._listener is None:
            raise PromptError("TF is not listened to before somebody can click; click again in a second")
        try:
            return self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns))
        except (tf2_ros.TransformException, ValueError) as error:
            raise PromptError(" ".join(str(error).split())) from error

    def close(self) -> None:
        """Listen no more."""
        self._jumps.unregister()
        self._node.destroy_timer(self._timer)
        if self._listener is not None:
            self._listener.unregister()

    def _watch(self) -> None:
        if self._node.count_publishers(self._topic):
            self._listener = tf2_ros.TransformListener(self._buffer, self._node)
            self._timer.cancel()


def open_transforms(node: Node, topic: str) -> TfTransforms | None:
    """Make transforms for points that come on a topic; None where tf2_ros is not installed."""
    return None if tf2_ros is None or not topic else TfTransforms(node, topic)

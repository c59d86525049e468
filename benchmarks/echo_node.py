"""Run the least a ROS 2 node in Python can do: answer every image with as many bytes as five masks have, unread.

It stands in for x2sam_node (same topics, same parameter of image_transport), so that what remains of a latency is the
middleware's and rclpy's.
"""

from __future__ import annotations

import argparse
import ctypes

import rclpy
from node_process import CAMERA, NODE
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from x2sam_ros.msg import Timings, TrackedMask, TrackedMaskArray

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 32 << 20

RUNS = 560
"""Run lengths of a mask, on average, as those of cheap_node.py have at 1280x720."""


class Echo(Node):
    """Publishes masks and timings of nothing with the stamp of each image."""

    def __init__(self, jpeg: bool, reliable: bool, targets: int) -> None:
        super().__init__(NODE.strip("/"), automatically_declare_parameters_from_overrides=True)
        masks = [TrackedMask(label="given", rle=[1] * RUNS) for _ in range(targets)]
        self._masks = serialize_message(TrackedMaskArray(masks=masks))
        self._timings = Timings(stages=["step", "decode", "publish"], stage_ms=[0.0] * 3)
        self._masks_out = self.create_publisher(TrackedMaskArray, "~/masks", 10)
        self._timings_out = self.create_publisher(Timings, "~/timings", 10)
        topic, kind = (f"{CAMERA}/compressed", CompressedImage) if jpeg else (CAMERA, Image)
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self.create_subscription(kind, topic, self._on_image, QoSProfile(depth=5, reliability=reliability), raw=True)
        ready = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._ready = self.create_publisher(Bool, "~/ready", ready)
        self._ready.publish(Bool(data=True))

    def _on_image(self, data: bytes) -> None:
        self._masks_out.publish(self._masks[:4] + data[4:12] + self._masks[12:])
        timings = serialize_message(self._timings)
        self._timings_out.publish(timings[:4] + data[4:12] + timings[12:])


def main() -> None:
    """Run the node until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jpeg", action="store_true", help="hear compressed images")
    parser.add_argument("--reliable", action="store_true", help="QoS of the images")
    parser.add_argument("--targets", type=int, default=5)
    options, _ = parser.parse_known_args()  # the rest is ROS's
    # glibc would give the memory of each image back, and the kernel clear it anew for the next: twice the time.
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    rclpy.init()
    rclpy.spin(Echo(options.jpeg, options.reliable, options.targets))


if __name__ == "__main__":
    main()

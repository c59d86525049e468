"""A node in its own process and a client that talks to it over DDS, in a ROS graph of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

from tests.ros.domains import enter_own_graph
from x2sam_ros.msg import Grounding, TrackedMaskArray

ROOT = Path(__file__).resolve().parents[2]
THRESHOLD_NODE = [str(ROOT / "tests/ros/threshold_session.py")]
REAL_NODE = ["-m", "x2sam_ros.ros.node"]
CAMERA = "/camera/image_raw"
HEIGHT, WIDTH = 96, 128


def picture() -> np.ndarray:
    """uint8 (96, 128, 3): a red and a blue square on black."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[10:40, 10:40] = (220, 30, 30)
    image[50:90, 80:120] = (30, 30, 220)
    return image


class Client(Node):
    """Publishes images and prompts, keeps what comes back."""

    def __init__(self) -> None:
        super().__init__("x2sam_test_client")
        self.masks: list[TrackedMaskArray] = []
        self.groundings: list[Grounding] = []
        self.ready: list[Bool] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Bool, "/x2sam_node/ready", self.ready.append, latched)
        self.create_subscription(TrackedMaskArray, "/x2sam_node/masks", self.masks.append, 100)
        self.create_subscription(Grounding, "/x2sam_node/groundings", self.groundings.append, 100)
        self.camera = self.create_publisher(Image, CAMERA, qos_profile_sensor_data)
        self.sent = 0
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, "the node did not answer in time"
            self.spinner.spin_once(timeout_sec=0.02)

    def rest(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.spinner.spin_once(timeout_sec=0.02)

    def publisher(self, message_type: type, topic: str) -> Any:
        """Make a publisher and wait until the node is connected to it."""
        made = self.create_publisher(message_type, topic, 10)
        self.wait(made.get_subscription_count)
        self.rest(0.3)
        return made

    def send_image(self, image: np.ndarray | None = None, **changes: Any) -> None:
        """Publish a picture with the stamp (number of images sent so far) seconds and 7 ns."""
        pixels = picture() if image is None else image
        self.sent += 1
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=pixels.shape[1] * 3)
        message.header.frame_id = "camera_optical_frame"
        message.header.stamp.sec, message.header.stamp.nanosec = self.sent, 7
        message.data.frombytes(pixels.tobytes())
        for name, value in changes.items():
            setattr(message, name, value)
        self.camera.publish(message)

    def answer(self, **changes: Any) -> TrackedMaskArray:
        """Send an image, or more should it be lost, and return its masks."""
        end_s = time.monotonic() + 20.0
        while time.monotonic() < end_s:
            self.send_image(**changes)
            for _ in range(20):
                self.rest(0.05)
                if self.masks and self.masks[-1].header.stamp.sec == self.sent:
                    return self.masks[-1]
        raise AssertionError("no image was answered")

    def outcome(self, prompt_id: str) -> Grounding:
        """Wait for what became of a prompt, with images for it: one may be lost, or come before the prompt."""
        end_s = time.monotonic() + 20.0
        while time.monotonic() < end_s:
            self.send_image()
            for _ in range(10):
                self.rest(0.05)
                for item in self.groundings:
                    if item.prompt_id == prompt_id:
                        return item
        raise AssertionError(f"nothing became of prompt {prompt_id}")


ClientType = TypeVar("ClientType", bound=Client)


@contextmanager
def own_graph(monkeypatch: Any, kind: type[ClientType] = Client) -> Iterator[ClientType]:  # type: ignore[assignment]
    """Join a ROS graph that nobody else is in, nor was lately: a node that was killed stays in it for its lease."""
    enter_own_graph(monkeypatch)
    rclpy.init()
    client = kind()
    try:
        yield client
    finally:
        client.spinner.shutdown()
        client.destroy_node()
        rclpy.shutdown()


@contextmanager
def running_node(command: list[str], *parameters: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node as a process; it must end by itself, with code 0, when it is told to."""
    options = [word for parameter in parameters for word in ("-p", parameter)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--ros-args", *options], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
        try:
            yield process
            assert process.poll() is None, f"the node died:\n{log.read_text()}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

"""What benchmarks of a node in another process share: that process, and a camera and an ear that cost little."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

CAMERA, NODE = "/camera/image_raw", "/x2sam_node"
CHEAP_NODE = (str(Path(__file__).with_name("cheap_node.py")),)
ECHO_NODE = (str(Path(__file__).with_name("echo_node.py")),)
REAL_NODE = ("-m", "x2sam_ros.ros.node")
JPEG_QUALITY = 90

PROFILES = Path(__file__).resolve().parents[1] / "config/fastdds.xml"
"""Shared memory that holds whole images."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class NodeProcess:
    """A node in its own process.

    Args:
        command: arguments of Python.
        parameters: ``name:=value``.
        environment: of the process; that of this one by default.
    """

    def __init__(
        self, command: Sequence[str], parameters: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        words = [word for parameter in parameters for word in ("-p", parameter)]
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *command, "--ros-args", *words],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    @property
    def resident_mib(self) -> float:
        return int(self._proc("statm").read_text().split()[1]) * _PAGE / 2**20

    @property
    def anonymous_mib(self) -> float:
        """Resident size without libraries and shared memory: what the process has allocated."""
        lines = self._proc("status").read_text().splitlines()
        return float(next((line.split()[1] for line in lines if line.startswith("RssAnon:")), "nan")) / 1024

    @property
    def cpu_s(self) -> float:
        """Seconds of all cores that the process has used."""
        fields = self._proc("stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def threads(self) -> int:
        return len(list(self._proc("task").iterdir()))

    @property
    def open_files(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 5.0) -> int:
        """Send SIGTERM and wait; return the exit code, -9 where it had to be killed."""
        self.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self._process.pid}/{name}")


class Ear(Node):
    """A node of this process that hears ``~/ready`` and what else it is told to, as bytes."""

    def __init__(self) -> None:
        super().__init__("x2sam_benchmark")
        self.is_ready = False
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Bool, f"{NODE}/ready", self._on_ready, latched)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def hear(self, kind: type, topic: str, callback: Callable[[bytes], None]) -> None:
        """Subscribe, reliably; the callback gets the serialised message."""
        self.create_subscription(kind, topic, callback, QoSProfile(depth=100), raw=True)

    def spin_until(self, end_s: float, condition: Callable[[], Any] = lambda: False) -> bool:
        """Run callbacks until ``time.monotonic()`` is ``end_s`` or the condition holds, which is returned."""
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._spinner.spin_once(timeout_sec=left_s)
        return True

    def wait_ready(self, process: NodeProcess, timeout_s: float = 60.0) -> None:
        """Wait until the node is active.

        Raises:
            SystemExit: it ended, or was not in time.
        """
        end_s = time.monotonic() + timeout_s
        while not self.spin_until(time.monotonic() + 0.1, lambda: self.is_ready):
            if not process.is_alive or time.monotonic() > end_s:
                raise SystemExit(f"the node did not become active:\n{process.log}")

    def close(self) -> None:
        self._spinner.shutdown()
        self.destroy_node()

    def _on_ready(self, message: Bool) -> None:
        self.is_ready = message.data


class Camera:
    """Publishes one picture again and again, serialised once, each time with another stamp.

    Args:
        ear: its node.
        picture: uint8 (H, W, 3), RGB.
        jpeg: publish a CompressedImage on ``<topic>/compressed``.
        reliable: QoS; best effort as cameras usually have it by default.
        topic: of the raw image.
    """

    def __init__(
        self,
        ear: Ear,
        picture: npt.NDArray[np.uint8],
        jpeg: bool = False,
        reliable: bool = False,
        topic: str = CAMERA,
    ) -> None:
        kind = CompressedImage if jpeg else Image
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._publisher = ear.create_publisher(
            kind, f"{topic}/compressed" if jpeg else topic, QoSProfile(depth=5, reliability=reliability)
        )
        self.show(picture, jpeg)

    @property
    def is_heard(self) -> bool:
        return bool(self._publisher.get_subscription_count())

    def show(self, picture: npt.NDArray[np.uint8], jpeg: bool = False) -> None:
        """Take another picture."""
        message: Any = CompressedImage(format="jpeg") if jpeg else raw_image(picture)
        if jpeg:
            bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            packed = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1]
            message.data.frombytes(packed.tobytes())
        message.header.frame_id = "camera_optical_frame"
        self._data = serialize_message(message)

    def publish(self, stamp_ns: int) -> float:
        """Publish the picture; return when that began (``time.monotonic``)."""
        stamp = struct.pack("<iI", *divmod(stamp_ns, 1_000_000_000))
        data = b"".join((self._data[:4], stamp, self._data[12:]))
        begun_s = time.monotonic()
        self._publisher.publish(data)
        return begun_s


def raw_image(picture: npt.NDArray[np.uint8]) -> Image:
    """Write a picture as rgb8."""
    height, width = picture.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(picture.tobytes())
    return message


def stamp_of(data: bytes) -> int:
    """Return the stamp of a serialised message that begins with a header, in nanoseconds."""
    sec, nanosec = struct.unpack_from("<iI", data, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def scenery(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw a picture that is about as hard to compress as a photograph: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 90), (16, 40), (64, 20), (256, 8)):
        coarse = rng.standard_normal((cells * height // width + 1, cells, 3), np.float32)
        picture += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(128, 3, picture.shape)
    return np.asarray(picture.clip(0, 255), np.uint8)


def load_average() -> str:
    """Return how many processes have been running or waiting for a core, mean of a minute."""
    return f"load {os.getloadavg()[0]:.1f}"


@contextmanager
def own_graph(large: bool = True) -> Iterator[Ear]:
    """Join a ROS graph that nobody else on this machine is in.

    Args:
        large: Fast DDS gets the shared memory of config/fastdds.xml, here and in the nodes that are started; else its
            own. A process decides it once.
    """
    if large:
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(PROFILES)
    os.environ["ROS_DOMAIN_ID"] = str(30 + os.getpid() % 70)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ear = Ear()
    try:
        yield ear
    finally:
        ear.close()
        rclpy.try_shutdown()


@contextmanager
def running(ear: Ear, command: Sequence[str], parameters: Sequence[str] = ()) -> Iterator[NodeProcess]:
    """Start a node, wait until it is active, and end it."""
    ear.is_ready = False
    process = NodeProcess(command, parameters)
    try:
        ear.wait_ready(process)
        yield process
    finally:
        process.stop()

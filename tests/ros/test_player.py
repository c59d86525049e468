"""The player is a live camera: stamps are the moment of publishing, recorded clicks follow their image."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tests.ros.harness import CAMERA, ROOT, own_graph
from x2sam_ros.ros.player import read_stamp, restamp

TYPES = get_typestore(Stores.ROS2_HUMBLE)
CLICK = "/clicks"


def test_restamp_changes_the_stamp_alone() -> None:
    message = PointStamped(header=Header(stamp=Time(sec=1, nanosec=2), frame_id="camera"))
    message.point.x = 4.5
    data = serialize_message(message)
    assert read_stamp(data) == 1_000_000_002
    changed = deserialize_message(restamp(data, 7_000_000_009), PointStamped)
    message.header.stamp = Time(sec=7, nanosec=9)
    assert changed == message


def write_bag(folder: Path, num_images: int, period_ns: int) -> None:
    def stamped(type_name: str, index: int, **fields: object) -> bytes:
        stamp = TYPES.types["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=index)
        header = TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
        return TYPES.serialize_cdr(TYPES.types[type_name](header=header, **fields), type_name)

    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection(CAMERA, "sensor_msgs/msg/Image", typestore=TYPES)
        clicks = writer.add_connection(CLICK, "geometry_msgs/msg/PointStamped", typestore=TYPES)
        for index in range(num_images):
            size = {"height": 2, "width": 2, "step": 6, "encoding": "rgb8", "is_bigendian": 0}
            data = np.full(12, index, np.uint8)
            writer.write(camera, index * period_ns, stamped("sensor_msgs/msg/Image", index, data=data, **size))
        point = TYPES.types["geometry_msgs/msg/Point"](x=1.0, y=2.0, z=0.0)
        click = stamped("geometry_msgs/msg/PointStamped", 2, point=point)
        writer.write(clicks, (num_images - 1) * period_ns + 1, click)


def test_a_bag_is_played_at_its_rate_with_new_stamps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", num_images=10, period_ns=100_000_000)
    stamps = tmp_path / "stamps.json"
    command = [sys.executable, "-m", "x2sam_ros.ros.player", str(tmp_path / "bag"), "--stamps", str(stamps)]
    images: list[tuple[Image, int]] = []
    clicks: list[PointStamped] = []
    with own_graph(monkeypatch) as client:
        client.create_subscription(
            Image, CAMERA, lambda message: images.append((message, time.time_ns())), qos_profile_sensor_data
        )
        client.create_subscription(PointStamped, CLICK, clicks.append, 10)
        process = subprocess.Popen(command, cwd=ROOT)
        client.wait(lambda: process.poll() is not None)
        client.rest(0.3)
    assert process.returncode == 0
    pairs = json.loads(stamps.read_text())
    assert [recorded for recorded, _ in pairs] == [(100 + i) * 1_000_000_000 + i for i in range(10)]
    published = [new for _, new in pairs]
    assert 0.85e9 < published[-1] - published[0] < 1.5e9
    assert [read_stamp(serialize_message(message)) for message, _ in images] == published
    assert [message.data[0] for message, _ in images] == list(range(10))
    assert all(0 <= received - sent < 1e9 for (_, received), sent in zip(images, published))
    assert read_stamp(serialize_message(clicks[0])) == published[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "missing"),
        (["bag", "--topic", "/nothing"], f"it has: {CAMERA}, {CLICK}"),
        (["bag", "--wait", "0.2"], "nobody subscribed"),
    ],
)
def test_what_cannot_be_played_is_one_line_and_code_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", num_images=1, period_ns=1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    command = [sys.executable, "-m", "x2sam_ros.ros.player", *arguments]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert run.returncode == 2 and said in run.stderr
    assert run.stderr.count("\n") == 1 and run.stderr.startswith("error: ")

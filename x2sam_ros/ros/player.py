"""Play a bag as a live camera would: at its own rate, each image stamped with the moment it is published.

Messages are sent as the bytes they were recorded in. A message that starts with a header gets a new stamp: an image
the time of publishing, anything else the new stamp of the image its old stamp named, so that a recorded click still
refers to the image that was clicked on. ``python -m x2sam_ros.ros.player BAG`` is the command behind `x2sam demo`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rosbags.highlevel import AnyReader, AnyReaderError

from x2sam_ros.errors import BagError, X2SamError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

SETTLE_S = 0.5
"""Wait after discovery: the other side may learn of a match a little later than this one."""

DELIVERY_S = 5.0
"""Longest wait for subscribers to acknowledge the last messages."""


class _Outlet(NamedTuple):
    """Where the messages of one topic go."""

    publisher: Publisher
    is_image: bool
    is_stamped: bool


def restamp(data: bytes, stamp_ns: int) -> bytes:
    """Replace the stamp of a serialised message whose first field is a header.

    Args:
        data: CDR with its 4-byte encapsulation, whose second byte is 1 for little-endian.
        stamp_ns: new stamp.
    """
    order = "<" if data[1] & 1 else ">"
    stamp = struct.pack(f"{order}iI", stamp_ns // 1_000_000_000, stamp_ns % 1_000_000_000)
    return b"".join((data[:4], stamp, data[12:]))


def read_stamp(data: bytes) -> int:
    """Read the stamp, in nanoseconds, of a serialised message whose first field is a header."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def play(bag: Path, topics: list[str], rate: float, wait_s: float, node: Node) -> list[tuple[int, int]]:
    """Publish the messages of a bag at their recorded distances in time.

    Args:
        bag: rosbag2 folder or file.
        topics: topics to play; empty plays all of them.
        rate: speed; 2.0 plays twice as fast.
        wait_s: how long to wait until every topic has a subscriber.
        node: publishes.

    Returns:
        (recorded stamp, published stamp) of every image, nanoseconds, in order.

    Raises:
        BagError: the bag cannot be read, holds none of the topics, or nobody subscribes to one of them.
    """
    try:
        with AnyReader([bag]) as reader:
            chosen = [item for item in reader.connections if not topics or item.topic in topics]
            if not chosen:
                found = ", ".join(sorted({item.topic for item in reader.connections}))
                raise BagError(f"{bag} has none of the topics {', '.join(topics)}; it has: {found}")
            outlets = {item.topic: _open_outlet(node, item.topic, item.msgtype) for item in chosen}
            _wait_for_subscribers(outlets, wait_s)
            stamps = _send(reader.messages(chosen), outlets, rate)
            _wait_for_delivery(outlets)
            return stamps
    except (AnyReaderError, OSError) as error:
        raise BagError(f"{bag} cannot be read as a bag: {' '.join(str(error).split())}") from error


def _open_outlet(node: Node, topic: str, type_name: str) -> _Outlet:
    package, _, name = type_name.partition("/msg/")
    message_type: Any = getattr(importlib.import_module(f"{package}.msg"), name)
    is_image = type_name in IMAGE_TYPES
    publisher = node.create_publisher(message_type, topic, qos_profile_sensor_data if is_image else 10)
    fields = message_type.get_fields_and_field_types()
    return _Outlet(publisher, is_image, next(iter(fields.values()), "") == "std_msgs/Header")


def _wait_for_subscribers(outlets: dict[str, _Outlet], wait_s: float) -> None:
    end_s = time.monotonic() + wait_s
    while alone := [topic for topic, outlet in outlets.items() if not outlet.publisher.get_subscription_count()]:
        if time.monotonic() > end_s:
            raise BagError(f"nobody subscribed to {', '.join(alone)} within {wait_s:.0f} s; start the node first")
        time.sleep(0.02)
    time.sleep(SETTLE_S)


def _wait_for_delivery(outlets: dict[str, _Outlet]) -> None:
    """Wait until the reliable messages have arrived: what is still on its way when a publisher goes away is lost."""
    for outlet in outlets.values():
        outlet.publisher.wait_for_all_acked(Duration(seconds=DELIVERY_S))
    time.sleep(SETTLE_S)  # nobody acknowledges best-effort images


def _send(messages: Any, outlets: dict[str, _Outlet], rate: float) -> list[tuple[int, int]]:
    stamps: dict[int, int] = {}
    started_s = first_ns = None
    for connection, recorded_ns, data in messages:
        if started_s is None or first_ns is None:
            started_s, first_ns = time.monotonic(), recorded_ns
        due_s = started_s + (recorded_ns - first_ns) * 1e-9 / rate
        time.sleep(max(0.0, due_s - time.monotonic()))
        outlet = outlets[connection.topic]
        packed = bytes(data)
        if outlet.is_stamped:
            old_ns = read_stamp(packed)
            new_ns = time.time_ns()
            if outlet.is_image:
                stamps[old_ns] = new_ns
            packed = restamp(packed, stamps.get(old_ns, new_ns))
        outlet.publisher.publish(packed)
    return list(stamps.items())


def main(args: list[str] | None = None) -> int:
    """Play a bag from the command line; returns 2 when it cannot be played."""
    parser = argparse.ArgumentParser(prog="x2sam_ros.ros.player", description="Play a bag as a live camera would.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topic", action="append", default=[], help="topic to play, repeatable; all of them without")
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 1.0 is that of the recording")
    parser.add_argument("--wait", type=float, default=10.0, help="seconds to wait for subscribers")
    parser.add_argument("--stamps", type=Path, help="write (recorded, published) stamps of the images here as JSON")
    options = parser.parse_args(args)
    rclpy.init()
    node = Node("x2sam_player")
    try:
        stamps = play(options.bag, options.topic, options.rate, options.wait, node)
        if options.stamps is not None:
            options.stamps.write_text(json.dumps(stamps))
    except X2SamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

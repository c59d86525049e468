"""Images that are read without rclpy are those that rclpy reads."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from tests.ros.messages import damaged, messages
from x2sam_ros.errors import FrameError
from x2sam_ros.ros.cdr import read_image
from x2sam_ros.ros.image_bridge import read_picture

KNOWN = {"Image.data": st.binary(max_size=9).map(bytearray), "Header.frame_id": st.text(max_size=5)}


def fields(image: Any) -> tuple[Any, ...]:
    header = image.header
    place = (header.stamp.sec, header.stamp.nanosec, header.frame_id, image.height, image.width, image.encoding)
    return (*place, image.is_bigendian, image.step, bytes(image.data))


@settings(max_examples=300)
@given(messages(Image, KNOWN), st.data())
def test_what_rclpy_reads_is_read_alike_and_nothing_else_raises_but_our_errors(
    message: Image, data: st.DataObject
) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = 5, 999_999_999
    packed = serialize_message(message)
    assert fields(read_image(packed)) == fields(deserialize_message(packed, Image))
    broken = data.draw(damaged(packed))
    try:
        found = fields(read_image(broken))
    except (FrameError, UnicodeDecodeError):
        return
    try:
        expected = fields(deserialize_message(broken, Image))
    except Exception:
        return
    assert found == expected


def test_both_byte_orders_and_every_alignment() -> None:
    for order, encapsulation in (("<", b"\0\1\0\0"), (">", b"\0\0\0\0"), ("<", b"\0\7\0\0")):
        for name in ("", "a", "ab", "abc", "abcd"):
            text = struct.pack(f"{order}I", len(name) + 1) + name.encode() + b"\0"
            text += b"\0" * (-len(text) % 4)
            body = struct.pack(f"{order}iI", 1, 2) + text + struct.pack(f"{order}II", 1, 2) + text
            body = body[: len(body) - len(text)] + text[: 4 + len(name) + 1] + b"\1"
            body += b"\0" * (-len(body) % 4) + struct.pack(f"{order}II", 6, 6) + bytes(range(6))
            image = read_image(encapsulation + body)
            assert fields(image) == (1, 2, name, 1, 2, name, 1, 6, bytes(range(6)))


def test_a_truncated_image_is_named_and_pixels_are_not_copied() -> None:
    message = Image(height=2, width=2, encoding="rgb8", step=6, data=np.arange(12, dtype=np.uint8).tobytes())
    packed = serialize_message(message)
    with pytest.raises(FrameError, match="image message is truncated: .* bytes, of which 12 should begin at"):
        read_image(packed[:-1])
    assert read_image(packed).data.obj is packed
    assert isinstance(read_picture(serialize_message(CompressedImage(format="png")), CompressedImage), CompressedImage)

"""What is read of serialised messages without rclpy: a stamp in no time, and an image without a copy of its pixels."""

from __future__ import annotations

import struct
from typing import NamedTuple

from x2sam_ros.errors import FrameError

_PLAIN_CDR = {b"\0\0": ">", b"\0\1": "<", b"\0\6": ">", b"\0\7": "<"}
"""Encapsulations whose data begins with the message's first field, and their byte orders."""


class Stamp(NamedTuple):
    """As builtin_interfaces/Time."""

    sec: int
    nanosec: int


class Header(NamedTuple):
    """As std_msgs/Header."""

    stamp: Stamp
    frame_id: str


class RawImage(NamedTuple):
    """As sensor_msgs/Image; ``data`` is a view of the bytes that it was read from."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


def read_stamp(data: bytes) -> tuple[int, int]:
    """Read seconds and nanoseconds from a serialised message that begins with a header.

    Raises:
        FrameError: it is too short, of an unknown encapsulation, or the stamp is none.
    """
    order = _PLAIN_CDR.get(bytes(data[:2]))
    if order is None or len(data) < 12:
        raise FrameError(f"message of {len(data)} bytes, beginning {bytes(data[:4]).hex() or 'with none'}, is not CDR")
    sec, nanosec = struct.unpack_from(order + "iI", data, 4)
    if sec < 0 or nanosec >= 1_000_000_000:
        raise FrameError(f"stamp is {sec} s and {nanosec} ns, expected no negative time and less than 1000000000 ns")
    return sec, nanosec


def read_image(data: bytes) -> RawImage:
    """Read a serialised sensor_msgs/Image: rclpy would copy its pixels twice, which takes longer than to decode them.

    Raises:
        FrameError: it is not CDR, or is truncated.
        UnicodeDecodeError: its text is not UTF-8.
    """
    stamp, reader = Stamp(*read_stamp(data)), _Reader(data, 12)
    header = Header(stamp, reader.text())
    height, width = reader.numbers("II")
    encoding = reader.text()
    (is_bigendian,) = reader.numbers("B")
    step, length = reader.numbers("II")
    return RawImage(header, height, width, encoding, is_bigendian, step, reader.rest(length))


class _Reader:
    """Reads fields one after the other."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place, self._order = data, place, _PLAIN_CDR[bytes(data[:2])]

    def numbers(self, kinds: str) -> tuple[int, ...]:
        """Read numbers of one kind, as ``struct`` names them, of at most four bytes each."""
        size = struct.calcsize(kinds[0])
        self._place += -self._place % size
        numbers = struct.unpack(self._order + kinds, self.rest(size * len(kinds)))
        self._place += size * len(kinds)
        return numbers

    def text(self) -> str:
        """Read a string; it ends at its first zero, as in C."""
        (length,) = self.numbers("I")
        found = bytes(self.rest(length))
        self._place += length
        return found.partition(b"\0")[0].decode()

    def rest(self, length: int) -> memoryview:
        """Look at the next bytes."""
        view = memoryview(self._data)[self._place : self._place + length]
        if len(view) < length:
            raise FrameError(
                f"image message is truncated: {len(self._data)} bytes, of which {length} should begin at {self._place}"
            )
        return view

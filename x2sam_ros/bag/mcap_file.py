"""Messages as one MCAP file that Foxglove, rosbags and ``ros2 bag`` read, message definitions included."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from mcap.writer import CompressionType, Writer

import x2sam_ros
from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.messages import Fields, build_message, header_fields
from x2sam_ros.bag.output import PendingFile

Self = TypeVar("Self", bound="McapFile")


class McapFile:
    """Write messages to ``path``. The same messages give the same bytes.

    The file appears when it is closed, and replaces an older one only then; left by an exception, the
    writer leaves nothing behind. Interrupted from the keyboard it keeps what is done.

    Args:
        path: a file name that ends in .mcap.
        topics: type of each topic, one of ROS 2's standard messages or of our own.

    Raises:
        ConfigError: another suffix.
        BagError: the file cannot be written.
    """

    def __init__(self, path: str | Path, topics: Mapping[str, str]) -> None:
        self._file = PendingFile(path, ".mcap")
        self._topics = dict(topics)
        self._types = message_types()
        self._stream = self._file.part.open("wb")
        self._writer = Writer(self._stream, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library=f"x2sam_ros {x2sam_ros.__version__}")
        self._channels = {topic: self._register(topic, msgtype) for topic, msgtype in topics.items()}
        self._sequence = dict.fromkeys(topics, 0)

    def add(self, topic: str, stamp_ns: int, fields: Fields) -> None:
        """Write one message, logged at a stamp."""
        msgtype = self._topics[topic]
        message: Any = build_message(msgtype, fields, self._types.types.__getitem__)
        data = bytes(self._types.serialize_cdr(message, msgtype))
        # MCAP times are unsigned; a stamp before 1970 keeps its sign in the header only.
        log_time = max(stamp_ns, 0)
        self._writer.add_message(self._channels[topic], log_time, data, log_time, self._sequence[topic])
        self._sequence[topic] += 1

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._writer.finish()
        self._stream.close()
        self._file.commit()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, KeyboardInterrupt):
                self.close()
        finally:  # a full disk fails once more when the file is closed
            with suppress(OSError):
                self._stream.close()
            self._file.discard()

    def _register(self, topic: str, msgtype: str) -> int:
        definition, _ = self._types.generate_msgdef(msgtype, ros_version=2)
        schema = self._writer.register_schema(msgtype, "ros2msg", definition.encode())
        # rosbag2 reads both entries; no profiles means its default QoS.
        metadata = {"offered_qos_profiles": "", "topic_type_hash": self._types.hash_rihs01(msgtype)}
        return self._writer.register_channel(topic, "cdr", schema, metadata)


def image_fields(stamp_ns: int, frame_id: str, encoding: str, pixels: npt.NDArray[Any]) -> Fields:
    """Write a sensor_msgs/Image of one channel, (H, W), contiguous."""
    return {
        "header": header_fields(stamp_ns, frame_id),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": pixels.strides[0],
        "data": pixels.reshape(-1).view(np.uint8),
    }

"""Results as one MCAP file that Foxglove, rosbags and ``ros2 bag`` read, message definitions included."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from mcap.writer import CompressionType, Writer

import x2sam_ros
from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.messages import (
    GROUNDING_TYPE,
    MASK_ARRAY_TYPE,
    Fields,
    build_message,
    grounding_fields,
    header_fields,
    label_image,
    tracked_mask_array_fields,
)
from x2sam_ros.bag.output import PendingFile
from x2sam_ros.bag.storage import COMPRESSED_TYPE, IMAGE_TYPE
from x2sam_ros.types import Frame, FrameResult
from x2sam_ros.visualise import draw_overlay

MASKS_TOPIC = "/x2sam/masks"
GROUNDINGS_TOPIC = "/x2sam/groundings"
LABEL_IMAGE_TOPIC = "/x2sam/label_image"
OVERLAY_TOPIC = "/x2sam/overlay/compressed"

_TOPIC_TYPES = {
    MASKS_TOPIC: MASK_ARRAY_TYPE,
    GROUNDINGS_TOPIC: GROUNDING_TYPE,
    LABEL_IMAGE_TOPIC: IMAGE_TYPE,
    OVERLAY_TOPIC: COMPRESSED_TYPE,
}
_JPEG_QUALITY = 85


class ResultWriter(AbstractContextManager["ResultWriter"]):
    """Write results to ``path``; every header is the image's, and so is the time each message is logged at.

    The file appears when the writer is closed, and replaces an older one only then; left by an exception, the
    writer leaves nothing behind. Interrupted from the keyboard it keeps what is done.

    Args:
        path: a file name that ends in .mcap.
        overlay: also write the images with their masks drawn on them, as JPEG.

    Raises:
        ConfigError: another suffix.
        BagError: the file cannot be written.
    """

    def __init__(self, path: str | Path, overlay: bool = False) -> None:
        self._file = PendingFile(path, ".mcap")
        self._overlay = overlay
        self._types = message_types()
        self._stream = self._file.part.open("wb")
        self._writer = Writer(self._stream, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library=f"x2sam_ros {x2sam_ros.__version__}")
        topics = [topic for topic in _TOPIC_TYPES if overlay or topic != OVERLAY_TOPIC]
        self._channels = {topic: self._register(topic, _TOPIC_TYPES[topic]) for topic in topics}
        self._sequence = dict.fromkeys(topics, 0)

    def write(self, frame: Frame, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        """Write what became of one frame.

        Args:
            frame: the image, for the overlay.
            result: its targets and groundings.
            latency_ms: from the image's arrival to now.
            frames_dropped: images left out so far.
        """
        header = header_fields(result.stamp_ns, result.frame_id)
        self._write(MASKS_TOPIC, result.stamp_ns, tracked_mask_array_fields(result, latency_ms, frames_dropped))
        for grounding in result.groundings:
            self._write(
                GROUNDINGS_TOPIC, result.stamp_ns, grounding_fields(grounding, result.stamp_ns, result.frame_id)
            )
        encoding, labels = label_image(result)
        label_fields = {
            "header": header,
            "height": labels.shape[0],
            "width": labels.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": labels.strides[0],
            "data": labels.reshape(-1).view(np.uint8),
        }
        self._write(LABEL_IMAGE_TOPIC, result.stamp_ns, label_fields)
        if self._overlay:
            drawn = cv2.cvtColor(draw_overlay(frame.image, result), cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            fields = {"header": header, "format": "jpeg", "data": jpeg.reshape(-1)}
            self._write(OVERLAY_TOPIC, result.stamp_ns, fields)

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._writer.finish()
        self._stream.close()
        self._file.commit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close()
        else:
            self._stream.close()
            self._file.discard()

    def _register(self, topic: str, msgtype: str) -> int:
        definition, _ = self._types.generate_msgdef(msgtype, ros_version=2)
        schema = self._writer.register_schema(msgtype, "ros2msg", definition.encode())
        # rosbag2 reads both entries; no profiles means its default QoS.
        metadata = {"offered_qos_profiles": "", "topic_type_hash": self._types.hash_rihs01(msgtype)}
        return self._writer.register_channel(topic, "cdr", schema, metadata)

    def _write(self, topic: str, stamp_ns: int, fields: Fields) -> None:
        msgtype = _TOPIC_TYPES[topic]
        message: Any = build_message(msgtype, fields, self._types.types.__getitem__)
        data = bytes(self._types.serialize_cdr(message, msgtype))
        # MCAP times are unsigned; a stamp before 1970 keeps its sign in the header only.
        log_time = max(stamp_ns, 0)
        self._writer.add_message(self._channels[topic], log_time, data, log_time, self._sequence[topic])
        self._sequence[topic] += 1

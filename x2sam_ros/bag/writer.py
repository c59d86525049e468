"""Results as one MCAP file: masks, groundings, label images and, if wanted, overlays."""

from __future__ import annotations

from pathlib import Path

import cv2

from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import (
    GROUNDING_TYPE,
    MASK_ARRAY_TYPE,
    grounding_fields,
    header_fields,
    label_image,
    tracked_mask_array_fields,
)
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


class ResultWriter(McapFile):
    """Write results to ``path``; every header is the image's, and so is the time each message is logged at.

    Args:
        path: a file name that ends in .mcap.
        overlay: also write the images with their masks drawn on them, as JPEG.

    Raises:
        ConfigError: another suffix.
        BagError: the file cannot be written.
    """

    def __init__(self, path: str | Path, overlay: bool = False) -> None:
        super().__init__(
            path, {topic: kind for topic, kind in _TOPIC_TYPES.items() if overlay or topic != OVERLAY_TOPIC}
        )
        self._overlay = overlay

    def write(self, frame: Frame, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        """Write what became of one frame.

        Args:
            frame: the image, for the overlay.
            result: its targets and groundings.
            latency_ms: from the image's arrival to now.
            frames_dropped: images left out so far.
        """
        self.write_result(result, latency_ms, frames_dropped)
        if self._overlay:
            drawn = cv2.cvtColor(draw_overlay(frame.image, result), cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            header = header_fields(result.stamp_ns, result.frame_id)
            self.add(OVERLAY_TOPIC, result.stamp_ns, {"header": header, "format": "jpeg", "data": jpeg.reshape(-1)})

    def write_result(self, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        """Write what became of a frame whose image is not at hand; see ``write``."""
        self.add(MASKS_TOPIC, result.stamp_ns, tracked_mask_array_fields(result, latency_ms, frames_dropped))
        for grounding in result.groundings:
            self.add(GROUNDINGS_TOPIC, result.stamp_ns, grounding_fields(grounding, result.stamp_ns, result.frame_id))
        labels = image_fields(result.stamp_ns, result.frame_id, *label_image(result))
        self.add(LABEL_IMAGE_TOPIC, result.stamp_ns, labels)

"""The results of one camera as messages, and the publishers that they go out on."""

from __future__ import annotations

import array
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from x2sam_ros.errors import FrameError
from x2sam_ros.msg import LabelInfo, Target, TargetArray, Timings, TrackedMaskArray
from x2sam_ros.ros import convert
from x2sam_ros.ros.interface import message_type
from x2sam_ros.visualise import draw_overlay

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

    from x2sam_ros.ros.cameras import Camera
    from x2sam_ros.ros.frame_slots import Counters
    from x2sam_ros.ros.qos import Publishers
    from x2sam_ros.types import Frame, FrameResult, TargetInfo, Uint8Array


class DetectionTypes(NamedTuple):
    """Message classes of vision_msgs, whose fields differ between its releases."""

    array: type[Any]
    detection: type[Any]
    hypothesis: type[Any]


def detection_types() -> DetectionTypes | None:
    """Return the classes of vision_msgs; None where it is not installed."""
    names = ("Detection2DArray", "Detection2D", "ObjectHypothesisWithPose")
    try:
        return DetectionTypes(*(message_type(f"vision_msgs/msg/{name}") for name in names))
    except ImportError:
        return None


def label_info(result: FrameResult) -> LabelInfo:
    """Name the values that pixels of the label image have, ascending."""
    order = np.argsort(result.target_ids)
    values = array.array("I", result.target_ids[order].tolist())
    return LabelInfo(header=_header(result), values=values, labels=[result.labels[row] for row in order])


def target_array(header: Header, camera: str, targets: Sequence[TargetInfo]) -> TargetArray:
    """List the targets of a camera.

    Args:
        header: of the newest answered image.
        camera: its image topic.
        targets: ascending by id.
    """
    listed = [
        Target(
            target_id=target.target_id,
            label=target.label,
            prompt_id=target.prompt_id,
            state=int(target.state),
            last_seen=convert.to_header(target.last_seen_ns, "").stamp,
        )
        for target in targets
    ]
    return TargetArray(header=header, camera=camera, targets=listed)


def timings(
    result: FrameResult, latency_ms: float, node_ms: Mapping[str, float], counters: Counters, without_depth: int
) -> Timings:
    """Say what an image cost.

    Args:
        result: of the image; has the stages of the model.
        latency_ms: from its arrival to its masks.
        node_ms: stages of the node.
        counters: of its camera, in which it is not yet answered.
        without_depth: images so far for which no depth of their time came.
    """
    stages = {**result.timings_ms, **node_ms}
    return Timings(
        header=_header(result),
        latency_ms=latency_ms,
        stages=list(stages),
        stage_ms=array.array("f", stages.values()),
        received=counters.received,
        answered=counters.answered + 1,
        replaced=counters.replaced,
        bad=counters.bad,
        without_depth=without_depth,
    )


def compressed_overlay(header: Header, overlay: Uint8Array, quality: int) -> CompressedImage:
    """Encode a drawn image as JPEG, as image_transport does.

    Args:
        header: of the image.
        overlay: uint8 (H, W, 3), RGB.
        quality: 1 to 100.

    Raises:
        FrameError: it has more than 65,500 pixels in a row or a column, which JPEG does not hold.
    """
    height, width = overlay.shape[:2]
    if max(height, width) > 65_500:
        raise FrameError(f"overlay of {width}x{height} cannot be a JPEG, whose sides are at most 65500")
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data = array.array("B", packed.tobytes())
    return message


def detections(masks: TrackedMaskArray, types: DetectionTypes) -> Any:
    """Write the boxes of the masks as vision_msgs knows them; a target without a pixel has none.

    Args:
        masks: of one image.
        types: classes of any release of vision_msgs, from those of Foxy on.
    """
    found = []
    for mask in masks.masks:
        if not mask.area_px:
            continue
        detection, hypothesis = types.detection(header=masks.header), types.hypothesis()
        centre = getattr(detection.bbox.center, "position", detection.bbox.center)
        centre.x, centre.y = mask.box_x + mask.box_width / 2, mask.box_y + mask.box_height / 2
        detection.bbox.size_x, detection.bbox.size_y = float(mask.box_width), float(mask.box_height)
        named = getattr(hypothesis, "hypothesis", hypothesis)
        setattr(named, "class_id" if hasattr(named, "class_id") else "id", mask.label or str(mask.target_id))
        named.score = float(mask.score)
        detection.results = [hypothesis]
        if hasattr(detection, "id"):
            detection.id = str(mask.target_id)
        found.append(detection)
    return types.array(header=masks.header, detections=found)


class ResultPublishers:
    """The publishers of one camera. What nobody has subscribed to costs next to nothing; lists are latched.

    Args:
        publishers: opens them, and closes them.
        camera: names them.
        jpeg_quality: of the compressed overlay, 1 to 100.

    Raises:
        ConfigError: a parameter of their quality of service has a value that it cannot have.
    """

    def __init__(self, publishers: Publishers, camera: Camera, jpeg_quality: int) -> None:
        def publisher(message_type: type, topic: str, kind: str = "reliable") -> Publisher:
            return publishers.open(message_type, camera.own(topic), kind)

        self._camera, self._jpeg_quality = camera.topic, jpeg_quality
        self._masks = publisher(TrackedMaskArray, "~/masks")
        self._label_image = publisher(Image, "~/label_image")
        self._label_info = publisher(LabelInfo, "~/label_info", "latched")
        self._overlay = publisher(Image, "~/overlay")
        self._jpeg = publisher(CompressedImage, "~/overlay/compressed")
        self._targets = publisher(TargetArray, "~/targets", "latched")
        self._timings = publisher(Timings, "~/timings")
        self._types = detection_types()
        self._detections = None if self._types is None else publisher(self._types.array, "~/detections")
        self._newest = Header()
        self._known_labels: object = None
        self._known_targets: object = None

    def publish(
        self,
        frame: Frame,
        result: FrameResult,
        received_ns: int,
        counters: Counters,
        targets: Sequence[TargetInfo],
        decode_ms: float = 0.0,
        without_depth: int = 0,
    ) -> float:
        """Publish one result, the masks first.

        Args:
            frame: the image.
            result: its targets.
            received_ns: when it arrived (``time.monotonic_ns``).
            counters: of its camera, in which it is not yet answered.
            targets: of the camera, ascending by id.
            decode_ms: what reading the image took.
            without_depth: images of the camera so far for which no depth of their time came.

        Returns:
            The latency in milliseconds: from the image's arrival to its masks.

        Raises:
            FrameError: an id does not fit the label image, or the image a JPEG.
        """
        begun_ns = time.monotonic_ns()
        latency_ms = self._publish_masks(result, received_ns, counters)
        self._publish_label_info(result)
        self._newest = _header(result)
        self.publish_targets(targets)
        if self._label_image.get_subscription_count():
            self._label_image.publish(convert.label_image(result))
        self._publish_overlays(frame, result)
        if self._timings.get_subscription_count():
            node_ms = {"decode": decode_ms, "publish": _since_ms(begun_ns)}
            self._timings.publish(timings(result, latency_ms, node_ms, counters, without_depth))
        return latency_ms

    def publish_targets(self, targets: Sequence[TargetInfo]) -> None:
        """Publish the list of targets if ids, labels, prompts or states changed; also to be called after a command."""
        known = [(target.target_id, target.label, target.prompt_id, target.state) for target in targets]
        if known != self._known_targets:
            self._targets.publish(target_array(self._newest, self._camera, targets))
            self._known_targets = known

    def _publish_masks(self, result: FrameResult, received_ns: int, counters: Counters) -> float:
        """Publish masks and boxes; return the latency."""
        boxes = self._detections if self._detections and self._detections.get_subscription_count() else None
        if not (self._masks.get_subscription_count() or boxes):
            return _since_ms(received_ns)
        message = convert.from_result(result, counters.dropped)
        message.latency_ms = latency_ms = _since_ms(received_ns)
        self._masks.publish(message)
        if boxes is not None and self._types is not None:
            boxes.publish(detections(message, self._types))
        return latency_ms

    def _publish_label_info(self, result: FrameResult) -> None:
        known = dict(zip(result.target_ids.tolist(), result.labels, strict=True))
        if known != self._known_labels:
            self._label_info.publish(label_info(result))
            self._known_labels = known

    def _publish_overlays(self, frame: Frame, result: FrameResult) -> None:
        raw, packed = self._overlay.get_subscription_count(), self._jpeg.get_subscription_count()
        if not (raw or packed):
            return
        drawn = draw_overlay(frame.image, result)
        if raw:
            self._overlay.publish(convert.image_message(result, "rgb8", drawn))
        if packed:
            self._jpeg.publish(compressed_overlay(_header(result), drawn, self._jpeg_quality))


def _since_ms(begun_ns: int) -> float:
    return (time.monotonic_ns() - begun_ns) * 1e-6


def _header(result: FrameResult) -> Header:
    return convert.to_header(result.stamp_ns, result.frame_id)

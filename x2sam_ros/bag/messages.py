"""Results as message fields and back: pure functions that know neither rosbags nor rclpy.

``*_fields`` return a message as nested dicts with the names of the .msg files; arrays are NumPy arrays of the
field's exact type. ``build_message`` turns such a dict into instances of any message classes: those of rosbags
take the NumPy arrays, those of rclpy take ``pack_array`` of them.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.rle import BoxRle, box_rle_to_mask, mask_to_box_rle
from x2sam_ros.types import FrameResult, Grounding, GroundingStatus, Phrase, TargetState

MASK_ARRAY_TYPE = "x2sam_ros/msg/TrackedMaskArray"
MASK_TYPE = "x2sam_ros/msg/TrackedMask"
GROUNDING_TYPE = "x2sam_ros/msg/Grounding"
HEADER_TYPE = "std_msgs/msg/Header"
TIME_TYPE = "builtin_interfaces/msg/Time"

_NESTED = {"header": HEADER_TYPE, "stamp": TIME_TYPE, "masks": MASK_TYPE}
"""Message type of the fields that are messages, or lists of them."""

Fields = dict[str, Any]


def header_fields(stamp_ns: int, frame_id: str) -> Fields:
    """Write a std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def tracked_mask_array_fields(result: FrameResult, latency_ms: float = 0.0, frames_dropped: int = 0) -> Fields:
    """Write a TrackedMaskArray, the masks in the order of their target ids.

    Args:
        result: the targets of one frame.
        latency_ms: from the arrival of the image to now, milliseconds.
        frames_dropped: images that got no answer so far.
    """
    return {
        "header": header_fields(result.stamp_ns, result.frame_id),
        "image_width": result.image_size[1],
        "image_height": result.image_size[0],
        "masks": [_tracked_mask_fields(result, int(row)) for row in np.argsort(result.target_ids)],
        "latency_ms": float(latency_ms),
        "frames_dropped": int(frames_dropped),
        "frame_index": result.frame_index,
    }


def grounding_fields(grounding: Grounding, stamp_ns: int, frame_id: str) -> Fields:
    """Write a Grounding whose header is that of the image with the given stamp and TF frame."""
    phrases = grounding.phrases
    return {
        "header": header_fields(stamp_ns, frame_id),
        "prompt_id": grounding.prompt_id,
        "status": int(grounding.status),
        "query": grounding.query,
        "response": grounding.response,
        "phrases": [phrase.text for phrase in phrases],
        "phrase_starts": np.array([phrase.start for phrase in phrases], np.uint32),
        "phrase_ends": np.array([phrase.end for phrase in phrases], np.uint32),
        "phrase_scores": np.array([phrase.score for phrase in phrases], np.float32),
        "phrase_target_ids": np.array([target for phrase in phrases for target in phrase.target_ids], np.int64),
        "phrase_target_counts": np.array([len(phrase.target_ids) for phrase in phrases], np.uint32),
        "target_ids": np.array(grounding.target_ids, np.int64),
        "message": grounding.message,
    }


def build_message(
    msgtype: str,
    fields: Mapping[str, Any],
    find_class: Callable[[str], type],
    pack: Callable[[npt.NDArray[Any]], Any] = lambda values: values,
) -> Any:
    """Build a message from its fields.

    Args:
        msgtype: "package/msg/Name".
        fields: all of its fields; nested messages as dicts.
        find_class: gives the message class of a type; it takes the fields as keywords.
        pack: what the classes want for an array of numbers; ``pack_array`` for rclpy.
    """

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return build_message(_NESTED[name], value, find_class, pack)
        if isinstance(value, list) and name in _NESTED:
            return [build_message(_NESTED[name], item, find_class, pack) for item in value]
        return pack(value) if isinstance(value, np.ndarray) else value

    return find_class(msgtype)(**{name: convert(name, value) for name, value in fields.items()})


def pack_array(values: npt.NDArray[Any]) -> array.array[Any]:
    """Copy numbers into an ``array.array``, which rclpy takes without checking each element."""
    packed: array.array[Any] = array.array(values.dtype.char if values.dtype != np.int64 else "q")
    packed.frombytes(np.ascontiguousarray(values).tobytes())
    return packed


def read_tracked_mask_array(message: Any, groundings: tuple[Grounding, ...] = ()) -> FrameResult:
    """Read a TrackedMaskArray of any message class.

    Raises:
        FrameError: a mask leaves the image or its run lengths do not fill its box.
    """
    size = (int(message.image_height), int(message.image_width))
    boxes = [
        BoxRle(mask.box_x, mask.box_y, mask.box_width, mask.box_height, np.asarray(mask.rle, np.uint32))
        for mask in message.masks
    ]
    masks = [box_rle_to_mask(box, size) for box in boxes]
    return FrameResult(
        stamp_ns=read_stamp_ns(message.header),
        frame_index=int(message.frame_index),
        frame_id=message.header.frame_id,
        image_size=size,
        masks=np.stack(masks) if masks else np.zeros((0, *size), np.bool_),
        scores=np.array([mask.score for mask in message.masks], np.float32),
        labels=tuple(mask.label for mask in message.masks),
        target_ids=np.array([mask.target_id for mask in message.masks], np.int64),
        states=tuple(TargetState(mask.state) for mask in message.masks),
        groundings=groundings,
    )


def read_grounding(message: Any) -> Grounding:
    """Read a Grounding of any message class."""
    ends = np.cumsum(np.asarray(message.phrase_target_counts, np.int64)).tolist()
    starts = [0, *ends][:-1]
    targets = [int(target) for target in message.phrase_target_ids]
    phrases = tuple(
        Phrase(text, int(start), int(end), tuple(targets[first:last]), float(score))
        for text, start, end, score, first, last in zip(
            message.phrases,
            message.phrase_starts,
            message.phrase_ends,
            message.phrase_scores,
            starts,
            ends,
            strict=True,
        )
    )
    return Grounding(
        prompt_id=message.prompt_id,
        status=GroundingStatus(message.status),
        query=message.query,
        response=message.response,
        phrases=phrases,
        target_ids=tuple(int(target) for target in message.target_ids),
        message=message.message,
        stamp_ns=read_stamp_ns(message.header),
    )


def read_stamp_ns(header: Any) -> int:
    """Read the stamp of a std_msgs/Header as nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def label_image(result: FrameResult) -> tuple[str, npt.NDArray[Any]]:
    """Draw all masks into one image whose pixels are target ids, 0 where there is no target.

    Where masks overlap, the higher score is on top. What lies below is only in the run lengths.

    Returns:
        The encoding and the (H, W) image: "mono8" and uint8, or "16UC1" and uint16 once an id exceeds 255.

    Raises:
        FrameError: an id is below 1 or above 65535, so that no pixel can name it.
    """
    ids = result.target_ids
    if len(ids) and not 1 <= ids.min() <= ids.max() <= 65535:
        raise FrameError(f"target ids {ids.tolist()} do not fit a label image; expected 1 to 65535")
    wide = bool(len(ids)) and ids.max() > 255
    image: npt.NDArray[Any] = np.zeros(result.image_size, np.uint16 if wide else np.uint8)
    for row in np.argsort(result.scores, kind="stable"):
        image[result.masks[row]] = ids[row]
    return "16UC1" if wide else "mono8", image


def _tracked_mask_fields(result: FrameResult, row: int) -> Fields:
    box = mask_to_box_rle(result.masks[row])
    return {
        "target_id": int(result.target_ids[row]),
        "label": result.labels[row],
        "score": float(result.scores[row]),
        "state": int(result.states[row]),
        "box_x": box.x,
        "box_y": box.y,
        "box_width": box.width,
        "box_height": box.height,
        # Every other run is one of ones.
        "area_px": int(box.counts[1::2].sum()),
        "rle": box.counts,
    }

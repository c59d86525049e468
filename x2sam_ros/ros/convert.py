"""Messages to and from the boundary types, as pure functions: no node, no clock, no state but a prompt counter."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from x2sam_ros.bag import messages
from x2sam_ros.errors import PromptError
from x2sam_ros.msg import Grounding as GroundingMsg
from x2sam_ros.msg import Prompt as PromptMsg
from x2sam_ros.msg import TrackedMask, TrackedMaskArray
from x2sam_ros.plugins import TASK_HEADS, installed_plugins
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.ros.image_bridge import Bridge, CvBridge, Picture, to_rgb
from x2sam_ros.ros.requests import Reject, Remove, RemovePrompt, Request, Reset, Submit
from x2sam_ros.types import (
    MAX_IMAGE_PIXELS,
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    Grounding,
    MaskPrompt,
    PointPrompt,
    Prompt,
    RegionPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)

if TYPE_CHECKING:
    from geometry_msgs.msg import Point, PointStamped
    from std_msgs.msg import String

_CLASSES: dict[str, type] = {
    messages.MASK_ARRAY_TYPE: TrackedMaskArray,
    messages.MASK_TYPE: TrackedMask,
    messages.GROUNDING_TYPE: GroundingMsg,
    messages.HEADER_TYPE: Header,
    messages.TIME_TYPE: Time,
}

_EQUIVALENT = CvBridge()


def to_stamp_ns(stamp: Time) -> int:
    """Read a stamp as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def to_frame(message: Picture, frame_index: int, source: str, bridge: Bridge = _EQUIVALENT) -> Frame:
    """Decode a camera message.

    Args:
        message: raw or compressed image.
        frame_index: order in the stream, from 0.
        source: topic it came from.
        bridge: decodes it; ``open_bridge`` gives the best one.

    Raises:
        FrameError: unknown encoding, no pixels, too few bytes, corrupt JPEG or PNG.
    """
    image = to_rgb(message, bridge)
    return Frame(image, to_stamp_ns(message.header.stamp), frame_index, message.header.frame_id, source)


def request_from_prompt(message: PromptMsg, new_id: Callable[[str], str]) -> Request:
    """Read our own prompt message.

    Args:
        message: the prompt.
        new_id: makes an id from a word, for a prompt without one.

    Returns:
        What to do; ``Reject`` when the message contradicts itself, never an exception.
    """
    prompt_id = message.prompt_id or new_id("prompt")
    target_id, camera = int(message.target_id), message.camera
    try:
        if message.action == PromptMsg.ACTION_RESET:
            return Reset(prompt_id, camera)
        if message.action == PromptMsg.ACTION_REMOVE:
            whole = target_id == PromptMsg.TARGET_NEW and message.prompt_id
            return RemovePrompt(prompt_id, camera) if whole else Remove(prompt_id, target_id, camera)
        if message.action not in (PromptMsg.ACTION_ADD, PromptMsg.ACTION_REFINE):
            raise PromptError(f"action is {message.action}, expected 0 (add), 1 (refine), 2 (remove) or 3 (reset)")
        adds = message.action == PromptMsg.ACTION_ADD
        if adds != (target_id == PromptMsg.TARGET_NEW):
            raise PromptError(
                f"target_id is {target_id}; ACTION_ADD needs {PromptMsg.TARGET_NEW}, ACTION_REFINE an existing target"
            )
        stamp_ns = to_stamp_ns(message.image_stamp) or None
        return Submit(_read_prompt(message, prompt_id, None if adds else target_id, stamp_ns), camera)
    except ValueError as error:  # PromptError and FrameError are ValueErrors, as is what NumPy raises for bad sizes
        return Reject(prompt_id, str(error))


def _read_prompt(message: PromptMsg, prompt_id: str, target_id: int | None, stamp_ns: int | None) -> Prompt:
    """Build the prompt of the message's kind; PromptError where its fields do not fit."""
    common: dict[str, Any] = {"prompt_id": prompt_id, "target_id": target_id, "stamp_ns": stamp_ns}
    if message.task:
        common["task"] = _read_task(message.task)
    if message.kind == PromptMsg.KIND_TEXT:
        if message.task == Task.GCGSEG and not message.text.strip():
            return CaptionPrompt(**common)
        return TextPrompt(**common, text=message.text)
    if message.kind == PromptMsg.KIND_CLASSES:
        return ClassListPrompt(**common, classes=tuple(message.classes), stuff=tuple(message.stuff_classes))
    if message.kind == PromptMsg.KIND_POINTS:
        return _read_points(message, common)
    if message.kind == PromptMsg.KIND_BOX:
        return _read_boxes(message, common)
    if message.kind == PromptMsg.KIND_MASK:
        height, width = message.mask_height, message.mask_width
        if not 0 < height * width <= MAX_IMAGE_PIXELS:
            raise PromptError(f"mask is {width}x{height}, expected the size of the image")
        return MaskPrompt(**common, mask=decode_rle(message.mask_rle, height, width))
    raise PromptError(f"kind is {message.kind}, expected 0 (text), 1 (classes), 2 (points), 3 (box) or 4 (mask)")


def _read_points(message: PromptMsg, common: dict[str, Any]) -> Prompt:
    """Build the prompt of all points, or for task vgdseg of each positive one, beside which all negative ones hold."""
    if len(message.points_px) % 2:
        raise PromptError(f"points_px has {len(message.points_px)} numbers, expected x and y for each point")
    points_px = np.asarray(message.points_px, np.float64).reshape(-1, 2)
    whole = PointPrompt(**common, points_px=points_px, point_labels=np.asarray(message.point_labels, int))
    labels = np.asarray(whole.point_labels)
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    if message.task != Task.VGDSEG or len(positive) < 2:
        return whole
    own = [np.append(index, negative) for index in positive]
    regions = tuple(PointPrompt(points_px=points_px[rows], point_labels=labels[rows]) for rows in own)
    return RegionsPrompt(**common, regions=regions)


def _read_boxes(message: PromptMsg, common: dict[str, Any]) -> Prompt:
    """Build the prompt of one box, or for task vgdseg of several."""
    count = len(message.boxes_px)
    several = message.task == Task.VGDSEG and count > 4
    if count % 4 or (count != 4 and not several):
        raise PromptError(
            f"boxes_px has {count} numbers, expected 4; send one prompt per box, or several boxes with task vgdseg"
        )
    boxes = np.asarray(message.boxes_px, np.float64).reshape(-1, 4)
    if not several:
        return BoxPrompt(**common, box_px=boxes[0])
    return RegionsPrompt(**common, regions=tuple(BoxPrompt(box_px=box) for box in boxes))


def _read_task(name: str) -> str:
    known = installed_plugins().names(TASK_HEADS)
    if name not in known:
        raise PromptError(f"task is {name!r}, expected '' or one of: {', '.join(known)}")
    return name


def from_prompt(prompt: Prompt, camera: str = "") -> PromptMsg:
    """Write a prompt as our own message, which ``request_from_prompt`` reads as the same prompt.

    Args:
        prompt: what is asked; its stamp is copied.
        camera: image topic it refers to; '' where the node has one.

    Raises:
        PromptError: the message cannot say it: names of regions, several masks, or regions of more than one click.
    """
    message = PromptMsg(prompt_id=prompt.prompt_id, camera=camera, task=prompt.task_name)
    message.image_stamp = to_header(prompt.stamp_ns or 0, "").stamp
    if prompt.target_id is not None:
        message.action, message.target_id = PromptMsg.ACTION_REFINE, prompt.target_id
    if isinstance(prompt, TextPrompt):
        message.kind, message.text = PromptMsg.KIND_TEXT, prompt.text
    elif isinstance(prompt, CaptionPrompt):
        message.kind = PromptMsg.KIND_TEXT
    elif isinstance(prompt, ClassListPrompt):
        message.kind, message.classes, message.stuff_classes = PromptMsg.KIND_CLASSES, prompt.classes, prompt.stuff
    else:
        _write_regions(prompt, message)
    return message


def _write_regions(prompt: RegionPrompt | RegionsPrompt, message: PromptMsg) -> None:
    regions = prompt.regions if isinstance(prompt, RegionsPrompt) else (prompt,)
    first = regions[0]
    if isinstance(first, MaskPrompt) and len(regions) == 1:
        message.kind, message.mask_rle = PromptMsg.KIND_MASK, messages.pack_array(encode_rle(first.mask))
        message.mask_height, message.mask_width = first.mask.shape
    elif all(isinstance(region, BoxPrompt) for region in regions):
        corners = np.concatenate([region.box_px for region in regions if isinstance(region, BoxPrompt)])
        message.kind, message.boxes_px = PromptMsg.KIND_BOX, messages.pack_array(corners.astype(np.float32))
    elif all(
        isinstance(region, PointPrompt) and (region is prompt or len(region.points_px) == 1) for region in regions
    ):
        clicks = [region for region in regions if isinstance(region, PointPrompt)]
        points_px = np.concatenate([region.points_px.reshape(-1) for region in clicks])
        labels = np.concatenate([np.asarray(region.point_labels, np.uint8) for region in clicks])
        message.kind, message.points_px = PromptMsg.KIND_POINTS, messages.pack_array(points_px.astype(np.float32))
        message.point_labels = messages.pack_array(labels)
    else:
        raise PromptError(
            "a message has one mask, boxes, or single clicks; give every other region a prompt of its own"
        )
    if isinstance(prompt, RegionsPrompt) and prompt.labels:
        raise PromptError("a message cannot name the regions of a prompt; leave the labels away")


def request_from_text(message: String, new_id: Callable[[str], str], camera: str = "") -> Request:
    """Read a sentence as a prompt that adds a target, on the camera whose topic it came from."""
    prompt_id = new_id("text")
    try:
        return Submit(TextPrompt(prompt_id, text=message.data), camera)
    except PromptError as error:
        return Reject(prompt_id, str(error))


def request_from_chat(goal: Any, new_id: Callable[[str], str]) -> Request:
    """Read a goal of the action Chat: a question; what the answer points at is not followed."""
    prompt_id = new_id("chat")
    try:
        stamp_ns = to_stamp_ns(goal.image_stamp) or None
        prompt = TextPrompt(prompt_id, stamp_ns=stamp_ns, text=goal.text, task=Task.CHAT)
        return Submit(prompt, goal.camera, follow=False)
    except PromptError as error:
        return Reject(prompt_id, str(error))


def request_from_click(message: Point | PointStamped, new_id: Callable[[str], str], camera: str = "") -> Request:
    """Read a click in pixels as a prompt that adds a target; a stamp names the image that was clicked on."""
    prompt_id = new_id("click")
    point = getattr(message, "point", message)
    stamp_ns = to_stamp_ns(message.header.stamp) or None if hasattr(message, "header") else None
    try:
        click = PointPrompt(prompt_id, stamp_ns=stamp_ns, points_px=np.array([[point.x, point.y]]))
        return Submit(click, camera)
    except PromptError as error:
        return Reject(prompt_id, str(error))


def from_result(result: FrameResult, frames_dropped: int) -> TrackedMaskArray:
    """Write a result; its header is the image's, and ``latency_ms`` is left to whoever publishes."""
    fields = messages.tracked_mask_array_fields(result, frames_dropped=frames_dropped)
    return _build(messages.MASK_ARRAY_TYPE, fields)


def from_grounding(grounding: Grounding, frame_id: str) -> GroundingMsg:
    """Write what became of a prompt; the header is that of the image it was carried out on, zero without one."""
    return _build(messages.GROUNDING_TYPE, messages.grounding_fields(grounding, grounding.stamp_ns, frame_id))


def to_header(stamp_ns: int, frame_id: str) -> Header:
    """Write a header."""
    return _build(messages.HEADER_TYPE, messages.header_fields(stamp_ns, frame_id))


def label_image(result: FrameResult) -> Image:
    """Draw all masks into one image of target ids: mono8, or 16UC1 once an id exceeds 255; 0 is no target."""
    encoding, labels = messages.label_image(result)
    return image_message(result, encoding, labels)


def _build(type_name: str, fields: messages.Fields) -> Any:
    return messages.build_message(type_name, fields, _CLASSES.__getitem__, messages.pack_array)


def image_message(result: FrameResult, encoding: str, pixels: npt.NDArray[Any]) -> Image:
    """Write pixels, rows contiguous, as an image with the header of a result."""
    header = _build(messages.HEADER_TYPE, messages.header_fields(result.stamp_ns, result.frame_id))
    message = Image(header=header, encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    message.is_bigendian = 0
    message.step = pixels.strides[0]
    data = array.array("B")
    data.frombytes(pixels.tobytes())
    message.data = data
    return message

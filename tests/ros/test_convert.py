"""Messages to boundary types and back, with the real generated messages."""

from __future__ import annotations

import itertools
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PointStamped
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from x2sam_ros.bag.messages import read_grounding, read_tracked_mask_array
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.msg import Grounding as GroundingMsg
from x2sam_ros.msg import Prompt, TrackedMaskArray
from x2sam_ros.rle import encode_rle
from x2sam_ros.ros import convert
from x2sam_ros.ros.requests import Reject, Remove, RemovePrompt, Request, Reset, Submit
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    FrameResult,
    Grounding,
    GroundingStatus,
    MaskPrompt,
    Phrase,
    PointPrompt,
    RegionsPrompt,
    TargetState,
    Task,
    TextPrompt,
)

TWO_BOXES = {"kind": 3, "boxes_px": [1.0, 2.0, 3.0, 4.0] * 2}


def read(**fields: Any) -> Request:
    numbers = itertools.count(1)
    return convert.request_from_prompt(Prompt(**fields), lambda word: f"{word}-{next(numbers)}")


def result(target_ids: list[int]) -> FrameResult:
    masks = np.zeros((len(target_ids), 40, 60), bool)
    for row in range(len(target_ids)):
        masks[row, 5 + row : 20, 10 * row : 10 * row + 15] = True
    return FrameResult(
        5_000_000_007,
        3,
        "camera",
        (40, 60),
        masks,
        np.linspace(0.5, 0.9, len(target_ids), dtype=np.float32),
        tuple(f"thing {number}" for number in target_ids),
        np.array(target_ids, np.int64),
        (TargetState.OCCLUDED,) * len(target_ids),
    )


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def test_raw_image_becomes_a_frame_with_its_header() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    message = Image(height=6, width=5, encoding="bgr8", step=20)
    message.header.frame_id = "camera"
    message.header.stamp = Time(sec=3, nanosec=9)
    message.data.frombytes(np.pad(pixels[:, :, ::-1].reshape(6, 15), ((0, 0), (0, 5))).tobytes())
    frame = convert.to_frame(over_the_wire(message), 4, "/camera")
    np.testing.assert_array_equal(frame.image, pixels)
    assert (frame.stamp_ns, frame.frame_index, frame.frame_id, frame.source) == (3_000_000_009, 4, "camera", "/camera")


def test_compressed_image_becomes_a_frame_and_garbage_an_error() -> None:
    import cv2

    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    _, png = cv2.imencode(".png", pixels[:, :, ::-1])
    frame = convert.to_frame(over_the_wire(CompressedImage(format="png", data=png.tobytes())), 0, "")
    np.testing.assert_array_equal(frame.image, pixels)
    with pytest.raises(FrameError, match="corrupt"):
        convert.to_frame(CompressedImage(format="jpeg", data=b"no image"), 0, "")


def test_every_kind_of_prompt_is_read() -> None:
    stamp = Time(sec=1, nanosec=2)
    text = read(text="the cup", prompt_id="p", image_stamp=stamp, task="reaseg")
    assert text == Submit(TextPrompt("p", None, 1_000_000_002, text="the cup", task=Task.REASEG))
    classes = read(kind=Prompt.KIND_CLASSES, classes=["cup", "fork"])
    assert classes == Submit(ClassListPrompt("prompt-1", classes=("cup", "fork")))
    points = read(kind=Prompt.KIND_POINTS, points_px=[1.0, 2.0, 3.0, 4.0], point_labels=[1, 0])
    assert isinstance(points, Submit) and isinstance(points.prompt, PointPrompt)
    assert points.prompt.points_px.tolist() == [[1, 2], [3, 4]] and points.prompt.stamp_ns is None
    box = read(kind=Prompt.KIND_BOX, action=Prompt.ACTION_REFINE, target_id=7, boxes_px=[1.0, 2.0, 3.0, 4.0])
    assert isinstance(box, Submit) and isinstance(box.prompt, BoxPrompt) and box.prompt.target_id == 7
    drawn = np.eye(4, 5, dtype=bool)
    mask = read(kind=Prompt.KIND_MASK, mask_height=4, mask_width=5, mask_rle=encode_rle(drawn).tolist())
    assert isinstance(mask, Submit) and isinstance(mask.prompt, MaskPrompt)
    np.testing.assert_array_equal(mask.prompt.mask, drawn)


def test_stuff_captions_and_questions_are_read() -> None:
    panoptic = read(kind=Prompt.KIND_CLASSES, classes=["cup", "sky"], stuff_classes=["sky"])
    assert panoptic == Submit(ClassListPrompt("prompt-1", classes=("cup", "sky"), stuff=("sky",)))
    assert read(task="gcgseg", text=" ") == Submit(CaptionPrompt("prompt-1", task=Task.GCGSEG))
    assert read(task="gcgseg", text="what is there?") == Submit(
        TextPrompt("prompt-1", text="what is there?", task=Task.GCGSEG)
    )
    assert read(task="chat", text="how many?") == Submit(TextPrompt("prompt-1", text="how many?", task=Task.CHAT))


def test_several_regions_are_one_prompt_for_vgdseg() -> None:
    several = read(kind=Prompt.KIND_BOX, task="vgdseg", boxes_px=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert isinstance(several, Submit) and isinstance(several.prompt, RegionsPrompt)
    assert [box.box_px.tolist() for box in several.prompt.regions] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    one = read(kind=Prompt.KIND_BOX, task="vgdseg", boxes_px=[1.0, 2.0, 3.0, 4.0])
    assert isinstance(one, Submit) and isinstance(one.prompt, BoxPrompt) and one.prompt.task is Task.VGDSEG
    places = {"kind": Prompt.KIND_POINTS, "points_px": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    clicks = read(**places, task="vgdseg", point_labels=[1, 0, 1])
    assert isinstance(clicks, Submit) and isinstance(clicks.prompt, RegionsPrompt)
    assert [region.points_px.tolist() for region in clicks.prompt.regions] == [[[1, 2], [3, 4]], [[5, 6], [3, 4]]]
    assert [region.point_labels.tolist() for region in clicks.prompt.regions] == [[1, 0], [1, 0]]
    for single in (read(**places, task="vgdseg", point_labels=[1, 0, 0]), read(**places, point_labels=[1, 0, 1])):
        assert isinstance(single, Submit) and isinstance(single.prompt, PointPrompt)


def same(a: Any, b: Any) -> bool:
    """Compare prompts, arrays in them too."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (all(same(v, vars(b)[k]) for k, v in vars(a).items()) if is_dataclass(a) else a == b)


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt("p", None, 3_000_000_005, text="which one is hot?", task=Task.REASEG),
        CaptionPrompt("p"),
        ClassListPrompt("p", classes=("cup", "sky"), stuff=("sky",)),
        PointPrompt("p", 7, points_px=np.array([[1.5, 2.0], [3.0, 4.25]]), point_labels=np.array([1, 0])),
        BoxPrompt("p", box_px=np.array([1.0, 2.0, 3.5, 4.0])),
        MaskPrompt("p", mask=np.eye(4, 6, dtype=bool)),
        RegionsPrompt("p", regions=tuple(BoxPrompt(box_px=np.array([i, 0.0, i + 2.0, 3.0])) for i in range(2))),
        RegionsPrompt("p", regions=tuple(PointPrompt(points_px=np.array([[i, 1.0]])) for i in range(3))),
    ],
    ids=lambda prompt: type(prompt).__name__,
)
def test_prompts_survive_the_wire(prompt: Any) -> None:
    message = over_the_wire(convert.from_prompt(prompt, "/camera"))
    request = convert.request_from_prompt(message, lambda word: word)
    assert isinstance(request, Submit) and request.camera == "/camera" and same(request.prompt, prompt)


def test_what_a_message_cannot_ask_for_is_refused() -> None:
    drawn, box = MaskPrompt(mask=np.eye(4, dtype=bool)), BoxPrompt(box_px=np.array([1.0, 2.0, 3.0, 4.0]))
    for regions, labels, said in (((drawn, drawn), (), "prompt of its own"), ((box, box), ("a", "b"), "labels away")):
        with pytest.raises(PromptError, match=said):
            convert.from_prompt(RegionsPrompt("p", regions=regions, labels=labels))


def test_remove_and_reset_are_read() -> None:
    assert read(action=Prompt.ACTION_REMOVE, target_id=3, prompt_id="p") == Remove("p", 3)
    assert read(action=Prompt.ACTION_REMOVE, prompt_id="p") == RemovePrompt("p")
    assert read(action=Prompt.ACTION_REMOVE) == Remove("prompt-1", -1)
    assert read(action=Prompt.ACTION_RESET) == Reset("prompt-1")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": " "}, "empty"),
        ({"text": "x" * 10_000}, "10000 characters"),
        ({"text": "cup", "task": "find"}, "task is 'find'"),
        ({"text": "cup", "action": 9}, "action is 9"),
        ({"kind": 9}, "kind is 9"),
        ({"text": "cup", "target_id": 4}, "target_id is 4"),
        ({"text": "cup", "action": 1}, "target_id is -1"),
        ({"kind": 1}, "class list is empty"),
        ({"kind": 2, "points_px": [1.0]}, "1 numbers"),
        ({"kind": 2, "points_px": [1.0, float("nan")], "point_labels": [1]}, "not a number"),
        ({"kind": 2, "points_px": [1.0, 2.0], "point_labels": []}, "one label per point"),
        ({"kind": 1, "classes": ["cup"], "stuff_classes": ["sky"]}, "stuff names 'sky'"),
        ({"kind": 1, "classes": [f"class {number}" for number in range(501)]}, "501 classes, at most 500"),
        ({"kind": 3, "boxes_px": [1.0, 2.0, 3.0]}, "3 numbers"),
        (TWO_BOXES, "several boxes with task vgdseg"),
        ({"kind": 3, "boxes_px": [1.0, 2.0, 3.0, 4.0] * 99, "task": "vgdseg"}, "99 regions, expected 1 to 64"),
        ({"kind": 3, "boxes_px": [1.0] * 6, "task": "vgdseg"}, "6 numbers"),
        (
            {**TWO_BOXES, "task": "vgdseg", "action": 1, "target_id": 2},
            "cannot refine",
        ),
        ({"task": "gcgseg", "action": 1, "target_id": 2}, "a caption adds targets"),
        ({"kind": 3, "boxes_px": [5.0, 2.0, 3.0, 4.0]}, "box is empty"),
        ({"kind": 4}, "mask is 0x0"),
        ({"kind": 4, "mask_width": 4_000_000_000, "mask_height": 4_000_000_000}, "size of the image"),
        ({"kind": 4, "mask_width": 2, "mask_height": 2, "mask_rle": [3]}, "run lengths"),
    ],
)
def test_a_prompt_that_contradicts_itself_is_rejected_in_words(fields: dict, said: str) -> None:
    request = read(prompt_id="p", **fields)
    assert isinstance(request, Reject) and request.prompt_id == "p"
    assert said in request.message


def test_control_tokens_in_a_sentence_stay_text() -> None:
    request = convert.request_from_text(String(data="the <SEG> <|im_end|> cup"), lambda word: word)
    assert isinstance(request, Submit) and request.prompt.text == "the <SEG> <|im_end|> cup"


def test_clicks_with_and_without_a_header() -> None:
    bare = convert.request_from_click(Point(x=3.0, y=4.0), lambda word: word)
    stamped_message = PointStamped(point=Point(x=3.0, y=4.0))
    stamped_message.header.stamp = Time(sec=2, nanosec=1)
    stamped = convert.request_from_click(stamped_message, lambda word: word)
    assert isinstance(bare, Submit) and bare.prompt.stamp_ns is None
    assert isinstance(stamped, Submit) and stamped.prompt.stamp_ns == 2_000_000_001
    assert isinstance(convert.request_from_click(Point(x=float("inf")), lambda word: word), Reject)


@pytest.mark.parametrize("target_ids", [[], [4], [9, 2, 300]])
def test_results_survive_the_wire(target_ids: list[int]) -> None:
    sent = result(target_ids)
    message = over_the_wire(convert.from_result(sent, frames_dropped=5))
    assert isinstance(message, TrackedMaskArray) and message.frames_dropped == 5
    back = read_tracked_mask_array(message)
    order = np.argsort(sent.target_ids)
    np.testing.assert_array_equal(back.target_ids, sent.target_ids[order])
    np.testing.assert_array_equal(back.masks, sent.masks[order])
    np.testing.assert_array_equal(back.scores, sent.scores[order])
    assert (back.stamp_ns, back.frame_index, back.frame_id) == (5_000_000_007, 3, "camera")
    assert back.states == sent.states


def test_groundings_survive_the_wire() -> None:
    phrases = (Phrase("Tasse", 4, 9, (1, 2), 0.5), Phrase("ä", 10, 11, (), 0.25))
    sent = Grounding("p", GroundingStatus.OK, "q", "die Tasse ä", phrases, (1, 2), "", 8_000_000_000)
    message = over_the_wire(convert.from_grounding(sent, "camera"))
    assert isinstance(message, GroundingMsg) and message.header.frame_id == "camera"
    assert read_grounding(message) == sent
    rejected = Grounding("p", GroundingStatus.REJECTED, message="why")
    assert read_grounding(over_the_wire(convert.from_grounding(rejected, ""))) == rejected


def test_label_image_holds_target_ids_and_widens_when_they_grow() -> None:
    small, large = result([7]), result([7, 300])
    image = over_the_wire(convert.label_image(small))
    assert (image.encoding, image.step, image.header.stamp.nanosec) == ("mono8", 60, 7)
    np.testing.assert_array_equal(np.asarray(image.data).reshape(40, 60) == 7, small.masks[0])
    wide = over_the_wire(convert.label_image(large))
    assert (wide.encoding, wide.step) == ("16UC1", 120)
    pixels = np.frombuffer(wide.data, np.uint16).reshape(40, 60)
    np.testing.assert_array_equal(pixels == 300, large.masks[1])

"""The values that cross rooms are checked where they are made; the error tree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from x2sam_ros import errors
from x2sam_ros.errors import FrameError, PromptError, X2SamError
from x2sam_ros.types import (
    MAX_CLASSES,
    MAX_CLICKS,
    MAX_REGIONS,
    MAX_TEXT_CHARS,
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    TargetState,
    Task,
    TextPrompt,
)

IMAGE = np.zeros((4, 6, 3), np.uint8)
NAN = float("nan")
NAMES = tuple(f"class {number}" for number in range(MAX_CLASSES + 1))
ASCII = tuple(chr(code) for code in range(33, 127))
BOX = BoxPrompt(box_px=np.array([1, 2, 3, 4]))


def points(values: object, labels: object = None, target_id: int | None = None) -> PointPrompt:
    return PointPrompt(points_px=values, point_labels=labels, target_id=target_id)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)),
        None,
    ],
)
def test_unusable_images(image: object) -> None:
    with pytest.raises(FrameError, match="frame image"):
        Frame(image, 0)


def test_frame_size_is_height_and_width() -> None:
    assert Frame(IMAGE, 5).size == (4, 6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TextPrompt(text=""), "prompt text is empty"),
        (lambda: TextPrompt(text=" \n\t"), "prompt text is empty"),
        (lambda: TextPrompt(text=None), "prompt text is empty"),
        (lambda: TextPrompt(text="x" * 10_000), f"10000 characters, at most {MAX_TEXT_CHARS}"),
        (lambda: ClassListPrompt(), "class list is empty"),
        (lambda: ClassListPrompt(classes=("cup", "")), "class name is empty"),
        (lambda: ClassListPrompt(classes=("cup", " cup ")), "names a class twice: cup, cup"),
        (lambda: ClassListPrompt(classes="cup"), "must be a tuple of names, got the text 'cup'"),
        (lambda: TextPrompt(text="\u200b \u2060\x07\x7f"), "prompt text is empty"),
        (lambda: TextPrompt(text="cup", task=""), "task must be a name such as 'refseg', got ''"),
        (lambda: TextPrompt(text="cup", task=None), "task must be a name"),
        (
            lambda: ClassListPrompt(classes=NAMES),
            f"names {MAX_CLASSES + 1} classes, at most {MAX_CLASSES} are accepted",
        ),
        (lambda: ClassListPrompt(classes=(*NAMES[:300], NAMES[7])), "names a class twice: class 7, class 7; name each"),
        (lambda: ClassListPrompt(classes=tuple(c * 1_000 for c in ASCII)), "class list has .* characters, at most"),
        (lambda: ClassListPrompt(classes=("cup",), stuff=("sky",)), "stuff names 'sky', which is none of the classes"),
        (lambda: ClassListPrompt(classes=("sky",), stuff="sky"), "stuff list must be a tuple of names"),
        (lambda: ClassListPrompt(classes=("sky",), stuff=("sky", "sky")), "stuff list names a class twice"),
        (lambda: CaptionPrompt(target_id=3), "a caption adds targets and cannot refine target 3"),
        (lambda: RegionsPrompt(), f"prompt has 0 regions, expected 1 to {MAX_REGIONS}"),
        (lambda: RegionsPrompt(regions=(BOX,) * (MAX_REGIONS + 1)), f"prompt has {MAX_REGIONS + 1} regions"),
        (lambda: RegionsPrompt(regions=(TextPrompt(text="cup"),)), "a region must be .*, got TextPrompt"),
        (lambda: RegionsPrompt(regions=(BOX,), target_id=3), "several regions adds targets and cannot refine target 3"),
        (lambda: RegionsPrompt(regions=(points([[1, 2]], [0], target_id=1),)), "one of several regions adds targets"),
        (lambda: RegionsPrompt(regions=(BOX, BOX), labels=("cup",)), "2 regions need as many labels or none"),
        (lambda: RegionsPrompt(regions=(BOX,), labels=(" ",)), "region label is empty"),
        (lambda: points([]), "one label per point, got 0 points"),
        (lambda: points([[1, 2, 3]]), r"x, y pairs, shape \(K, 2\), got shape \(1, 3\)"),
        (lambda: points(np.zeros((1, 1, 2))), r"x, y pairs, shape \(K, 2\)"),
        (lambda: points([[1, 2], [3]]), "click coordinates must be numbers in equally long rows"),
        (lambda: points([["left", "top"]]), "click coordinates must be numbers"),
        (lambda: points([[NAN, 2]]), "click coordinates hold a value that is not a number"),
        (lambda: points([[float("inf"), 2]]), "not a number or not finite"),
        (lambda: points([[1, 2]], [1, 0]), "got 1 points, 2 labels"),
        (lambda: points([[1, 2]], [2]), "click labels are 1"),
        (lambda: points([[1, 2]], [0.5], target_id=1), "click labels are 1"),
        (lambda: points([[1, 2]], [NAN], target_id=1), "click labels hold a value that is not a number"),
        (lambda: points([[1, 2]], [0]), "at least one positive click"),
        (lambda: points(np.ones((MAX_CLICKS + 1, 2))), f"has {MAX_CLICKS + 1} points, at most {MAX_CLICKS}"),
        (lambda: BoxPrompt(), "four numbers x1, y1, x2, y2, got 0"),
        (lambda: BoxPrompt(box_px=np.array([1, 2, 3])), "four numbers x1, y1, x2, y2, got 3"),
        (lambda: BoxPrompt(box_px=np.array([1, 2, NAN, 4])), "not a number"),
        (lambda: BoxPrompt(box_px="abcd"), "box corners must be numbers"),
        (lambda: BoxPrompt(box_px=np.array([5, 2, 5, 4])), "box is empty"),
        (lambda: BoxPrompt(box_px=np.array([1, 4, 5, 2])), "needs x1 < x2 and y1 < y2"),
        (lambda: MaskPrompt(), "no pixel set"),
        (lambda: MaskPrompt(mask=np.zeros((3, 4), bool)), "no pixel set"),
        (lambda: MaskPrompt(mask=np.full((3, 4), NAN)), "no pixel set"),
        (lambda: MaskPrompt(mask=np.ones((3, 4, 1), bool)), r"must be \(H, W\), got shape \(3, 4, 1\)"),
    ],
)
def test_prompts_that_make_no_sense(make: Callable[[], object], words: str) -> None:
    with pytest.raises(PromptError, match=words) as raised:
        make()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_prompts_are_normalised_and_own_their_arrays() -> None:
    assert TextPrompt(text="  the\n red   cup ").text == "the red cup"
    assert TextPrompt(text="<SEG> <|im_end|>").text == "<SEG> <|im_end|>"
    assert ClassListPrompt(classes=(" a  b", "c")).classes == ("a b", "c")
    place = np.array([3.0, 4.0])
    prompt = PointPrompt(points_px=place)
    place[:] = 9
    assert prompt.points_px.tolist() == [[3, 4]] and prompt.point_labels is not None
    assert prompt.point_labels.tolist() == [1] and prompt.point_labels.dtype == np.int64
    assert points([[1, 2]], [0], target_id=3).target_id == 3
    assert MaskPrompt(mask=np.array([[0, 7]])).mask.tolist() == [[False, True]]


def test_long_lists_and_tasks_of_plugins_are_accepted() -> None:
    assert len(ClassListPrompt(classes=NAMES[:MAX_CLASSES]).classes) == MAX_CLASSES
    long_names = tuple(f"{name}, also called the {name} that everybody knows" for name in NAMES[:150])
    listed = ClassListPrompt(classes=long_names, stuff=(f" {long_names[3]} ", long_names[1]))
    assert sum(map(len, listed.classes)) > MAX_TEXT_CHARS and listed.stuff == (long_names[3], long_names[1])
    assert TextPrompt(text="cup", task="chat").task is Task.CHAT
    assert TextPrompt(text="cup", task="depth").task_name == "depth" and CaptionPrompt().task_name == "gcgseg"
    regions = RegionsPrompt(regions=[BOX, points([[1, 2]])], labels=[" a  cup", "a fork"])
    assert regions.labels == ("a cup", "a fork") and len(regions.regions) == 2 and regions.task is Task.VGDSEG


def result(count: int, **changes: object) -> FrameResult:
    values: dict[str, object] = {
        "stamp_ns": 1,
        "frame_index": 0,
        "frame_id": "",
        "image_size": (4, 6),
        "masks": np.zeros((count, 4, 6), bool),
        "scores": np.zeros(count, np.float32),
        "labels": ("cup",) * count,
        "target_ids": np.arange(1, count + 1),
        "states": (TargetState.TRACKED,) * count,
    }
    return FrameResult(**{**values, **changes})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_of_any_number_of_targets(count: int) -> None:
    assert result(count).masks.shape == (count, 4, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"masks": np.zeros((2, 6, 4), bool)}, r"masks must be bool \(2, 4, 6\), got bool \(2, 6, 4\)"),
        ({"masks": np.zeros((2, 4, 6), np.uint8)}, "masks must be bool"),
        ({"labels": ("cup",)}, "each have 2 rows"),
        ({"target_ids": np.array([5, 5])}, r"target ids repeat: \[5, 5\]"),
    ],
)
def test_results_that_contradict_themselves(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FrameError, match=words):
        result(2, **changes)


def test_every_error_is_one_of_ours() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) == 15 and all(issubclass(value, X2SamError) and value.__doc__ for value in classes)

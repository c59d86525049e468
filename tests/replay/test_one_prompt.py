"""Options of a command line as one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from x2sam_ros.bag.one_prompt import read_prompt
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)


@pytest.mark.parametrize(
    ("options", "kind", "task"),
    [
        ({"texts": ["the cup"]}, TextPrompt, Task.REFSEG),
        ({"texts": ["the cup"], "task": "reaseg"}, TextPrompt, Task.REASEG),
        ({"texts": ["all cups"], "task": "grefseg"}, TextPrompt, Task.GREFSEG),
        ({"texts": ["how many?"], "task": "chat"}, TextPrompt, Task.CHAT),
        ({"texts": ["what is it?"], "task": "gcgseg"}, TextPrompt, Task.GCGSEG),
        ({"texts": ["the cup", "the dog"]}, ClassListPrompt, Task.REFSEG),
        ({"classes": ["cup, dog"]}, ClassListPrompt, Task.GENSEG),
        ({"classes": ["cup"], "stuff": ["sky"], "task": "ovseg"}, ClassListPrompt, Task.OVSEG),
        ({"clicks": ["1,2"]}, PointPrompt, Task.INTSEG),
        ({"clicks": ["1,2"], "still": False}, PointPrompt, Task.OBJSEG),
        ({"clicks": ["1,2"], "task": "vgdseg"}, PointPrompt, Task.VGDSEG),
        ({"clicks": ["1,2", "3,4"], "task": "vgdseg"}, RegionsPrompt, Task.VGDSEG),
        ({"boxes": ["1,2,3,4"]}, BoxPrompt, Task.INTSEG),
        ({"boxes": ["1,2,3,4", "5,6,7,8"]}, RegionsPrompt, Task.VGDSEG),
        ({"boxes": ["1,2,3,4"], "clicks": ["1,2"]}, RegionsPrompt, Task.VGDSEG),
        ({"caption": True}, CaptionPrompt, Task.GCGSEG),
        ({"task": "gcgseg"}, CaptionPrompt, Task.GCGSEG),
    ],
)
def test_every_kind_has_its_usual_task(options: dict[str, Any], kind: type, task: Task) -> None:
    prompt = read_prompt(**options)
    assert (type(prompt), prompt.task) == (kind, task)


def test_clicks_are_on_one_object_or_examples() -> None:
    clicks = ["1,2", "3,4,0", "5,6"]
    one = read_prompt(clicks=clicks)
    assert isinstance(one, PointPrompt)
    assert one.points_px.tolist() == [[1, 2], [3, 4], [5, 6]] and np.asarray(one.point_labels).tolist() == [1, 0, 1]
    several = read_prompt(clicks=clicks, task="vgdseg")
    assert isinstance(several, RegionsPrompt)
    assert [region.points_px.tolist() for region in several.regions] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_stuff_joins_the_classes(tmp_path: Path) -> None:
    prompt = read_prompt(classes=["cup,  big   dog", "sky"], stuff=["sky, grass"])
    assert isinstance(prompt, ClassListPrompt)
    assert prompt.classes == ("cup", "big dog", "sky", "grass") and prompt.stuff == ("sky", "grass")


def test_mask(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.eye(4, dtype=np.uint8))
    prompt = read_prompt(masks=[tmp_path / "mask.png"])
    assert isinstance(prompt, MaskPrompt) and prompt.mask.sum() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to look for; give one of --text"),
        ({"task": "chat"}, "give one of --text.* for task chat"),
        ({"texts": ["a"], "boxes": ["1,2,3,4"]}, "--text and --click, --box or --mask are 2 prompts"),
        ({"texts": ["a"], "caption": True}, "--text and --caption are 2 prompts"),
        ({"texts": ["  "]}, "prompt text is empty"),
        ({"texts": ["a", "a"]}, "twice"),
        ({"texts": ["a", "b"], "task": "chat"}, "task chat takes a text"),
        ({"clicks": ["1,2"], "task": "refseg"}, "task refseg takes a text or a list"),
        ({"boxes": ["1,2,3,4"] * 2, "task": "intseg"}, "task intseg takes points, a box or a mask"),
        ({"caption": True, "task": "chat"}, "task chat takes a text"),
        ({"clicks": ["1,2@3"]}, "--click 1,2@3 .* leave @ away"),
        ({"clicks": ["1,2,0"]}, "give a positive one first"),
        ({"clicks": ["1;2"]}, "is not x,y"),
        ({"masks": [Path("none.png")]}, "no such file"),
        ({"classes": [","]}, "class list is empty"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_prompt(**options)


def test_unknown_task() -> None:
    with pytest.raises(PluginError, match="unknown task head 'fly'; available: .*chat.*vgdseg"):
        read_prompt(texts=["a"], task="fly")

"""Values as JSON with tensors beside it, and back: every kind of prompt, what occurs twice, what cannot be had back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from x2sam_ros.engine.packing import Damage, Packer, Unpacker, checksum
from x2sam_ros.engine.region import locate
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.track import Target
from x2sam_ros.types import (
    MAX_CLASSES,
    MAX_CLICKS,
    MAX_TEXT_CHARS,
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    GroundingStatus,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    TargetState,
    TextPrompt,
)

Draw = np.random.Generator
SIGNS = "abc ÄÖ漢字🙂\"\\'{}<SEG>\u200b\u0301\n\t0"
"""Letters, marks that JSON escapes, wide ones, combining ones, white space."""


def words(draw: Draw, most: int = 40) -> str:
    return "w" + "".join(draw.choice(list(SIGNS), draw.integers(0, most)))


def common(draw: Draw, refines: bool = True) -> dict[str, Any]:
    """Draw what all prompts share."""
    options: dict[str, Any] = {"prompt_id": words(draw) if draw.random() < 0.8 else "\udc80"}
    if draw.random() < 0.5:
        options["stamp_ns"] = int(draw.integers(-(2**63), 2**63 - 1))
    if refines and draw.random() < 0.5:
        options["target_id"] = int(draw.integers(1, 65_536))
    if draw.random() < 0.5:
        options["task"] = draw.choice(["refseg", "chat", "vgdseg", "a plugin's"]).item()
    return options


def text(draw: Draw) -> TextPrompt:
    return TextPrompt(text=words(draw, MAX_TEXT_CHARS // 10), **common(draw))


def caption(draw: Draw) -> CaptionPrompt:
    return CaptionPrompt(**common(draw, refines=False))


def classes(draw: Draw) -> ClassListPrompt:
    names = tuple(f"{words(draw)} {number}" for number in range(draw.integers(1, MAX_CLASSES // 10)))
    return ClassListPrompt(classes=names, stuff=names[: draw.integers(0, len(names))], **common(draw))


def points(draw: Draw, options: dict[str, Any] | None = None) -> PointPrompt:
    count = draw.integers(1, MAX_CLICKS + 1)
    labels = np.append(1, draw.integers(0, 2, count - 1)) if draw.random() < 0.8 else None
    places = draw.normal(0, 1e3, (count, 2)) * 10.0 ** draw.integers(-9, 9)
    return PointPrompt(points_px=places, point_labels=labels, **(common(draw) if options is None else options))


def box(draw: Draw, options: dict[str, Any] | None = None) -> BoxPrompt:
    corner, size = draw.normal(0, 1e3, 2), draw.uniform(0.1, 1e3, 2)
    return BoxPrompt(box_px=np.append(corner, corner + size), **(common(draw) if options is None else options))


def mask(draw: Draw, options: dict[str, Any] | None = None) -> MaskPrompt:
    drawn = draw.random(draw.integers(1, 90, 2)) < draw.choice([0.01, 0.5, 1.0])
    drawn.flat[draw.integers(drawn.size)] = True
    return MaskPrompt(mask=drawn, **(common(draw) if options is None else options))


def regions(draw: Draw) -> RegionsPrompt:
    chosen = tuple(draw.choice([points, box, mask])(draw, {}) for _ in range(draw.integers(1, 5)))
    labels = tuple(words(draw) for _ in chosen) if draw.random() < 0.5 else ()
    return RegionsPrompt(regions=chosen, labels=labels, **common(draw, refines=False))


def through_json(value: Any, change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None) -> Any:
    """Pack and unpack a value; ``change`` may alter its tensors in between."""
    packer = Packer()
    packed = json.loads(json.dumps(packer.pack(value, "it")))
    sums = {name: checksum(name, tensor) for name, tensor in packer.tensors.items()}
    change(packer.tensors)
    return Unpacker(packer.tensors.__getitem__, sums, torch.device("cpu")).unpack(packed)


def equal(a: Any, b: Any) -> bool:
    """Tell whether two values are equal to the bit, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and bool(torch.equal(a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


@pytest.mark.parametrize("kind", [text, caption, classes, points, box, mask, regions])
def test_every_kind_of_prompt_comes_back(kind: Callable[[Draw], Any]) -> None:
    draw = np.random.default_rng(0)
    for _ in range(40):
        prompt = kind(draw)
        assert equal(through_json(prompt), prompt), prompt


@pytest.mark.parametrize("kind", [points, box, mask])
def test_placed_regions_come_back(kind: Callable[[Draw, dict[str, Any]], Any]) -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        prompt = kind(draw, {})
        if isinstance(prompt, PointPrompt):
            prompt = replace(prompt, points_px=draw.uniform(0, 50, prompt.points_px.shape))
        size = prompt.mask.shape if isinstance(prompt, MaskPrompt) else (60, 70)
        if isinstance(prompt, BoxPrompt):
            prompt = replace(prompt, box_px=np.array([1.5, 2.25, 30.1, 40.7]))
        region = locate(prompt, size)
        assert equal(through_json(region), region)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        0.1 + 0.2,
        "\ud800 ' \x00",
        ((), (1, ("a", None))),
        Reply("a cup .", (("a cup", 0, 5),), GroundingStatus.OK, "is cut off"),
        *(torch.arange(-3, 3).to(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)),
        *(torch.tensor(True), torch.zeros(0, 2), torch.ones(2, 3).T, torch.full((2,), float("-inf"))),
        *(np.zeros((0, 2)), np.zeros((2, 0), bool), np.array([3, -3]), np.eye(3, dtype=bool), np.ones(2, bool)),
    ],
    ids=lambda value: f"{type(value).__name__} {value!s:.20}",
)
def test_values(value: Any) -> None:
    assert equal(through_json(value), value)


def test_a_target_comes_back_and_what_is_one_tensor_is_one_again() -> None:
    seen = torch.rand(4, 4) > 0.5
    history = (torch.ones(4, 4) > 0, 0.5), (seen, 0.75)
    target = Target(7, "cup", 1, TargetState.OCCLUDED, 0.25, None, seen, history, 3, 1)
    back = through_json(target)
    assert equal(back, target) and back.state is TargetState.OCCLUDED
    assert back.history[-1][0] is back.last_mask and back.nbytes == target.nbytes

    prompt = MaskPrompt(mask=np.eye(4, dtype=bool))
    _, region = through_json((prompt, locate(prompt, (4, 4))))
    assert region.mask is region.shape


def test_packed_tensors_are_copies() -> None:
    tensor, array, packer = torch.zeros(3), np.zeros(3), Packer()
    packer.pack((tensor, array), "both")
    tensor += 1
    array += 1
    assert [x.tolist() for x in packer.tensors.values()] == [[0, 0, 0], [0, 0, 0]]


def test_large_masks_take_little() -> None:
    packer = Packer()
    prompt = MaskPrompt(mask=np.ones((2000, 3000), bool))
    packer.pack((prompt, locate(prompt, (2000, 3000))), "it")
    assert sum(x.numel() * x.element_size() for x in packer.tensors.values()) < 100


@pytest.mark.parametrize("value", [{1, 2}, [1], object(), lambda: 0, np.float32(1)], ids=lambda v: type(v).__name__)
def test_what_cannot_be_packed_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=f"it.1 is of type {type(value).__name__}, which is not among those of engine"):
        Packer().pack((1, value), "it")


def test_a_class_of_the_same_name_is_another_class() -> None:
    class Reply:
        pass

    with pytest.raises(TypeError, match="it is of type Reply, which is not among those"):
        Packer().pack(Reply(), "it")


def flip(tensors: dict[str, torch.Tensor]) -> None:
    tensors["it"].view(torch.uint8)[5] ^= 1


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["it"] = tensors["it"].reshape(2, -1)


def retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["it"] = tensors["it"].view(torch.int32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip, "tensor it does not match its checksum"),
        (reshape, "does not match its checksum"),
        (retype, "does not match its checksum"),
        (dict.clear, "tensor it cannot be read"),
    ],
)
def test_damaged_tensors(change: Callable[[dict[str, torch.Tensor]], None], words: str) -> None:
    with pytest.raises(Damage, match=words):
        through_json(torch.arange(4.0), change)
    with pytest.raises(Damage, match="holds values that are not numbers"):
        through_json(torch.tensor([0, float("nan")]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"class": "Session"}, "it holds a 'Session', which this version does not know"),
        ({}, "it holds a 'None'"),
        ({"class": "TextPrompt", "text": " "}, "its TextPrompt is not valid: prompt text is empty"),
        ({"class": "TextPrompt", "colour": "red"}, "its TextPrompt is not valid: .*'colour'"),
        ({"class": "TargetState", "value": 9}, "its TargetState is not valid: 9"),
        ({"class": "tensor", "name": "gone"}, "tensor gone cannot be read"),
    ],
)
def test_damaged_values(data: Any, words: str) -> None:
    with pytest.raises(Damage, match=words):
        Unpacker({}.__getitem__, {}, torch.device("cpu")).unpack([1, data])

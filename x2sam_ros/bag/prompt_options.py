"""Prompts as they are typed on a command line, read into a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from x2sam_ros.bag.replay import ScheduledPrompt
from x2sam_ros.errors import PromptError
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    BoolArray,
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)

CLICK_SYNTAX = "x,y[,label][@seconds]"
BOX_SYNTAX = "x1,y1,x2,y2[@seconds]"


def read_schedule(
    texts: Sequence[str] = (),
    classes: Sequence[str] = (),
    clicks: Sequence[str] = (),
    boxes: Sequence[str] = (),
    masks: Sequence[Path] = (),
    *,
    stuff: Sequence[str] = (),
    task: str | None = None,
) -> tuple[ScheduledPrompt, ...]:
    """Read the prompt options of a command line.

    Every positive click is a new target. A negative click (label 0) belongs to the click before it: given at the
    same second, both are one prompt; given later, it refines that target. For task vgdseg all clicks, boxes and masks
    of one second are one prompt; task gcgseg needs no other option.

    Args:
        texts: phrases or questions, one prompt each.
        classes: names separated by commas, one prompt each.
        clicks, boxes: see ``CLICK_SYNTAX`` and ``BOX_SYNTAX``.
        masks: images that are not black on one target of the first frame.
        stuff: names separated by commas of what is not countable, added to every class list.
        task: the task of all prompts; None takes the usual one of each kind.

    Raises:
        PromptError: an option that does not follow its syntax or does not suit the task, or none at all.
        PluginError: there is no such task.
    """
    schedule = [
        *(_named(f"--text {text!r:.80}", TextPrompt, f"text-{i}", text=text) for i, text in enumerate(texts, 1)),
        *_read_classes(classes, stuff),
        *_read_clicks(clicks),
        *(_read_box(f"box-{i}", text) for i, text in enumerate(boxes, 1)),
        *(_named(f"--mask {path}", MaskPrompt, f"mask-{i}", mask=read_mask(path)) for i, path in enumerate(masks, 1)),
    ]
    if not schedule and task == Task.GCGSEG:
        schedule = [ScheduledPrompt(CaptionPrompt("caption-1"), f"--task {task}")]
    if not schedule:
        raise PromptError("nothing to look for; give at least one of --text, --classes, --click, --box, --mask")
    return tuple(schedule if task is None else _for_task(schedule, task))


def read_mask(path: Path) -> BoolArray:
    """Read a mask image: every pixel that is not black is set.

    Raises:
        PromptError: no such file, or not an image.
    """
    if not path.is_file():
        raise PromptError(f"--mask {path}: no such file")
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise PromptError(f"--mask {path}: not an image that can be read; give a PNG of the input's size")
    return np.asarray(image.any(axis=2), np.bool_)


def _named(origin: str, kind: type, prompt_id: str, at_s: float = 0.0, **values: object) -> ScheduledPrompt:
    """Build a prompt; what is wrong with it is said after the option it came from."""
    try:
        return ScheduledPrompt(kind(prompt_id=prompt_id, **values), origin, at_s)
    except PromptError as error:
        raise PromptError(f"{origin}: {error}") from error


def _read_classes(lists: Sequence[str], stuff: Sequence[str]) -> list[ScheduledPrompt]:
    """Make a prompt of each list; the stuff is part of all of them, and a list of its own where there is none."""
    extra = tuple(dict.fromkeys(name for text in stuff for name in _names(text)))
    origin = "".join(f" --stuff {text!r:.80}" for text in stuff)
    return [
        _named(
            f"--classes {text!r:.80}{origin}" if text else origin.strip(),
            ClassListPrompt,
            f"classes-{number}",
            classes=(*_names(text), *(name for name in extra if name not in _names(text))),
            stuff=extra,
        )
        for number, text in enumerate(lists or ([""] if extra else []), 1)
    ]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _for_task(schedule: Sequence[ScheduledPrompt], task: str) -> list[ScheduledPrompt]:
    """Give all prompts one task and let its head check them; for vgdseg, join the regions of each second."""
    head = installed_plugins().task_head(task)()
    items = [replace(item, prompt=replace(item.prompt, task=task)) for item in schedule]
    if task == Task.VGDSEG:
        seconds = sorted({item.at_s for item in items})
        items = [_joined([item for item in items if item.at_s == at_s], i) for i, at_s in enumerate(seconds, 1)]
    known = {item.prompt.prompt_id for item in items}
    for item in items:
        if item.refines is not None and item.refines not in known:
            raise PromptError(f"{item.origin}: several regions cannot be refined; give it at the second of its click")
        try:
            head.request(item.prompt)
        except PromptError as error:
            raise PromptError(f"{item.origin}: {error}") from error
    return items


def _joined(items: Sequence[ScheduledPrompt], number: int) -> ScheduledPrompt:
    """Make one prompt of several regions."""
    if len(items) == 1:
        return items[0]
    origin = " ".join(item.origin for item in items)
    regions = tuple(item.prompt for item in items)
    return _named(origin, RegionsPrompt, f"regions-{number}", items[0].at_s, regions=regions)


def _read_box(prompt_id: str, text: str) -> ScheduledPrompt:
    values, at_s = _read_numbers("--box", text, (4,), BOX_SYNTAX)
    return _named(f"--box {text}", BoxPrompt, prompt_id, at_s, box_px=np.array(values))


def _read_clicks(texts: Sequence[str]) -> list[ScheduledPrompt]:
    schedule: list[ScheduledPrompt] = []
    for number, text in enumerate(texts, 1):
        origin, prompt_id = f"--click {text}", f"click-{number}"
        values, at_s = _read_numbers("--click", text, (2, 3), CLICK_SYNTAX)
        point, label = np.array([values[:2]]), values[2] if len(values) == 3 else 1.0
        if label not in (0.0, 1.0):
            raise PromptError(f"{origin}: label is {label:g}, expected 1 (on the object) or 0 (not on it)")
        if label == 1.0:
            schedule.append(_named(origin, PointPrompt, prompt_id, at_s, points_px=point))
            continue
        if not schedule:
            raise PromptError(f"{origin}: a negative click belongs to the --click before it; give a positive one first")
        last = schedule[-1]
        if at_s < last.at_s:
            raise PromptError(f"{origin}: comes before the click it belongs to, {last.origin}")
        if at_s == last.at_s:
            schedule[-1] = replace(last, prompt=_with_negative(last.prompt, point))
        else:
            # The target's id is known once the earlier click is answered; run_replay puts it in.
            negative = _named(
                origin, PointPrompt, prompt_id, at_s, points_px=point, point_labels=np.zeros(1, int), target_id=0
            )
            schedule.append(replace(negative, refines=last.refines or last.prompt.prompt_id))
    return schedule


def _with_negative(prompt: object, point: np.ndarray) -> PointPrompt:
    """Add a negative point to a click prompt."""
    if not isinstance(prompt, PointPrompt):
        raise PromptError("only a click can be refined by a negative click")
    points = np.concatenate([prompt.points_px, point])
    return replace(prompt, points_px=points, point_labels=np.append(np.asarray(prompt.point_labels), 0))


def _read_numbers(option: str, text: str, lengths: tuple[int, ...], syntax: str) -> tuple[list[float], float]:
    """Read "n,n,...[@seconds]"; seconds are 0 where they are left away."""
    body, at, when = text.partition("@")
    try:
        values = [float(part) for part in body.split(",")]
        at_s = float(when) if at else 0.0
    except ValueError:
        raise PromptError(f"{option} {text!r} is not {syntax}; for example {option} {_example(lengths)}") from None
    if len(values) not in lengths:
        raise PromptError(f"{option} {text!r} has {len(values)} numbers, expected {syntax}")
    if not all(map(math.isfinite, values)):
        raise PromptError(f"{option} {text!r} has a coordinate that is not a finite number")
    if not 0.0 <= at_s < math.inf:
        raise PromptError(f"{option} {text!r}: seconds count from the first frame, expected 0 or more")
    return values, at_s


def _example(lengths: tuple[int, ...]) -> str:
    return "100,80,220,190" if 4 in lengths else "320,240"

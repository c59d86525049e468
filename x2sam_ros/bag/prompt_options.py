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
from x2sam_ros.types import BoolArray, BoxPrompt, ClassListPrompt, MaskPrompt, PointPrompt, TextPrompt

CLICK_SYNTAX = "x,y[,label][@seconds]"
BOX_SYNTAX = "x1,y1,x2,y2[@seconds]"


def read_schedule(
    texts: Sequence[str] = (),
    classes: Sequence[str] = (),
    clicks: Sequence[str] = (),
    boxes: Sequence[str] = (),
    masks: Sequence[Path] = (),
) -> tuple[ScheduledPrompt, ...]:
    """Read the prompt options of a command line.

    Every positive click is a new target. A negative click (label 0) belongs to the click before it: given at the
    same second, both are one prompt; given later, it refines that target.

    Raises:
        PromptError: an option that does not follow its syntax, or none at all.
    """
    schedule = [
        *(_named(f"--text {text!r:.80}", TextPrompt, f"text-{i}", text=text) for i, text in enumerate(texts, 1)),
        *(_read_classes(f"classes-{i}", text) for i, text in enumerate(classes, 1)),
        *_read_clicks(clicks),
        *(_read_box(f"box-{i}", text) for i, text in enumerate(boxes, 1)),
        *(_named(f"--mask {path}", MaskPrompt, f"mask-{i}", mask=read_mask(path)) for i, path in enumerate(masks, 1)),
    ]
    if not schedule:
        raise PromptError("nothing to look for; give at least one of --text, --classes, --click, --box, --mask")
    return tuple(schedule)


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


def _read_classes(prompt_id: str, text: str) -> ScheduledPrompt:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return _named(f"--classes {text!r:.80}", ClassListPrompt, prompt_id, classes=names)


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

"""What the tests of saved sessions share: the trained network on a clip, and files that another program changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from tests.unit.engine.sessions import run
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.persistence import Snapshot
from x2sam_ros.engine.session import Session
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes import Clip, generate_clip, region_prompt
from x2sam_ros.types import (
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    PointPrompt,
    Prompt,
    RegionsPrompt,
    TextPrompt,
)

BEFORE, AFTER = 4, 2
"""Frames in front of a restart, and after it."""

START_NS, PERIOD_NS = 1_700_000_000_000_000_000, 33_333_333


@lru_cache(maxsize=1)
def trained() -> X2SAM:
    """Return the nano network; it has a checkpoint, so its files are told from others without reading its weights."""
    return load_model("nano")


@lru_cache(maxsize=1)
def clip() -> Clip:
    return generate_clip(700_003, BEFORE + AFTER, 240, 320)


def stream(start: int = 500, stride: int = 1) -> list[Frame]:
    """Return the clip as a camera delivers it that has been running for a while."""
    return [
        Frame(image, START_NS + index * stride * PERIOD_NS, start + index * stride)
        for index, image in enumerate(clip().frames)
    ]


def prompts() -> dict[str, Prompt]:
    """Return a prompt of each kind about the clip."""
    first = clip().objects[0]
    place = region_prompt(clip(), 0, 0, np.random.default_rng(0), "point").point_xy
    names = tuple(sorted({item.shape for item in clip().objects}))
    point = PointPrompt("click", points_px=np.array([place], float))
    return {
        "text": TextPrompt("text", text=f"the {first.colour} {first.shape}"),
        "click": point,
        "classes": ClassListPrompt("classes", classes=names),
        "panoptic": ClassListPrompt("panoptic", classes=(*names, "background"), stuff=("background",)),
        "caption": CaptionPrompt("caption"),
        "regions": RegionsPrompt("regions", regions=(replace(point, prompt_id=""),)),
    }


def follow(model: X2SAM, of: Sequence[Frame], *given: Prompt, **options: Any) -> tuple[Session, list[FrameResult]]:
    """Return a session that has seen some frames, with its results; the prompts are given on the first."""
    session = Session(model, EngineConfig(**options))
    return session, run(session, list(of), {0: list(given)})


def contents(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what a file says, and its tensors."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return json.loads(file.metadata()["session"]), {name: file.get_tensor(name).clone() for name in names}


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Change a saved session as another program could: its sums are right."""
    content, tensors = contents(path)
    change(content, tensors)
    Snapshot(content, tensors).write(path)

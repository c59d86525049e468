"""What anybody can do who is given the true mask of the first frame: the numbers that a method has to beat.

Both baselines are told more than a method is: for every object that a prompt means, whatever kind of prompt it is, the
true mask of the first annotated frame that shows the object, from the prompt's frame on. On single images they
therefore score what is possible, and nothing is learned from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from x2sam_ros.evaluation.methods import answered, told_problems
from x2sam_ros.evaluation.predictions import FramePrediction, PredictedMask, SequencePredictions, rle_of
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.truth.dataset import Category, Sequence
from x2sam_ros.types import BoolArray, Frame, Uint8Array

MIN_FLOW_SIDE = 16
"""Shorter side of a picture below which OpenCV's flow has no patch to compare, pixels; nothing moves there."""


@dataclass
class _Followed:
    """An object that a prompt means; ``mask`` is None until it has been seen."""

    target_id: int
    prompt_id: str
    object_id: int
    label: str
    since: int
    mask: BoolArray | None = None


class _Carry(Protocol):
    """How masks go from one picture to the next."""

    def __call__(self, before: Uint8Array, now: Uint8Array, masks: Listed[BoolArray]) -> list[BoolArray]:
        """Return the masks on the picture ``now``; both pictures have one size."""


def copied(before: Uint8Array, now: Uint8Array, masks: Listed[BoolArray]) -> list[BoolArray]:
    """Return the masks as they are."""
    return list(masks)


def flowed(before: Uint8Array, now: Uint8Array, masks: Listed[BoolArray]) -> list[BoolArray]:
    """Move masks along the optical flow between two pictures of one size.

    Each pixel looks where it came from and takes what was there, so masks that share no pixel never do.
    Source: dense inverse search, Kroeger et al. 2016, as OpenCV has it.

    Args:
        before, now: uint8 (H, W, 3), RGB.
        masks: bool (H, W) each.
    """
    height, width = now.shape[:2]
    if min(height, width) < MIN_FLOW_SIDE:
        return list(masks)
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (now, before)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(greys[0], greys[1], np.zeros((height, width, 2), np.float32))
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    origin = (columns + flow[..., 0], rows + flow[..., 1])
    return [cv2.remap(mask.view(np.uint8), *origin, cv2.INTER_NEAREST).astype(np.bool_) for mask in masks]


class Baseline:
    """Take the true mask of each object where it is first seen, and carry it from frame to frame.

    Args:
        name: what the results call it.
        carry: how a mask goes from one picture to the next.
        categories: of the dataset; they name what is found.
    """

    def __init__(self, name: str, carry: _Carry, categories: Listed[Category] = ()) -> None:
        self.name, self._carry = name, carry
        self._names = {category.category_id: category.name for category in categories}

    def run(
        self, sequence: Sequence, prompts: Listed[PlannedPrompt], on_frame: Callable[[], None] = lambda: None
    ) -> SequencePredictions:
        """Answer every frame.

        Raises:
            BagError: not one frame can be read.
            TruthError: a mask that is needed is damaged or of another size.
        """
        source = sequence.frames()
        followed = list(self._followed(sequence, prompts))
        frames: list[FramePrediction] = []
        before: Frame | None = None
        started = time.perf_counter()
        for frame in source:
            arrived = time.perf_counter()
            self._advance(before, frame, followed)
            latency_ms = (time.perf_counter() - arrived) * 1e3
            _begin(sequence, frame, followed)
            frames.append(_prediction(frame, followed, latency_ms))
            before = frame
            on_frame()
        wall_s = time.perf_counter() - started
        found = {one.prompt_id for one in followed if one.mask is not None}
        given = tuple(
            replace(planned.given, status="ok" if planned.given.prompt_id in found else "no_target")
            for planned in prompts
        )
        return SequencePredictions(sequence.name, given, tuple(frames), wall_s, told_problems(source.problems))

    def _followed(self, sequence: Sequence, prompts: Listed[PlannedPrompt]) -> Iterable[_Followed]:
        category_of = {item.object_id: item.category_id for item in sequence.objects}
        target_id = 0
        for given in (planned.given for planned in prompts):
            for object_id in given.object_ids:
                target_id += 1
                category_id = category_of.get(object_id)
                label = given.query if category_id is None else self._names.get(category_id, given.query)
                yield _Followed(target_id, given.prompt_id, object_id, label, given.frame_index)

    def _advance(self, before: Frame | None, frame: Frame, followed: Iterable[_Followed]) -> None:
        begun = [one for one in followed if one.mask is not None]
        if before is None or not begun:
            return
        masks, image = [one.mask for one in begun if one.mask is not None], before.image
        if before.size != frame.size:
            width_height = (frame.size[1], frame.size[0])
            masks = [
                cv2.resize(mask.view(np.uint8), width_height, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
                for mask in masks
            ]
            image = np.asarray(cv2.resize(image, width_height), np.uint8)
        for one, mask in zip(begun, self._carry(image, frame.image, masks)):
            one.mask = mask


def _begin(sequence: Sequence, frame: Frame, followed: Iterable[_Followed]) -> None:
    """Give every object that waits its true mask, where this frame shows it."""
    waiting = [one for one in followed if one.mask is None and one.since <= frame.frame_index]
    truth = sequence.truth(frame) if waiting else None
    if truth is None:
        return
    for one in waiting:
        mask = truth.mask_of(one.object_id)
        if mask.any():
            one.mask = mask


def _prediction(frame: Frame, followed: Iterable[_Followed], latency_ms: float) -> FramePrediction:
    masks = tuple(
        PredictedMask(one.target_id, one.prompt_id, one.label, 1.0, rle_of(one.mask))
        for one in followed
        if one.mask is not None and one.mask.any()
    )
    return answered(frame, masks, latency_ms)


def copy_first(categories: Listed[Category] = ()) -> Baseline:
    """Return the baseline that repeats the first mask for ever."""
    return Baseline("copy_first", copied, categories)


def optical_flow(categories: Listed[Category] = ()) -> Baseline:
    """Return the baseline that moves the mask with the picture, frame by frame; on a CPU."""
    return Baseline("optical_flow", flowed, categories)

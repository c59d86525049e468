"""Tiny sequences with ground truth, and answers to them, made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.predictions import (
    FramePrediction,
    GivenPrompt,
    PredictedMask,
    SequencePredictions,
    rle_of,
)
from x2sam_ros.truth import dataset
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, TrueFrame, TrueObject
from x2sam_ros.types import BoolArray, Frame

SIZE = (4, 6)
INTERVAL_NS = 100_000_000


def columns(first: int, last: int, size: tuple[int, int] = SIZE) -> BoolArray:
    """Mark columns ``first`` to ``last - 1``: each has 4 of the 24 pixels."""
    mask = np.zeros(size, np.bool_)
    mask[:, first:last] = True
    return mask


NOTHING = columns(0, 0)


class MadeSource(FrameSource):
    """Black images, of which some cannot be read."""

    def __init__(self, sizes: Sequence[tuple[int, int] | None]) -> None:
        super().__init__("made", "camera", 1)
        self._sizes = sizes
        self.num_decoded = 0

    @property
    def num_images(self) -> int:
        return len(self._sizes)

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for number, size in enumerate(self._sizes):
            yield lambda size=size, number=number: self._read(size, number)

    def _read(self, size: tuple[int, int] | None, number: int) -> RawFrame:
        self.num_decoded += 1
        if size is None:
            raise FrameError("it is damaged")
        return RawFrame(np.zeros((*size, 3), np.uint8), number * INTERVAL_NS)


class MadeSequence(dataset.Sequence):
    """Truth by frame: a mapping of objects to masks, a ``TrueFrame``, None, or an error that is raised."""

    def __init__(
        self,
        truths: Sequence[dict[int, BoolArray] | TrueFrame | None],
        objects: tuple[TrueObject, ...] = (TrueObject(1),),
        expressions: tuple[Expression, ...] = (),
        captions: tuple[str, ...] = (),
        name: str = "clip",
        sizes: Sequence[tuple[int, int] | None] | None = None,
    ) -> None:
        super().__init__(name, objects, expressions, captions)
        self._truths = truths
        self.source = MadeSource(sizes or [SIZE] * len(truths))

    def frames(self) -> FrameSource:
        return self.source

    def truth(self, frame: Frame) -> TrueFrame | None:
        truth = self._truths[frame.frame_index]
        return true_frame(truth) if isinstance(truth, dict) else truth


def true_frame(masks: dict[int, BoolArray], ignore: BoolArray | None = None) -> TrueFrame:
    return TrueFrame(tuple(masks), np.stack(list(masks.values())) if masks else np.zeros((0, *SIZE), np.bool_), ignore)


def made_dataset(kind: Kind, *sequences: dataset.Sequence, categories: tuple[Category, ...] = ()) -> Dataset:
    return Dataset("made", kind, sequences, categories, "f" * 64)


def prompt(prompt_id: str = "object-1", kind: str = "box", frame_index: int = 0, ids: tuple[int, ...] = (1,), **more):
    return GivenPrompt(prompt_id, kind, frame_index, ids, **more)


def answered(
    frames: Sequence[dict[int, BoolArray] | None],
    prompts: tuple[GivenPrompt, ...] = (prompt(),),
    labels: dict[int, str] | None = None,
    of_prompt: dict[int, str] | None = None,
    scores: dict[int, float] | None = None,
    name: str = "clip",
    size: tuple[int, int] = SIZE,
) -> SequencePredictions:
    """Return answers: the mask of each target, by frame; None for a frame that was lost."""
    made = []
    for index, masks in enumerate(frames):
        predicted = tuple(
            PredictedMask(
                target,
                (of_prompt or {}).get(target, prompts[0].prompt_id if prompts else ""),
                (labels or {}).get(target, "thing"),
                (scores or {}).get(target, 0.5),
                rle_of(mask),
            )
            for target, mask in (masks or {}).items()
            if mask.any()
        )
        stamp_ns = index * INTERVAL_NS
        made.append(FramePrediction(index, stamp_ns, size, predicted, 20.0, stamp_ns + 20_000_000, masks is None))
    return SequencePredictions(name, prompts, tuple(made), wall_s=1.0)

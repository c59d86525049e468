"""What the scorers of all kinds read: predictions and ground truth of one frame, and what they hand back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.metrics.mask_ap import coco_rle
from x2sam_ros.evaluation.predictions import (
    FramePrediction,
    GivenPrompt,
    PredictedMask,
    SequencePredictions,
    rle_of,
)
from x2sam_ros.evaluation.results import Curve
from x2sam_ros.evaluation.scorers.registry import Kept
from x2sam_ros.truth import dataset as truth_of
from x2sam_ros.truth.dataset import Category, Dataset, TrueFrame, TrueObject
from x2sam_ros.truth.spoken import spoken
from x2sam_ros.types import BoolArray, Frame


@dataclass
class Found:
    """What a scorer found on one sequence.

    Args:
        kept: the metrics.
        frame_scores: (frame index, 0 to 1) of every frame that counted, for the worst ones.
        curves: of each prompt, for kinds that follow objects.
        notes: why numbers will be missing.
    """

    kept: Kept = field(default_factory=Kept)
    frame_scores: list[tuple[int, float]] = field(default_factory=list)
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


class ScoredFrame:
    """One image: what was answered, what is true, each mask decoded once, without the pixels nobody annotated.

    Args:
        prediction: the answer; a lost one counts as empty.
        truth: the segments; None where the image has no annotation.

    ``ignore`` is bool (H, W), the pixels nobody annotated; None where there is none.
    """

    def __init__(self, prediction: FramePrediction, truth: TrueFrame | None) -> None:
        self.prediction, self.truth = prediction, truth
        self.masks: tuple[PredictedMask, ...] = () if prediction.is_lost else prediction.masks
        self.ignore = None if truth is None or truth.ignore is None or not truth.ignore.any() else truth.ignore
        self._decoded: dict[int, BoolArray] = {}

    @property
    def index(self) -> int:
        """Of the frame in its sequence."""
        return self.prediction.frame_index

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.prediction.size

    def kept(self, mask: BoolArray) -> BoolArray:
        """Take the pixels out of a mask that nobody annotated."""
        return mask if self.ignore is None else mask & ~self.ignore

    def raw(self, row: int) -> BoolArray:
        """Return a predicted mask as it was answered, bool (H, W); read only."""
        if row not in self._decoded:
            self._decoded[row] = self.prediction.mask(self.masks[row])
        return self._decoded[row]

    def mask(self, row: int) -> BoolArray:
        """Return a predicted mask, bool (H, W); read only."""
        return self.kept(self.raw(row))

    def raw_of_prompt(self, prompt_id: str) -> BoolArray:
        """Unite what answers a prompt, as it was answered, bool (H, W); read only."""
        return self._united([self.raw(row) for row, mask in enumerate(self.masks) if mask.prompt_id == prompt_id])

    def true_mask(self, truth: TrueFrame, object_ids: Sequence[int]) -> BoolArray:
        """Unite true objects, bool (H, W); read only."""
        return self._united([self.kept(truth.mask_of(one)) for one in object_ids if one in truth.object_ids])

    def rles(self) -> dict[int, str]:
        """Return the predicted masks that have a pixel, as they are kept, by row."""
        if self.ignore is None:
            return {row: mask.rle for row, mask in enumerate(self.masks)}
        kept = {row: self.mask(row) for row in range(len(self.masks))}
        return {row: rle_of(mask) for row, mask in kept.items() if mask.any()}

    def true_rles(self, truth: TrueFrame) -> dict[int, str]:
        """Encode the true objects that have a pixel, by id."""
        kept = {one: self.kept(mask) for one, mask in zip(truth.object_ids, truth.masks)}
        return {one: rle_of(mask) for one, mask in kept.items() if mask.any()}

    def _united(self, masks: list[BoolArray]) -> BoolArray:
        if not masks:
            return np.zeros(self.size, np.bool_)
        united = masks[0]
        for mask in masks[1:]:
            united = united | mask
        return united


@dataclass
class Job:
    """One sequence to be scored.

    Args:
        sequence: with its ground truth.
        dataset: that it is of.
        predictions: what was answered.
        official_quirks: count as the published evaluators do, defects and all.
    """

    sequence: truth_of.Sequence
    dataset: Dataset
    predictions: SequencePredictions
    official_quirks: bool = False
    num_annotated: int = 0

    def __post_init__(self) -> None:
        self._categories = {item.category_id: item for item in self.dataset.categories}
        exact = {_plain(name): self._categories[number] for number, name in _names(self.dataset)}
        self._by_name = {**{name.casefold(): item for name, item in reversed(exact.items())}, **exact}
        self._prompts = {prompt.prompt_id: prompt for prompt in self.predictions.prompts}
        self._strangers: dict[str, int] = {}

    @property
    def prompts(self) -> tuple[GivenPrompt, ...]:
        """What was given."""
        return self.predictions.prompts

    @property
    def is_clip(self) -> bool:
        """Whether it has more than one frame."""
        return len(self.predictions.frames) > 1

    @cached_property
    def _objects(self) -> dict[int, TrueObject]:
        return {item.object_id: item for item in self.sequence.objects}

    def frames(self) -> Iterator[ScoredFrame]:
        """Read every frame once, in order.

        Raises:
            TruthError: predictions and ground truth do not fit; the first case is named.
        """
        self._check_frames()
        for prediction in self.predictions.frames:
            truth = self._truth(prediction)
            self.num_annotated += truth is not None
            yield ScoredFrame(prediction, truth)

    def counted(self) -> Iterator[tuple[ScoredFrame, TrueFrame]]:
        """Read the frames that count: those with ground truth, from the first prompt on.

        Raises:
            TruthError: predictions and ground truth do not fit, or these frames differ in size.
        """
        begin = min(prompt.frame_index for prompt in self.prompts)
        size = None
        for frame in self.frames():
            if frame.truth is None or frame.index < begin:
                continue
            size = size or frame.size
            if frame.size != size:
                raise TruthError(
                    f"{self.sequence.name}: frame {frame.index} has {frame.size[1]}x{frame.size[0]} pixels, those "
                    f"before {size[1]}x{size[0]}; clips of this kind need images of one size: split it there"
                )
            yield frame, frame.truth

    def object(self, object_id: int) -> TrueObject:
        """Return a true object; one that the sequence does not list has no category."""
        return self._objects.get(object_id, TrueObject(object_id))

    def category(self, object_id: int) -> Category | None:
        """Return the category of a true object."""
        category_id = self.object(object_id).category_id
        return None if category_id is None else self._categories.get(category_id)

    def category_of(self, mask: PredictedMask) -> Category | None:
        """Return the category that a predicted mask claims: by its label, or the only one that its prompt means."""
        label = _plain(mask.label)
        known = self._by_name.get(label) or self._by_name.get(label.casefold())
        if known is None and mask.prompt_id in self._prompts:
            meant = {self.category(one) for one in self._prompts[mask.prompt_id].object_ids}
            known = meant.pop() if len(meant) == 1 else None
        if known is None:
            self._strangers[mask.label] = self._strangers.get(mask.label, 0) + 1
        return known

    def notes(self) -> list[str]:
        """Say which answers were left out."""
        return [
            f"{count} masks of {label!r:.80} do not count: it is no category of {self.dataset.name}"
            for label, count in self._strangers.items()
        ]

    def _check_frames(self) -> None:
        name, given = self.sequence.name, len(self.predictions.frames)
        for number, prediction in enumerate(self.predictions.frames):
            if prediction.frame_index != number:
                raise TruthError(
                    f"{name}: frame {number} is missing from the predictions, which go on with frame "
                    f"{prediction.frame_index}; remove their file, and they are made again"
                )
        source = self.sequence.frames()
        expected = source.num_frames
        if expected != given:  # known are images, of which some may not be readable
            expected = sum(1 for _ in source)
        if expected != given:
            first = f"frame {min(expected, given)} is only in the {'predictions' if given > expected else 'sequence'}"
            raise TruthError(
                f"{name} has {expected} frames, the predictions have {given}: {first}; they are of another recording "
                "or stride: remove their file, and they are made again"
            )

    def _truth(self, prediction: FramePrediction) -> TrueFrame | None:
        """Read the segments of a frame without decoding its image."""
        image = np.broadcast_to(np.uint8(0), (*prediction.size, 3))  # no memory, whatever its size
        stand_in = Frame(image, prediction.stamp_ns, prediction.frame_index, source=prediction.source)
        try:
            truth = self.sequence.truth(stand_in)
        except TruthError:
            self._check_size(prediction)
            raise
        if truth is not None and truth.size != prediction.size:
            raise self._other_size(prediction, truth.size, "ground truth")
        return truth

    def _check_size(self, prediction: FramePrediction) -> None:
        """Raise if it is the prediction that has another size than the image."""
        for frame in self.sequence.frames():
            if frame.frame_index == prediction.frame_index and frame.size != prediction.size:
                raise self._other_size(prediction, frame.size, "image")

    def _other_size(self, prediction: FramePrediction, size: tuple[int, int], what: str) -> TruthError:
        return TruthError(
            f"{self.sequence.name}: the predictions of frame {prediction.frame_index} are of "
            f"{prediction.size[1]}x{prediction.size[0]} pixels, its {what} has {size[1]}x{size[0]}; score predictions "
            "of the very images that are annotated"
        )


def overlaps(predicted: Iterable[str], truths: Iterable[str], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the IoU of every true with every predicted mask, float (G, P).

    Args:
        predicted, truths: masks as they are kept, each with a pixel.
        size: (height, width) of all.
    """
    own, true = [coco_rle(rle, size) for rle in predicted], [coco_rle(rle, size) for rle in truths]
    if not own or not true:
        return np.zeros((len(true), len(own)))
    found: npt.NDArray[np.float64] = coco_mask.iou(own, true, [False] * len(true)).T
    return found


def best_overlap(iou: npt.NDArray[np.float64]) -> float:
    """Return how well masks are covered: the mean, over the true ones, of the best IoU with a predicted one.

    Args:
        iou: float (G, P), as of ``overlaps``.

    Returns:
        0 to 1; without a true mask 1 where none was predicted, and else 0.
    """
    return float(iou.max(axis=1).mean()) if iou.size else float(iou.shape == (0, 0))


def _names(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """Yield the number of each category with all that it may be called, what counts most last."""
    yield from spoken(dataset.categories, official_quirks=True).items()
    yield from spoken(dataset.categories).items()
    yield from ((item.category_id, item.name) for item in reversed(dataset.categories))


def _plain(name: str) -> str:
    return " ".join(name.split())

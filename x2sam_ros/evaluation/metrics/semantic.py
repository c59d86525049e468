"""IoU of classes when every pixel has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.evaluation.metrics.panoptic import VOID, ClassName, Segments, run_values
from x2sam_ros.types import IntArray

UNMARKED = -1
"""Label of pixels that nobody annotated or that got no answer; any other number without a class means the same."""

_Numbers = npt.NDArray[np.float64]


class SemanticIoU:
    """Mean IoU and accuracy of classes from a confusion matrix.

    Unmarked pixels of the truth do not count. An unmarked pixel of the prediction is a miss of its true class. Means
    are over the classes that occur in the truth.

    Args:
        classes: their names, or numbers, in the order of the labels.
        official_quirks: leave out pixels without an answer, as X2SAM's evaluator does: silence costs nothing.
    """

    def __init__(self, classes: Sequence[ClassName], official_quirks: bool = False) -> None:
        self._classes = tuple(classes)
        self._official_quirks = official_quirks
        # (predicted, true); the last of both stands for unmarked pixels.
        self._confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)

    @property
    def confusion(self) -> IntArray:
        """Pixels by predicted and by true class, int (C + 1, C + 1); the last of both stands for unmarked pixels."""
        return self._confusion

    def update(self, predicted: IntArray, truth: IntArray) -> None:
        """Add one picture, or a clip.

        Args:
            predicted: int of any shape, indices into the classes.
            truth: the same shape.

        Raises:
            FrameError: the shapes differ.
        """
        if predicted.shape != truth.shape:
            raise FrameError(f"label maps to compare have shapes {predicted.shape} and {truth.shape}; resize one")
        side = len(self._confusion)
        *labels, lengths = run_values(predicted, truth)
        own, true = (np.where((m >= 0) & (m < side - 1), m, side - 1).astype(np.int64) for m in labels)
        cells = np.bincount(own * side + true, lengths, side**2)
        self._confusion += cells.astype(np.int64).reshape(side, side)

    def class_ious(self) -> _Numbers:
        """Return the IoU of every class, float (C,), NaN where the truth has none of it."""
        hits, true, own = self._pixels()
        with np.errstate(invalid="ignore"):
            return np.where(true > 0, hits / (true + own - hits), np.nan)

    def compute(self) -> Scores:
        """Return ``miou``, ``fwiou`` (weighted by frequency), ``macc``, ``pacc``, and ``iou/CLASS`` for what occurs."""
        hits, true, _ = self._pixels()
        occurs, ious = true > 0, self.class_ious()
        if not occurs.any():
            return dict.fromkeys(["miou", "fwiou", "macc", "pacc"], float("nan"))
        by_class = {f"iou/{name}": float(iou) for name, iou in zip(self._classes, ious) if iou == iou}
        return {
            "miou": float(ious[occurs].mean()),
            "fwiou": float((ious * true)[occurs].sum() / true.sum()),
            "macc": float((hits[occurs] / true[occurs]).mean()),
            "pacc": float(hits.sum() / true.sum()),
            **by_class,
        }

    def reset(self) -> None:
        """Forget all pictures."""
        self._confusion[:] = 0

    def merge(self, other: SemanticIoU) -> None:
        """Add all pictures of another one."""
        self._confusion += other._confusion

    def state(self) -> dict[str, Any]:
        """Return the cells that are not zero, as (predicted, true, pixels)."""
        return {
            "cells": [[*map(int, cell), int(self._confusion[tuple(cell)])] for cell in np.argwhere(self._confusion)]
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the cells that ``state`` returned."""
        self.reset()
        for own, true, pixels in state["cells"]:
            self._confusion[own, true] = pixels

    def _pixels(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return the pixels of every class that are right, that are true and that are predicted, int (C,) each."""
        counted = self._confusion[:, :-1]
        answered = counted[:-1]
        true = (answered if self._official_quirks else counted).sum(axis=0)
        return answered.diagonal(), true, answered.sum(axis=1)


class PanopticMeanIoU(SemanticIoU):
    """The same numbers from pictures that are divided into segments.

    Args:
        classes: all there are.
        official_quirks: take void and crowds for pixels of the first class, in truth and prediction, and average over
            all classes, with 0 for one that does not occur, as X2SAM's helper does.
    """

    def update(self, predicted: Segments, truth: Segments) -> None:  # type: ignore[override]
        """Add one picture.

        Raises:
            FrameError: the maps have different shapes, or a segment has an unknown class.
        """
        super().update(self._labels(predicted), self._labels(truth))

    def compute(self) -> Scores:
        """Return the scores of ``SemanticIoU``."""
        scores = super().compute()
        if self._official_quirks:
            scores["miou"] = float(np.nan_to_num(self.class_ious()).mean())
        return scores

    def _labels(self, segments: Segments) -> IntArray:
        strangers = {*segments.classes.values()} - {*self._classes}
        if strangers:
            raise FrameError(f"class '{strangers.pop()}' is none of the {len(self._classes)} classes that are scored")
        unmarked = 0 if self._official_quirks else UNMARKED
        dropped = segments.crowds if self._official_quirks else ()
        label_of = {i: unmarked if i in dropped else self._classes.index(n) for i, n in segments.classes.items()}
        ids = sorted({VOID, *segments.classes})
        labels = np.array([label_of.get(number, unmarked) for number in ids], np.int64)
        return labels[np.searchsorted(np.array(ids), segments.ids)]

"""IoU of masks that answer a phrase, which may mean nothing in the picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.types import BoolArray

PRECISION_PERCENT = (50, 60, 70, 80, 90)
"""IoU from which a target counts as found, in percent."""


@dataclass
class _Counts:
    """Sums over samples: with a target (``hits`` by threshold, ``answered`` where there is any answer) and without."""

    intersection: int = 0
    union: int = 0
    iou: float = 0.0
    targets: int = 0
    answered: int = 0
    no_targets: int = 0
    silent: int = 0
    hits: tuple[int, ...] = (0,) * len(PRECISION_PERCENT)


class ReferringIoU:
    """cIoU and gIoU, precision at thresholds, and how often "nothing" is answered rightly.

    A sample without a target that is answered with an empty mask has IoU 1 and adds nothing to cIoU; any other answer
    to it has IoU 0, and its pixels add to the union of cIoU. X2SAM's evaluator has the same rule.

    Source: Yu et al., "Modeling Context in Referring Expressions", ECCV 2016 (cIoU, precision); Liu et al., "GRES",
    CVPR 2023 (gIoU, N-acc., T-acc.).
    """

    def __init__(self) -> None:
        self._counts = _Counts()

    def update(self, predicted: BoolArray, truth: BoolArray, ignore: BoolArray | None = None) -> None:
        """Add one sample.

        Args:
            predicted: bool (H, W), or (T, H, W) for a clip; empty means "nothing is meant".
            truth: the same shape; empty where there is no target.
            ignore: the same shape, pixels that do not count.

        Raises:
            FrameError: the shapes differ.
        """
        if predicted.shape != truth.shape or (ignore is not None and ignore.shape != truth.shape):
            ignored = "" if ignore is None else f", to ignore {ignore.shape}"
            raise FrameError(f"masks of a sample differ: answer {predicted.shape}, truth {truth.shape}{ignored}")
        if ignore is not None:
            predicted, truth = predicted & ~ignore, truth & ~ignore
        self.add(*(int(np.count_nonzero(mask)) for mask in (predicted & truth, predicted, truth)))

    def add(self, intersection: int, answered: int, true: int) -> None:
        """Add one sample by its pixels: those in common, those of the answer, those of the truth."""
        counts, union = self._counts, answered + true - intersection
        iou = intersection / union if union else 1.0
        counts.intersection += intersection
        counts.union += union
        counts.iou += iou
        if true:
            counts.targets += 1
            counts.answered += bool(answered)
            counts.hits = tuple(hits + (iou >= percent / 100) for hits, percent in zip(counts.hits, PRECISION_PERCENT))
        else:
            counts.no_targets += 1
            counts.silent += not union

    def compute(self) -> Scores:
        """Return ``giou`` and ``ciou``, ``precision_50`` to ``precision_90``, ``n_acc`` and ``t_acc``.

        Precision and ``t_acc``, the share that is answered at all, are over the samples with a target; ``n_acc``, the
        share that is rightly not answered, is over those without.
        """
        counts = self._counts
        found = {
            f"precision_{percent}": _share(hits, counts.targets)
            for percent, hits in zip(PRECISION_PERCENT, counts.hits)
        }
        return {
            "giou": _share(counts.iou, counts.targets + counts.no_targets),
            "ciou": _share(counts.intersection, counts.union),
            **found,
            "n_acc": _share(counts.silent, counts.no_targets),
            "t_acc": _share(counts.answered, counts.targets),
        }

    def reset(self) -> None:
        """Forget all samples."""
        self._counts = _Counts()

    def merge(self, other: ReferringIoU) -> None:
        """Add all samples of another one."""
        own, its = asdict(self._counts), asdict(other._counts)
        hits = tuple(a + b for a, b in zip(own.pop("hits"), its.pop("hits")))
        self._counts = _Counts(**{name: own[name] + its[name] for name in own}, hits=hits)

    def state(self) -> dict[str, Any]:
        """Return the sums."""
        return {**asdict(self._counts), "hits": list(self._counts.hits)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the sums that ``state`` returned."""
        self._counts = _Counts(**{**state, "hits": tuple(state["hits"])})


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")

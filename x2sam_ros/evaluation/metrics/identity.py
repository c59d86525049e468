"""Metrics of identity: do masks keep the id of their object through a sequence?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.types import BoolArray

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

MATCH_IOU = 0.5
"""Overlap from which a mask is its object's, for IDF1, switches and fragmentations."""

ALPHAS = np.arange(0.05, 0.99, 0.05)
"""Overlaps from which a mask is its object's, for HOTA, which is the mean over them."""

_EPS = float(np.finfo(np.float64).eps)
_SAME_AS_BEFORE = 1000.0
"""What an assignment gains from keeping an id: more than all overlaps together."""


@dataclass(frozen=True)
class Overlaps:
    """What is there on one frame, what was answered, and how much they overlap.

    Args:
        true_ids: the G objects with pixels on the frame.
        predicted_ids: the P targets with pixels on it.
        iou: float (G, P).

    Raises:
        FrameError: the shape does not fit, or an id is listed twice.
    """

    true_ids: Sequence[int]
    predicted_ids: Sequence[int]
    iou: FloatArray

    def __post_init__(self) -> None:
        if self.iou.shape != (len(self.true_ids), len(self.predicted_ids)):
            raise FrameError(
                f"{len(self.true_ids)} true and {len(self.predicted_ids)} predicted ids need overlaps of that shape, "
                f"got {self.iou.shape}"
            )
        for ids in (self.true_ids, self.predicted_ids):
            if len(set(ids)) != len(ids):
                raise FrameError(f"an id may have one mask on a frame, got {list(ids)}; unite the masks of one id")


def overlaps_of(
    true_ids: Sequence[int], true_masks: BoolArray, predicted_ids: Sequence[int], predicted_masks: BoolArray
) -> Overlaps:
    """Measure the overlaps of one frame; masks without a pixel are left out.

    Args:
        true_ids: the G objects.
        true_masks: bool (G, H, W).
        predicted_ids: the P targets.
        predicted_masks: bool (P, H, W).

    Raises:
        FrameError: masks and ids differ in number, masks in size, or an id is listed twice.
    """
    if true_masks.shape[1:] != predicted_masks.shape[1:]:
        raise FrameError(f"masks to compare have sizes {true_masks.shape[1:]} and {predicted_masks.shape[1:]}")
    flat = [masks.reshape(len(masks), int(np.prod(masks.shape[1:]))) for masks in (true_masks, predicted_masks)]
    areas = [np.array([np.count_nonzero(mask) for mask in masks], np.int64) for masks in flat]
    common = np.array([[np.count_nonzero(true & own) for own in flat[1]] for true in flat[0]]).reshape(
        len(flat[0]), len(flat[1])
    )
    shown = [area > 0 for area in areas]
    union = areas[0][:, None] + areas[1] - common
    iou = (common / np.maximum(union, 1))[np.ix_(*shown)]
    ids = [[id_ for id_, is_shown in zip(own, seen) if is_shown] for own, seen in zip((true_ids, predicted_ids), shown)]
    return Overlaps(ids[0], ids[1], iou)


@dataclass(frozen=True)
class _Step:
    """A frame with ids as positions in the sequence's lists of ids."""

    true: IndexArray
    own: IndexArray
    iou: FloatArray


class Identity:
    """Identity over any number of sequences: HOTA, IDF1, switches and fragmentations.

    - ``hota``: geometric mean of ``deta`` (are objects found?) and ``assa`` (with one id?), mean over overlaps from
      0.05 to 0.95; ``loca`` is the overlap of what was found.
    - ``idf1``, ``idp``, ``idr``: share of masks that are right when every object gets the one id that suits it best.
    - ``id_switches``: how often an object is found under another id than the last time; ``fragmentations``: how often
      an object that was lost is found again. Numbers, not shares.

    Numbers are those of TrackEval 1.3, its rule included that a frame without an answer, or without an object,
    interrupts no track. NaN where there has been no mask at all.

    Source: Luiten et al., IJCV 2020 (HOTA); Ristani et al., ECCV workshop 2016 (IDF1); Bernardin and Stiefelhagen,
    2008 (switches and fragmentations).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all sequences."""
        # By overlap: found, of which: association summed, overlap summed.
        self._found, self._association, self._overlap = np.zeros((3, len(ALPHAS)))
        self._num_true, self._num_own, self._num_identified, self._num_switches, self._num_fragments = 0, 0, 0, 0, 0

    def update(self, frames: Iterable[Overlaps]) -> None:
        """Add one sequence, its annotated frames in order."""
        listed = list(frames)
        true_ids = sorted({true for frame in listed for true in frame.true_ids})
        own_ids = sorted({own for frame in listed for own in frame.predicted_ids})
        true_at, own_at = ({id_: place for place, id_ in enumerate(ids)} for ids in (true_ids, own_ids))
        steps = [
            _Step(
                np.array([true_at[true] for true in frame.true_ids], np.int64),
                np.array([own_at[own] for own in frame.predicted_ids], np.int64),
                frame.iou,
            )
            for frame in listed
        ]
        true_counts, own_counts = np.zeros((len(true_ids), 1)), np.zeros((1, len(own_ids)))
        for step in steps:
            true_counts[step.true] += 1
            own_counts[:, step.own] += 1
        self._num_true += int(true_counts.sum())
        self._num_own += int(own_counts.sum())
        if true_ids and own_ids:
            self._add_hota(steps, true_counts, own_counts)
            self._add_identified(steps, true_counts.shape[0], own_counts.shape[1])
            self._add_breaks(steps, len(true_ids))

    def _add_hota(self, steps: Sequence[_Step], true_counts: FloatArray, own_counts: FloatArray) -> None:
        shared = np.zeros((len(true_counts), own_counts.shape[1]))
        for step in steps:
            total = step.iou.sum(axis=0) + step.iou.sum(axis=1)[:, None] - step.iou
            shared[np.ix_(step.true, step.own)] += np.where(total > _EPS, step.iou / np.maximum(total, _EPS), 0.0)
        alignment = shared / (true_counts + own_counts - shared)
        matches = np.zeros((len(ALPHAS), *shared.shape))
        for step in steps:
            rows, columns = linear_sum_assignment(-alignment[np.ix_(step.true, step.own)] * step.iou)
            overlaps = step.iou[rows, columns]
            is_match = overlaps >= ALPHAS[:, None] - _EPS
            self._overlap += is_match @ overlaps
            matches[:, step.true[rows], step.own[columns]] += is_match
        self._found += matches.sum(axis=(1, 2))
        union = np.maximum(true_counts + own_counts - matches, 1)
        self._association += (matches * matches / union).sum(axis=(1, 2))

    def _add_identified(self, steps: Sequence[_Step], num_true: int, num_own: int) -> None:
        agreements = np.zeros((num_true, num_own))
        for step in steps:
            agreements[np.ix_(step.true, step.own)] += step.iou >= MATCH_IOU
        # As no agreement is negative, the best assignment of as many as possible is the best assignment.
        self._num_identified += int(agreements[linear_sum_assignment(-agreements)].sum())

    def _add_breaks(self, steps: Sequence[_Step], num_true: int) -> None:
        last, before = np.full((2, num_true), -1)  # the id an object had last, and that on the frame before
        num_found = np.zeros(num_true, np.int64)
        for step in steps:
            if not step.iou.size:
                continue
            gain = _SAME_AS_BEFORE * (step.own == before[step.true][:, None]) + step.iou
            gain[step.iou < MATCH_IOU - _EPS] = 0
            rows, columns = linear_sum_assignment(-gain)
            is_match = gain[rows, columns] > _EPS
            true, own = step.true[rows[is_match]], step.own[columns[is_match]]
            self._num_switches += int(np.count_nonzero((last[true] >= 0) & (last[true] != own)))
            num_found[true] += before[true] < 0
            last[true] = own
            before[:] = -1
            before[true] = own
        self._num_fragments += int(np.maximum(num_found - 1, 0).sum())

    def compute(self) -> Scores:
        """Return the numbers over all sequences so far."""
        num_masks = self._num_true + self._num_own
        if not num_masks:
            names = ("hota", "deta", "assa", "loca", "idf1", "idp", "idr", "id_switches", "fragmentations")
            return dict.fromkeys(names, float("nan"))
        detection = self._found / (num_masks - self._found)
        association = self._association / np.maximum(self._found, 1)
        location = np.where(self._found > 0, self._overlap / np.maximum(self._found, 1), 1.0)
        return {
            "hota": float(np.mean(np.sqrt(detection * association))),
            "deta": float(np.mean(detection)),
            "assa": float(np.mean(association)),
            "loca": float(np.mean(location)),
            "idf1": 2 * self._num_identified / num_masks,
            "idp": self._num_identified / max(self._num_own, 1),
            "idr": self._num_identified / max(self._num_true, 1),
            "id_switches": float(self._num_switches),
            "fragmentations": float(self._num_fragments),
        }

    def merge(self, other: Identity) -> None:
        """Add all sequences of another one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def state(self) -> dict[str, Any]:
        """Return sums and counts."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, np.array(value) if isinstance(value, list) else value)

"""Panoptic quality of pictures, or of clips, that are divided into segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.types import BoolArray, IntArray

VOID = 0
"""Id of pixels that belong to no segment."""

MATCH_IOU = 0.5
"""Overlap above which two segments are the same; at one half or more at most one segment can have it."""

IGNORED_SHARE = 0.5
"""A segment with a larger share than this on void or crowd is no mistake."""

ClassName = str | int


@dataclass(frozen=True)
class Segments:
    """A picture, or a clip as tubes, divided into segments.

    Args:
        ids: int (H, W) or (T, H, W), id of each pixel's segment, ``VOID`` where there is none.
        classes: class of each id. An id without pixels is a segment that nothing can match.
        crowds: ids that stand for groups nobody took apart: neither to be found nor wrong. One for each class counts,
            the last, as in COCO's files, which have no more.

    Raises:
        FrameError: an id of the map has no class, ``VOID`` has one, or a crowd is no segment.
    """

    ids: IntArray
    classes: Mapping[int, ClassName]
    crowds: Collection[int] = ()

    def __post_init__(self) -> None:
        strangers = sorted({*run_values(self.ids)[0].tolist(), *self.crowds} - {VOID, *self.classes})
        if strangers or VOID in self.classes or VOID in self.crowds:
            raise FrameError(
                f"segment {strangers[0] if strangers else VOID} {'has no class' if strangers else 'is void'}; "
                f"name the class of every id but {VOID}, which stands for no segment"
            )

    @classmethod
    def of_masks(cls, segments: Sequence[tuple[ClassName, BoolArray]], size: tuple[int, ...]) -> Segments:
        """Number (class, mask) pairs from 1.

        Args:
            segments: class and mask of each, bool, no two with a pixel in common.
            size: the masks' shape, (H, W) or (T, H, W).

        Raises:
            FrameError: a mask has another shape, or two overlap.
        """
        ids = np.zeros(size, np.int32)
        for number, (name, mask) in enumerate(segments, start=1):
            if mask.shape != ids.shape:
                raise FrameError(f"segment {number} ('{name}') has shape {mask.shape}, expected {ids.shape}")
            left, top, width, height = cv2.boundingRect(mask.reshape(-1, mask.shape[-1]).view(np.uint8))
            box = slice(top, top + height), slice(left, left + width)
            inside, part = mask.reshape(-1, mask.shape[-1])[box], ids.reshape(-1, mask.shape[-1])[box]
            if part[inside].any():
                raise FrameError(f"segment {number} ('{name}') overlaps one before it; segments share no pixel")
            part[inside] = number
        return cls(ids, {number: name for number, (name, _) in enumerate(segments, start=1)})


@dataclass(frozen=True)
class SharedPixels:
    """What is needed to compare a predicted with a true division into segments, without the maps.

    Args:
        pixels: how many a true and a predicted segment have in common, where they have any; ``VOID`` is listed, too.
        predicted, truth: class of each segment.
        crowds: ids of true segments that are crowds.
    """

    pixels: Mapping[tuple[int, int], int]
    predicted: Mapping[int, ClassName]
    truth: Mapping[int, ClassName]
    crowds: Collection[int] = ()


def shared_pixels(predicted: Segments, truth: Segments) -> SharedPixels:
    """Count the pixels that true and predicted segments share.

    Raises:
        FrameError: the maps have different shapes.
    """
    if predicted.ids.shape != truth.ids.shape:
        raise FrameError(f"maps to compare have shapes {predicted.ids.shape} and {truth.ids.shape}; resize one")
    true_runs, own_runs, lengths = run_values(truth.ids, predicted.ids)
    true_ids, rows = np.unique(true_runs, return_inverse=True)
    own_ids, columns = np.unique(own_runs, return_inverse=True)
    cells, cell_of_run = np.unique(rows * len(own_ids) + columns, return_inverse=True)
    pixels = np.bincount(cell_of_run, lengths, len(cells)).astype(np.int64).tolist()
    pairs = zip(true_ids[cells // len(own_ids)].tolist(), own_ids[cells % len(own_ids)].tolist())
    return SharedPixels(dict(zip(pairs, pixels)), predicted.classes, truth.classes, frozenset(truth.crowds))


def run_values(*maps: IntArray) -> tuple[npt.NDArray[Any], ...]:
    """Return the value that each map has in every run of pixels in which none of them changes, and the runs' lengths.

    Neighbours mostly are of one segment: there are far fewer runs than pixels to be sorted.
    """
    flat = [ids.ravel() for ids in maps]
    starts = np.ones(flat[0].size, np.bool_)
    starts[1:] = flat[0][1:] != flat[0][:-1]
    for values in flat[1:]:
        starts[1:] |= values[1:] != values[:-1]
    where = np.flatnonzero(starts)
    return *(values[where] for values in flat), np.diff(where, append=starts.size)


@dataclass(frozen=True)
class Quality:
    """Panoptic, segmentation and recognition quality, means over classes, 0 to 1; NaN where there is no class.

    Args:
        pq: recognition quality times segmentation quality, class by class.
        sq: IoU of the segments that were found; 0 for a class of which none was.
        rq: F1 of finding segments.
        num_classes: classes that occur, in the truth or as a mistake.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


@dataclass(frozen=True)
class PanopticScore:
    """Quality of all classes, of those that are things, of those that are stuff, and of each that occurs."""

    overall: Quality
    things: Quality
    stuff: Quality
    by_class: Mapping[ClassName, Quality]


@dataclass
class _Counts:
    """What was found of one class: true positives with their summed IoU, false positives and false negatives."""

    iou: float = 0.0
    found: int = 0
    wrong: int = 0
    missed: int = 0

    def quality(self) -> Quality:
        weight = self.found + 0.5 * self.wrong + 0.5 * self.missed
        return Quality(self.iou / weight, self.iou / self.found if self.found else 0.0, self.found / weight, 1)


@dataclass
class PanopticQuality:
    """Panoptic quality over any number of pictures.

    A predicted and a true segment match where their class is the same and their IoU above ``MATCH_IOU``; the union
    leaves out what the predicted one has on void. A segment that matches nothing is a mistake unless most of it lies
    on void or on its class's crowd.

    Args:
        stuff: classes that are no countable things.

    Source: Kirillov et al., CVPR 2019, "Panoptic Segmentation"; void and crowd as in COCO's panopticapi.
    """

    stuff: Collection[ClassName] = ()
    _counts: dict[ClassName, _Counts] = field(default_factory=dict, init=False)

    def reset(self) -> None:
        """Forget all pictures."""
        self._counts.clear()

    def update(self, predicted: Segments, truth: Segments) -> None:
        """Add one picture.

        Raises:
            FrameError: the maps have different shapes.
        """
        self.add(shared_pixels(predicted, truth))

    def add(self, shared: SharedPixels) -> None:
        """Add one picture, or several that count as one, by what its segments share."""
        predicted, truth, pixels = shared.predicted, shared.truth, shared.pixels
        areas_true, areas_own = Counter[int](), Counter[int]()
        for (true_id, own), common in pixels.items():
            areas_true[true_id] += common
            areas_own[own] += common
        found_true, found_own = set(shared.crowds), set()
        for (true_id, own), common in pixels.items():
            if true_id in shared.crowds or VOID in (true_id, own) or truth[true_id] != predicted[own]:
                continue
            union = areas_true[true_id] + areas_own[own] - common - pixels.get((VOID, own), 0)
            if common > MATCH_IOU * union:
                found_true.add(true_id)
                found_own.add(own)
                counts = self._of(truth[true_id])
                counts.found += 1
                counts.iou += common / union
        for true_id, name in truth.items():
            if true_id not in found_true:
                self._of(name).missed += 1
        crowd_of = {name: crowd for crowd, name in truth.items() if crowd in shared.crowds}
        for own, name in predicted.items():
            ignored = pixels.get((VOID, own), 0)
            if name in crowd_of:
                ignored += pixels.get((crowd_of[name], own), 0)
            if own not in found_own and not ignored > IGNORED_SHARE * areas_own[own]:
                self._of(name).wrong += 1

    def merge(self, other: PanopticQuality) -> None:
        """Add all pictures of another one."""
        self.stuff = {*self.stuff, *other.stuff}
        for name, counts in other._counts.items():
            own = self._of(name)
            own.iou += counts.iou
            own.found += counts.found
            own.wrong += counts.wrong
            own.missed += counts.missed

    def quality(self) -> PanopticScore:
        """Return the quality over all pictures so far, with that of each class."""
        # In the order of the names, so that the last digit does not depend on the order of merging.
        by_class = {name: self._counts[name].quality() for name in sorted(self._counts, key=str)}
        return PanopticScore(
            overall=_mean(list(by_class.values())),
            things=_mean([quality for name, quality in by_class.items() if name not in self.stuff]),
            stuff=_mean([quality for name, quality in by_class.items() if name in self.stuff]),
            by_class=by_class,
        )

    def compute(self) -> Scores:
        """Return ``pq``, ``sq`` and ``rq`` over all classes, and with ``_things`` and ``_stuff`` over those."""
        score = self.quality()
        parts = {"": score.overall, "_things": score.things, "_stuff": score.stuff}
        return {f"{name}{part}": getattr(its, name) for part, its in parts.items() for name in ("pq", "sq", "rq")}

    def state(self) -> dict[str, Any]:
        """Return a row of counts for each class; a list, because a class may be a number."""
        return {"classes": [[name, *astuple(counts)] for name, counts in self._counts.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the counts that ``state`` returned."""
        self._counts = {name: _Counts(*counts) for name, *counts in state["classes"]}

    def _of(self, name: ClassName) -> _Counts:
        return self._counts.setdefault(name, _Counts())


def _mean(qualities: list[Quality]) -> Quality:
    if not qualities:
        return Quality(float("nan"), float("nan"), float("nan"), 0)
    pq, sq, rq = np.mean([(quality.pq, quality.sq, quality.rq) for quality in qualities], axis=0).tolist()
    return Quality(pq, sq, rq, len(qualities))

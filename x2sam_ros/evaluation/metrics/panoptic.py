"""Panoptic quality of pictures, or of clips, that are divided into segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
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
        strangers = sorted({*np.unique(self.ids).tolist(), *self.crowds} - {VOID, *self.classes})
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
        ids = np.zeros(size, np.int64)
        for number, (name, mask) in enumerate(segments, start=1):
            if mask.shape != ids.shape:
                raise FrameError(f"segment {number} ('{name}') has shape {mask.shape}, expected {ids.shape}")
            if ids[mask].any():
                raise FrameError(f"segment {number} ('{name}') overlaps one before it; segments share no pixel")
            ids[mask] = number
        return cls(ids, {number: name for number, (name, _) in enumerate(segments, start=1)})


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
        if predicted.ids.shape != truth.ids.shape:
            raise FrameError(f"maps to compare have shapes {predicted.ids.shape} and {truth.ids.shape}; resize one")
        common, rows, columns = _common_pixels(truth, predicted)
        areas, on_void = common.sum(axis=0), common[rows[VOID]]
        matched: set[int] = set()
        for true_id, name in truth.classes.items():
            if true_id in truth.crowds:
                continue
            row = rows[true_id]
            union = areas + common[row].sum() - common[row] - on_void
            match = next(
                (
                    own
                    for own, its in predicted.classes.items()
                    if its == name and common[row, columns[own]] > MATCH_IOU * union[columns[own]]
                ),
                None,
            )
            counts = self._of(name)
            if match is None:
                counts.missed += 1
                continue
            matched.add(match)
            counts.found += 1
            counts.iou += float(common[row, columns[match]] / union[columns[match]])
        crowd_of = {name: rows[crowd] for crowd, name in truth.classes.items() if crowd in truth.crowds}
        for own, name in predicted.classes.items():
            column = columns[own]
            ignored = on_void[column] + (common[crowd_of[name], column] if name in crowd_of else 0)
            if own not in matched and not ignored > IGNORED_SHARE * areas[column]:
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

    def compute(self) -> PanopticScore:
        """Return the quality over all pictures so far."""
        by_class = {name: counts.quality() for name, counts in self._counts.items()}
        return PanopticScore(
            overall=_mean(list(by_class.values())),
            things=_mean([quality for name, quality in by_class.items() if name not in self.stuff]),
            stuff=_mean([quality for name, quality in by_class.items() if name in self.stuff]),
            by_class=by_class,
        )

    def _of(self, name: ClassName) -> _Counts:
        return self._counts.setdefault(name, _Counts())


def _common_pixels(
    truth: Segments, predicted: Segments
) -> tuple[npt.NDArray[np.int64], dict[int, int], dict[int, int]]:
    """Count the pixels that a true and a predicted segment share; return (true, predicted) and the index of each id."""
    true_ids, own_ids = (np.array(sorted({VOID, *segments.classes})) for segments in (truth, predicted))
    rows, columns = np.searchsorted(true_ids, truth.ids.ravel()), np.searchsorted(own_ids, predicted.ids.ravel())
    cells = np.bincount(rows * len(own_ids) + columns, minlength=len(true_ids) * len(own_ids))
    common = cells.reshape(len(true_ids), len(own_ids))
    return common, {int(v): i for i, v in enumerate(true_ids)}, {int(v): i for i, v in enumerate(own_ids)}


def _mean(qualities: list[Quality]) -> Quality:
    if not qualities:
        return Quality(float("nan"), float("nan"), float("nan"), 0)
    pq, sq, rq = np.mean([(quality.pq, quality.sq, quality.rq) for quality in qualities], axis=0).tolist()
    return Quality(pq, sq, rq, len(qualities))

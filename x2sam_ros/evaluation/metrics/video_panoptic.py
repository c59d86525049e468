"""Panoptic quality of videos: tubes in windows (VPQ), and segmentation and tracking (STQ)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.evaluation.metrics.panoptic import VOID, ClassName, PanopticQuality, SharedPixels

WINDOWS = (1, 2, 4, 6)
"""Lengths of the windows in frames, as X2SAM's evaluator has them."""

_Tube = tuple[ClassName, int]

_NAN = float("nan")


class VideoPanopticQuality:
    """VPQ: panoptic quality of the tubes in every run of k neighbouring frames, averaged over the lengths k.

    A tube is what has one id in a window; its class is that of the first frame that lists it. A video shorter than a
    window has none of that length, and a length without a window is left out of the average.

    Args:
        stuff: classes that are no countable things.
        windows: the lengths k in frames.

    Source: Kim et al., CVPR 2020, "Video Panoptic Segmentation".
    """

    def __init__(self, stuff: Collection[ClassName] = (), windows: Sequence[int] = WINDOWS) -> None:
        self._by_length = {length: PanopticQuality(stuff) for length in windows}

    def update(self, clip: Iterable[SharedPixels]) -> None:
        """Add one video, frame by frame in order; counts of the longest window's frames are held, and no maps."""
        recent: deque[SharedPixels] = deque(maxlen=max(self._by_length))
        for frame in clip:
            recent.append(frame)
            for length, quality in self._by_length.items():
                if len(recent) >= length:
                    quality.add(_joined(list(recent)[-length:]))

    def quality(self, length: int) -> PanopticQuality:
        """Return the panoptic quality of the windows of one length."""
        return self._by_length[length]

    def compute(self) -> Scores:
        """Return ``vpq`` and ``vpqK`` for each length K, and with ``_things`` and ``_stuff`` over those classes."""
        computed = {length: quality.compute() for length, quality in self._by_length.items()}
        scores: Scores = {}
        for part in ("", "_things", "_stuff"):
            by_length = {length: found[f"pq{part}"] for length, found in computed.items()}
            measured = [value for value in by_length.values() if value == value]
            scores[f"vpq{part}"] = float(np.mean(measured)) if measured else _NAN
            scores.update({f"vpq{length}{part}": value for length, value in by_length.items()})
        return scores

    def reset(self) -> None:
        """Forget all videos."""
        for quality in self._by_length.values():
            quality.reset()

    def merge(self, other: VideoPanopticQuality) -> None:
        """Add all videos of another one."""
        for length, quality in self._by_length.items():
            quality.merge(other._by_length[length])

    def state(self) -> dict[str, Any]:
        """Return the counts of each length."""
        return {str(length): quality.state() for length, quality in self._by_length.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the counts that ``state`` returned."""
        for length, quality in self._by_length.items():
            quality.restore(state[str(length)])


def _joined(frames: Sequence[SharedPixels]) -> SharedPixels:
    """Put frames together, so that what has one id becomes one tube."""
    if len(frames) == 1:
        return frames[0]
    pixels = Counter[tuple[int, int]]()
    predicted: dict[int, ClassName] = {}
    truth: dict[int, ClassName] = {}
    for frame in frames:
        for pair, common in frame.pixels.items():
            pixels[pair] += common
        predicted = {**frame.predicted, **predicted}
        truth = {**frame.truth, **truth}
    return SharedPixels(pixels, predicted, truth, {crowd for frame in frames for crowd in frame.crowds})


@dataclass
class _ClassPixels:
    """Pixels of one class: right, true and predicted, where the truth is marked."""

    right: int = 0
    true: int = 0
    own: int = 0


@dataclass
class _Tracking:
    """What is kept of all videos."""

    association: float = 0.0
    tubes: int = 0
    unanswered: int = 0
    classes: dict[ClassName, _ClassPixels] = field(default_factory=dict)

    def of(self, name: ClassName) -> _ClassPixels:
        return self.classes.setdefault(name, _ClassPixels())


class SegmentationTrackingQuality:
    """STQ: the geometric mean of segmentation quality (mean IoU of classes) and association quality of things.

    Pixels without truth do not count. Crowds count for the classes and not for the association, where whatever is
    predicted on them is left out.

    Args:
        stuff: classes that are no countable things.
        official_quirks: do as X2SAM's evaluator: what a crowd is, is not looked at; instead the segment that a video's
            truth lists first is one. Pixels without an answer make one more class, of IoU 0, and without any thing the
            association quality is 0.

    Source: Weber et al., NeurIPS 2021 Datasets and Benchmarks, "STEP: Segmenting and Tracking Every Pixel".
    """

    def __init__(self, stuff: Collection[ClassName] = (), official_quirks: bool = False) -> None:
        self._stuff = frozenset(stuff)
        self._official_quirks = official_quirks
        self._counts = _Tracking()

    def update(self, clip: Iterable[SharedPixels]) -> None:
        """Add one video, all frames in order."""
        common = Counter[tuple[_Tube, _Tube | None]]()
        crowds: set[int] = set()
        for frame in clip:
            if not self._official_quirks:
                crowds.update(frame.crowds)
            elif not crowds:
                crowds.update(list(frame.truth)[:1])
            for (true_id, own), pixels in frame.pixels.items():
                if true_id != VOID:
                    answer = (frame.predicted[own], own) if own != VOID else None
                    common[(frame.truth[true_id], true_id), answer] += pixels
        self._add_classes(common)
        self._add_association(common, crowds)

    def _add_classes(self, common: Counter[tuple[_Tube, _Tube | None]]) -> None:
        for (true, own), pixels in common.items():
            self._counts.of(true[0]).true += pixels
            if own is None:
                self._counts.unanswered += pixels
                continue
            self._counts.of(own[0]).own += pixels
            if own[0] == true[0]:
                self._counts.of(own[0]).right += pixels

    def _add_association(self, common: Counter[tuple[_Tube, _Tube | None]], crowds: Collection[int]) -> None:
        areas_true, areas_own = Counter[_Tube](), Counter[_Tube]()
        shared: dict[tuple[_Tube, _Tube], int] = {}
        for (true, own), pixels in common.items():
            is_thing = true[0] not in self._stuff
            if is_thing and true[1] in crowds:
                continue
            if is_thing:
                areas_true[true] += pixels
            if own is not None and own[0] not in self._stuff:
                areas_own[own] += pixels
                if is_thing:
                    shared[true, own] = pixels
        self._counts.tubes += len(areas_true)
        for (true, own), pixels in shared.items():
            iou = pixels / (areas_true[true] + areas_own[own] - pixels)
            self._counts.association += pixels * iou / areas_true[true]

    def compute(self) -> Scores:
        """Return ``stq``, ``stq_aq`` (association) and ``stq_sq`` (segmentation)."""
        counts = self._counts
        classes = sorted(counts.classes.items(), key=lambda item: str(item[0]))
        ious = [its.right / (its.true + its.own - its.right) for _, its in classes]
        if self._official_quirks and counts.unanswered:
            ious.append(0.0)
        segmentation = float(np.mean(ious)) if ious else _NAN
        nothing = 0.0 if self._official_quirks else _NAN
        association = counts.association / counts.tubes if counts.tubes else nothing
        return {"stq": sqrt(association * segmentation), "stq_aq": association, "stq_sq": segmentation}

    def reset(self) -> None:
        """Forget all videos."""
        self._counts = _Tracking()

    def merge(self, other: SegmentationTrackingQuality) -> None:
        """Add all videos of another one."""
        own, its = self._counts, other._counts
        own.association += its.association
        own.tubes += its.tubes
        own.unanswered += its.unanswered
        for name, pixels in its.classes.items():
            mine = own.of(name)
            mine.right, mine.true, mine.own = mine.right + pixels.right, mine.true + pixels.true, mine.own + pixels.own

    def state(self) -> dict[str, Any]:
        """Return the sums, and a row of pixels for each class; a list, because a class may be a number."""
        counts = self._counts
        return {
            "association": counts.association,
            "tubes": counts.tubes,
            "unanswered": counts.unanswered,
            "classes": [[name, its.right, its.true, its.own] for name, its in counts.classes.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the sums that ``state`` returned."""
        classes = {name: _ClassPixels(*pixels) for name, *pixels in state["classes"]}
        self._counts = _Tracking(state["association"], state["tubes"], state["unanswered"], classes)

"""Metrics of what a robot has in time: masks are judged by when they are there, too."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from x2sam_ros.evaluation.metrics.masks import boundary_accuracy, region_similarity
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.rle import Counts, decode_rle, encode_rle
from x2sam_ros.types import BoolArray

FOUND_J = 0.5
"""J from which a mask has found its object."""

REACQUIRE_FRAMES = 10
"""Annotated frames, from an object's return on, within which it has to be found again."""


class ObjectWatch:
    """One object, and the masks that were published for it, watched frame by frame.

    It holds the masks that are not published yet, as run lengths.

    Args:
        prompted_ns: stamp of the frame that the prompt was given on. Frames before it do not count.
    """

    def __init__(self, prompted_ns: int) -> None:
        self._prompted_ns = prompted_ns
        self._coming: list[tuple[int, tuple[int, ...], Counts]] = []
        self._current: BoolArray | None = None
        self._before: tuple[BoolArray, BoolArray] | None = None
        self._was_seen, self._is_away, self._returned_ns, self._frames_left = False, False, 0, 0
        self.first_mask_s: float | None = None
        self.latency_j: list[float] = []
        self.latency_f: list[float] = []
        self.num_returns = 0
        self.reacquired_s: list[float] = []
        self.changes: list[float] = []
        self.num_absent = 0
        self.num_false_alarms = 0

    def see(
        self,
        stamp_ns: int,
        published_ns: int | None,
        predicted: BoolArray,
        truth: BoolArray | None,
        ignore: BoolArray | None = None,
    ) -> None:
        """Take the next frame, annotated or not.

        Args:
            stamp_ns: of the frame.
            published_ns: when its mask was there, on the same clock; None where it was lost.
            predicted: bool (H, W), the mask for it, without a pixel where there is none.
            truth: bool (H, W), the object, without a pixel where it is absent; None where nobody annotated the frame.
            ignore: bool (H, W), pixels that nobody annotated, which do not count; None for no such pixel.

        Raises:
            FrameError: masks of one frame that differ in size.
        """
        if stamp_ns < self._prompted_ns:
            return
        if published_ns is not None:
            self._coming.append((published_ns, predicted.shape, encode_rle(predicted)))
        if truth is not None:
            self._judge_current(stamp_ns, truth, ignore)
            self._judge_own(stamp_ns, published_ns, _without(predicted, ignore), _without(truth, ignore))

    def _judge_current(self, stamp_ns: int, truth: BoolArray, ignore: BoolArray | None) -> None:
        there = [place for place, (published_ns, *_) in enumerate(self._coming) if published_ns <= stamp_ns]
        if there:
            _, (height, width), counts = self._coming[there[-1]]
            self._current = decode_rle(counts, height, width)
            del self._coming[: there[-1] + 1]
        if stamp_ns == self._prompted_ns:  # nothing can be there yet, however quick one is
            return
        if self._current is None or self._current.shape != truth.shape:
            self._current = np.zeros_like(truth)
        mask, true = _without(self._current, ignore), _without(truth, ignore)
        self.latency_j.append(region_similarity(mask, true))
        self.latency_f.append(boundary_accuracy(mask, true))

    def _judge_own(self, stamp_ns: int, published_ns: int | None, mask: BoolArray, truth: BoolArray) -> None:
        if not truth.any():
            self._frames_left = 0
            self._is_away = self._was_seen
            self.num_absent += 1
            self.num_false_alarms += bool(mask.any())
            self._before = None
            return
        if self._is_away:
            self._returned_ns, self._frames_left = stamp_ns, REACQUIRE_FRAMES
            self.num_returns += 1
        self._is_away, self._was_seen = False, True
        is_sought = self.first_mask_s is None or self._frames_left > 0
        if published_ns is not None and is_sought and region_similarity(mask, truth) >= FOUND_J:
            if self.first_mask_s is None:
                self.first_mask_s = (published_ns - self._prompted_ns) / 1e9
            if self._frames_left:
                self.reacquired_s.append((stamp_ns - self._returned_ns) / 1e9)
            self._frames_left = 0
        self._frames_left = max(self._frames_left - 1, 0)
        if self._before is not None and self._before[1].shape == truth.shape:
            overlaps = [region_similarity(now, then) for now, then in zip((mask, truth), self._before)]
            self.changes.append(abs(overlaps[0] - overlaps[1]))
        self._before = mask, truth


def _without(mask: BoolArray, ignore: BoolArray | None) -> BoolArray:
    if ignore is None:
        return mask
    kept: BoolArray = mask & ~ignore
    return kept


class Streaming:
    """What a robot has in time, over any number of objects, each watched by an ``ObjectWatch``.

    Times are on the clock of the frames' stamps. "Annotated" frames are those from the prompt's frame on.

    - ``first_mask_s``: seconds from the stamp of the prompt's frame to the publication of the first mask, of an
      annotated frame, that has J of ``FOUND_J`` or more with its object on its own frame. The median over the objects
      that ever get one, and ``first_mask_share``, the share that does.
    - ``latency_j``, ``latency_f``, ``latency_jf``: J, F and their mean where every annotated frame after the prompt's
      is compared with the newest mask published until its stamp, for whichever frame that was made, or with an empty
      one before there is any. The mean over an object's frames, then over objects.
    - ``reacquired_share``: an object returns on the first annotated frame that shows it after frames that did not,
      where it had been seen before. The share of returns after which a mask has J of ``FOUND_J`` or more within
      ``REACQUIRE_FRAMES`` annotated frames, the first included, before it goes again or the sequence ends;
      ``reacquired_s`` is the median time from the return's stamp to that frame's stamp. A lost frame has no mask.
    - ``stability``: 1 less the mean of ``|IoU(m1, m2) - IoU(t1, t2)|`` over annotated frames 1 and 2 that follow each
      other and both show the object, m the masks and t the truths: 1 where masks change exactly as much as the object
      does. A mask that flickers loses, and so does one that stands still on a moving object. Pairs of all objects
      weigh the same.
    - ``false_alarm_share``: share of the annotated frames without the object that have a mask with a pixel.

    NaN where there is nothing to measure.

    Source: Li et al., ECCV 2020, "Towards Streaming Perception", for ``latency_...``; the others are ours.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all objects."""
        self._firsts: list[float | None] = []
        self._latency: list[list[float]] = []
        self._num_returns = 0
        self._reacquired: list[float] = []
        self._change, self._num_changes = 0.0, 0
        self._num_absent, self._num_false_alarms = 0, 0

    def update(self, watch: ObjectWatch) -> None:
        """Add an object whose sequence has ended."""
        self._firsts.append(watch.first_mask_s)
        if watch.latency_j:
            self._latency.append([float(np.mean(watch.latency_j)), float(np.mean(watch.latency_f))])
        self._num_returns += watch.num_returns
        self._reacquired += watch.reacquired_s
        self._change += sum(watch.changes)
        self._num_changes += len(watch.changes)
        self._num_absent += watch.num_absent
        self._num_false_alarms += watch.num_false_alarms

    def compute(self) -> Scores:
        """Return the numbers over all objects so far."""
        firsts = [first for first in self._firsts if first is not None]
        j, f = np.mean(self._latency, axis=0).tolist() if self._latency else (float("nan"), float("nan"))
        return {
            "first_mask_s": median(firsts) if firsts else float("nan"),
            "first_mask_share": _share(len(firsts), len(self._firsts)),
            "latency_j": j,
            "latency_f": f,
            "latency_jf": (j + f) / 2,
            "reacquired_share": _share(len(self._reacquired), self._num_returns),
            "reacquired_s": median(self._reacquired) if self._reacquired else float("nan"),
            "stability": 1 - _share(self._change, self._num_changes),
            "false_alarm_share": _share(self._num_false_alarms, self._num_absent),
        }

    def merge(self, other: Streaming) -> None:
        """Add all objects of another one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def state(self) -> dict[str, Any]:
        """Return times, sums and counts."""
        return {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")

"""Whether labels stay the same where the scene does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.types import IntArray

WINDOWS = (8, 16)
"""Lengths of the windows in frames (VSPW)."""

_EPSILON = 1e-6


class VideoConsistency:
    """VC: of the pixels whose true label does not change within a window, the share whose prediction does not either.

    Every run of n neighbouring frames is a window; the score is the mean over the windows of all videos. Right or wrong
    does not matter, only the change. Unmarked pixels, below 0, of the truth do not count, and those of the prediction
    are no answer that could be consistent. A window without a pixel that counts is left out, and so is a video that is
    shorter than the window.

    Args:
        windows: lengths in frames.
        official_quirks: do as X2SAM's evaluator: skip the last window of every video, take "unmarked" for a label,
            and count a window without a steady pixel as 0.

    Source: Miao et al., "VSPW", CVPR 2021, section 5.
    """

    def __init__(self, windows: Sequence[int] = WINDOWS, official_quirks: bool = False) -> None:
        self._official_quirks = official_quirks
        self._sums = dict.fromkeys(windows, 0.0)
        self._counts = dict.fromkeys(windows, 0)

    def update(self, clip: Iterable[tuple[IntArray, IntArray]]) -> None:
        """Add one video; no more than two frames are held at a time.

        Args:
            clip: predicted and true labels of each frame in order, int (H, W).

        Raises:
            FrameError: the maps differ in shape.
        """
        steady_own, steady_true = _Steady(self._official_quirks), _Steady(self._official_quirks)
        found: dict[int, list[float]] = {length: [] for length in self._sums}
        for predicted, truth in clip:
            own, true = steady_own.see(predicted), steady_true.see(truth)
            if own.shape != true.shape:
                raise FrameError(f"label maps to compare have shapes {own.shape} and {true.shape}; resize one")
            for length in found:
                if steady_true.num_frames >= length:
                    share = self._share(own >= length, true >= length)
                    found[length] += [] if share is None else [share]
        for length, shares in found.items():
            counted = shares[:-1] if self._official_quirks else shares
            self._sums[length] += float(np.sum(counted))
            self._counts[length] += len(counted)

    def compute(self) -> Scores:
        """Return ``vcN`` for each length N."""
        return {
            f"vc{length}": self._sums[length] / count if count else float("nan")
            for length, count in self._counts.items()
        }

    def reset(self) -> None:
        """Forget all videos."""
        self._sums, self._counts = dict.fromkeys(self._sums, 0.0), dict.fromkeys(self._counts, 0)

    def merge(self, other: VideoConsistency) -> None:
        """Add all videos of another one."""
        for length in self._sums:
            self._sums[length] += other._sums[length]
            self._counts[length] += other._counts[length]

    def state(self) -> dict[str, Any]:
        """Return the sum and the number of windows of each length."""
        return {str(length): [total, self._counts[length]] for length, total in self._sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the sums that ``state`` returned."""
        self._sums = {int(length): total for length, (total, _) in state.items()}
        self._counts = {int(length): count for length, (_, count) in state.items()}

    def _share(self, own: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float | None:
        steady, both = int(np.count_nonzero(true)), int(np.count_nonzero(own & true))
        if self._official_quirks:
            return both / (steady + _EPSILON)
        return both / steady if steady else None


class _Steady:
    """Counts for how many frames each pixel has had its label."""

    def __init__(self, unmarked_counts: bool) -> None:
        self._unmarked_counts = unmarked_counts
        self._previous: IntArray | None = None
        self._lengths = np.zeros(0, np.int32)
        self.num_frames = 0

    def see(self, labels: IntArray) -> npt.NDArray[np.int32]:
        """Return the number of frames, this one included, since the label of each pixel changed, int32 (H, W)."""
        if self._previous is None:
            self._lengths = np.zeros(labels.shape, np.int32)
        elif labels.shape != self._previous.shape:
            raise FrameError(f"label maps of a video have shapes {self._previous.shape} and {labels.shape}; resize one")
        else:
            self._lengths[labels != self._previous] = 0
        self._lengths += 1
        if not self._unmarked_counts:
            self._lengths[labels < 0] = 0
        self._previous = labels.copy()
        self.num_frames += 1
        return self._lengths

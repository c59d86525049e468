"""J and F over objects: means, recall and decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores

RECALL_THRESHOLD = 0.5
"""A frame is recalled when its value is above this (DAVIS)."""

DECAY_BINS = 4
"""The decay compares the first with the last of so many parts of a clip (DAVIS)."""


def davis_counted(num_frames: int) -> slice:
    """Return the frames that DAVIS counts where the first mask is given: all but the first and the last."""
    return slice(1, max(num_frames - 1, 1))


def decay(values: npt.NDArray[np.float64]) -> float:
    """Return how much is lost over a clip: the mean of its first quarter minus that of its last.

    Neighbouring quarters share the frame between them, as in the davis2017-evaluation program. Its 8-bit frame numbers
    are not taken over: they start again at 0 after 256 frames.

    Args:
        values: float (T,), at least one.
    """
    bounds = np.round(np.linspace(1, len(values), DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[-2] : bounds[-1] + 1]
    return float(first.mean() - last.mean())


@dataclass(frozen=True)
class _Object:
    """What is kept of one object."""

    num_frames: int
    j: float
    j_recall: float
    j_decay: float
    f: float
    f_recall: float
    f_decay: float


class ObjectScores:
    """Means over objects of J and F with their recall and decay.

    Args:
        official_quirks: average over all frames of all objects, as X2SAM's evaluator does: long clips weigh more.

    Source: Perazzi et al., CVPR 2016, section 5 (DAVIS); the mean over objects is that of DAVIS 2017.
    """

    def __init__(self, official_quirks: bool = False) -> None:
        self._official_quirks = official_quirks
        self._objects: dict[str, _Object] = {}

    def update(self, key: str, j: Sequence[float], f: Sequence[float]) -> None:
        """Add one object over its whole clip; an object of which no frame counts is left out.

        Args:
            key: names the object in the data set, for example ``sequence/object``.
            j, f: the values of the T frames that count, 0 to 1.

        Raises:
            FrameError: the key was there before, or j and f differ in length.
        """
        if key in self._objects:
            raise FrameError(f"object '{key}' was scored before; give every object of the data set a key of its own")
        if len(j) != len(f):
            raise FrameError(f"object '{key}' has {len(j)} values of J and {len(f)} of F, expected as many")
        if len(j):
            self._objects[key] = _Object(len(j), *_series(j), *_series(f))

    def compute(self) -> Scores:
        """Return ``jf``, and for j and f the mean, ``_recall`` and ``_decay``; the decay is -1 to 1."""
        names = list(_Object.__dataclass_fields__)[1:]
        # In the order of the keys, so that the last digit does not depend on the order of merging.
        rows = np.array([astuple(self._objects[key]) for key in sorted(self._objects)], dtype=np.float64)
        if not len(rows):
            return dict.fromkeys(["jf", *names], float("nan"))
        means = np.average(rows[:, 1:], axis=0, weights=rows[:, 0] if self._official_quirks else None).tolist()
        scores = dict(zip(names, means))
        return {"jf": (scores["j"] + scores["f"]) / 2, **scores}

    def reset(self) -> None:
        """Forget all objects."""
        self._objects.clear()

    def merge(self, other: ObjectScores) -> None:
        """Add all objects of another one.

        Raises:
            FrameError: both have an object of the same key.
        """
        twice = sorted(self._objects.keys() & other._objects.keys())
        if twice:
            raise FrameError(f"object '{twice[0]}' was scored twice; merge parts of a data set that share no object")
        self._objects.update(other._objects)

    def state(self) -> dict[str, Any]:
        """Return a row of numbers for each object."""
        return {key: list(astuple(scored)) for key, scored in self._objects.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the objects that ``state`` returned."""
        self._objects = {key: _Object(*row) for key, row in state.items()}


def _series(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean, the recall and the decay of one object's values."""
    series = np.asarray(values, dtype=np.float64)
    return float(series.mean()), float((series > RECALL_THRESHOLD).mean()), decay(series)

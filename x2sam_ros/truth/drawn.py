"""Sequences that are drawn when they are asked for, with ground truth that is exact by construction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.truth.dataset import Expression, Sequence, TrueFrame, TrueObject
from x2sam_ros.types import Frame, Uint8Array

FRAME_INTERVAL_NS = 33_333_333
"""Time between the frames of a case: a camera of 30 Hz."""

Drawing = tuple[Uint8Array, npt.NDArray[np.uint8]]
"""Frames, uint8 (T, H, W, 3), RGB, and labels, uint8 (T, H, W): the id of the object, 0 where there is none."""


class DrawnSequence(Sequence):
    """A sequence whose pixels are drawn, as a camera of 30 Hz would see them.

    Args:
        name: of the sequence.
        draw: returns the same drawing each time; it travels to other processes.
        objects: those whose labels count.
        expressions: words for them.
        stride: keep every n-th frame.
    """

    def __init__(
        self,
        name: str,
        draw: Callable[[], Drawing],
        objects: tuple[TrueObject, ...],
        expressions: tuple[Expression, ...] = (),
        stride: int = 1,
    ) -> None:
        super().__init__(name, objects, expressions)
        self._draw, self._stride = draw, stride

    def frames(self) -> FrameSource:
        """Return the images."""
        return _DrawnSource(self.name, self._draw, self._stride)

    def truth(self, frame: Frame) -> TrueFrame:
        """Return the objects that have a pixel on an image."""
        labels = _drawn(self._draw)[1][frame.stamp_ns // FRAME_INTERVAL_NS]
        ids = tuple(item.object_id for item in self.objects if (labels == item.object_id).any())
        return TrueFrame(ids, labels == np.array(ids, np.uint8).reshape(-1, 1, 1))


class _DrawnSource(FrameSource):
    def __init__(self, name: str, draw: Callable[[], Drawing], stride: int) -> None:
        super().__init__(name, name, stride)
        self._draw = draw

    @property
    def num_images(self) -> int:
        return len(_drawn(self._draw)[0])

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for index, image in enumerate(_drawn(self._draw)[0]):
            yield partial(RawFrame, image, index * FRAME_INTERVAL_NS, "camera")


@lru_cache(maxsize=1)
def _drawn(draw: Callable[[], Drawing]) -> Drawing:
    """Return a drawing, kept until another one is needed: a sequence is answered and scored before the next."""
    return draw()

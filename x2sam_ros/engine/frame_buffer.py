"""The newest frames of a stream, so that a prompt finds the picture it was given on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from torch import Tensor

from x2sam_ros.types import Frame

MIB = 1 << 20


@dataclass(eq=False)
class Kept:
    """A frame in the buffer.

    Args:
        frame: the picture; its array is referred to, not copied.
        number: how many frames arrived before it.
        masks: bool (h, w), where the targets that were seen on it lie, by target id; {} until it is segmented.
    """

    frame: Frame
    number: int
    masks: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the picture and the masks."""
        return self.frame.image.nbytes + sum(mask.numel() * mask.element_size() for mask in self.masks.values())


class FrameBuffer:
    """A bounded ring of one timeline's frames, oldest first. Any thread may use it; the newest frame always stays.

    Args:
        max_frames: most frames.
        max_bytes: most bytes of pictures and masks.
    """

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self._lock = threading.Lock()
        self._kept: deque[Kept] = deque()  # at most max_frames
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures and masks."""
        with self._lock:
            return sum(kept.nbytes for kept in self._kept)

    @property
    def newest(self) -> Kept | None:
        """The frame that arrived last."""
        with self._lock:
            return self._kept[-1] if self._kept else None

    def add(self, frame: Frame) -> Kept:
        """Append the newest frame; the oldest ones make room."""
        with self._lock:
            kept = Kept(frame, next(self._numbers))
            self._kept.append(kept)
            held = sum(kept.nbytes for kept in self._kept)
            while len(self._kept) > 1 and (len(self._kept) > self._max_frames or held > self._max_bytes):
                held -= self._kept.popleft().nbytes
            return kept

    def discard(self, kept: Kept) -> None:
        """Take a frame out again that turned out to be unusable."""
        with self._lock:
            if kept in self._kept:
                self._kept.remove(kept)

    def find(self, stamp_ns: int, tolerance_ns: int) -> Kept | None:
        """Return the frame nearest to a stamp, the newer one of two; None where none is within the tolerance."""
        with self._lock:
            nearest = min(reversed(self._kept), key=lambda kept: abs(kept.frame.stamp_ns - stamp_ns), default=None)
        if nearest is None or abs(nearest.frame.stamp_ns - stamp_ns) > tolerance_ns:
            return None
        return nearest

    def since(self, kept: Kept) -> tuple[Kept, ...]:
        """Return the frames that arrived after one, oldest first."""
        with self._lock:
            return tuple(later for later in self._kept if later.number > kept.number)

    def span_ns(self) -> tuple[int, int] | None:
        """Return the stamps of the oldest and the newest frame; None while it is empty."""
        with self._lock:
            return (self._kept[0].frame.stamp_ns, self._kept[-1].frame.stamp_ns) if self._kept else None

    def clear(self) -> None:
        """Forget every frame: another timeline begins."""
        with self._lock:
            self._kept.clear()

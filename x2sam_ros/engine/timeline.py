"""The time of one camera's stream: which frames belong to it, and when another stream has begun."""

from __future__ import annotations

from enum import Enum

import numpy as np

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import LateFrameError
from x2sam_ros.types import Frame

NS_PER_MS = 1_000_000


class Arrival(Enum):
    """What a frame is to the stream."""

    NEXT = "next"
    REPEATED = "repeated"
    ANOTHER_STREAM = "another stream"


class Timeline:
    """Judge each frame by its stamp and its TF frame.

    - A later stamp is the next frame, however long the gap: targets are searched for with the memories they have.
    - The same stamp is the next frame too, since some cameras have no clock; with the same picture it is repeated.
    - An earlier stamp, or another TF frame, is a late or a strange frame. It is dropped, and so are ``late_frames`` in
      a row; then, or at once where the stamp is more than ``clock_jump_ms`` back, another stream has begun: a looping
      bag, a simulation that was reset, another camera.

    Args:
        config: ``late_frames`` and ``clock_jump_ms``.
        in_order: every frame is the next one, whatever its stamp says: frames that the caller put in order.
    """

    def __init__(self, config: EngineConfig, in_order: bool = False) -> None:
        self._config, self._in_order = config, in_order
        self._late = 0
        self.newest: Frame | None = None

    def judge(self, frame: Frame) -> Arrival:
        """Tell what a frame is; ``accept`` it once it was answered.

        Raises:
            LateFrameError: it is late or strange, and not to be answered.
        """
        newest = self.newest
        if newest is None or self._in_order:
            return Arrival.NEXT
        behind_ms = (newest.stamp_ns - frame.stamp_ns) / NS_PER_MS
        if newest.frame_id == frame.frame_id and behind_ms <= 0:
            if behind_ms < 0 or not _same_picture(newest, frame):
                return Arrival.NEXT
            if not self._late:  # otherwise a short bag has come round
                return Arrival.REPEATED
        self._late += 1
        if behind_ms > self._config.clock_jump_ms or self._late > self._config.late_frames:
            return Arrival.ANOTHER_STREAM
        if newest.frame_id != frame.frame_id:
            reason = f"frame is of '{frame.frame_id}', the stream of '{newest.frame_id}'; give each camera a session"
        else:
            reason = f"frame is {behind_ms:.1f} ms older than the newest; deliver frames in the order of their stamps"
        raise LateFrameError(f"{reason} (after {self._config.late_frames} such frames in a row the stream begins anew)")

    def accept(self, frame: Frame) -> None:
        """Let a frame be the newest."""
        self.newest, self._late = frame, 0

    def reset(self) -> None:
        """Forget the stream; any frame may be the next."""
        self.newest, self._late = None, 0


def _same_picture(a: Frame, b: Frame) -> bool:
    return a.image is b.image or (a.size == b.size and np.array_equal(a.image, b.image))

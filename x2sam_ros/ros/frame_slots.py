"""One waiting frame for each camera, whose turn is next, and what became of every frame. No ROS."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class Counters:
    """Frames of one camera by fate: every received one ends up answered, replaced by a newer one, or bad.

    Args:
        received, answered, replaced: how many.
        causes: how many were bad, by cause.
        last_bad: what was wrong with the newest of them.
    """

    received: int = 0
    answered: int = 0
    replaced: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    last_bad: str = ""

    @property
    def bad(self) -> int:
        """Frames that could not be read or answered."""
        return self.causes.total()

    @property
    def dropped(self) -> int:
        """Frames that were received and will never be answered."""
        return self.replaced + self.bad

    def count_bad(self, cause: str, message: str) -> None:
        """Count a frame that cannot be used.

        Args:
            cause: one of few fixed words.
            message: what was wrong with it.
        """
        self.causes[cause] += 1
        self.last_bad = message


class FrameSlots(Generic[Item]):
    """A slot of depth 1 for each camera. Any thread may use it.

    Of the cameras with a waiting frame, that one is next whose last frame was taken the longest ago. So a frame, or the
    newer one that replaces it, waits for the frame at hand and one of each other camera at most, whatever their rates.

    Args:
        cameras: their names, each once.
    """

    def __init__(self, cameras: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._turns = list(cameras)  # the one whose frame was taken the longest ago comes first
        self._waiting: dict[str, Item] = {}  # at most one for each camera
        self.counters = {camera: Counters() for camera in self._turns}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, camera: str, item: Item) -> None:
        """Count a frame and let it wait; one that waits already was too old to answer, and is replaced."""
        with self._lock:
            counters = self.counters[camera]
            counters.received += 1
            counters.replaced += camera in self._waiting
            self._waiting[camera] = item

    def take(self) -> tuple[str, Item] | None:
        """Return the camera that is next and its frame; None where no frame waits."""
        with self._lock:
            camera = next((camera for camera in self._turns if camera in self._waiting), None)
            if camera is None:
                return None
            self._turns.remove(camera)
            self._turns.append(camera)
            return camera, self._waiting.pop(camera)

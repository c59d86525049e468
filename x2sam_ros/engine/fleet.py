"""What the sessions of several cameras share beside the model: the numbers of targets, and the language lane's turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

MAX_TARGET_ID = 65_535
"""Target ids fit a 16-bit label image; after the last one numbering starts again at 1."""


class _Holder(Protocol):
    """Who follows targets."""

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all its targets."""


class TargetIds:
    """Numbers new targets: no two targets of those who have joined ever have the same id. Of one thread."""

    def __init__(self) -> None:
        self.next = 1
        self._holders: WeakSet[_Holder] = WeakSet()

    @property
    def taken(self) -> set[int]:
        """Ids of all targets that are followed."""
        return {target_id for holder in self._holders for target_id in holder.target_ids}

    def join(self, holder: _Holder) -> None:
        """Let somebody take ids, and keep those free that it has, for as long as it lives."""
        self._holders.add(holder)

    def take(self) -> int | None:
        """Return an id that nobody has; None where there is none left."""
        taken = self.taken
        if len(taken) >= MAX_TARGET_ID:
            return None
        while self.next in taken:
            self._advance()
        chosen = self.next
        self._advance()
        return chosen

    def restart(self) -> None:
        """Begin at 1 again, if nobody has a target."""
        if not self.taken:
            self.next = 1

    def _advance(self) -> None:
        self.next = self.next % MAX_TARGET_ID + 1


class Turns:
    """Lets threads work one at a time, in the order in which they asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # one for each thread; the first one works

    @property
    def is_taken(self) -> bool:
        """Whether a thread works."""
        return bool(self._line)

    @contextmanager
    def turn(self, given_up: Callable[[], bool]) -> Iterator[None]:
        """Wait for the turn, which lasts as long as the block.

        Args:
            given_up: whether the turn is no longer wanted: then the block begins without it. Asked after ``recall``.
        """
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            self._changed.wait_for(lambda: self._line[0] is ticket or given_up())
        try:
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def recall(self) -> None:
        """Ask those who wait whether they still want their turn."""
        with self._changed:
            self._changed.notify_all()


class Fleet:
    """What sessions share that are opened with the same one. They belong to one thread.

    Target ids are unique among them, and on a CPU one language pass runs at a time, so that however many cameras are
    prompted at once, frames give up ``language_threads`` of their threads and no more.
    """

    def __init__(self) -> None:
        self.ids = TargetIds()
        self.turns = Turns()

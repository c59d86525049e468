"""long_term: what leaves the working memory is worked into prototypes of constant size, as in XMem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord, newest
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class LongTermPolicy:
    """Keep the prompted entry, the newest, and prototypes that stand for all good frames between them.

    Source: XMem (Cheng and Schwing 2022), section 3.3: the working memory holds the first frame and the newest; when it
    is full, what lies between is consolidated into prototypes, which are read by similarity from what they stand for
    (``engine.mask_memory.merge_entries``), and the long-term memory is bounded. Adapted: X2SAM attends to a few whole
    maps and not to single cells, so that a prototype is a map. The newest prototype grows by one frame at a time until
    it stands for ``span`` frames; then the two oldest become one and the next begins. A frame on which the target was
    not seen is dropped, not consolidated. XMem reads everything; here the slots go to the newest frames and one
    prototype while the target is in sight, and to all prototypes when it is not.

    Args:
        slots: entries that are looked at, at least 1.
        prototypes: how many there are at most, at least 1.
        span: frames that the newest prototype stands for at most.
    """

    slots: int
    prototypes: int = 2
    span: int = 8
    name: str = "long_term"

    @property
    def capacity(self) -> int:
        """The most entries it keeps per target."""
        return self.slots + self.prototypes

    def merge(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, int] | None:
        """Consolidate two entries where one is too many and none is blank; see MemoryPolicy."""
        entries = (*stored, new)
        old = self._old(entries)
        if len(entries) <= self.capacity or len(old) < 2 or self._blank(entries):
            return None
        leaving = min(self.prototypes, len(old) - 1)  # the oldest of the working memory
        if leaving > 1 and entries[old[leaving - 1]].merged >= self.span:
            return old[0], old[1]
        return old[leaving - 1], old[leaving]

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Drop the oldest blank entry, or else the oldest that was not prompted; see MemoryPolicy."""
        entries = (*stored, new)
        positions = list(range(len(entries)))
        if len(entries) > self.capacity:
            positions.remove((self._blank(entries) or self._old(entries) or [0])[0])
        return positions

    def show(self, stored: Sequence[MemoryRecord], frame_index: int, stamp_ns: int) -> Sequence[int]:
        """Show the prompted entry, prototypes and the newest; see MemoryPolicy."""
        prompted = [index for index, entry in enumerate(stored) if entry.prompted][-1:]
        prototypes = [index for index, entry in enumerate(stored) if entry.merged > 1 and index not in prompted]
        if stored[-1].seen:
            prototypes = prototypes[-1:]
        chosen = (prompted + prototypes)[: self.slots - 1]
        others = [index for index in range(len(stored)) if index not in chosen]
        return sorted(chosen + [others[place] for place in newest(len(others), self.slots - len(chosen))])

    def _old(self, entries: Sequence[MemoryRecord]) -> list[int]:
        """Return the positions, but the newest, that are not prompted, or that a newer prompt has replaced."""
        prompted = [index for index, entry in enumerate(entries) if entry.prompted][-1:]
        return [index for index in range(len(entries) - 1) if index not in prompted]

    def _blank(self, entries: Sequence[MemoryRecord]) -> list[int]:
        """Return the positions, but the newest, on which the target was not seen."""
        return [index for index in self._old(entries) if not entries[index].seen]


def long_term(config: EngineConfig) -> LongTermPolicy:
    """Build the policy for ``config.num_maskmem`` slots."""
    return LongTermPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``long_term``."""
    return {"long_term": long_term}

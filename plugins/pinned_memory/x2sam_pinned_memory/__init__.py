"""A memory policy for x2sam_ros: the prompted frame stays, and the frames on which the target was seen best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class PinnedBestPolicy:
    """Keep the newest prompted entry and the newest of all; of the others drop the least sure, of equals the oldest.

    Args:
        capacity: entries per target, at least 1.
    """

    capacity: int
    name: str = "pinned_best"

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Drop one entry when there is one too many; see x2sam_ros.engine.memory_policy."""
        entries = (*stored, new)
        newest = len(stored)
        if len(entries) <= self.capacity:
            return range(len(entries))
        pinned = [index for index, entry in enumerate(entries) if entry.prompted][-1:]
        others = [index for index in range(newest) if index not in pinned]
        dropped = min(others, key=lambda index: entries[index].score, default=newest)
        return [index for index in range(len(entries)) if index != dropped]


def pinned_best(config: EngineConfig) -> PinnedBestPolicy:
    """Build the policy with ``config.num_maskmem`` entries."""
    return PinnedBestPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``pinned_best``."""
    return {"pinned_best": pinned_best}

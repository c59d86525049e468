"""restricted: a small bank that gives up what is least relevant and least fresh, as in RMem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class RestrictedPolicy:
    """Keep the first entry and the newest; of the others give up the one that is worth least.

    Source: RMem (Zhou et al. 2024), section 4.2 and its public code: an entry is worth its relevance plus a bonus for
    being fresh, as in the upper confidence bound of bandits, ``1.5 * sqrt(log(sum of n) / (n + 8))``, where ``n``
    counts the updates it has outlived. Adapted: RMem's relevance is the entry's share of the attention, averaged over
    time. X2SAM's fused attention does not tell, so that it is the entry's share of what is known of the target: how
    sure and how stable its mask was, nothing where it was not seen. The updates are counted in write strides.

    Args:
        capacity: entries per target, at least 1.
        stride: frames between two updates.
        freshness, patience: the factor and the number added to ``n``.
    """

    capacity: int
    stride: int = 1
    freshness: float = 1.5
    patience: float = 8.0
    name: str = "restricted"

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep everything until the bank is full, then drop one; see MemoryPolicy."""
        entries = (*stored, new)
        if len(entries) <= self.capacity:
            return range(len(entries))
        if self.capacity == 1:
            return [len(entries) - 1]
        worth = self.worth(entries)
        dropped = min(range(1, len(entries) - 1), key=worth.__getitem__, default=0)
        return [index for index in range(len(entries)) if index != dropped]

    def worth(self, entries: Sequence[MemoryRecord]) -> list[float]:
        """Return the upper confidence bound of each entry, oldest first."""
        known = [entry.score * entry.stability if entry.seen else 0.0 for entry in entries]
        total = sum(known) or 1.0
        last = entries[-1].frame_index
        outlived = [max(0, last - entry.frame_index) / self.stride + 1 for entry in entries]
        bonus = math.log(sum(outlived))
        return [
            relevance / total + self.freshness * math.sqrt(bonus / (updates + self.patience))
            for relevance, updates in zip(known, outlived)
        ]


def restricted(config: EngineConfig) -> RestrictedPolicy:
    """Build the policy with ``config.num_maskmem`` entries."""
    return RestrictedPolicy(config.num_maskmem, config.memory_stride)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``restricted``."""
    return {"restricted": restricted}

"""pinned: the prompted frame for good, and the newest others, as in SAM 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord, newest
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class PinnedPolicy:
    """Keep the newest prompted entries whatever comes, and fill what is left with the newest others.

    Source: SAM 2 (Ravi et al. 2024), section 4: a queue of prompted frames and one of recent frames, both attended to
    on every frame. Adapted: X2SAM has few slots, so ``max_pinned`` bounds the first queue; SAM 2 tells no age of a
    prompted frame, here it is told as ``memory_max_gap`` at most.

    Args:
        capacity: entries per target, at least 1.
        max_pinned: most prompted entries that stay. With a capacity of 1 the newest prompted entry is all there is.
    """

    capacity: int
    max_pinned: int = 1
    name: str = "pinned"

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep the pinned and the newest positions; see MemoryPolicy."""
        entries = (*stored, new)
        pinned = [index for index, entry in enumerate(entries) if entry.prompted][-self.max_pinned :]
        others = [index for index in range(len(entries)) if index not in pinned]
        return sorted(pinned + [others[place] for place in newest(len(others), self.capacity - len(pinned))])


def pinned(config: EngineConfig) -> PinnedPolicy:
    """Build the policy with ``config.num_maskmem`` entries, one of them pinned."""
    return PinnedPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``pinned``."""
    return {"pinned": pinned}

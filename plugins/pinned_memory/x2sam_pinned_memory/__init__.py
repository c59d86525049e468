"""SAM 2's memory rule as a policy for x2sam_ros: the prompted frame stays, the rest is the most recent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord
from x2sam_ros.errors import PluginError
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class PinnedPolicy:
    """Keep the newest prompted entries for good and fill what is left with the most recent others.

    Args:
        capacity: entries per target, at least 1.
        max_pinned: most prompted entries that are pinned, 1 to ``capacity``; with ``max_pinned`` equal to
            ``capacity`` a target may end up with nothing but prompted entries.

    Raises:
        PluginError: a number is out of range.

    Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos", section 4, memory bank: one queue of
    prompted frames and one of recent frames.
    """

    capacity: int
    max_pinned: int = 1
    name: str = "pinned"

    def __post_init__(self) -> None:
        if not 1 <= self.max_pinned <= self.capacity:
            raise PluginError(
                f"pinned memory needs 1 <= max_pinned <= capacity, got max_pinned {self.max_pinned} and "
                f"capacity {self.capacity}; raise num_maskmem"
            )

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Choose the pinned and the recent positions; see x2sam_ros.engine.memory_policy."""
        entries = (*stored, new)
        prompted = [index for index, entry in enumerate(entries) if entry.prompted]
        pinned = prompted[-self.max_pinned :]
        others = [index for index in range(len(entries)) if index not in pinned]
        num_recent = self.capacity - len(pinned)
        return sorted(pinned + others[max(0, len(others) - num_recent) :])


def pinned(config: EngineConfig) -> PinnedPolicy:
    """Build the policy with ``config.num_maskmem`` entries, one of them pinned."""
    return PinnedPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``pinned``."""
    return {"pinned": pinned}

"""The memory policy the published weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class FifoPolicy:
    """Keep the newest ``capacity`` entries, whatever they show. Source: X2SAM paper, Mask Memory."""

    capacity: int
    name: str = "fifo"

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep the last ``capacity`` positions; see MemoryPolicy."""
        count = len(stored) + 1
        return range(max(0, count - self.capacity), count)


def fifo(config: EngineConfig) -> FifoPolicy:
    """Build the queue of ``config.num_maskmem`` entries."""
    return FifoPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the queue as ``fifo``."""
    return {"fifo": fifo}

"""fifo: the newest frames, as the published weights were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord, newest
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class FifoPolicy:
    """Keep the newest ``capacity`` entries, whatever they show.

    Source: X2SAM's Mask Memory. How far apart two stored frames lie, ``memory_stride`` or ``memory_interval_s``, holds
    for every policy and is decided before a policy is asked.
    """

    capacity: int
    name: str = "fifo"

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep the last ``capacity`` positions; see MemoryPolicy."""
        return newest(len(stored) + 1, self.capacity)


def fifo(config: EngineConfig) -> FifoPolicy:
    """Build the queue of ``config.num_maskmem`` entries."""
    return FifoPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the queue as ``fifo``."""
    return {"fifo": fifo}

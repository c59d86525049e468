"""gated: only frames on which mask, score and motion agree are remembered, as in SAMURAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord, newest
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class GatedPolicy:
    """Keep the newest prompted entry, the newest that pass three gates, and the newest of all, passed or not.

    Source: SAMURAI (Yang et al. 2024), section 4.2 and its public settings: an entry counts if the mask's predicted
    IoU is above 0.5, the object score above 0 and the overlap with the Kalman filter's box above 0; the frame before
    is shown in any case, and the prompted one as in SAM 2. Adapted: X2SAM predicts no IoU, so that the mask's
    stability stands for it; the object score is the probability of the target's label, which below
    ``score_threshold`` makes the target unseen. SAMURAI goes back in time until it has enough good frames; here they
    are kept, so that the same ones are at hand.

    Args:
        capacity: entries per target, at least 1.
        min_stability, min_motion_iou: what an entry must exceed.
    """

    capacity: int
    min_stability: float = 0.5
    min_motion_iou: float = 0.0
    name: str = "gated"

    def passes(self, record: MemoryRecord) -> bool:
        """Tell whether an entry is worth remembering."""
        sure = record.seen and record.stability > self.min_stability
        return sure and record.motion_iou > self.min_motion_iou

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep the prompted, the good and the newest; see MemoryPolicy."""
        entries = (*stored, new)
        last = len(entries) - 1
        if self.capacity == 1:
            return [last]
        prompted = [index for index, entry in enumerate(entries[:last]) if entry.prompted][-1:]
        good = [index for index, entry in enumerate(entries[:last]) if index not in prompted and self.passes(entry)]
        room = self.capacity - len(prompted) - 1
        return [*sorted(prompted + [good[place] for place in newest(len(good), room)]), last]


def gated(config: EngineConfig) -> GatedPolicy:
    """Build the policy with ``config.num_maskmem`` entries."""
    return GatedPolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``gated``."""
    return {"gated": gated}

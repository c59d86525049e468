"""distractor_aware: what the target looks like now, and what tells it from look-alikes, as in DAM4SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryPolicyFactory, MemoryRecord, newest
from x2sam_ros.hookspecs import hookimpl


@dataclass(frozen=True)
class DistractorAwarePolicy:
    """Keep recent appearances, and anchors: good frames on which something like the target was elsewhere.

    Source: DAM4SAM (Videnovic, Lukezic and Kristan 2025). Recent appearances are the newest frame and every fifth one
    before it; frames on which the target is absent are left out. Anchors are the prompted frame, which stays, and a
    queue of frames with a distractor (box overlap of at most 0.7) on which the mask was trusted (predicted IoU above
    0.8, area within a fifth of the median), more than five frames apart. Half of the slots are for anchors. Adapted:
    X2SAM predicts no IoU, the mask's stability stands for it; its alternatives are other queries of the same label;
    anchors have no age in SAM 2, here ``memory_max_gap`` bounds what is told of it.

    Args:
        capacity: entries per target, at least 1.
        stride: frames between two recent entries; two anchors are further apart.
        min_stability: what an anchor must exceed.
        max_distractor_iou: how much of a distractor an anchor shows at least.
        size_change: share of the usual size by which an anchor's may differ.
    """

    capacity: int
    stride: int = 5
    min_stability: float = 0.8
    max_distractor_iou: float = 0.7
    size_change: float = 0.2
    name: str = "distractor_aware"

    def is_anchor(self, record: MemoryRecord) -> bool:
        """Tell whether an entry shows target and distractor well enough to tell them apart."""
        trusted = record.stability > self.min_stability and abs(record.size_ratio - 1) <= self.size_change
        return record.prompted or (record.seen and trusted and record.distractor_iou <= self.max_distractor_iou)

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Keep recent appearances and anchors; see MemoryPolicy."""
        entries = (*stored, new)
        if stored and not new.seen:
            return range(len(stored))
        anchors = self._apart([i for i, entry in enumerate(entries) if self.is_anchor(entry)], entries, self.stride + 1)
        others = [index for index in range(len(entries)) if index not in anchors]
        recent = self._recent(others, entries)
        room = self.capacity - len(recent)
        prompted = [index for index in anchors if entries[index].prompted][-1:][:room]
        queue = [index for index in anchors if index not in prompted]
        return sorted(recent + prompted + [queue[place] for place in newest(len(queue), room - len(prompted))])

    def _recent(self, others: Sequence[int], entries: Sequence[MemoryRecord]) -> list[int]:
        """Return the newest of some positions, and those before it that are far enough from each other."""
        spaced = self._apart(others[:-1], entries, self.stride)
        slots = self.capacity - self.capacity // 2
        recent = [*spaced, *others[-1:]]
        return [recent[place] for place in newest(len(recent), slots)]

    def _apart(self, positions: Sequence[int], entries: Sequence[MemoryRecord], frames: int) -> list[int]:
        """Return positions, from the oldest on, that are at least some frames apart."""
        chosen: list[int] = []
        for index in positions:
            if not chosen or entries[index].frame_index - entries[chosen[-1]].frame_index >= frames:
                chosen.append(index)
        return chosen


def distractor_aware(config: EngineConfig) -> DistractorAwarePolicy:
    """Build the policy with ``config.num_maskmem`` entries."""
    return DistractorAwarePolicy(config.num_maskmem)


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer the policy as ``distractor_aware``."""
    return {"distractor_aware": distractor_aware}

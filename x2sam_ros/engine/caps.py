"""The caps on targets and on the bytes they are held in: what a prompt will take, and who is given up for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from x2sam_ros.engine.frame_buffer import MIB
from x2sam_ros.engine.masks import MASK_STRIDE
from x2sam_ros.engine.memory_policy import PolicyGuard
from x2sam_ros.engine.reply import grounding_of
from x2sam_ros.engine.task_head import HISTORY
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.types import Frame, Grounding, GroundingStatus

_FLOAT_BYTES = 4
_CELL_BYTES = _FLOAT_BYTES + 2 + HISTORY
"""Bytes of a target for each cell of a mask: its logits, its last mask, what was refused for it, and its history."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that prompts take once their memories are full. They are held to the cap from the start.

    Args:
        entry: bytes of a memory entry, until a stored one shows its own.
        capacity: entries of a full memory.
        target: bytes of a target's masks, where they are not larger than the network's.
    """

    entry: int = 0
    capacity: int = 0
    target: int = 0

    @classmethod
    def of(cls, config: SegmentorConfig, policy: PolicyGuard) -> Footprint:
        """Return what prompts of a network take under a memory policy."""
        cells, memory = config.image_size // MASK_STRIDE, config.memory
        side = cells // memory.mask_stride
        entry = len(memory.feature_strides) * memory.encoder_channels * side**2 * _FLOAT_BYTES
        return cls(entry, policy.capacity, cells**2 * _CELL_BYTES)

    @property
    def typical(self) -> int:
        """Bytes of a prompt with one target, without its condition, which is known once it is understood."""
        return self.capacity * self.entry + self.target

    def full(self, group: Group, more: int = 0) -> int:
        """Return the bytes of a group when its memory is full.

        Args:
            group: the group; without a target it counts as having one.
            more: targets that are about to be added.
        """
        targets = group.targets.values()
        fixed = group.nbytes - group.memory.nbytes - sum(target.nbytes for target in targets)
        entry = max((entry.nbytes for entry in group.memory.entries), default=self.entry)
        known = sum(max(self.target, _cells(target) * _CELL_BYTES) for target in targets)
        added = max(more, 0 if group.targets else 1)
        return fixed + max(self.capacity, len(group.memory)) * entry + known + added * self.target


def _cells(target: Target) -> int:
    return 0 if target.last_mask is None else target.last_mask.numel()


def in_mib(count: int) -> str:
    """Return bytes as MiB."""
    return f"{count / MIB:.1f} MiB"


@dataclass(frozen=True)
class GivenUp:
    """What was given up for the sake of others.

    Args:
        group: where it was.
        targets: those of the group that were given up; () where it still looked for its first.
        reason: why, with the numbers.
    """

    group: Group
    targets: tuple[Target, ...]
    reason: str

    def reports(self, frame: Frame) -> list[Grounding]:
        """Return what is said of it, one grounding for each prompt."""
        groundings: dict[str, Grounding] = {}
        for prompt in [self.group.prompt_of(target) for target in self.targets] or [self.group.prompt]:
            mine = tuple(t.target_id for t in self.targets if self.group.prompt_of(t) is prompt)
            who = f"target {', '.join(map(str, mine))}" if mine else "a prompt that looked for its first target"
            message = f"{who} was given up, {self.reason}"
            removed = grounding_of(prompt, frame, GroundingStatus.REMOVED, message)
            groundings[str(mine)] = replace(removed, target_ids=mine)
        return list(groundings.values())


def least_recently_seen(groups: Iterable[Group]) -> tuple[Group, Target] | None:
    """Return the target that was seen least recently, lost longest first, and its group; None without any."""
    rivals = [(group, target) for group in groups for target in group.targets.values()]
    return max(rivals, key=lambda rival: (rival[1].missed_frames, -rival[1].seen_frames), default=None)


def unseen_for(group: Group) -> int:
    """Return the frames since any target of a group was seen."""
    return min((target.missed_frames for target in group.targets.values()), default=group.vain_frames)

"""The finest map, as a target's memory colours it, kept for a few frames: what ``finest_refresh`` saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import FINEST

if TYPE_CHECKING:
    from x2sam_ros.engine.stepper import Stepper
    from x2sam_ros.engine.track import Group


@dataclass(frozen=True)
class Finest:
    """What a memory added to the finest map of one frame.

    Args:
        frame_index: the frame.
        added: float (1, C, H, W), the conditioned map less the frame's own.
    """

    frame_index: int
    added: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return self.added.numel() * self.added.element_size()


def finest_maps(
    stepper: Stepper, pixels: PixelFeatures, memory: MemoryBatch, groups: Sequence[Group], frame_index: int, every: int
) -> Tensor:
    """Return the finest maps of groups, float (N, C, H, W): each frame's own, with what the memory added lately.

    A group's turn comes every so many frames. The turns of several are spread over the frames, by their targets' ids.

    Args:
        stepper: runs the memory attention for those whose turn it is.
        pixels: the frame.
        memory: what the groups remember.
        groups: they keep what is added, with their memories.
        frame_index: of the frame.
        every: frames from one turn to the next.
    """
    own = pixels.multi_scale[FINEST]
    due = [row for row, group in enumerate(groups) if _is_due(group, frame_index, every)]
    if due:
        part = memory if len(due) == len(groups) else memory.rows(due)
        added = stepper.recall(pixels, part) - own
        for position, row in enumerate(due):
            groups[row].memory.finest = Finest(frame_index, added[position : position + 1].clone())
    known = [group.memory.finest for group in groups]
    return own + torch.cat([finest.added for finest in known if finest is not None])


def _is_due(group: Group, frame_index: int, every: int) -> bool:
    finest = group.memory.finest
    if finest is None or not 0 < frame_index - finest.frame_index < every:
        return True
    return (frame_index + min(group.targets, default=0)) % every == 0

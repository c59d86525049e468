"""Look at a frame without memory, as if prompts had been given on it: for lost targets, and to confirm leaps.

A memory knows what a target looks like better than its prompt does, and takes others of that look for it once it hides.
So a target that turns up where it was not expected must be what was asked for without a memory, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.follow import LEAST_IOU, expected
from x2sam_ros.engine.region import mask_iou
from x2sam_ros.engine.select import NMS_IOU, Candidates, Choice, instances
from x2sam_ros.engine.track import Group, Reading, Target, is_seen
from x2sam_ros.types import TargetState

TAKEN = 0.3
"""Share of what was found that another seen target may cover."""

LOOK_AGAIN = 10
"""Frames without a target after which what was refused for it is looked at once more."""


class Search:
    """Says when groups are searched for, so that the cost is one more pass for all of them every few frames.

    Args:
        config: ``search_frames``.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config, self._frames = config, 0

    def due(self, groups: Sequence[Group]) -> list[Group]:
        """Count a frame; return the groups that have a lost target if it is one on which they are searched for."""
        every = 0 if self._config.official_quirks else self._config.search_frames
        lost = [group for group in groups if every and len(group.memory) and lost_targets(group)]
        self._frames = self._frames + 1 if lost else 0
        if not lost or self._frames < every:
            return []
        self._frames = 0
        return lost


def lost_targets(group: Group) -> list[Target]:
    """Return the targets of a group that are lost, the newest loss first."""
    lost = [target for target in group.targets.values() if target.state is TargetState.LOST]
    return sorted(lost, key=lambda target: target.missed_frames)


def find_again(group: Group, found: Candidates, others: Sequence[Target], config: EngineConfig) -> list[Target]:
    """Let lost targets of a group be what was found of their labels, where no other target is.

    Where a region was pointed at, more than one that looks like it is as good as none: it was one of them.

    Args:
        group: the group.
        found: its queries on the frame, looked at without memory.
        others: the targets that are seen on the frame.
        config: thresholds.

    Returns:
        Those that were found.
    """
    taken = [other.logits > 0 for other in others if other.logits is not None]
    sure = config.score_threshold
    known = [choice for choice in instances(found, sure) if is_seen(choice, config, sure)]
    free = [choice for choice in known if not _is_taken(choice, taken)]
    lost = lost_targets(group)
    again: list[Target] = []
    for label in sorted({target.class_index for target in lost}):
        waiting = [target for target in lost if target.class_index == label]
        fitting = [choice for choice in free if choice.class_index == label]
        if group.regions and len(fitting) > len(waiting):
            continue
        for target, choice in zip(waiting, fitting):
            target.see(choice, config)
            again.append(target)
    return again


def astray(
    groups: Sequence[Group],
    readings: Sequence[Reading],
    config: EngineConfig,
    look: Callable[[Sequence[int]], Sequence[Reading]],
) -> dict[int, list[int]]:
    """Return the targets of each group that only a memory shows where they were not expected.

    What was refused is not looked at again on every frame while it stays in view.

    Args:
        groups: not yet brought to the frame.
        readings: what the frame shows of each.
        config: thresholds.
        look: reads the frame without memory for some of the groups, by their position.

    Returns:
        Ids by the group's position.
    """
    far = {row: ids for row, pair in enumerate(zip(groups, readings)) if (ids := leaps(*pair, config))}
    new = [row for row in far if any(_is_new(groups[row].targets[i], readings[row].continued[i]) for i in far[row])]
    alone = dict(zip(new, look(new))) if new else {}
    refused: dict[int, list[int]] = {}
    for row, target_ids in far.items():
        for target_id in target_ids:
            target, choice = groups[row].targets[target_id], readings[row].continued[target_id]
            shown = alone[row].continued.get(target_id) if row in alone else None
            if shown is None or not target.would_see(shown, config) or not _is_same(shown.mask, choice.mask):
                target.refused = choice.mask
                refused.setdefault(row, []).append(target_id)
    return refused


def leaps(group: Group, reading: Reading, config: EngineConfig) -> list[int]:
    """Return the ids of targets that a frame shows where they were not expected; stuff may be anywhere.

    Args:
        group: the group, not yet brought to the frame.
        reading: what the frame shows of it.
        config: thresholds; the published evaluation doubts nothing, nor does a ``score_threshold`` of 0.
    """
    if reading.prompted or config.official_quirks or not config.score_threshold:
        return []
    things = {i: choice for i, choice in reading.continued.items() if choice.class_index not in group.stuff}
    if not things:
        return []
    tracks = [group.targets[i].track(_size(choice), config) for i, choice in things.items()]
    # most stay where they just were, which is asked of all in one go
    stayed = mask_iou(torch.stack([choice.mask for choice in things.values()]), torch.stack([t.mask for t in tracks]))
    far = []
    for (target_id, choice), track, overlap in zip(things.items(), tracks, stayed.tolist()):
        if (not track.missed and overlap >= LEAST_IOU) or not group.targets[target_id].would_see(choice, config):
            continue
        if float(mask_iou(choice.mask[None], expected(track))) < LEAST_IOU:
            far.append(target_id)
    return far


def _is_new(target: Target, choice: Choice) -> bool:
    """Tell whether a choice is something else than was refused last, or has been refused for long enough."""
    before = target.refused
    if before is None or before.shape != choice.mask.shape or target.missed_frames % LOOK_AGAIN == 0:
        return True
    return not _is_same(before, choice.mask)


def _is_same(mask: torch.Tensor, other: torch.Tensor) -> bool:
    return float(mask_iou(mask[None], other)) >= NMS_IOU


def _size(choice: Choice) -> tuple[int, int]:
    height, width = choice.logits.shape
    return height, width


def _is_taken(choice: Choice, taken: Sequence[torch.Tensor]) -> bool:
    inside = choice.mask
    area = inside.sum().clamp_min(1)
    return any(float((inside & mask).sum() / area) > TAKEN for mask in taken if mask.shape == inside.shape)

"""Who is followed: the groups of a session, the ids of their targets, and the cap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.masks import Placement, strongest
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PromptError
from x2sam_ros.types import BoolArray, TargetState

MAX_TARGET_ID = 65_535
"""Target ids fit a 16-bit label image; after the last one numbering starts again at 1."""


class Roster:
    """The groups of a session.

    Args:
        config: ``max_targets`` and what else decides whether a group lives on.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.groups: list[Group] = []  # each counts as one target at least, so at most config.max_targets
        self.understood: list[Group] = []  # they begin on the next frame; at most config.max_targets
        self.opening: list[Group] = []  # groups that begin on this frame; empty between frames
        self.reserved = 0  # targets that the language lane may bring
        self.next_target_id = 1

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets, seen now or not, ascending."""
        return tuple(sorted(target_id for group in (*self.groups, *self.opening) for target_id in group.targets))

    @property
    def targets(self) -> list[Target]:
        """All targets that have begun, ascending by id."""
        return sorted((t for group in self.groups for t in group.targets.values()), key=lambda t: t.target_id)

    def group_of(self, target_id: int) -> Group:
        """Return the group of a target; PromptError when there is none."""
        for group in self.groups:
            if target_id in group.targets:
                return group
        known = ", ".join(map(str, self.target_ids)) or "none"
        raise PromptError(f"there is no target {target_id}; targets: {known}")

    def remove(self, target_id: int) -> Group:
        """Forget a target; return the group it was in. PromptError when there is none."""
        group = self.group_of(target_id)
        group.targets.pop(target_id)
        self.drop_empty()
        return group

    def drop_empty(self) -> None:
        """Forget groups that neither follow nor look for anything."""
        self.groups = [group for group in self.groups if group.is_alive(self._config)]

    def clear(self) -> None:
        """Forget every group."""
        self.groups, self.understood, self.opening = [], [], []

    def full(self) -> str:
        """Return why no target can be added; '' while there is room."""
        followed, most = self._followed(), self._config.max_targets
        if followed < most:
            return ""
        return f"{followed} targets are followed, at most {most} may be; remove one or raise max_targets"

    def admit(self, group: Group) -> int | None:
        """Return an id for a new target of a group.

        At the cap it takes the place of the group's longest lost target, or else is not followed: None.
        """
        if self._followed(besides=group) + len(group.targets) >= self._config.max_targets:
            lost = [target for target in group.targets.values() if target.state is TargetState.LOST]
            if not lost:
                return None
            del group.targets[max(lost, key=lambda target: target.missed_frames).target_id]
        return self._next_id()

    def adopt(self, group: Group, found: Sequence[Target]) -> list[Target]:
        """Follow a group whose new targets have ids below 0: they get ids of their own, up to the cap.

        Args:
            group: as the language lane hands it over.
            found: what it found on its prompt's frame, under the old ids.

        Returns:
            What it found, under the new ids.
        """
        self.groups.append(group)
        new = [target for target_id, target in group.targets.items() if target_id < 0]
        group.targets = {target_id: target for target_id, target in group.targets.items() if target_id > 0}
        numbers = {target_id: target_id for target_id in group.targets}
        for target in new:
            target_id = self.admit(group)
            if target_id is None:
                break
            numbers[target.target_id] = target_id
            target.target_id, target.label = target_id, ""
            group.name(target, target.class_index)
            group.targets[target_id] = target
        for target in found:
            target.target_id = numbers.get(target.target_id, 0)
        return [target for target in found if target.target_id]

    def masks(self, place: Placement) -> BoolArray:
        """Return the masks of ``targets``, bool (N, H, W); unseen ones have an empty one.

        A target none of whose pixels is left at the image's size counts as missed.

        Args:
            place: where the image lies in the network's square.
        """
        targets = self.targets
        masks = np.zeros((len(targets), *place.image_size), dtype=bool)
        rows = [row for row, target in enumerate(targets) if target.logits is not None]
        if rows:
            logits = torch.stack([t.logits for t in targets if t.logits is not None])
            planes = place.enlarge(logits - float(np.log(self._odds())))
            inside = planes > 0
            for group in self.groups:
                own = [i for i, row in enumerate(rows) if group.stuff and targets[row].target_id in group.targets]
                if own:
                    inside[own] &= strongest(planes[own])
            masks[rows] = inside.cpu().numpy()
        for row in rows:
            if not masks[row].any():  # a lone weak cell can vanish between the image's pixels
                targets[row].miss(self._config)
        return masks

    def _odds(self) -> float:
        threshold = min(max(self._config.mask_threshold, 1e-6), 1 - 1e-6)
        return threshold / (1 - threshold)

    def _followed(self, besides: Group | None = None) -> int:
        """Count targets, and one for each group that has yet to find its own; ``besides`` is left out."""
        groups = [g for g in (*self.groups, *self.understood, *self.opening) if g is not besides]
        return sum(max(1, len(group.targets)) for group in groups) + self.reserved

    def _next_id(self) -> int:
        taken = set(self.target_ids)
        while self.next_target_id in taken:
            self.next_target_id = self.next_target_id % MAX_TARGET_ID + 1
        chosen = self.next_target_id
        self.next_target_id = chosen % MAX_TARGET_ID + 1
        return chosen

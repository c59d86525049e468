"""Who is followed: the groups of a session, the ids of their targets, and the caps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.caps import Footprint, GivenUp, in_mib, least_recently_seen, unseen_for
from x2sam_ros.engine.fleet import TargetIds
from x2sam_ros.engine.frame_buffer import MIB
from x2sam_ros.engine.masks import Placement, strongest
from x2sam_ros.engine.memory_policy import PolicyGuard
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PromptError
from x2sam_ros.types import BoolArray, TargetInfo, TargetState


class Roster:
    """The groups of a session.

    Two caps: on targets, and on the bytes that they take once their memories are full, so that memories that grow
    never pass it. At a cap a new prompt is rejected, or, where ``at_cap`` says so, whoever was seen least recently is
    given up for it, once it has found something. A class list that finds more on later frames gives up nobody but its
    own lost targets.

    Args:
        config: the caps, and what else decides whether a group lives on.
        ids: numbers the targets; other rosters may share it.
        footprint: what a prompt takes; another one when the memory policy is another.
    """

    def __init__(self, config: EngineConfig, ids: TargetIds, footprint: Footprint) -> None:
        self._config, self.ids, self.footprint = config, ids, footprint
        self.groups: list[Group] = []  # each counts as one target at least, so at most config.max_targets
        self.understood: list[Group] = []  # they begin on the next frame; at most config.max_targets
        self.opening: list[Group] = []  # groups that begin on this frame; empty between frames
        self.reserved = 0  # targets that the language lane may bring
        ids.join(self)

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets, seen now or not, ascending."""
        return tuple(sorted(target_id for group in (*self.groups, *self.opening) for target_id in group.targets))

    @property
    def targets(self) -> list[Target]:
        """All targets that have begun, ascending by id."""
        return sorted((t for group in self.groups for t in group.targets.values()), key=lambda t: t.target_id)

    @property
    def infos(self) -> tuple[TargetInfo, ...]:
        """What lists say of all targets that have begun, ascending by id."""
        found = [(target, group) for group in self.groups for target in group.targets.values()]
        return tuple(
            TargetInfo(t.target_id, t.label, group.prompt_of(t).prompt_id, t.state, t.last_seen_ns)
            for t, group in sorted(found, key=lambda pair: pair[0].target_id)
        )

    @property
    def things(self) -> list[Target]:
        """All targets that have begun, stuff aside, which surrounds others."""
        return [t for group in self.groups for t in group.targets.values() if t.class_index not in group.stuff]

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

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...] | None:
        """Forget the targets of a prompt, and that it looks for some; return their ids, None where there is neither."""
        groups = [group for group in self.groups if prompt_id in group.prompt_ids]
        removed: list[int] = []
        for group in groups:
            gone = [target_id for target_id, t in group.targets.items() if group.prompt_of(t).prompt_id == prompt_id]
            for target_id in gone:
                group.targets.pop(target_id)
            removed += gone
        # what still looked for its first target has none now, either
        self.groups = [group for group in self.groups if group.targets or all(group is not other for other in groups)]
        return tuple(sorted(removed)) if groups else None

    def drop_empty(self) -> None:
        """Forget groups that neither follow nor look for anything."""
        self.groups = [group for group in self.groups if group.is_alive(self._config)]

    def clear(self) -> None:
        """Forget every group."""
        self.groups, self.understood, self.opening = [], [], []

    def full(self, group: Group | None = None, leaving: int | None = None) -> str:
        """Return why nothing can be added; '' while there is room, or while it can be made by giving up others.

        Args:
            group: what is to be added, where it is understood already.
            leaving: the target that moves into it, and so needs no second place.
        """
        evicts = self._config.at_cap == "evict"
        stays = [g for g in self._all(with_followed=not evicts) if set(g.targets) != {leaving}]
        followed = sum(max(1, len(g.targets)) for g in stays) + self.reserved
        moves = any(leaving in g.targets for g in stays)
        most = self._config.max_targets
        if followed - moves >= most:
            return f"{followed} targets are followed, at most {most} may be; remove one or raise max_targets"
        held = self._held(stays)
        needed = self.footprint.typical if group is None else self.footprint.full(group)
        if held + needed > self._most_bytes:
            return (
                f"its memory will take {in_mib(needed)} beside {in_mib(held)} for {followed} targets, at most "
                f"{in_mib(self._most_bytes)} may be held; remove a target or raise max_memory_mb"
            )
        return ""

    def admit(self, group: Group, prompted: bool = False) -> int | None:
        """Return an id for a new target of a group.

        At a cap it takes the place of the group's longest lost target, or else is not followed: None. Past one that was
        lowered, it takes the place of so many that the cap holds.

        Args:
            group: the group.
            prompted: whether it begins, so that others may be given up for it; see ``make_room``.
        """
        evicts = self._config.at_cap == "evict" and prompted
        others = [g for g in self._all(with_followed=not evicts) if g is not group]
        places = self._config.max_targets - self.reserved - sum(max(1, len(g.targets)) for g in others)
        needed = self.footprint.full(group, more=1)
        leaving = max(len(group.targets) + 1 - places, self._held(others) + needed > self._most_bytes, 0)
        lost = [target for target in group.targets.values() if target.state is TargetState.LOST]
        if len(lost) < leaving:
            return None
        for target in sorted(lost, key=lambda target: -target.missed_frames)[:leaving]:
            del group.targets[target.target_id]
        return self.ids.take()

    def follow(self, policy: PolicyGuard) -> None:
        """Let every memory go on under a policy."""
        for group in self._all():
            group.memory.follow(policy)

    def make_room(self, new: Sequence[Group]) -> list[GivenUp]:
        """Give up whoever was seen least recently, lost longest first, until both caps hold; none of ``new``."""
        given_up: list[GivenUp] = []
        while self._config.at_cap == "evict" and (reason := self.excess()):
            rivals = [group for group in self.groups if all(group is not other for other in new)]
            if not rivals:
                break
            one = least_recently_seen(rivals)
            if one is None or self._followed <= self._config.max_targets:
                group = max(rivals, key=unseen_for)  # its targets share one memory
                self.groups = [other for other in self.groups if other is not group]
                given_up.append(GivenUp(group, tuple(group.targets.values()), f"as {reason}"))
            else:
                self.remove(one[1].target_id)
                given_up.append(GivenUp(one[0], (one[1],), f"as {reason}"))
        return given_up

    def excess(self, groups: Sequence[Group] | None = None) -> str:
        """Return which cap does not hold, with the numbers; '' where both do.

        Args:
            groups: what is to be followed in the place of all that is, or is about to be.
        """
        most = self._config.max_targets
        if groups is None:
            followed, held = self._followed, self._held(self._all())
        else:
            followed, held = _count(groups), sum(map(self.footprint.full, groups))
        if followed > most:
            return f"{followed} targets are followed, at most {most} may be; raise max_targets"
        if held > self._most_bytes:
            most_mib = in_mib(self._most_bytes)
            return f"memories will take {in_mib(held)}, at most {most_mib} may be held; raise max_memory_mb"
        return ""

    def give_up(self, reason: str) -> GivenUp | None:
        """Give up the target that was seen least recently, and those that share its memory; None without any."""
        rival = least_recently_seen(self.groups)
        if rival is None:
            return None
        group = rival[0]
        self.groups = [other for other in self.groups if other is not group]
        return GivenUp(group, tuple(group.targets.values()), reason)

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
            target_id = self.admit(group, prompted=True)
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
                targets[row].vanish(self._config)
        return masks

    def _odds(self) -> float:
        threshold = min(max(self._config.mask_threshold, 1e-6), 1 - 1e-6)
        return threshold / (1 - threshold)

    def _all(self, with_followed: bool = True) -> list[Group]:
        """Return what has begun and what is about to."""
        return [*(self.groups if with_followed else ()), *self.understood, *self.opening]

    @property
    def _followed(self) -> int:
        """Count targets, one for each group that has yet to find its own, and what the language lane may bring."""
        return _count(self._all()) + self.reserved

    @property
    def _most_bytes(self) -> int:
        return self._config.max_memory_mb * MIB

    def _held(self, groups: Sequence[Group]) -> int:
        """Return the bytes of groups with full memories, and of what the language lane may bring."""
        return sum(map(self.footprint.full, groups)) + self.reserved * self.footprint.typical


def _count(groups: Sequence[Group]) -> int:
    """Count targets, and one for each group that has none."""
    return sum(max(1, len(group.targets)) for group in groups)

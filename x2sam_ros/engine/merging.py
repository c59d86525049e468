"""Merged conversations: which prompts are asked together, and how the answer takes the place of what was there.

A conversation of several texts, or of several regions, costs one decoder pass and one memory for all of them. Prompts
that join one are asked together with those it has, on their frame, as a new conversation that continues the targets of
the old one. That goes on untouched meanwhile, and for good where the new prompts find nothing. One conversation is
joined at a time; what comes meanwhile waits, and keeps its frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import Kept
from x2sam_ros.engine.joining import Join, Stay, mask_on
from x2sam_ros.engine.language_lane import Job, Opened
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.reply import Reply, grounding_of
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PromptError
from x2sam_ros.types import (
    BoxPrompt,
    Grounding,
    GroundingStatus,
    MaskPrompt,
    PointPrompt,
    Prompt,
    Task,
    TextPrompt,
)

MERGEABLE = {Task.REFSEG.value: (TextPrompt,), Task.OBJSEG.value: (PointPrompt, BoxPrompt, MaskPrompt)}
"""Tasks whose prompts may share a conversation, and the kinds of those prompts: one target each."""


class Merger:
    """Brings prompts together. Of the session's thread.

    Args:
        config: ``conversations`` and ``max_merged``.
        roster: who is followed.
    """

    def __init__(self, config: EngineConfig, roster: Roster) -> None:
        self._config, self._roster = config, roster
        self._open: list[Join] = []  # planned or being carried out; each has a job that waits for its answer

    def takes(self, job: Job) -> bool:
        """Tell whether a prompt may share a conversation."""
        kinds = MERGEABLE.get(job.prompt.task_name, ())
        merged = self._config.conversations == "merged" and not self._config.official_quirks
        return merged and job.clip is None and isinstance(job.prompt, kinds)

    def place(self, job: Job, planned: list[Join], asked: Sequence[Job]) -> bool:
        """Find a conversation for a prompt.

        Args:
            job: the prompt.
            planned: what is about to be carried out, to which it may be added.
            asked: all prompts that are, or are being, carried out.

        Returns:
            Whether it has one; if not, it has to wait until another prompt has joined the one it suits.
        """
        self._open = [join for join in self._open if any(job in asked for job in join.jobs)]
        task = job.prompt.task_name
        own = self._group_of(job.target)
        busy = [join for join in self._open if not (join in planned and join.at is job.at)]
        if own is not None and any(join.group is own for join in busy):
            return False  # its target is being continued there
        open_ones = [join for join in self._open if join.task == task and self._suits(job, join.group, join.jobs)]
        for join in open_ones:
            if join in planned and join.at is job.at:
                join.jobs.append(job)
                return True
        free = [group for group in self._groups(task) if self._suits(job, group, ())]
        if not free and open_ones:
            return False
        # a target that is refined stays in its conversation
        free.sort(key=lambda group: group is not own)
        join = Join(job.at, task, [job], free[0] if free else None)
        planned.append(join)
        self._open.append(join)
        return True

    def seal(self, join: Join, place: Placement) -> Join:
        """Note what of the conversation stays, as it is on the frame; nothing is added to a join afterwards.

        Args:
            join: as planned.
            place: where its frame lies in the network's square.
        """
        if join.group is not None:
            refined = _refined(join.jobs)
            staying = [target for target_id, target in join.group.targets.items() if target_id not in refined]
            join.stays = tuple(self._stay(join.at, join.group, target, place) for target in staying)
        return join

    def _stay(self, at: Kept, group: Group, target: Target, place: Placement) -> Stay:
        """Note a target as it is on a frame, or was when it was last seen."""
        label = target.class_index
        seen = target.target_id in at.masks or target.logits is not None
        then = replace(target, last_mask=at.masks.get(target.target_id, target.last_mask))
        if seen and target.motion is not None and target.motion.frame_index >= at.frame.frame_index:
            then.motion = None  # it has not moved on from there yet
        if not group.regions:
            return Stay(group.members[label], then)
        mask = mask_on(then, at, place, self._config)
        return Stay(group.members[label], then, group.regions[label], mask if seen and mask.any() else None)

    def settle(self, item: Opened, live: Sequence[Job]) -> list[Grounding]:
        """Follow a conversation that has caught up in the place of the one it continues; report its prompts.

        Args:
            item: prompts that were asked together, and what became of them.
            live: those of them that somebody still wants an answer to.
        """
        join, answer = item.job, item.answer
        assert isinstance(join, Join) and isinstance(answer, (Group, Reply))
        if isinstance(answer, Reply):
            return [grounding_of(j.prompt, j.at.frame, answer.status, answer.message, reply=answer) for j in live]
        found = {target.class_index: target for target in item.found}
        wanted = [job for job in live if join.label_of(job) in found or self._rests(job.target)]
        joined = self._adopt(join, answer, wanted) if wanted else {}
        return [self._report(join, answer, job, found.get(join.label_of(job)), joined) for job in live]

    def _adopt(self, join: Join, group: Group, wanted: Sequence[Job]) -> dict[int, str]:
        """Let the roster follow a conversation; return for each label whose prompt has no place in it why."""
        roster, refused = self._roster, {}
        led = {target.class_index: target for target in group.targets.values()}
        stays = {stay.target.target_id: label for label, stay in enumerate(join.stays)}
        group.targets = {}
        for job in wanted:
            label = join.label_of(job)
            if job.target is None:
                continue
            try:
                roster.remove(job.target.target_id)
                group.targets[job.target.target_id] = led[label]
            except PromptError as error:  # it is gone
                refused[label] = str(error)
        old = join.group if any(other is join.group for other in roster.groups) else None
        for target_id in list(old.targets if old is not None else ()):
            if old is not None and target_id in stays:  # as the old conversation knows it, which is up to date
                group.targets[target_id] = old.targets.pop(target_id)
                group.targets[target_id].class_index = stays[target_id]
        roster.drop_empty()
        roster.groups.append(group)
        for job in wanted:
            label = join.label_of(job)
            if job.target is None:
                refused.update(self._admit(group, led[label], label))
        return refused

    def _admit(self, group: Group, target: Target, label: int) -> dict[int, str]:
        others = dict(group.targets)
        target_id = self._roster.admit(group, prompted=True)
        if target_id is None or len(group.targets) < len(others):
            group.targets = others  # not in the place of another prompt's target
            most = self._config.max_targets
            full = self._roster.full() or f"its conversation has {len(others)} targets, at most {most} may be followed"
            return {label: full}
        target.target_id, target.label = target_id, ""
        group.name(target, label)
        group.targets[target_id] = target
        return {}

    def _report(self, join: Join, group: Group, job: Job, found: Target | None, refused: dict[int, str]) -> Grounding:
        label, frame = join.label_of(job), join.at.frame
        if label in refused:
            return grounding_of(job.prompt, frame, GroundingStatus.REJECTED, refused[label])
        if found is None:
            message = "nothing in the image fits the prompt"
            return grounding_of(job.prompt, frame, group.reply.status, message, labels=group.labels[label : label + 1])
        new = next(target for target in group.targets.values() if target.class_index == label)
        seen = replace(found, target_id=new.target_id, class_index=0)
        return grounding_of(
            job.prompt, frame, GroundingStatus.OK, labels=group.labels[label : label + 1], targets=[seen]
        )

    def _groups(self, task: str) -> Iterator[Group]:
        """Yield merged conversations of a task that have a memory and that nobody joins at the moment."""
        taken = [join.group for join in self._open]
        for group in self._roster.groups:
            free = all(group is not other for other in taken)
            if group.members and group.head.task == task and len(group.memory) and free:
                yield group

    def _suits(self, job: Job, group: Group | None, jobs: Sequence[Job]) -> bool:
        """Tell whether a conversation has room for a prompt, and not the same words yet."""
        others: list[Prompt] = [other.prompt for other in jobs]
        if group is not None:
            refined = _refined([*jobs, job])
            staying = [target for target_id, target in group.targets.items() if target_id not in refined]
            others += [group.prompt_of(target) for target in staying]
        words = _words(job.prompt)
        said = words and any(_words(other) == words for other in others)
        # at the cap on targets, a conversation of its own can take the place of others
        return len(others) < min(self._config.max_merged, self._config.max_targets) and not said

    def _group_of(self, target: Target | None) -> Group | None:
        if target is None:
            return None
        return next((group for group in self._roster.groups if target.target_id in group.targets), None)

    def _rests(self, target: Target | None) -> bool:
        """Tell whether a target waits to be asked for on another stream: there is no conversation to go on with."""
        group = self._group_of(target)
        return group is not None and not len(group.memory)


def _words(prompt: Prompt) -> str:
    return prompt.text.casefold() if isinstance(prompt, TextPrompt) else ""


def _refined(jobs: Iterable[Job]) -> set[int]:
    return {job.target.target_id for job in jobs if job.target is not None}

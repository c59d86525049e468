"""Prompts of one frame that are asked as one conversation, with the targets of the one that they join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import Kept
from x2sam_ros.engine.grounding import Grounder, Question, View
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.progress import hearing
from x2sam_ros.engine.region import Region
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.track import Group, Member, Target
from x2sam_ros.types import BoolArray, MaskPrompt, PromptStage, Uint8Array

if TYPE_CHECKING:
    from x2sam_ros.engine.language_lane import Job


@dataclass(frozen=True)
class Stay:
    """A target that the conversation has already.

    Args:
        member: its prompt.
        target: a copy, as it was on the frame.
        region: what pointed at it; None for words.
        mask: bool (H, W), where it is on the frame; None where it is not seen, or was asked for in words.
    """

    member: Member
    target: Target
    region: Region | None = None
    mask: BoolArray | None = None

    def ask(self, grounder: Grounder, view: View) -> Question:
        """Put its prompt into words again. A region lies where the target is; out of sight, it looks as it did."""
        task = self.member.prompt.task
        if self.region is None:
            return grounder.ask(self.member.prompt, view)
        mask = self.region.mask if self.mask is None else self.mask
        asked = grounder.ask(MaskPrompt(mask=mask, task=task), replace(view, size=mask.shape))
        return asked if self.mask is not None else replace(asked, regions=(self.region,), tokens=self.member.tokens)


@dataclass(eq=False)
class Join:
    """One pass for several prompts.

    Args:
        at: their frame.
        task: theirs, and that of the conversation.
        jobs: the prompts; their labels come after those of ``stays``.
        group: the conversation they join, which belongs to the session's thread; None for a new one.
        stays: those of its targets that none of the prompts refines.
    """

    at: Kept
    task: str
    jobs: list[Job] = field(default_factory=list)
    group: Group | None = None
    stays: tuple[Stay, ...] = ()
    clip: Uint8Array | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants an answer any more."""
        return all(job.is_cancelled for job in self.jobs)

    def cancel(self) -> None:
        """Call every prompt off."""
        for job in self.jobs:
            job.cancel()

    @property
    def is_watched(self) -> bool:
        """Whether somebody is told how one of the prompts gets on."""
        return any(job.is_watched for job in self.jobs)

    def tell(self, stage: PromptStage, response: str = "") -> None:
        """Tell whoever watches one of the prompts."""
        for job in self.jobs:
            job.tell(stage, response)

    def alone(self, job: Job) -> Join:
        """Return one of the prompts as a conversation of its own."""
        return Join(self.at, self.task, [job])

    def label_of(self, job: Job) -> int:
        """Return the label that a prompt has in the conversation."""
        return len(self.stays) + next(index for index, other in enumerate(self.jobs) if other is job)


def ask_together(
    join: Join, questions: Sequence[Question], grounder: Grounder, view: View, cancelled: Callable[[], bool]
) -> Group | Reply:
    """Ask prompts, and those of the targets that stay, in one language pass.

    Args:
        join: the prompts.
        questions: each of them in words.
        grounder: runs the pass.
        view: their frame.
        cancelled: see ``Grounder.ground``.

    Returns:
        The new conversation, with copies of the targets that stay and of those that are refined.

    Raises:
        PromptError: they are longer together than the model can read.
        PluginError: the task head contradicts itself.
    """
    old = [stay.ask(grounder, view) for stay in join.stays]
    on_text = hearing(join.tell) if join.is_watched else None
    group = grounder.ground(grounder.together([*old, *questions], view), view.picture, cancelled, on_text)
    if isinstance(group, Reply):
        return group
    stays = [replace(s.member, tokens=q.tokens, begins=False) for s, q in zip(join.stays, old)]
    new = [Member(job.prompt, question.clicks, question.tokens) for job, question in zip(join.jobs, questions)]
    group.members, group.clicks = (*stays, *new), None
    known = [*(stay.target for stay in join.stays), *(job.target for job in join.jobs)]
    for label, target in enumerate(known):
        if target is not None:
            group.targets[target.target_id] = replace(target)
            group.name(group.targets[target.target_id], label)
    return group


def mask_on(target: Target, at: Kept, place: Placement, config: EngineConfig) -> BoolArray:
    """Return where a target is on a buffered frame, or was last seen, at that frame's size, bool (H, W)."""
    then = replace(target, last_mask=at.masks.get(target.target_id, target.last_mask))
    inside = then.track(place.cells, config).mask[None].float() - 0.5
    mask: BoolArray = (place.enlarge(inside)[0] > 0).cpu().numpy()
    return mask

"""What becomes of a session's prompts: they wait, are handed to the language lane, and come back as groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.fleet import Turns
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.joining import Join, mask_on
from x2sam_ros.engine.language_lane import Job, LanguageLane, Opened, Opener, Pictures, describe
from x2sam_ros.engine.merging import Merger
from x2sam_ros.engine.progress import Watch, Watcher
from x2sam_ros.engine.prompt_queue import PromptQueue, Waiting
from x2sam_ros.engine.regrounding import Regrounder
from x2sam_ros.engine.reply import Reply, grounding_of, report_of
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.engine.tracker import Seen, Tracker
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    Grounding,
    GroundingStatus,
    Prompt,
    PromptStage,
    RegionsPrompt,
    Uint8Array,
)

_LISTS = (ClassListPrompt, CaptionPrompt, RegionsPrompt)
"""Prompts whose targets are found anew on another stream."""


class PromptDesk:
    """Takes prompts from ``submit`` to groups in the roster, inline or beside the frames. Of the session's thread.

    Args:
        model: the network.
        config: where the language lane runs, and the caps.
        grounder: runs the language pass.
        buffer: the stream's newest frames.
        roster: who is followed.
        turns: whose language lane works.
    """

    def __init__(
        self,
        model: X2SAM,
        config: EngineConfig,
        grounder: Grounder,
        buffer: FrameBuffer,
        roster: Roster,
        turns: Turns,
    ) -> None:
        self._model, self._config, self._buffer, self._roster = model, config, buffer, roster
        self._opener = Opener(model, config, grounder, buffer)
        self._asked: list[Job] = []  # in the lane; with those that wait, at most config.max_pending_prompts
        self._answers: list[Grounding] = []  # for the next result; at most one for each job
        self._merger = Merger(config, roster)
        self._joining: list[Join] = []  # on the frame that is being segmented; jobs of all are among those asked
        self._pictures: Pictures | None = None  # of that frame
        self._moved: list[tuple[Group, Group, Target]] = []  # refined targets of Roster.opening: new and old group
        self.lane = LanguageLane(self._opener.run, model.device, config, turns)
        self.queue = PromptQueue(config)
        self.regrounder = Regrounder(model, config, roster, self._opener, self.lane)

    @property
    def waiting_ids(self) -> set[str]:
        """Ids of prompts that have no group yet."""
        return {item.prompt.prompt_id for item in (*self.queue, *self._asked)}

    def submit(self, prompt: Prompt, clip: Uint8Array | None, watch: Watch | None = None) -> None:
        """Queue a prompt; PromptError where its id is taken or too many wait."""
        watcher = None if watch is None else Watcher(prompt.prompt_id, watch)
        self.queue.submit(prompt, clip, len(self._asked), watcher)
        if watcher is not None:
            watcher.tell(PromptStage.WAITING)

    def close(self) -> None:
        """Forget what is being carried out, and end the lane."""
        self.regrounder.clear()
        self._cancel(self._asked)
        self.lane.close()

    def reset(self) -> None:
        """Forget every prompt."""
        self.regrounder.clear()
        self._cancel(self._asked)
        self.queue.clear()
        self._answers.clear()

    def drop_target(self, target_id: int) -> None:
        """Reject what is being carried out for a target that was removed."""
        self.regrounder.cancel(target_id)
        jobs = [job for job in self._asked if job.target is not None and job.target.target_id == target_id]
        self._cancel(jobs)
        message = f"target {target_id} was removed before this was carried out"
        rejected = GroundingStatus.REJECTED
        self._answers += [grounding_of(job.prompt, job.at.frame, rejected, message) for job in jobs]

    def drop_prompt(self, prompt_id: str) -> bool:
        """Forget a prompt; return whether it waited or was being carried out."""
        known = bool(prompt_id) and prompt_id in self.waiting_ids
        self.queue.drop(prompt_id)
        self._cancel([job for job in self._asked if job.prompt.prompt_id == prompt_id])
        return known

    def begin_anew(self) -> None:
        """Let memories of a stream that has ended go, and ask every prompt again; see ``Session.step``."""
        self.regrounder.clear()
        again = self._take_back(self._asked)
        for group in [group for group in self._roster.groups if len(group.memory)]:
            only = len(group.targets) == 1 and not isinstance(group.prompt, _LISTS)
            if only or group.members:
                again += [Waiting(replace(_given(group, t), target_id=t.target_id)) for t in group.targets.values()]
            else:
                again.append(Waiting(replace(group.prompt, target_id=None)))
            group.rest(self._config)
            if not only and not group.members:
                group.targets.clear()
        self._roster.groups = [group for group in self._roster.groups if group.targets]
        for waiting in again:
            self.queue.put_back(waiting)
        self.queue.begin_anew()

    def take_over(self) -> None:
        """Let the roster follow what the lane has finished."""
        failed = [job for join in self._joining for job in join.jobs if job in self._asked]  # their frame did
        for waiting in self._take_back(failed):
            self.queue.put_back(waiting)
        self._joining = []
        self._answers += self._settle_all(self.regrounder.take(self.lane.take()))

    def tell(self, answers: Iterable[Grounding]) -> None:
        """Let the next result have these."""
        self._answers += answers

    def recover(self, error: BaseException, frame: Frame) -> None:
        """Answer, or ask again, what was to begin on a frame that failed; refined targets are what they were before.

        Args:
            error: why. A frame that cannot be used is no prompt's fault: what is understood begins on the next one.
            frame: the frame.
        """
        opening, self._roster.opening = self._roster.opening, []
        refined = {id(new) for new, _, _ in self._moved}
        for new, old, target in self._moved:
            if any(new is group for group in opening):
                old.targets[target.target_id] = target
                if all(old is not group for group in self._roster.groups):
                    self._roster.groups.append(old)
        self._moved = []
        for group in opening:
            if not isinstance(error, FrameError):
                reason = f"the frame that was to carry it out failed: {error}"
                self._answers.append(grounding_of(group.prompt, frame, GroundingStatus.REJECTED, reason))
            elif id(group) in refined:
                self.queue.put_back(Waiting(group.prompt))
            else:
                self._roster.understood.append(group)

    def take_answers(self) -> list[Grounding]:
        """Return what became of prompts since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def carry_out(self, kept: Kept, seen: Seen, tracker: Tracker) -> None:
        """Hand the prompts that are due to the lane, or carry them out.

        Inline, prompts about the newest frame itself leave their groups in ``Roster.opening``.

        Args:
            kept, seen: the newest frame.
            tracker: of the session's thread.

        Raises:
            FrameError: the language model cannot be shown the frame; every prompt waits on.
        """
        inline = self._config.language_lane == "inline"
        due, refused = self.queue.due(kept, self._buffer)
        if due:
            self.regrounder.cancel()
        self.tell(self._refuse(waiting, kept.frame, reason) for waiting, reason in refused)
        pictures = Pictures(self._model, seen, [waiting.clip for waiting, at in due if at is kept])
        if inline and any(at is kept and waiting.clip is None for waiting, at in due):
            self._look(pictures, due)
        self._roster.opening, self._roster.understood, self._moved = self._roster.understood, [], []
        batches: dict[int, list[Job | Join]] = {}
        joins: list[Join] = []
        for waiting, at in due:
            if self._is_being_refined(waiting.prompt.target_id):
                self.queue.put_back(replace(waiting, at=at))
                continue
            try:
                job = self._job(waiting, at, tracker)
                merges = self._merger.takes(job)
                if merges and not self._merger.place(job, joins, self._asked):
                    self.queue.put_back(replace(waiting, at=at))
                    continue
                if inline and at is kept and not merges:
                    self.tell(self._open(job, pictures))
                    continue
            except Exception as error:  # one prompt's failure is not another's
                self.tell([self._refuse(waiting, at.frame, describe(error))])
                continue
            self._asked.append(job)
            self._roster.reserved += job.reserves
            if not merges:
                batches.setdefault(at.number, []).append(job)
        self._pictures = pictures
        self._joining = [join for join in joins if inline and join.at is kept]
        for join in joins:
            if join not in self._joining:
                batches.setdefault(join.at.number, []).append(self._merger.seal(join, tracker.place(join.at.frame)))
        for jobs in batches.values():
            if inline:
                self.tell(self._settle_all(self._opener.run(jobs, kept)))
            else:
                self.lane.put(jobs)

    def join(self, kept: Kept, tracker: Tracker) -> None:
        """Carry out, inline, what joins conversations on the newest frame, to which their targets have been brought."""
        joins, self._joining = self._joining, []
        pictures, self._pictures = self._pictures, None
        if joins:
            sealed = [self._merger.seal(join, tracker.place(kept.frame)) for join in joins]
            self.tell(self._settle_all(self._opener.run(sealed, kept, pictures)))

    def reground(self, kept: Kept, seen: Seen) -> None:
        """Ask for a target again whose words are due, while no prompt is being carried out."""
        self.regrounder.consider(kept, seen, busy=bool(self._asked) or self.lane.is_busy)

    def _look(self, pictures: Pictures, due: Sequence[tuple[Waiting, Kept]]) -> None:
        """Show the frame to the language model; what is wrong with it is no prompt's fault."""
        try:
            pictures.view(None)
        except FrameError:
            for waiting, _ in due:
                self.queue.put_back(waiting)
            raise

    def _job(self, waiting: Waiting, at: Kept, tracker: Tracker) -> Job:
        """Prepare a prompt for the language pass.

        Raises:
            PromptError: there is no room, or no such target, or the task does not take such a prompt.
            PluginError: there is no such task.
        """
        prompt = replace(waiting.prompt, stamp_ns=at.frame.stamp_ns)
        if prompt.target_id is None:
            reserves = installed_plugins().task_head(prompt.task_name)().request(prompt).wants_masks
            if reserves and (full := self._roster.full()):
                raise PromptError(full)
            return Job(prompt, at, waiting.clip, reserves=reserves, watcher=waiting.watcher)
        group = self._roster.group_of(prompt.target_id)
        target = replace(group.targets[prompt.target_id])
        if waiting.again:
            return Job(prompt, at, waiting.clip, target=target, watcher=waiting.watcher)
        current = mask_on(target, at, tracker.place(at.frame), self._config)
        return Job(prompt, at, waiting.clip, group.clicks_of(target), current, target, watcher=waiting.watcher)

    def _open(self, job: Job, pictures: Pictures) -> list[Grounding]:
        """Make the group of a prompt on the newest frame, or return its answer in words."""
        answer = self._opener.understand(job, pictures)
        if isinstance(answer, Reply):
            return [grounding_of(job.prompt, job.at.frame, answer.status, answer.message, reply=answer)]
        old = None if job.target is None else self._roster.group_of(job.target.target_id)
        left = None if old is None or job.target is None else old.targets[job.target.target_id]
        if refused := self._make_room(job, answer):
            return [refused]
        self._roster.opening.append(answer)
        if old is not None and left is not None:
            self._moved.append((answer, old, left))
        return []

    def _settle_all(self, opened: Sequence[Opened]) -> list[Grounding]:
        groundings = []
        for item in opened:
            before = list(self._roster.groups)
            groundings += self._settle_one(item)
            self._roster.drop_empty()
            new = [group for group in self._roster.groups if all(group is not other for other in before)]
            given_up = self._roster.make_room(new) if new else []
            groundings += [report for one in given_up for report in one.reports(item.job.at.frame)]
        return groundings

    def _settle_one(self, item: Opened) -> list[Grounding]:
        if isinstance(item.job, Join):
            return self._settle_join(item, [job for job in item.job.jobs if job in self._asked])
        if item.job not in self._asked:
            return []  # it was cancelled meanwhile
        self._asked.remove(item.job)
        self._roster.reserved -= item.job.reserves
        try:
            return [self._settle(item.job, item)]
        except PromptError as error:  # a refined target is gone
            return [grounding_of(item.job.prompt, item.job.at.frame, GroundingStatus.REJECTED, str(error))]

    def _settle_join(self, item: Opened, live: list[Job]) -> list[Grounding]:
        """Follow what was asked together, in the place of the conversation that it continues."""
        for job in live:
            self._asked.remove(job)
            self._roster.reserved -= job.reserves
        if isinstance(item.answer, str):
            return [self._rejected(job.prompt, job.at.frame, item.answer) for job in live]
        return self._merger.settle(item, live) if live else []

    def _settle(self, job: Job, item: Opened) -> Grounding:
        """Follow a group that has caught up, under ids of the session; report it, or why it is rejected."""
        answer = item.answer
        if isinstance(answer, str):
            return self._rejected(job.prompt, job.at.frame, answer)
        if isinstance(answer, Reply):
            return grounding_of(job.prompt, job.at.frame, answer.status, answer.message, reply=answer)
        if refused := self._make_room(job, answer):
            return refused
        return report_of(answer, job.at.frame, self._config, self._roster.adopt(answer, item.found))

    def _make_room(self, job: Job, group: Group) -> Grounding | None:
        """Take a refined target out of its old group; return why a new group has no place."""
        leaving = None if job.target is None else job.target.target_id
        if leaving is not None:
            self._roster.group_of(leaving)
        if full := self._roster.full(group, leaving):
            words = leaving is None and not job.reserves  # an answer stands without its targets
            status = group.reply.status if words else GroundingStatus.REJECTED
            self._give_up_resting(leaving)
            return grounding_of(job.prompt, job.at.frame, status, full, reply=group.reply)
        if leaving is not None:
            self._roster.remove(leaving)
        return None

    def _refuse(self, waiting: Waiting, frame: Frame, reason: str) -> Grounding:
        """Reject a prompt; one that was asked on an earlier stream was its resting target's only way back."""
        if waiting.again:
            return self._rejected(waiting.prompt, frame, reason)
        return grounding_of(waiting.prompt, frame, GroundingStatus.REJECTED, reason)

    def _rejected(self, prompt: Prompt, frame: Frame, reason: str) -> Grounding:
        """Reject a prompt that is asked nowhere any more; a resting target that has no other is given up."""
        if not self._give_up_resting(prompt.target_id):
            return grounding_of(prompt, frame, GroundingStatus.REJECTED, reason)
        reason = f"another stream began, and on it this cannot be asked again: {reason}"
        given_up = grounding_of(prompt, frame, GroundingStatus.REMOVED, reason)
        return replace(given_up, target_ids=(prompt.target_id or 0,))

    def _give_up_resting(self, target_id: int | None) -> bool:
        """Forget a resting target whose prompt cannot be asked again; return whether it was one."""
        if any(waiting.again and waiting.prompt.target_id == target_id for waiting in self.queue):
            return False  # it has its own way back
        for group in self._roster.groups:
            if target_id is not None and target_id in group.targets and not len(group.memory):
                self._roster.remove(target_id)
                return True
        return False

    def _is_being_refined(self, target_id: int | None) -> bool:
        """Tell whether a prompt for that target is being carried out; ``None`` is no target."""
        if any(target_id in group.targets for group in self._roster.opening):
            return True
        return any(job.target is not None and job.target.target_id == target_id for job in self._asked)

    def _take_back(self, jobs: Sequence[Job]) -> list[Waiting]:
        """Call jobs off and return their prompts, to be asked again."""
        for job in jobs:
            job.tell(PromptStage.WAITING)
        again = [Waiting(job.prompt, job.clip, watcher=job.watcher) for job in jobs]
        self._cancel(jobs)
        return again

    def _cancel(self, jobs: Sequence[Job]) -> None:
        for job in list(jobs):
            job.cancel()
            self._asked.remove(job)
            self._roster.reserved -= job.reserves


def _given(group: Group, target: Target) -> Prompt:
    """Return the prompt of a target; of clicks, those that still held when the last of them was given."""
    prompt, clicks = group.prompt_of(target), group.clicks_of(target)
    return prompt if clicks is None else replace(clicks, prompt_id=prompt.prompt_id, stamp_ns=prompt.stamp_ns)

"""What becomes of a session's prompts: they wait, are handed to the language lane, and come back as groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.language_lane import Job, LanguageLane, Opened, Opener, Pictures
from x2sam_ros.engine.prompt_queue import PromptQueue, Waiting
from x2sam_ros.engine.reply import Reply, grounding_of, report_of
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import Seen, Tracker
from x2sam_ros.errors import ConfigError, FrameError, PluginError, PromptError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    Grounding,
    GroundingStatus,
    Prompt,
    RegionsPrompt,
    Uint8Array,
)


class PromptDesk:
    """Takes prompts from ``submit`` to groups in the roster, inline or beside the frames. Of the session's thread.

    Args:
        model: the network.
        config: where the language lane runs, and the caps.
        grounder: runs the language pass.
        buffer: the stream's newest frames.
        roster: who is followed.
    """

    def __init__(
        self, model: X2SAM, config: EngineConfig, grounder: Grounder, buffer: FrameBuffer, roster: Roster
    ) -> None:
        self._model, self._config, self._buffer, self._roster = model, config, buffer, roster
        self._opener = Opener(model, config, grounder, buffer)
        self._asked: list[Job] = []  # in the lane; with those that wait, at most config.max_pending_prompts
        self._answers: list[Grounding] = []  # for the next result; at most one for each job
        self.lane = LanguageLane(self._opener.run, model.device, config)
        self.queue = PromptQueue(config)

    @property
    def waiting_ids(self) -> set[str]:
        """Ids of prompts that have no group yet."""
        return {item.prompt.prompt_id for item in (*self.queue, *self._asked)}

    def submit(self, prompt: Prompt, clip: Uint8Array | None) -> None:
        """Queue a prompt; PromptError where its id is taken or too many wait."""
        self.queue.submit(prompt, clip, len(self._asked))

    def close(self) -> None:
        """Forget what is being carried out, and end the lane."""
        self._cancel(self._asked)
        self.lane.close()

    def reset(self) -> None:
        """Forget every prompt."""
        self._cancel(self._asked)
        self.queue.clear()
        self._answers.clear()

    def drop_target(self, target_id: int) -> None:
        """Reject what is being carried out for a target that was removed."""
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
        again = [Waiting(job.prompt, job.clip) for job in self._asked]
        self._cancel(self._asked)
        for group in [group for group in self._roster.groups if len(group.memory)]:
            prompt = group.prompt
            if group.clicks is not None:  # those that still held when the last of them was given
                prompt = replace(group.clicks, prompt_id=prompt.prompt_id, stamp_ns=prompt.stamp_ns)
            only = len(group.targets) == 1 and not isinstance(prompt, (ClassListPrompt, CaptionPrompt, RegionsPrompt))
            again.append(Waiting(replace(prompt, target_id=next(iter(group.targets)) if only else None)))
            group.rest(self._config)
            if not only:
                group.targets.clear()
        self._roster.groups = [group for group in self._roster.groups if group.targets]
        for waiting in again:
            self.queue.put_back(waiting)
        self.queue.begin_anew()

    def take_over(self) -> None:
        """Let the roster follow what the lane has finished."""
        self._answers += self._settle_all(self.lane.take())

    def take_answers(self) -> list[Grounding]:
        """Return what became of prompts since the last call, that of ``carry_out`` aside."""
        answers, self._answers = self._answers, []
        return answers

    def carry_out(self, kept: Kept, seen: Seen, tracker: Tracker) -> list[Grounding]:
        """Hand the prompts that are due to the lane, or carry them out.

        Args:
            kept, seen: the newest frame.
            tracker: of the session's thread.

        Returns:
            What was rejected, answered in words, or has caught up already. Prompts about the newest frame itself leave
            their groups in ``Roster.opening``, inline.

        Raises:
            FrameError: the language model cannot be shown the frame; every prompt waits on.
        """
        inline = self._config.language_lane == "inline"
        due, refused = self.queue.due(kept, self._buffer)
        answered = [self._refuse(waiting, kept.frame, reason) for waiting, reason in refused]
        pictures = Pictures(self._model, seen, [waiting.clip for waiting, at in due if at is kept])
        if inline and any(at is kept and waiting.clip is None for waiting, at in due):
            self._look(pictures, due)
        self._roster.opening, self._roster.understood = self._roster.understood, []
        batches: dict[int, list[Job]] = {}
        for waiting, at in due:
            if self._is_being_refined(waiting.prompt.target_id):
                self.queue.put_back(waiting)
                continue
            try:
                job = self._job(waiting, at, tracker)
                if inline and at is kept:
                    answered += self._open(job, pictures)
                    continue
            except (PromptError, PluginError, ConfigError, FrameError) as error:
                answered.append(self._refuse(waiting, at.frame, str(error)))
                continue
            self._asked.append(job)
            self._roster.reserved += job.reserves
            batches.setdefault(at.number, []).append(job)
        for jobs in batches.values():
            if inline:
                answered += self._settle_all(self._opener.run(jobs, kept))
            else:
                self.lane.put(jobs)
        return answered

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
            return Job(prompt, at, waiting.clip, reserves=reserves)
        group = self._roster.group_of(prompt.target_id)
        target = replace(group.targets[prompt.target_id])
        if waiting.again:
            return Job(prompt, at, waiting.clip, target=target)
        place = tracker.place(at.frame)
        then = replace(target, last_mask=at.masks.get(target.target_id, target.last_mask))
        current = place.enlarge(then.track(place.cells).mask[None].float() - 0.5)[0] > 0
        return Job(prompt, at, waiting.clip, group.clicks, current.cpu().numpy(), target)

    def _open(self, job: Job, pictures: Pictures) -> list[Grounding]:
        """Make the group of a prompt on the newest frame, or return its answer in words."""
        answer = self._opener.understand(job, pictures)
        if isinstance(answer, Reply):
            return [grounding_of(job.prompt, job.at.frame, answer.status, answer.message, reply=answer)]
        if refused := self._make_room(job, answer):
            return [refused]
        self._roster.opening.append(answer)
        return []

    def _settle_all(self, opened: Sequence[Opened]) -> list[Grounding]:
        groundings = []
        for item in opened:
            if item.job not in self._asked:
                continue  # it was cancelled meanwhile
            self._asked.remove(item.job)
            self._roster.reserved -= item.job.reserves
            try:
                groundings.append(self._settle(item))
            except PromptError as error:  # a refined target is gone
                prompt, frame = item.job.prompt, item.job.at.frame
                groundings.append(grounding_of(prompt, frame, GroundingStatus.REJECTED, str(error)))
        self._roster.drop_empty()
        return groundings

    def _settle(self, item: Opened) -> Grounding:
        """Follow a group that has caught up, under ids of the session; report it, or why it is rejected."""
        job, answer = item.job, item.answer
        if isinstance(answer, str):
            self._give_up_resting(job.prompt.target_id)
            return grounding_of(job.prompt, job.at.frame, GroundingStatus.REJECTED, answer)
        if isinstance(answer, Reply):
            return grounding_of(job.prompt, job.at.frame, answer.status, answer.message, reply=answer)
        if refused := self._make_room(job, answer):
            return refused
        return report_of(answer, job.at.frame, self._config, self._roster.adopt(answer, item.found))

    def _make_room(self, job: Job, group: Group) -> Grounding | None:
        """Take a refined target out of its old group; return why a new group has no place."""
        if job.target is not None:
            self._roster.remove(job.target.target_id)
        elif not job.reserves and (full := self._roster.full()):
            return grounding_of(job.prompt, job.at.frame, group.reply.status, full, reply=group.reply)
        return None

    def _refuse(self, waiting: Waiting, frame: Frame, reason: str) -> Grounding:
        """Reject a prompt; a target that rests has no other way back, so that it is given up."""
        target_id = waiting.prompt.target_id
        if not waiting.again or not self._give_up_resting(target_id):
            return grounding_of(waiting.prompt, frame, GroundingStatus.REJECTED, reason)
        reason = f"another stream began, and on it this cannot be asked again: {reason}"
        given_up = grounding_of(waiting.prompt, frame, GroundingStatus.REMOVED, reason)
        return replace(given_up, target_ids=(target_id or 0,))

    def _give_up_resting(self, target_id: int | None) -> bool:
        """Forget a target whose prompt cannot be asked again; return whether it was one."""
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

    def _cancel(self, jobs: Sequence[Job]) -> None:
        for job in list(jobs):
            job.cancelled.set()
            self._asked.remove(job)
            self._roster.reserved -= job.reserves

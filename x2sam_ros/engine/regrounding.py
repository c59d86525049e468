"""Ask the words of a followed target again on the newest frame: now and then, when it is lost, or when its mask jumps.

Nobody waits for such a pass and nobody is told of it: one runs at a time, prompts of users go first and call it off,
and where it finds nothing all goes on as it was. Only words can be asked again. A region lies on the frame that it was
given on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.follow import expected
from x2sam_ros.engine.frame_buffer import Kept
from x2sam_ros.engine.language_lane import Job, LanguageLane, Opened, Opener, Pictures
from x2sam_ros.engine.region import mask_iou
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.engine.tracker import Seen
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import TargetState, TextPrompt

COOL_DOWN, LONGEST_PAUSE = 15, 480
"""Frames between two passes for one target on loss or on a jump; doubled after each that finds nothing, up to this."""


@dataclass
class _Watch:
    """What is known of a target whose words may be asked again.

    Args:
        group: where it is; with another one its words have been asked anew.
        asked_at: the frame on which they were, counted from the first that was considered.
        pause: frames to wait after passes that found nothing.
        place: bool (h, w), where it should be on the next frame; None while it is not seen.
        strayed: whether its mask has jumped since.
    """

    group: Group
    asked_at: int
    pause: int = 0
    place: Tensor | None = None
    strayed: bool = False


class Regrounder:
    """Decides whose words are asked again, and takes over what is found. Of the session's thread.

    Args:
        model: the network.
        config: ``reground_frames``, ``reground_on_loss`` and ``reground_iou``.
        roster: who is followed.
        opener: carries out a pass, inline.
        lane: does so beside the frames.
    """

    def __init__(self, model: X2SAM, config: EngineConfig, roster: Roster, opener: Opener, lane: LanguageLane) -> None:
        self._model, self._config, self._roster, self._opener, self._lane = model, config, roster, opener, lane
        self._frames = 0
        self._watches: dict[int, _Watch] = {}  # by target id, those that are followed
        self._job: Job | None = None  # in the lane
        self._asked_before = 0

    def consider(self, kept: Kept, seen: Seen, busy: bool) -> None:
        """Ask for one target again, if one is due.

        Args:
            kept, seen: the newest frame, to which the targets have been brought.
            busy: whether prompts are being carried out, which go first.
        """
        if not self._is_on:
            self._watches.clear()
            return
        self._frames += 1
        self._look_around()
        if busy or self._job is not None:
            return
        due = [target_id for target_id, watch in self._watches.items() if self._is_due(watch, target_id)]
        if not due:
            return
        target_id = min(due, key=lambda target_id: self._watches[target_id].asked_at)
        watch = self._watches[target_id]
        target = watch.group.targets[target_id]
        prompt = replace(watch.group.prompt_of(target), stamp_ns=kept.frame.stamp_ns)
        self._job = Job(prompt, kept, target=replace(target), is_quiet=True)
        self._asked_before, watch.asked_at, watch.strayed = watch.asked_at, self._frames, False
        if self._config.language_lane == "beside":
            self._lane.put([self._job])
        else:
            self.take(self._opener.run([self._job], kept, Pictures(self._model, seen, [None])))

    @property
    def _is_on(self) -> bool:
        config = self._config
        wanted = bool(config.reground_frames) or config.reground_on_loss or config.reground_iou > 0
        return wanted and not config.official_quirks

    def take(self, opened: Sequence[Opened]) -> list[Opened]:
        """Take over a target that was found; return what is not of here."""
        for item in opened:
            if item.job is self._job and self._job is not None:
                target = self._job.target
                self._job = None
                if target is not None and target.target_id in self._watches:
                    self._settle(item, target.target_id)
        return [item for item in opened if not (isinstance(item.job, Job) and item.job.is_quiet)]

    def cancel(self, target_id: int | None = None) -> None:
        """Call off what is under way, for a target or for any; it is asked for again when it is due."""
        job = self._job
        if job is None or job.target is None or target_id not in (None, job.target.target_id):
            return
        job.cancel()
        self._job = None
        if watch := self._watches.get(job.target.target_id):
            watch.asked_at = self._asked_before

    def clear(self) -> None:
        """Call off what is under way, and forget when words were asked."""
        self.cancel()
        self._watches.clear()

    def _settle(self, item: Opened, target_id: int) -> None:
        """Let a target go on in the group in which it was found, in the place of its old one."""
        watch, group = self._watches[target_id], item.answer
        follows = any(watch.group is other for other in self._roster.groups) and target_id in watch.group.targets
        if not follows:
            return
        found = isinstance(group, Group) and any(target.target_id == target_id for target in item.found)
        if not isinstance(group, Group) or not found or group.targets[target_id].logits is None:
            watch.pause = min(max(2 * watch.pause, COOL_DOWN), LONGEST_PAUSE)
            return
        group.targets, group.members = {target_id: group.targets[target_id]}, watch.group.members
        if not self._roster.full(group, leaving=target_id):
            self._roster.remove(target_id)
            self._roster.groups.append(group)
            self._watches[target_id] = _Watch(group, watch.asked_at)

    def _look_around(self) -> None:
        """Note who can be asked for, and whose mask has jumped."""
        watches: dict[int, _Watch] = {}
        for group in self._roster.groups:
            for target_id, target in group.targets.items():
                if not _can_be_asked(group, target):
                    continue
                watch = self._watches.get(target_id)
                if watch is None or watch.group is not group:
                    watch = _Watch(group, self._frames)
                if target.state is TargetState.TRACKED:
                    watch.pause = 0
                self._compare(watch, target)
                watches[target_id] = watch
        self._watches = watches

    def _compare(self, watch: _Watch, target: Target) -> None:
        """Compare where a target is with where it should be by its motion, if it was seen on the frame before."""
        if not self._config.reground_iou:
            watch.place = None
            return
        before, now = watch.place, None if target.logits is None else target.last_mask
        watch.place = None
        if now is None:
            return
        if before is not None and before.shape == now.shape:
            watch.strayed |= float(mask_iou(now[None], before)) < self._config.reground_iou
        watch.place = expected(target.track((now.shape[0], now.shape[1]), self._config))

    def _is_due(self, watch: _Watch, target_id: int) -> bool:
        since, every = self._frames - watch.asked_at, self._config.reground_frames
        if every and since >= max(every, watch.pause):
            return True
        is_lost = watch.group.targets[target_id].state is TargetState.LOST
        wanted = watch.strayed or (self._config.reground_on_loss and is_lost)
        return wanted and since >= max(COOL_DOWN, watch.pause)


def _can_be_asked(group: Group, target: Target) -> bool:
    """Tell whether a target's prompt is words with an answer that is known, and it does not wait for another stream.

    Asked again by itself it would leave a conversation that it shares.
    """
    words = isinstance(group.prompt_of(target), TextPrompt) and not group.reply.spans
    return words and bool(len(group.memory)) and len(group.labels) == 1

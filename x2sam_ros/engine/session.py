"""The streaming session: frames and prompts in, targets with masks out. Time and memory live here.

One session serves one camera stream and belongs to one thread; several may share a model.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from x2sam_ros.config import EngineConfig, NodeConfig, check_live
from x2sam_ros.engine.caps import Footprint, GivenUp
from x2sam_ros.engine.fleet import Fleet
from x2sam_ros.engine.frame_buffer import MIB, FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.live_config import LiveConfig
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.persistence import LAST_FRAME, SessionState, Snapshot, load_state
from x2sam_ros.engine.progress import Watch
from x2sam_ros.engine.prompt_desk import PromptDesk
from x2sam_ros.engine.reply import grounding_of, report_of
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.search import Search
from x2sam_ros.engine.timeline import Arrival, Timeline
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import Seen, Stopwatch, Tracker, arithmetic
from x2sam_ros.errors import FrameError, PromptError, SavedSessionError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, Prompt, TargetInfo, Uint8Array

MAX_CLIP_FRAMES = 128
"""Most frames of a clip that a prompt may come with."""


class Session:
    """Follow targets through one camera stream.

    ``language_lane`` "inline" carries a prompt out within ``step``. "beside" does so in a thread: a prompt never holds
    up frames, and the result of a later frame has its grounding; close such a session, or use ``with``.

    Args:
        model: the network; sessions may share it.
        config: thresholds and caps.
        memory_policy: name of the memory policy plugin.
        in_order: every frame is the next one, whatever its stamp says; for frames that the caller put in order.
        fleet: for sessions of several cameras: what they share. They belong to one thread, as each alone does.

    Raises:
        PluginError: there is no policy of that name, or it cannot be built.
    """

    def __init__(
        self,
        model: X2SAM,
        config: EngineConfig | None = None,
        memory_policy: str = NodeConfig.memory_policy,
        in_order: bool = False,
        fleet: Fleet | None = None,
    ) -> None:
        self._model = model
        config = EngineConfig() if config is None else config
        self._config = LiveConfig.of(config)  # all parts hold it; see reconfigure
        self._policy = open_policy(memory_policy, config)
        self._tracker = Tracker(model, self._config)
        self._timeline = Timeline(self._config, in_order)
        self._buffer = FrameBuffer(self._config.buffer_frames, self._config.buffer_mb * MIB)
        self._grounder = Grounder(model, self._policy, self._config)
        fleet = Fleet() if fleet is None else fleet
        self._roster = Roster(self._config, fleet.ids, Footprint.of(model.config.segmentor, self._policy))
        self._search = Search(self._config)
        self._desk = PromptDesk(model, self._config, self._grounder, self._buffer, self._roster, fleet.turns)
        self._given_up: list[GivenUp] = []  # by a cap that was lowered, until the next frame
        self._newest_index = LAST_FRAME  # a reset does not change it
        self._resumed_ns: int | None = None  # newest stamp in memories of an earlier process, until the first frame
        self.left_out: tuple[str, ...] = ()

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets, seen now or not, ascending."""
        return self._roster.target_ids

    @property
    def targets(self) -> tuple[TargetInfo, ...]:
        """All targets that have begun, seen now or not, ascending by id."""
        return self._roster.infos

    @property
    def conversations(self) -> tuple[tuple[int, ...], ...]:
        """Ids of the targets of each conversation; they share a memory and a decoder pass."""
        return tuple(tuple(sorted(group.targets)) for group in self._roster.groups)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids that prompts have used and may not use again, oldest first."""
        return self._desk.queue.used_ids

    @property
    def faults(self) -> tuple[str, ...]:
        """What plugins and the compiler did wrong and are no longer used for, each once."""
        return tuple(fault for fault in (self._policy.fault, self._tracker.fault) if fault)

    @property
    def waiting_prompts(self) -> int:
        """How many prompts have no targets yet and no grounding."""
        return len(self._desk.waiting_ids)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file that the model's weights were loaded from; '' where it is not known."""
        return self._model.identity

    @property
    def nbytes(self) -> int:
        """Bytes held for the targets: conditions, memories, regions and newest masks."""
        return sum(group.nbytes for group in self._roster.groups)

    def __enter__(self) -> Session:
        """Return itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the language lane; what it was carrying out is forgotten. Without one there is nothing to do."""
        self._desk.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the language lane has carried out what it was given; the next ``step`` takes it over.

        Returns:
            Whether it has.
        """
        return self._desk.lane.wait(timeout_s)

    @torch.inference_mode()
    def reconfigure(self, config: EngineConfig, memory_policy: str) -> None:
        """Work with other thresholds, caps, times and policies from now on; between frames, on the session's thread.

        What is followed, waits or is being understood goes on; conversations stay as they are, merged or not. Another
        memory policy takes over every memory: it chooses among what is stored, as if that came now. What a lowered cap
        leaves no room for is kept, and nothing is added; with ``at_cap`` "evict" it is given up, which the next result
        reports. A policy that failed is not tried again until another one is chosen.

        Args:
            config: the new values, of which those may differ that are ``live`` in config.py.
            memory_policy: name of the memory policy plugin.

        Raises:
            ConfigError: another value differs.
            PluginError: there is no policy of that name, or it cannot be built. After either nothing has changed.
        """
        check_live(self._config, config)
        policy = open_policy(memory_policy, config)
        if self._policy.fault and policy.kind == self._policy.kind:
            policy, policy.config = self._policy, config
        self._policy = self._grounder.policy = policy
        self._roster.footprint = Footprint.of(self._model.config.segmentor, policy)
        self._config.become(config)
        self._roster.follow(policy)
        self._given_up += self._roster.make_room(())

    def submit(self, prompt: Prompt, clip: Uint8Array | None = None, watch: Watch | None = None) -> None:
        """Queue a prompt. A later result, inline that of the first frame it can be carried out on, has its grounding.

        Without ``stamp_ns`` it refers to the next frame. With one it refers to the frame of that stamp: its targets
        begin there, on the buffered picture, and are led to the newest frame before their first result. The nearest
        frame within ``prompt_tolerance_ms`` will do; without any the prompt is rejected. One ahead of the stream waits.

        Args:
            prompt: what is asked. Its regions lie on the frame it refers to, with or without a clip.
            clip: uint8 (T, H, W, 3), RGB: what the language model is shown in place of that frame, as a video of one
                frame per second. The published evaluation shows it the clip that is to be segmented.
            watch: called with how the prompt gets on until it has its answer: once in here, then within ``step``, or
                with "beside" on the language lane's thread, so that it has to be quick and leave the session alone.
                One that raises is called no more.

        Raises:
            PromptError: its id is taken, too many prompts are waiting, or the clip is none.
        """
        if clip is not None:
            _check_clip(clip)
        self._desk.submit(prompt, clip, watch)

    def begin(self, group: Group) -> None:
        """Queue a prompt that is understood already: its targets begin on the next frame, whose result reports them.

        Args:
            group: what a ``Grounder`` made of it.

        Raises:
            PromptError: there is no room for its targets.
        """
        if full := self._roster.full(group):
            raise PromptError(full)
        self._roster.understood.append(group)

    def remove(self, target_id: int) -> None:
        """Forget a target at once.

        Raises:
            PromptError: there is no such target.
        """
        self._roster.remove(target_id)
        self._desk.drop_target(target_id)

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        """Forget a prompt at once, whether it waits, still looks for something, or has targets.

        Returns:
            The targets that were forgotten with it.

        Raises:
            PromptError: there is no such prompt.
        """
        removed = self._roster.remove_prompt(prompt_id) if prompt_id else None
        if not self._desk.drop_prompt(prompt_id) and removed is None:
            raise PromptError(f"there is no prompt '{prompt_id}' that waits, looks or has targets")
        return removed or ()

    def snapshot(self) -> Snapshot:
        """Return a copy of all that has a memory, to be written to a file; to be taken between two frames.

        Prompts that wait or are being understood are not in it, nor their ids: they may be given again.
        """
        waiting = self._desk.waiting_ids
        state = SessionState(
            groups=tuple(group for group in self._roster.groups if len(group.memory)),
            next_target_id=self._roster.ids.next,
            prompt_ids=tuple(prompt_id for prompt_id in self._desk.queue.used_ids if prompt_id not in waiting),
            frame_index=self._newest_index,
        )
        return Snapshot.of(state, self._model, self._policy)

    def save(self, path: str | Path) -> None:
        """Write all that is followed to a file, which ``load`` reads; see ``snapshot`` for what is not.

        Raises:
            SavedSessionError: the file cannot be written; one that is there stays as it is.
        """
        self.snapshot().write(path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: X2SAM,
        config: EngineConfig | None = None,
        memory_policy: str = NodeConfig.memory_policy,
        fleet: Fleet | None = None,
    ) -> Session:
        """Return a session that goes on following what another one saved; its next frame is frame 0.

        Where its first frame has an earlier stamp than what is remembered, as after a reboot, that moves to its clock.

        What of a damaged file had to be left out is named in ``left_out``, a sentence each.

        Args:
            path: what ``save`` wrote.
            model, config, memory_policy, fleet: as for a new session. Network, checkpoint and policy must be those of
                before.

        Raises:
            SavedSessionError: there is no such file, it is damaged as a whole, it does not fit these arguments, or
                another session of the fleet has a target with an id that is in it.
            PluginError: there is no policy of that name.
        """
        session = cls(model, config, memory_policy, fleet=fleet)
        session.restore(path)
        return session

    def restore(self, path: str | Path) -> None:
        """Go on following what another session saved, as ``load`` does; for a session that has not begun.

        Raises:
            SavedSessionError: as for ``load``, or the session has begun; it stays as it was.
        """
        if self._roster.groups or self._timeline.newest is not None:
            raise SavedSessionError(f"{path} is for a session that has not begun; open a new one for it")
        state = self.read(path)
        if both := self._roster.ids.taken & state.target_ids:
            raise SavedSessionError(
                f"{path} has target {min(both)}, as another camera has by now; load every camera's before prompts are "
                "given, or remove that target"
            )
        self.resume(state)

    def read(self, path: str | Path) -> SessionState:
        """Read what another session saved, for ``resume``; nothing changes.

        Raises:
            SavedSessionError: as for ``load``.
        """
        state = load_state(path, self._model, self._config, self._policy)
        if excess := self._roster.excess(state.groups):
            raise SavedSessionError(f"{path} does not fit here: {excess}, or do without it and give the prompts again")
        return state

    def resume(self, state: SessionState) -> None:
        """Forget everything and go on following what was read; of its target ids no other session may have one."""
        self.reset()
        self._roster.groups = list(state.groups)
        self._roster.ids.next = max(self._roster.ids.next, state.next_target_id)
        for group in state.groups:
            group.at = -1  # the number was the other session's
            group.shift(self._newest_index - LAST_FRAME)
        self._desk.queue.use_ids(state.prompt_ids)
        self._resumed_ns = max((r.stamp_ns for group in state.groups for r in group.memory.records), default=None)
        self.left_out = state.left_out

    def reset(self, restart_ids: bool = True) -> None:
        """Forget all targets, waiting prompts and used prompt ids, and the time of the stream.

        Args:
            restart_ids: whether target ids start at 1 again, once no session of the fleet has a target, or new targets
                get new ids.
        """
        self._desk.reset()
        self._timeline.reset()
        self._buffer.clear()
        self._roster.clear()
        self._given_up.clear()
        if restart_ids:
            self._roster.ids.restart()

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame for every target, after carrying out the waiting prompts.

        A prompt that cannot be carried out is answered with a rejected grounding; it never raises here. Of several
        prompts that refine one target, one is carried out at a time.

        Stamps say what a frame is; see ``Timeline``. A repeated one changes no target and no memory, but prompts are
        carried out on it. When another stream has begun, memories are forgotten and every prompt is asked again: words
        on this frame, regions on the frame of their stamp, if that is still to come. A prompt's only target keeps its
        id and is lost until then; a list finds its targets anew. Without GPU memory for all targets the one seen least
        recently is given up. The image is referred to for ``buffer_frames`` frames: do not write to it again.

        Raises:
            LateFrameError: the frame is late, or of another camera; nothing is changed.
            FrameError: the picture cannot be used, or the GPU has no memory for it even with one target.
            PluginError: a task head gave an invalid answer.
            ModelError: the network answered with NaN.
        """
        arrival = self._timeline.judge(frame)
        self._set_clock(frame)
        watch = self._tracker.watch = Stopwatch(self._model.device if self._config.exact_timings else None)
        started = time.perf_counter()
        if arrival is Arrival.ANOTHER_STREAM:
            self._buffer.clear()
            self._desk.begin_anew()
        repeated = self._buffer.newest if arrival is Arrival.REPEATED else None
        kept = repeated or self._buffer.add(frame)
        try:
            with self._desk.lane.sharing():
                self._segment(kept, repeated is not None)
        except BaseException as error:
            if repeated is None:
                self._buffer.discard(kept)
            self._desk.recover(error, frame)
            raise
        self._timeline.accept(frame)
        self._newest_index = frame.frame_index
        groundings = self._desk.take_answers()
        with watch.timed("postprocess"):
            seen = self._roster.targets
            masks = self._roster.masks(self._tracker.place(frame))
        kept.masks = {t.target_id: t.last_mask for t in seen if t.logits is not None and t.last_mask is not None}
        watch.timings_ms["total"] = (time.perf_counter() - started) * 1e3
        return FrameResult(
            stamp_ns=frame.stamp_ns,
            frame_index=frame.frame_index,
            frame_id=frame.frame_id,
            image_size=frame.size,
            masks=masks,
            scores=np.array([target.score for target in seen], dtype=np.float32),
            labels=tuple(target.label for target in seen),
            target_ids=np.array([target.target_id for target in seen], dtype=np.int64),
            states=tuple(target.state for target in seen),
            groundings=tuple(groundings),
            timings_ms=watch.timings_ms,
        )

    def _segment(self, kept: Kept, repeated: bool) -> None:
        """Bring every target to this frame and carry out the waiting prompts; without either there is nothing to do."""
        roster, desk = self._roster, self._desk
        desk.take_over()
        roster.follow(self._policy)  # a group of the lane may have begun under an earlier one
        given_up, self._given_up = self._given_up, []
        desk.tell(report for one in given_up for report in one.reports(kept.frame))
        if not (roster.groups or roster.understood or len(desk.queue)):
            return
        with arithmetic(self._model, self._config):
            seen = self._encode(kept.frame)
            if roster.understood or len(desk.queue):
                with self._tracker.watch.timed("language"):
                    desk.carry_out(kept, seen, self._tracker)
            # without a memory they rest until they are asked again
            followed = [group for group in roster.groups if len(group.memory) and group.at != kept.number]
            if followed:
                self._advance(seen, followed)
            if roster.opening:
                self._begin(seen, roster.opening)
            for group in roster.groups:
                group.at = kept.number
            with self._tracker.watch.timed("language"):
                desk.join(kept, self._tracker)
                if not repeated:
                    desk.reground(kept, seen)

    def _set_clock(self, frame: Frame) -> None:
        """Bring memories of an earlier process to the clock of this one, on its first frame."""
        resumed, self._resumed_ns = self._resumed_ns, None
        if resumed is not None and resumed > frame.stamp_ns:
            for group in self._roster.groups:
                group.shift(0, frame.stamp_ns - resumed)

    def _encode(self, frame: Frame) -> Seen:
        try:
            return self._tracker.encode(frame)
        except torch.OutOfMemoryError:
            message = "there is no GPU memory left to encode the frame, which is dropped"
        raise FrameError(f"{message}; use a smaller model, or free the GPU")

    def _advance(self, seen: Seen, groups: list[Group]) -> None:
        """Segment the frame for groups that have a memory; report class lists that found their first, or give up."""
        looking = [group for group in groups if not group.targets]
        while groups:
            before = [({number: replace(t) for number, t in g.targets.items()}, g.vain_frames) for g in groups]
            try:
                self._tracker.advance(seen, groups, self._roster.admit)
                break
            except torch.OutOfMemoryError:
                pass
            # not in the except block: the traceback holds the tensors of the failed step
            for group, (targets, vain_frames) in zip(groups, before):
                group.targets, group.vain_frames = targets, vain_frames
            self._shed(seen.frame)
            groups = [group for group in groups if any(group is other for other in self._roster.groups)]
        if due := self._search.due(groups):
            with suppress(torch.OutOfMemoryError):
                self._tracker.search(seen, due, self._roster.things)
        over = [group for group in looking if group.targets or not group.is_looking(self._config)]
        self._roster.drop_empty()
        self._desk.tell(report_of(group, seen.frame, self._config) for group in over)

    def _shed(self, frame: Frame) -> None:
        """Give up the target that was seen least recently, and its prompt's others, for want of GPU memory.

        Raises:
            FrameError: there is at most one, which the frame is dropped for.
        """
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        count = len(self._roster.groups)
        if count <= 1:
            raise FrameError("there is no GPU memory left for one prompt; the frame is dropped, use a smaller model")
        reason = f"as there is no GPU memory left for {count} prompts; lower max_targets, or free the GPU"
        given_up = self._roster.give_up(reason)
        if given_up is not None:
            self._desk.tell(given_up.reports(frame))

    def _begin(self, seen: Seen, groups: list[Group]) -> None:
        """Segment the frame for new groups, which see it as their first; keep what found something or still looks."""
        roster = self._roster
        try:
            self._tracker.begin(seen, groups, partial(roster.admit, prompted=True))
        except torch.OutOfMemoryError:
            roster.opening = []
            message = "there is no GPU memory left to begin it; remove a target or lower max_targets"
            self._desk.tell(grounding_of(g.prompt, seen.frame, GroundingStatus.REJECTED, message) for g in groups)
            return
        roster.groups, roster.opening = [*roster.groups, *groups], []
        roster.drop_empty()
        given_up = roster.make_room(groups)
        self._desk.tell(report_of(group, seen.frame, self._config) for group in groups)
        self._desk.tell(report for one in given_up for report in one.reports(seen.frame))


def _check_clip(clip: Uint8Array) -> None:
    """Raise PromptError where a clip is no stack of RGB pictures, or is too long."""
    shape, dtype = np.shape(clip), getattr(clip, "dtype", type(clip))
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
        raise PromptError(f"clip must be uint8 (frames, H, W, 3) RGB with at least one pixel, got {dtype} {shape}")
    if shape[0] > MAX_CLIP_FRAMES:
        raise PromptError(f"clip has {shape[0]} frames, at most {MAX_CLIP_FRAMES} are accepted; leave some out")

"""The one thread that owns the sessions and the model. It knows no ROS: frames and prompts arrive as functions to call.

Callbacks hand over in microseconds: the newest frame of each camera waits in its slot, prompts in a bounded queue. All
decoding, inference and publishing happen on the worker's thread, so that nothing there needs a lock.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import FrameError, PromptError, X2SamError, described
from x2sam_ros.ros.frame_slots import Counters, FrameSlots
from x2sam_ros.ros.requests import (
    Answer,
    Enable,
    Listing,
    ListTargets,
    LoadSession,
    Order,
    Outcome,
    Reject,
    Remove,
    RemovePrompt,
    Request,
    Reset,
    SaveSession,
    Submit,
    cameras_of,
)
from x2sam_ros.ros.session_files import LastingSession, SessionFiles
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Progress, Prompt, TargetInfo

_REMOVED = "it was removed before it was carried out"


class StreamSession(LastingSession, Protocol):
    """What the worker asks of a session (engine/session.py). No two sessions have the same target id."""

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids that prompts have used and may not use again."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is no longer used because it went wrong, plugins for example, a sentence each."""

    @property
    def targets(self) -> tuple[TargetInfo, ...]:
        """All targets."""

    def submit(self, prompt: Prompt, *, watch: Callable[[Progress], None] | None = None) -> None:
        """Queue a prompt for the next frame; ``watch`` is told how it gets on, on any thread."""

    def remove(self, target_id: int) -> None:
        """Forget one target."""

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        """Forget one prompt; return the targets it had."""

    def reconfigure(self, config: EngineConfig, memory_policy: str) -> None:
        """Work with other live parameters from now on."""

    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame."""

    def close(self) -> None:
        """End what runs beside the frames."""


@dataclass(frozen=True)
class Answered:
    """An answered frame.

    Args:
        frame, result: the image, and where its targets are.
        targets: all of the camera.
        received_ns: when it arrived (``time.monotonic_ns``).
        decode_ms: what reading it took.
    """

    frame: Frame
    result: FrameResult
    targets: tuple[TargetInfo, ...]
    received_ns: int
    decode_ms: float


@dataclass(frozen=True)
class Outputs:
    """What the worker calls, always on its own thread.

    Args:
        begun: camera, and a frame of it that was read and is to be answered now.
        result: camera, and what was answered.
        targets: camera, and all its targets, after requests that may have changed them.
        grounding: what became of a prompt, and the TF frame of the image it was carried out on, '' without one.
        problem: camera ('' where a prompt could not be read), cause (one of few fixed words) and message, for a log
            that must not flood.
        fault: camera, and one of its session's faults; each once.
    """

    begun: Callable[[str, Frame], None]
    result: Callable[[str, Answered], None]
    targets: Callable[[str, tuple[TargetInfo, ...]], None]
    grounding: Callable[[Grounding, str], None]
    problem: Callable[[str, str, str], None]
    fault: Callable[[str, str], None]


@dataclass
class _Command:
    """A request as it came: ``read`` decodes it on the worker's thread; ``done`` is told what became of it."""

    read: Callable[[], Request | None]
    done: Callable[[Any], None] | None


@dataclass
class _Arrival:
    """A frame as it came: ``read(frame_index)`` decodes it on the worker's thread."""

    read: Callable[[int], Frame]
    received_ns: int


@dataclass
class _Stream:
    """One camera on the worker's thread: its session, who waits for a prompt on it, the newest answered image."""

    session: StreamSession
    waiting: dict[str, Callable[[Grounding], None]] = field(default_factory=dict)
    newest_stamp_ns: int | None = None
    frame_id: str = ""


class Worker:
    """Run the sessions of all cameras on one thread.

    Args:
        cameras: their names, at least one.
        open_sessions: builds a session for each of these cameras, model included, on the worker's thread. No two of
            them may have the same target id.
        outputs: where results go.
        max_commands: prompts that may wait; more are refused.
        files: where the sessions are saved; nowhere by default.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        open_sessions: Callable[[Sequence[str]], Mapping[str, StreamSession]],
        outputs: Outputs,
        max_commands: int,
        files: SessionFiles | None = None,
    ) -> None:
        self.failure: BaseException | None = None
        self.enabled = True
        self._disabled = ""  # why
        self.faults: dict[str, tuple[str, ...]] = dict.fromkeys(cameras, ())
        self._open_sessions, self._outputs, self._max_commands = open_sessions, outputs, max_commands
        self._files = SessionFiles({}, 0.0, outputs.problem) if files is None else files
        self._wake = threading.Condition()
        self._slots: FrameSlots[_Arrival] = FrameSlots(cameras)
        self._commands: deque[_Command] = deque()
        self._streams: dict[str, _Stream] = {}
        self._stopping = False
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="x2sam-worker", daemon=True)

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What became of the frames of each camera."""
        return self._slots.counters

    @property
    def sessions(self) -> tuple[StreamSession, ...]:
        """The sessions; of the worker's thread."""
        return tuple(stream.session for stream in self._streams.values())

    @property
    def prompt_ids(self) -> set[str]:
        """Ids that prompts have used on any camera. Of the worker's thread, as is the reading of a prompt."""
        return {prompt_id for stream in self._streams.values() for prompt_id in stream.session.prompt_ids}

    def start(self) -> None:
        """Start the thread; returns at once, see ``wait_ready``."""
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the model is loaded, or ``failure`` says why it is not; False where neither is so in time."""
        return self._settled.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after the frame at hand, and to save the sessions; True when it did in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def offer_frame(self, camera: str, read: Callable[[int], Frame]) -> None:
        """Put a frame into its camera's slot; one that is still there was too old to answer and is dropped."""
        self._slots.put(camera, _Arrival(read, time.monotonic_ns()))
        with self._wake:
            self._wake.notify()
        time.sleep(0)  # lets the worker begin at once; it would have to wait until the executor waits again

    def post(self, read: Callable[[], Request | None], done: Callable[[Any], None] | None = None) -> None:
        """Queue a request.

        Args:
            read: decodes it, on the worker's thread; None where nothing is to be done any more.
            done: called with its outcome, a ``Grounding``, or of an ``Order`` an ``Answer``; on the worker's thread, or
                on the one that wrote a file.

        Raises:
            PromptError: too many are waiting.
        """
        with self._wake:
            if len(self._commands) >= self._max_commands:
                raise PromptError(f"{self._max_commands} prompts are waiting already; send this one again later")
            self._commands.append(_Command(read, done))
            self._wake.notify()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                sessions = self._open_sessions(tuple(self.counters))
                for camera, session in sessions.items():
                    stack.callback(session.close)
                    self._streams[camera] = _Stream(session)
                self._files.restore(sessions)
                self._tell_targets()
                self._settled.set()
                while self._wait():
                    self._carry_out_commands()
                    self._answer_next()
                    self._files.save_due()
                self._files.finish()
        except BaseException as error:  # the node's main loop reports it and ends the process
            self.failure = error
        finally:
            self._streams.clear()  # the model goes with the sessions
            self._settled.set()

    def _wait(self) -> bool:
        """Sleep until there is something to do or to save; False when the thread is to end."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._stopping or (self.enabled and len(self._slots) > 0) or bool(self._commands),
                self._files.wait_s,
            )
            return not self._stopping

    def _carry_out_commands(self) -> None:
        """Carry out the prompts that wait by now; those that come meanwhile let a frame go first."""
        for _ in range(len(self._commands)):
            with self._wake:
                if self._stopping:
                    return
                command = self._commands.popleft()
            self._carry_out(command)
            self._tell_targets()

    def _tell_targets(self) -> None:
        for camera, stream in self._streams.items():
            self._outputs.targets(camera, stream.session.targets)

    def _carry_out(self, command: _Command) -> None:
        request: Request | None = None
        outcome: Outcome | None
        try:
            request = command.read()
            if request is None:
                return
            outcome = self._obey(request, command) if isinstance(request, Order) else self._apply(request, command.done)
        except Exception as error:
            if not isinstance(error, X2SamError):
                self._outputs.problem("", "prompt", _describe(error))
            if isinstance(request, Order):
                outcome = Answer(False, described(error))
            else:
                outcome = _rejection(request.prompt_id if request else "", described(error))
        if isinstance(outcome, Grounding):
            self._tell(outcome, command.done)
        elif outcome is not None and command.done is not None:
            command.done(outcome)

    def _obey(self, order: Order, command: _Command) -> Answer | None:
        """Carry out what is no prompt; None when its answer comes later."""
        if isinstance(order, SaveSession):
            self._files.save(order.paths, command.done or (lambda answer: None))
            return None
        if isinstance(order, ListTargets):
            cameras = cameras_of(order, {camera: stream.session for camera, stream in self._streams.items()})
            return Answer(True, listings=tuple(self._list(camera) for camera in cameras))
        if isinstance(order, LoadSession):
            answer = self._files.load(order.paths)
            for stream in self._streams.values():
                stream.newest_stamp_ns = None
                self._give_up_waiting(stream, "a saved session was loaded before it was carried out")
            return answer
        if isinstance(order, Enable):
            self.enabled, self._disabled = order.enabled, order.reason
            if order.enabled:
                return Answer(True)
        for stream in self._streams.values():
            for prompt_id in stream.waiting:
                with suppress(PromptError):
                    stream.session.remove_prompt(prompt_id)
            self._give_up_waiting(stream, order.reason)
        return Answer(True)

    def _list(self, camera: str) -> Listing:
        stream = self._streams[camera]
        return Listing(camera, stream.session.targets, stream.newest_stamp_ns or 0, stream.frame_id)

    def _apply(
        self, request: Submit | Remove | RemovePrompt | Reset | Reject, done: Callable[[Grounding], None] | None
    ) -> Grounding | None:
        """Carry out one prompt; None when its outcome comes with a later frame."""
        if isinstance(request, Reject):
            return _rejection(request.prompt_id, request.message)
        cameras = cameras_of(request, {camera: stream.session for camera, stream in self._streams.items()})
        streams = [self._streams[camera] for camera in cameras]
        if isinstance(request, Submit):
            if not self.enabled:
                raise PromptError(self._disabled)
            stream = streams[0]
            stream.session.submit(_dated(request.prompt, stream.newest_stamp_ns), watch=request.watch)
            if done is not None or not request.follow:
                stream.waiting[request.prompt_id] = partial(_answered, request, stream.session, done)
            return None
        if isinstance(request, Remove):
            streams[0].session.remove(request.target_id)
            return Grounding(request.prompt_id, GroundingStatus.REMOVED, target_ids=(request.target_id,))
        if isinstance(request, RemovePrompt):
            removed = self._remove_prompt(request.prompt_id, streams)
            return Grounding(request.prompt_id, GroundingStatus.REMOVED, target_ids=removed)
        for stream in streams:
            stream.session.reset()
            stream.newest_stamp_ns = None
            self._give_up_waiting(stream, "a reset came before it was carried out")
        return Grounding(request.prompt_id, GroundingStatus.REMOVED)

    def _remove_prompt(self, prompt_id: str, streams: Sequence[_Stream]) -> tuple[int, ...]:
        """Remove a prompt from the one session that has it; return its targets."""
        *others, last = streams
        for stream in others:
            try:
                removed = stream.session.remove_prompt(prompt_id)
            except PromptError:  # it is not this one
                continue
            self._give_up_waiting(stream, _REMOVED, [prompt_id])
            return removed
        removed = last.session.remove_prompt(prompt_id)
        self._give_up_waiting(last, _REMOVED, [prompt_id])
        return removed

    def _give_up_waiting(self, stream: _Stream, reason: str, prompt_ids: Iterable[str] | None = None) -> None:
        """Reject prompts that will not be carried out, by default all of the camera that somebody waits for."""
        for prompt_id in list(stream.waiting) if prompt_ids is None else prompt_ids:
            if prompt_id in stream.waiting:
                self._tell(_rejection(prompt_id, reason), stream.waiting.pop(prompt_id))

    def _tell(self, outcome: Grounding, done: Callable[[Grounding], None] | None, frame_id: str = "") -> None:
        self._outputs.grounding(outcome, frame_id)
        if done is not None:
            done(outcome)

    def _answer_next(self) -> None:
        """Answer the frame of the camera whose turn it is, if one waits."""
        taken = self._slots.take() if self.enabled and not self._stopping else None
        if taken is None:
            return
        camera, arrival = taken
        stream, counters = self._streams[camera], self.counters[camera]
        frame = None
        try:
            begun_ns = time.monotonic_ns()
            frame = arrival.read(counters.answered)
            decode_ms = (time.monotonic_ns() - begun_ns) * 1e-6
            self._outputs.begun(camera, frame)
            result = stream.session.step(frame)
            stream.newest_stamp_ns, stream.frame_id = frame.stamp_ns, frame.frame_id
            for outcome in result.groundings:
                self._tell(outcome, stream.waiting.pop(outcome.prompt_id, None), result.frame_id)
            answered = Answered(frame, result, stream.session.targets, arrival.received_ns, decode_ms)
            self._outputs.result(camera, answered)
            counters.answered += 1
        except Exception as error:
            message = str(error) if isinstance(error, (X2SamError, UnicodeDecodeError)) else _describe(error)
            refused = "refused" if isinstance(error, FrameError) else "failed"
            counters.count_bad("unreadable" if frame is None else refused, message)
            self._outputs.problem(camera, "frame", message)
            if not isinstance(error, (FrameError, UnicodeDecodeError)):  # after those, prompts wait for the next frame
                self._give_up_waiting(stream, f"the frame that was to carry it out failed: {message}")
        self._report_faults(camera, stream.session.faults)

    def _report_faults(self, camera: str, faults: tuple[str, ...]) -> None:
        """Say what went wrong on a camera for good, each fault once."""
        told, self.faults[camera] = self.faults[camera], faults
        for fault in faults:
            if fault not in told:
                self._outputs.fault(camera, fault)


def _answered(
    request: Submit, session: StreamSession, done: Callable[[Grounding], None] | None, outcome: Grounding
) -> None:
    """Tell who waits for a prompt; forget what it found where that is not to be followed."""
    if outcome.target_ids and not request.follow:
        session.remove_prompt(request.prompt_id)
    if done is not None:
        done(outcome)


def _dated(prompt: Prompt, newest_stamp_ns: int | None) -> Prompt:
    """Let a prompt that names no image refer to the newest answered one, which a person may have seen."""
    if prompt.stamp_ns is not None or newest_stamp_ns is None:
        return prompt
    return replace(prompt, stamp_ns=newest_stamp_ns)


def _rejection(prompt_id: str, message: str) -> Grounding:
    return Grounding(prompt_id, GroundingStatus.REJECTED, message=message)


def _describe(error: Exception) -> str:
    """Name an unexpected error with the place it came from, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"

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
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from x2sam_ros.errors import FrameError, PromptError, X2SamError, told
from x2sam_ros.ros.frame_slots import Counters, FrameSlots
from x2sam_ros.ros.requests import Reject, Remove, RemovePrompt, Request, Submit, cameras_of
from x2sam_ros.ros.session_files import LastingSession, SessionFiles
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Prompt

_REMOVED = "it was removed before it was carried out"


class StreamSession(LastingSession, Protocol):
    """What the worker asks of a session (engine/session.py). No two sessions have the same target id."""

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids that prompts have used and may not use again."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is no longer used because it went wrong, plugins for example, a sentence each."""

    def submit(self, prompt: Prompt) -> None:
        """Queue a prompt for the next frame."""

    def remove(self, target_id: int) -> None:
        """Forget one target."""

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        """Forget one prompt; return the targets it had."""

    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame."""

    def close(self) -> None:
        """End what runs beside the frames."""


@dataclass(frozen=True)
class Outputs:
    """What the worker calls, always on its own thread.

    Args:
        ready: once, when the session can take frames.
        result: camera, frame, its result, when the frame arrived (``time.monotonic_ns``).
        grounding: what became of a prompt, and the TF frame of the image it was carried out on, '' without one.
        problem: camera ('' where a prompt could not be read), cause (one of few fixed words) and message, for a log
            that must not flood.
        fault: camera, and one of its session's faults; each once.
    """

    ready: Callable[[], None]
    result: Callable[[str, Frame, FrameResult, int], None]
    grounding: Callable[[Grounding, str], None]
    problem: Callable[[str, str, str], None]
    fault: Callable[[str, str], None]


@dataclass
class _Command:
    """A prompt as it came: ``read`` decodes it on the worker's thread; ``done`` is told what became of it."""

    read: Callable[[], Request]
    done: Callable[[Grounding], None] | None


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
        self.faults: dict[str, tuple[str, ...]] = dict.fromkeys(cameras, ())
        self._open_sessions, self._outputs, self._max_commands = open_sessions, outputs, max_commands
        self._files = SessionFiles({}, 0.0, outputs.problem) if files is None else files
        self._wake = threading.Condition()
        self._slots: FrameSlots[_Arrival] = FrameSlots(cameras)
        self._commands: deque[_Command] = deque()
        self._streams: dict[str, _Stream] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="x2sam-worker", daemon=True)

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What became of the frames of each camera."""
        return self._slots.counters

    @property
    def prompt_ids(self) -> set[str]:
        """Ids that prompts have used on any camera. Of the worker's thread, as is the reading of a prompt."""
        return {prompt_id for stream in self._streams.values() for prompt_id in stream.session.prompt_ids}

    def start(self) -> None:
        """Start the thread; returns at once, ``outputs.ready`` is called when the model is loaded."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after the frame at hand, and to save the sessions; True when it did in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def offer_frame(self, camera: str, read: Callable[[int], Frame]) -> None:
        """Put a frame into its camera's slot; one that is still there was too old to answer and is dropped."""
        self._slots.put(camera, _Arrival(read, time.monotonic_ns()))
        with self._wake:
            self._wake.notify()

    def post(self, read: Callable[[], Request], done: Callable[[Grounding], None] | None = None) -> None:
        """Queue a prompt.

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
                self._outputs.ready()
                while self._wait():
                    self._carry_out_commands()
                    self._answer_next()
                    self._files.save_due()
                self._files.finish()
        except BaseException as error:  # the node's main loop reports it and ends the process
            self.failure = error

    def _wait(self) -> bool:
        """Sleep until there is something to do or to save; False when the thread is to end."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._stopping or len(self._slots) > 0 or bool(self._commands), self._files.wait_s
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

    def _carry_out(self, command: _Command) -> None:
        request: Request | None = None
        try:
            request = command.read()
            outcome = self._apply(request, command.done)
        except X2SamError as error:
            outcome = _rejection(request.prompt_id if request else "", str(error))
        except Exception as error:
            self._outputs.problem("", "prompt", _describe(error))
            outcome = _rejection(request.prompt_id if request else "", told(error))
        if outcome is not None:
            self._tell(outcome, command.done)

    def _apply(self, request: Request, done: Callable[[Grounding], None] | None) -> Grounding | None:
        """Carry out one request; None when its outcome comes with a later frame."""
        if isinstance(request, Reject):
            return _rejection(request.prompt_id, request.message)
        cameras = cameras_of(request, {camera: stream.session for camera, stream in self._streams.items()})
        streams = [self._streams[camera] for camera in cameras]
        if isinstance(request, Submit):
            streams[0].session.submit(_dated(request.prompt, streams[0].newest_stamp_ns))
            if done is not None:
                streams[0].waiting[request.prompt_id] = done
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
        taken = None if self._stopping else self._slots.take()
        if taken is None:
            return
        camera, arrival = taken
        stream, counters = self._streams[camera], self.counters[camera]
        try:
            frame = arrival.read(counters.answered)
            result = stream.session.step(frame)
            stream.newest_stamp_ns = frame.stamp_ns
            for outcome in result.groundings:
                self._tell(outcome, stream.waiting.pop(outcome.prompt_id, None), result.frame_id)
            self._outputs.result(camera, frame, result, arrival.received_ns)
            counters.answered += 1
        except Exception as error:
            counters.bad += 1
            message = str(error) if isinstance(error, (X2SamError, UnicodeDecodeError)) else _describe(error)
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

"""The one thread that owns the session and the model. It knows no ROS: frames and prompts arrive as functions to call.

Callbacks hand over in microseconds: the newest frame waits in a slot of depth 1, prompts in a bounded queue. All
decoding, inference and publishing happen on the worker's thread, so that nothing there needs a lock.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from x2sam_ros.errors import FrameError, PromptError, X2SamError
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Prompt


class StreamSession(Protocol):
    """What the worker asks of a session (engine/session.py)."""

    def submit(self, prompt: Prompt) -> None:
        """Queue a prompt for the next frame."""

    def remove(self, target_id: int) -> None:
        """Forget one target."""

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        """Forget one prompt; return the targets it had."""

    def reset(self) -> None:
        """Forget every target and every waiting prompt."""

    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame."""

    def close(self) -> None:
        """End what runs beside the frames."""


@dataclass(frozen=True)
class Submit:
    """Add or refine a target."""

    prompt: Prompt

    @property
    def prompt_id(self) -> str:
        """The prompt's own id."""
        return self.prompt.prompt_id


@dataclass(frozen=True)
class Remove:
    """Forget one target."""

    prompt_id: str
    target_id: int


@dataclass(frozen=True)
class RemovePrompt:
    """Forget a prompt that waits or still looks for something, and all the targets it found."""

    prompt_id: str


@dataclass(frozen=True)
class Reset:
    """Forget everything."""

    prompt_id: str


@dataclass(frozen=True)
class Reject:
    """A prompt that could not be read: ``message`` says what was wrong with it."""

    prompt_id: str
    message: str


Request = Submit | Remove | RemovePrompt | Reset | Reject


@dataclass(frozen=True)
class Outputs:
    """What the worker calls, always on its own thread.

    Args:
        ready: once, when the session can take frames.
        result: frame, its result, when the frame arrived (``time.monotonic_ns``), frames dropped so far.
        grounding: what became of a prompt, and the TF frame of the image it was carried out on, '' without one.
        problem: cause (one of few fixed words) and message, for a log that must not flood.
    """

    ready: Callable[[], None]
    result: Callable[[Frame, FrameResult, int, int], None]
    grounding: Callable[[Grounding, str], None]
    problem: Callable[[str, str], None]


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
class Counters:
    """Frames by fate: every received one ends up answered, replaced by a newer one, or bad."""

    received: int = 0
    answered: int = 0
    replaced: int = 0
    bad: int = 0

    @property
    def dropped(self) -> int:
        """Frames that were received and will never be answered."""
        return self.replaced + self.bad


@dataclass
class Worker:
    """Run a session on one thread.

    Args:
        open_session: builds the session, model included, on the worker's thread.
        outputs: where results go.
        max_commands: prompts that may wait; more are refused.
    """

    open_session: Callable[[], StreamSession]
    outputs: Outputs
    max_commands: int
    counters: Counters = field(default_factory=Counters)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._wake = threading.Condition()
        self._newest: _Arrival | None = None
        self._commands: deque[_Command] = deque()
        self._waiting: dict[str, Callable[[Grounding], None]] = {}
        self._stopping = False
        self._newest_stamp_ns: int | None = None
        self._thread = threading.Thread(target=self._run, name="x2sam-worker", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once, ``outputs.ready`` is called when the model is loaded."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after the frame at hand; True when it did in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def offer_frame(self, read: Callable[[int], Frame]) -> None:
        """Put a frame into the slot; one that is still there was too old to answer and is dropped."""
        arrival = _Arrival(read, time.monotonic_ns())
        with self._wake:
            self.counters.received += 1
            self.counters.replaced += self._newest is not None
            self._newest = arrival
            self._wake.notify()

    def post(self, read: Callable[[], Request], done: Callable[[Grounding], None] | None = None) -> None:
        """Queue a prompt.

        Raises:
            PromptError: too many are waiting.
        """
        with self._wake:
            if len(self._commands) >= self.max_commands:
                raise PromptError(f"{self.max_commands} prompts are waiting already; send this one again later")
            self._commands.append(_Command(read, done))
            self._wake.notify()

    def _run(self) -> None:
        try:
            session = self.open_session()
            try:
                self.outputs.ready()
                while self._wait():
                    self._carry_out_commands(session)
                    self._answer_newest(session)
            finally:
                session.close()
        except BaseException as error:  # the node's main loop reports it and ends the process
            self.failure = error

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when the thread is to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._newest is not None or bool(self._commands))
            return not self._stopping

    def _carry_out_commands(self, session: StreamSession) -> None:
        while True:
            with self._wake:
                if self._stopping or not self._commands:
                    return
                command = self._commands.popleft()
            self._carry_out(session, command)

    def _carry_out(self, session: StreamSession, command: _Command) -> None:
        request: Request | None = None
        try:
            request = command.read()
            outcome = self._apply(session, request, command.done)
        except X2SamError as error:
            outcome = _rejection(request.prompt_id if request else "", str(error))
        except Exception as error:
            self.outputs.problem("prompt", _describe(error))
            outcome = _rejection(request.prompt_id if request else "", f"{type(error).__name__}: {error}")
        if outcome is not None:
            self._tell(outcome, command.done)

    def _apply(
        self, session: StreamSession, request: Request, done: Callable[[Grounding], None] | None
    ) -> Grounding | None:
        """Carry out one request; None when its outcome comes with a later frame."""
        if isinstance(request, Submit):
            session.submit(self._dated(request.prompt))
            if done is not None:
                self._waiting[request.prompt_id] = done
            return None
        if isinstance(request, Reject):
            return _rejection(request.prompt_id, request.message)
        if isinstance(request, Remove):
            session.remove(request.target_id)
            return Grounding(request.prompt_id, GroundingStatus.REMOVED, target_ids=(request.target_id,))
        if isinstance(request, RemovePrompt):
            removed = session.remove_prompt(request.prompt_id)
            self._give_up_waiting("it was removed before it was carried out", [request.prompt_id])
            return Grounding(request.prompt_id, GroundingStatus.REMOVED, target_ids=removed)
        session.reset()
        self._give_up_waiting("a reset came before it was carried out")
        return Grounding(request.prompt_id, GroundingStatus.REMOVED)

    def _dated(self, prompt: Prompt) -> Prompt:
        """Let a prompt that names no image refer to the newest answered one, which a person may have seen."""
        if prompt.stamp_ns is not None or self._newest_stamp_ns is None:
            return prompt
        return replace(prompt, stamp_ns=self._newest_stamp_ns)

    def _give_up_waiting(self, reason: str, prompt_ids: Iterable[str] | None = None) -> None:
        """Reject prompts that will not be carried out, by default all that somebody waits for."""
        for prompt_id in list(self._waiting) if prompt_ids is None else prompt_ids:
            if prompt_id in self._waiting:
                self._tell(_rejection(prompt_id, reason), self._waiting.pop(prompt_id))

    def _tell(self, outcome: Grounding, done: Callable[[Grounding], None] | None, frame_id: str = "") -> None:
        self.outputs.grounding(outcome, frame_id)
        if done is not None:
            done(outcome)

    def _answer_newest(self, session: StreamSession) -> None:
        with self._wake:
            arrival, self._newest = self._newest, None
        if arrival is None or self._stopping:
            return
        try:
            frame = arrival.read(self.counters.answered)
            result = session.step(frame)
            self._newest_stamp_ns = frame.stamp_ns
            for outcome in result.groundings:
                self._tell(outcome, self._waiting.pop(outcome.prompt_id, None), result.frame_id)
            self.outputs.result(frame, result, arrival.received_ns, self.counters.dropped)
            self.counters.answered += 1
        except Exception as error:
            self.counters.bad += 1
            message = str(error) if isinstance(error, (X2SamError, UnicodeDecodeError)) else _describe(error)
            self.outputs.problem("frame", message)
            if not isinstance(error, (FrameError, UnicodeDecodeError)):  # after those, prompts wait for the next frame
                self._give_up_waiting(f"the frame that was to carry it out failed: {message}")


def _rejection(prompt_id: str, message: str) -> Grounding:
    return Grounding(prompt_id, GroundingStatus.REJECTED, message=message)


def _describe(error: Exception) -> str:
    """Name an unexpected error with the place it came from, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"

"""Run a recording through a session: prompts at their time, every frame once, results to the sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from x2sam_ros.bag.source import FrameSource
from x2sam_ros.errors import LateFrameError, PromptError
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Prompt, TargetState


class StepSession(Protocol):
    """What replay needs of a session (engine.session.Session)."""

    def submit(self, prompt: Prompt) -> None:
        """Queue a prompt for the next step."""

    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame."""


class ResultSink(Protocol):
    """Where results go (ResultWriter, OverlayVideo)."""

    def write(self, frame: Frame, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        """Take the result of one frame."""


@dataclass(frozen=True)
class ScheduledPrompt:
    """A prompt and when to give it.

    Args:
        prompt: the prompt; its prompt_id is unique in the schedule.
        origin: what the user typed, for messages.
        at_s: seconds after the first frame's stamp; the first frame not before it gets the prompt.
        refines: prompt_id of an earlier prompt whose target this one refines, or None.
    """

    prompt: Prompt
    origin: str
    at_s: float = 0.0
    refines: str | None = None


@dataclass
class TargetSummary:
    """How one target fared.

    Args:
        frames: results that listed it; ``seen``: those in which it was tentative or tracked.
        score_sum, area_px_sum: sums over the seen frames.
    """

    target_id: int
    label: str
    frames: int = 0
    seen: int = 0
    score_sum: float = 0.0
    area_px_sum: int = 0

    @property
    def mean_score(self) -> float:
        """Mean score where it was seen; 0 where it never was."""
        return self.score_sum / max(self.seen, 1)

    @property
    def mean_area_px(self) -> float:
        """Mean number of pixels where it was seen; 0 where it never was."""
        return self.area_px_sum / max(self.seen, 1)


@dataclass
class ReplayReport:
    """What a replay did; grows by the number of targets and prompts, not of frames."""

    frames: int = 0
    wall_s: float = 0.0
    first_stamp_ns: int = 0
    last_stamp_ns: int = 0
    frames_dropped: int = 0
    problems: list[str] = field(default_factory=list)
    targets: dict[int, TargetSummary] = field(default_factory=dict)
    groundings: list[Grounding] = field(default_factory=list)
    not_reached: tuple[ScheduledPrompt, ...] = ()
    is_damaged: bool = False

    @property
    def frames_per_s(self) -> float:
        """Frames per second of wall time, decoding and writing included."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0

    def add(self, result: FrameResult) -> None:
        """Count the targets and groundings of one frame."""
        self.frames += 1
        self.last_stamp_ns = result.stamp_ns
        self.groundings.extend(result.groundings)
        for row, target_id in enumerate(result.target_ids.tolist()):
            target = self.targets.setdefault(target_id, TargetSummary(target_id, result.labels[row]))
            target.frames += 1
            if result.states[row] in (TargetState.TENTATIVE, TargetState.TRACKED):
                target.seen += 1
                target.score_sum += float(result.scores[row])
                target.area_px_sum += int(np.count_nonzero(result.masks[row]))


def run_replay(
    source: FrameSource,
    session: StepSession,
    sinks: Iterable[ResultSink],
    schedule: Sequence[ScheduledPrompt],
    on_frame: Callable[[ReplayReport], None] = lambda report: None,
) -> ReplayReport:
    """Step through a source.

    Frames that could not be read or are late, and damage of the recording, are in the report; prompts whose time never
    came too. A prompt that found nothing is a grounding like any other.

    Args:
        source: the frames.
        session: takes prompts and frames.
        sinks: get every result.
        schedule: prompts in the order they are given when they are due on the same frame.
        on_frame: called after each frame with the report so far.

    Raises:
        PromptError: the session rejects a prompt; named as the user typed it.
        BagError: not one frame could be read.
    """
    report = ReplayReport()
    sinks = tuple(sinks)
    waiting = list(schedule)
    started = time.perf_counter()
    for frame in source:
        arrived = time.perf_counter()
        if report.frames == 0:
            report.first_stamp_ns = frame.stamp_ns
        age_ns = frame.stamp_ns - report.first_stamp_ns
        due = [item for item in waiting if item.at_s * 1e9 <= age_ns]
        waiting = [item for item in waiting if item.at_s * 1e9 > age_ns]
        submitted = _submit(session, due, report)
        waiting = [*(item for item in due if item.prompt.prompt_id not in submitted), *waiting]
        try:
            result = session.step(frame)
        except LateFrameError as error:
            source.problems.add(f"image {frame.frame_index}: {error}")
            continue
        _raise_rejected(result, schedule)
        report.add(result)
        report.frames_dropped = source.problems.count
        latency_ms = (time.perf_counter() - arrived) * 1e3
        for sink in sinks:
            sink.write(frame, result, latency_ms, report.frames_dropped)
        report.wall_s = time.perf_counter() - started
        on_frame(report)
    report.problems, report.frames_dropped = list(source.problems.messages), source.problems.count
    report.is_damaged = source.problems.is_damaged
    report.wall_s, report.not_reached = time.perf_counter() - started, tuple(waiting)
    return report


def _submit(session: StepSession, due: Sequence[ScheduledPrompt], report: ReplayReport) -> set[str]:
    """Submit what is due; a refinement whose target is only now being added waits for the next frame."""
    answered = {grounding.prompt_id: grounding for grounding in report.groundings}
    submitted: set[str] = set()
    for item in due:
        prompt = item.prompt
        if item.refines is not None:
            if item.refines not in answered:
                continue
            targets = answered[item.refines].target_ids
            if not targets:
                raise PromptError(f"{item.origin} refines a prompt that found no target; give another click first")
            prompt = replace(prompt, target_id=targets[0])
        try:
            session.submit(prompt)
        except PromptError as error:
            raise PromptError(f"{item.origin}: {error}") from error
        submitted.add(prompt.prompt_id)
    return submitted


def _raise_rejected(result: FrameResult, schedule: Sequence[ScheduledPrompt]) -> None:
    origins = {item.prompt.prompt_id: item.origin for item in schedule}
    for grounding in result.groundings:
        if grounding.status == GroundingStatus.REJECTED:
            origin = origins.get(grounding.prompt_id, grounding.prompt_id)
            raise PromptError(f"{origin} was rejected: {grounding.message}")

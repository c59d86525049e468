"""What can be evaluated: frames and prompts of a sequence in, predictions out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from x2sam_ros.bag.source import Problems
from x2sam_ros.config import CLIP_LENGTH, EngineConfig
from x2sam_ros.engine.clip import Mode, stack_frames
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.evaluation.predictions import (
    FramePrediction,
    GivenPrompt,
    PredictedMask,
    SequencePredictions,
    rle_of,
)
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.truth.dataset import Sequence
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Uint8Array

MOST_AT_ONCE = 1024
"""Targets and waiting prompts of a session that is evaluated: a picture of a data set has more objects than a robot
follows, and a cap would be scored in place of the network."""


_OK, _REJECTED = GroundingStatus.OK.name.lower(), GroundingStatus.REJECTED.name.lower()


class Method(Protocol):
    """Something that answers prompts on the frames of a sequence."""

    name: str

    def run(
        self, sequence: Sequence, prompts: Listed[PlannedPrompt], on_frame: Callable[[], None] = lambda: None
    ) -> SequencePredictions:
        """Answer every frame of a sequence.

        Args:
            sequence: the frames.
            prompts: each is given on the frame that it names.
            on_frame: called after each frame.

        Raises:
            X2SamError: not one frame can be read, or the method cannot go on.
        """


def evaluated_config(official_quirks: bool = False) -> EngineConfig:
    """Return the session's defaults, without the caps that a robot needs."""
    return EngineConfig(max_targets=MOST_AT_ONCE, max_pending_prompts=MOST_AT_ONCE, official_quirks=official_quirks)


@dataclass
class AnswerLog:
    """What is collected on the way through one sequence."""

    prompts: dict[str, GivenPrompt]
    frames: list[FramePrediction] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    def reject(self, prompt_id: str, reason: str) -> None:
        """Note a prompt that could not be carried out; one that was answered before stays so."""
        self.problems.add(f"prompt {prompt_id} was rejected: {reason}")
        if self.prompts[prompt_id].status != _OK:
            self.prompts[prompt_id] = replace(self.prompts[prompt_id], status=_REJECTED)

    def ground(self, grounding: Grounding) -> None:
        """Note an answer. What was found once stays found; phrases of later clips are added."""
        given = self.prompts.get(grounding.prompt_id)
        if given is None:
            return
        status = grounding.status.name.lower()
        if status == _REJECTED:
            self.reject(grounding.prompt_id, grounding.message)
        elif given.status != _OK or status == _OK:
            phrases = tuple((phrase.text, phrase.target_ids) for phrase in grounding.phrases)
            self.prompts[grounding.prompt_id] = replace(
                given,
                status=status,
                response=given.response or grounding.response,
                phrases=(*given.phrases, *phrases),
            )

    def answer(self, frame: Frame, result: FrameResult, prompt_ids: dict[int, str], latency_ms: float) -> None:
        """Note the masks of a frame."""
        for grounding in result.groundings:
            self.ground(grounding)
        self.frames.append(answered(frame, predicted_masks(result, prompt_ids), latency_ms))

    def predictions(self, sequence: str, wall_s: float, reading: Problems) -> SequencePredictions:
        """Return all of it, with what went wrong while the frames were read."""
        for given in self.prompts.values():
            if given.frame_index >= len(self.frames):
                self.problems.add(
                    f"prompt {given.prompt_id} was never given: it belongs to image "
                    f"{given.frame_index} of {len(self.frames)}"
                )
        problems = (*told_problems(reading), *told_problems(self.problems))
        return SequencePredictions(sequence, tuple(self.prompts.values()), tuple(self.frames), wall_s, problems)

    def lose(self, frame: Frame, reason: str) -> None:
        """Note a frame that got no answer."""
        self.problems.add(f"image {frame.frame_index}: {reason}")
        self.frames.append(
            FramePrediction(frame.frame_index, frame.stamp_ns, frame.size, is_lost=True, source=frame.source)
        )


class X2SamMethod:
    """The session that the node uses, its language lane inline as in a replay.

    Mode "stream" is one session from the first frame to the last; a prompt is given with its frame. Mode "clip" is the
    published way: everything is forgotten after each ``CLIP_LENGTH`` frames and the prompt is given again, with the
    clip shown as a video; a region then lies where it lay before. A frame of a clip waits for the last one of it, which
    its latency tells. A prompt that is due within a clip is shown what remains of it.

    Args:
        model: the network.
        config: thresholds and caps.
        memory_policy: name of the memory policy plugin.
        mode: "stream" or "clip".
    """

    name = "x2sam"

    def __init__(self, model: X2SAM, config: EngineConfig, memory_policy: str, mode: Mode = "stream") -> None:
        self._model, self._config = model, replace(config, language_lane="inline")
        self._policy, self._mode = memory_policy, mode

    def run(
        self, sequence: Sequence, prompts: Listed[PlannedPrompt], on_frame: Callable[[], None] = lambda: None
    ) -> SequencePredictions:
        """Answer every frame; prompts that are rejected and frames that cannot be used are problems, not the end.

        Raises:
            X2SamError: not one frame can be read, or a plugin or the network failed.
        """
        source = sequence.frames()
        log = AnswerLog({planned.given.prompt_id: planned.given for planned in prompts})
        is_clip = self._mode == "clip"
        started = time.perf_counter()
        with Session(self._model, self._config, self._policy, in_order=is_clip) as session:
            go = self._clips if is_clip else self._stream
            for _ in go(session, source, prompts, log):
                on_frame()
        for fault in session.faults:
            log.problems.add(fault)
        wall_s = time.perf_counter() - started
        return log.predictions(sequence.name, wall_s, source.problems)

    def _stream(
        self, session: Session, frames: Iterable[Frame], prompts: Listed[PlannedPrompt], log: AnswerLog
    ) -> Iterator[None]:
        for frame in frames:
            arrived = time.perf_counter()
            _submit(session, (p for p in prompts if p.given.frame_index == frame.frame_index), log)
            _step(session, frame, arrived, log)
            yield

    def _clips(
        self, session: Session, frames: Iterable[Frame], prompts: Listed[PlannedPrompt], log: AnswerLog
    ) -> Iterator[None]:
        iterator = iter(frames)
        while clip := list(islice(iterator, CLIP_LENGTH)):
            whole = time.perf_counter()
            session.reset(restart_ids=False)
            for place, frame in enumerate(clip):
                is_first = place == 0
                due = (
                    p
                    for p in prompts
                    if p.given.frame_index == frame.frame_index
                    or (is_first and p.given.frame_index < frame.frame_index)
                )
                _submit(session, due, log, clip[place:])
                waited_ms = max(clip[-1].stamp_ns - frame.stamp_ns, 0) / 1e6
                _step(session, frame, whole, log, waited_ms)
                yield


def predicted_masks(result: FrameResult, prompt_ids: Mapping[int, str]) -> tuple[PredictedMask, ...]:
    """Return the targets of a frame that have a pixel.

    Args:
        result: of the frame.
        prompt_ids: target id to the prompt that it answers.
    """
    return tuple(
        PredictedMask(target_id, prompt_ids.get(target_id, ""), label, score, rle_of(mask))
        for target_id, label, score, mask in zip(
            result.target_ids.tolist(), result.labels, result.scores.tolist(), result.masks
        )
        if mask.any()
    )


def answered(frame: Frame, masks: tuple[PredictedMask, ...], latency_ms: float) -> FramePrediction:
    """Return the answer to a frame, published as soon as it was there."""
    published_ns = frame.stamp_ns + round(latency_ms * 1e6)
    return FramePrediction(
        frame.frame_index, frame.stamp_ns, frame.size, masks, latency_ms, published_ns, source=frame.source
    )


def told_problems(problems: Problems) -> tuple[str, ...]:
    """Return problems in words; those that were only counted are one of them."""
    return problems.lines("and ", " more")


def _submit(session: Session, prompts: Iterable[PlannedPrompt], log: AnswerLog, clip: Listed[Frame] = ()) -> None:
    shown: Uint8Array | None = None
    for planned in prompts:
        try:
            if clip and shown is None:
                shown = stack_frames(clip)
            session.submit(planned.prompt, shown)
        except (PromptError, FrameError) as error:
            log.reject(planned.given.prompt_id, str(error))


def _step(session: Session, frame: Frame, arrived: float, log: AnswerLog, waited_ms: float = 0.0) -> None:
    try:
        result = session.step(frame)
    except FrameError as error:
        log.lose(frame, str(error))
        return
    latency_ms = (time.perf_counter() - arrived) * 1e3 + waited_ms
    log.answer(frame, result, {target.target_id: target.prompt_id for target in session.targets}, latency_ms)

"""What a robot would have had: a sequence is played in real time into a running node, and what comes back is scored.

How it is played is not known here (ros/live_player.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Listed
from typing import Protocol

from x2sam_ros.evaluation.methods import AnswerLog, predicted_masks
from x2sam_ros.evaluation.predictions import FramePrediction, SequencePredictions
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.truth.dataset import Sequence
from x2sam_ros.types import Frame, FrameResult, Grounding, Prompt


class PlayedFrame(Protocol):
    """What became of one image; ``latency_ms`` and the result are None where no answer came."""

    @property
    def frame_index(self) -> int:
        """Of the frame, as are stamp, size and source."""

    @property
    def stamp_ns(self) -> int:
        """As recorded."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    @property
    def source(self) -> str:
        """File or topic."""

    @property
    def latency_ms(self) -> float | None:
        """From the publishing of the image to the receipt of its masks, wall time."""

    @property
    def arrived_ns(self) -> int:
        """When they came, on the clock of the stamps."""

    def result(self) -> FrameResult | None:
        """Decode the answer."""


class Played(Protocol):
    """What became of one sequence."""

    @property
    def frames(self) -> Listed[PlayedFrame]:
        """One for each image, in order."""

    @property
    def groundings(self) -> Listed[Grounding]:
        """What became of the prompts, in the order it came."""

    @property
    def owners(self) -> Mapping[int, str]:
        """Target id to the id of the prompt that it answers."""

    @property
    def problems(self) -> Listed[str]:
        """What was not as it should be."""


class Play(Protocol):
    """Plays frames, and before an image the prompts of its index, and waits for the last answer."""

    def __call__(
        self, frames: Iterable[Frame], prompts: Mapping[int, Listed[Prompt]], on_frame: Callable[[], None]
    ) -> Played:
        """Play one sequence; an X2SamError where that cannot go on."""


class LiveMethod:
    """A running node. An image that gets no answer, because a newer one came or it was lost on the way, has no mask.

    Args:
        play: plays a sequence into it.
    """

    name = "x2sam"

    def __init__(self, play: Play) -> None:
        self._play = play

    def run(
        self, sequence: Sequence, prompts: Listed[PlannedPrompt], on_frame: Callable[[], None] = lambda: None
    ) -> SequencePredictions:
        """Play a sequence and return what came back; a rejected prompt is a problem, not the end.

        Raises:
            X2SamError: not one frame can be read, a prompt cannot be sent, or the node answers no more.
        """
        source = sequence.frames()
        log = AnswerLog({planned.given.prompt_id: planned.given for planned in prompts})
        due: dict[int, list[Prompt]] = {}
        for planned in prompts:
            due.setdefault(planned.given.frame_index, []).append(planned.prompt)
        started = time.perf_counter()
        played = self._play(source, due, on_frame)
        wall_s = time.perf_counter() - started
        for problem in played.problems:
            log.problems.add(problem)
        for grounding in played.groundings:
            log.ground(grounding)
        log.frames += [_prediction(frame, played.owners) for frame in played.frames]
        return log.predictions(sequence.name, wall_s, source.problems)


def _prediction(frame: PlayedFrame, owners: Mapping[int, str]) -> FramePrediction:
    result = frame.result()
    return FramePrediction(
        frame.frame_index,
        frame.stamp_ns,
        frame.size,
        () if result is None else predicted_masks(result, owners),
        frame.latency_ms or 0.0,
        frame.arrived_ns,
        is_lost=result is None,
        source=frame.source,
    )

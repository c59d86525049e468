"""What was received of a sequence becomes predictions, lost frames included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.errors import NodeError
from x2sam_ros.evaluation.live import LiveMethod
from x2sam_ros.evaluation.predictions import GivenPrompt
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.truth import dataset
from x2sam_ros.types import (
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    Phrase,
    Prompt,
    TargetState,
    TextPrompt,
)

SIZE = (6, 8)


class Images(FrameSource):
    """Four images, of which the third cannot be read."""

    num_images = 4

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for number in range(4):
            shape = (0, 0, 3) if number == 2 else (*SIZE, 3)
            yield lambda number=number, shape=shape: RawFrame(np.full(shape, number, np.uint8), 100 * number)


class Clip(dataset.Sequence):
    def frames(self) -> FrameSource:
        return Images("clip", "/images", 1)

    def truth(self, frame: Frame) -> dataset.TrueFrame | None:
        return None


@dataclass
class Received:
    """As ros.live_player.PlayedFrame."""

    frame: Frame
    answer: FrameResult | None
    latency_ms: float | None = None

    def result(self) -> FrameResult | None:
        return self.answer

    def __getattr__(self, name: str) -> object:
        return getattr(self.frame, name)

    @property
    def arrived_ns(self) -> int:
        return self.frame.stamp_ns + round(1e6 * (self.latency_ms or 0))


@dataclass
class Played:
    frames: list[Received]
    groundings: list[Grounding]
    owners: dict[int, str]
    problems: list[str] = field(default_factory=list)


def result(frame: Frame, **masks: np.ndarray) -> FrameResult:
    rows = np.array(list(masks.values()), np.bool_).reshape(-1, *SIZE)
    ids = np.array([int(name[1:]) for name in masks], np.int64)
    labels, states = tuple(masks), (TargetState.TRACKED,) * len(masks)
    return FrameResult(frame.stamp_ns, 9, "", SIZE, rows, np.full(len(masks), 0.75, np.float32), labels, ids, states)


def planned(prompt_id: str, frame_index: int) -> PlannedPrompt:
    return PlannedPrompt(GivenPrompt(prompt_id, "text", frame_index, (1,)), TextPrompt(prompt_id, text=prompt_id))


def test_what_came_back_becomes_predictions() -> None:
    given: dict[int, list[str]] = {}
    box = np.zeros(SIZE, np.bool_)
    box[1:3, 2:5] = True

    def play(frames: Iterable[Frame], prompts: Mapping[int, Sequence[Prompt]], on_frame: Callable[[], None]) -> Played:
        given.update({index: [prompt.prompt_id for prompt in due] for index, due in prompts.items()})
        first, second, third = frames
        for _ in range(3):
            on_frame()
        answered = result(third, t4=box, t5=~box, t6=np.zeros(SIZE, np.bool_), t7=box)
        groundings = [
            Grounding("cup", GroundingStatus.OK, "cup", "a cup", (Phrase("cup", 2, 5, (4,)),), (4,)),
            Grounding("dog", GroundingStatus.REJECTED, message="no room"),
            Grounding("stranger", GroundingStatus.OK),
        ]
        received = [Received(first, result(first), 8.0), Received(second, None), Received(third, answered, 12.0)]
        return Played(received, groundings, {4: "cup", 5: "list"}, ["1 of 3 images got no answer"])

    seen: list[int] = []
    prompts = [planned("cup", 0), planned("dog", 0), planned("list", 1), planned("late", 3)]
    found = LiveMethod(play).run(Clip("clip"), prompts, lambda: seen.append(1))
    assert given == {0: ["cup", "dog"], 1: ["list"], 3: ["late"]} and len(seen) == 3
    assert [prompt.status for prompt in found.prompts] == ["ok", "rejected", "unanswered", "unanswered"]
    assert found.prompts[0].response == "a cup" and found.prompts[0].phrases == (("cup", (4,)),)
    assert [(frame.frame_index, frame.stamp_ns, frame.is_lost) for frame in found.frames] == [
        (0, 0, False),
        (1, 100, True),
        (2, 300, False),
    ]
    assert [frame.latency_ms for frame in found.frames] == [8.0, 0.0, 12.0]
    assert [frame.published_ns for frame in found.frames] == [8_000_000, 100, 300 + 12_000_000]
    assert {frame.size for frame in found.frames} == {SIZE} and found.frames[0].masks == found.frames[1].masks == ()
    last = found.frames[2]
    assert [(mask.target_id, mask.prompt_id, mask.label) for mask in last.masks] == [
        (4, "cup", "t4"),
        (5, "list", "t5"),
        (7, "", "t7"),
    ]
    assert (last.mask(last.masks[0]) == box).all() and last.masks[0].score == 0.75
    told = " | ".join(found.problems)
    for words in ("image 2 left out", "1 of 3 images got no answer", "dog was rejected: no room", "late was never"):
        assert words in told, words


def test_a_node_that_fails_fails_the_sequence() -> None:
    def play(frames: Iterable[Frame], prompts: Mapping[int, Sequence[Prompt]], on_frame: Callable[[], None]) -> Played:
        raise NodeError("it has ended")

    with pytest.raises(NodeError, match="has ended"):
        LiveMethod(play).run(Clip("clip"), [])

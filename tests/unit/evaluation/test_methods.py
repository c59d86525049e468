"""The evaluated session is the session itself: same masks, prompts at their frames, problems never the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.methods import X2SamMethod, evaluated_config
from x2sam_ros.evaluation.predictions import GivenPrompt, rle_of
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.training.scenes import generate_clip
from x2sam_ros.truth import dataset
from x2sam_ros.truth.dataset import TrueFrame
from x2sam_ros.types import Frame, PointPrompt, Prompt, TextPrompt

NUM = CLIP_LENGTH + 3
STEP_NS = 100_000_000
CLIP = generate_clip(11, NUM, 96, 128)

nano = lru_cache(maxsize=1)(load_model)


class Recorded(dataset.Sequence):
    """The clip, with stamps that can be changed; scored by nobody here."""

    def __init__(self, stamps: list[int] | None = None) -> None:
        super().__init__("recorded")
        self.stamps = stamps or [index * STEP_NS for index in range(NUM)]

    def frames(self) -> FrameSource:
        return _Source(self.stamps)

    def truth(self, frame: Frame) -> TrueFrame | None:
        raise AssertionError("a method does not look at the truth")


class _Source(FrameSource):
    def __init__(self, stamps: list[int]) -> None:
        super().__init__("recorded", "camera", 1)
        self.stamps = stamps

    @property
    def num_images(self) -> int:
        return NUM

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for image, stamp_ns in zip(CLIP.frames, self.stamps):
            yield partial(RawFrame, image, stamp_ns, "camera", f"{stamp_ns}.png")


def planned(prompt: Prompt, frame_index: int = 0) -> PlannedPrompt:
    return PlannedPrompt(GivenPrompt(prompt.prompt_id, "point", frame_index, (1,)), prompt)


def click(index: int, frame_index: int = 0, prompt_id: str = "a") -> PlannedPrompt:
    rows, columns = np.nonzero(CLIP.labels[frame_index] == index + 1)
    middle = len(rows) // 2
    return planned(PointPrompt(prompt_id, points_px=np.array([[columns[middle], rows[middle]]], float)), frame_index)


def method(mode: str = "stream") -> X2SamMethod:
    return X2SamMethod(nano(), evaluated_config(), "fifo", mode)


def test_stream_mode_is_one_session_with_each_prompt_on_its_frame() -> None:
    prompts = (click(0), click(1, 4, "b"))
    seen = []
    found = method().run(Recorded(), prompts, lambda: seen.append(1))
    assert (len(seen), len(found.frames), found.sequence) == (NUM, NUM, "recorded")
    with Session(nano(), evaluated_config()) as session:
        for index, image in enumerate(CLIP.frames):
            for one in prompts:
                if one.given.frame_index == index:
                    session.submit(one.prompt)
            result = session.step(Frame(image, index * STEP_NS, index, "camera"))
            masks = {m.target_id: m.rle for m in found.frames[index].masks}
            expected = {int(i): rle_of(m) for i, m in zip(result.target_ids, result.masks) if m.any()}
            assert masks == expected
            owners = {target.target_id: target.prompt_id for target in session.targets}
            assert all(m.prompt_id == owners[m.target_id] for m in found.frames[index].masks)
    assert {m.prompt_id for m in found.frames[-1].masks} == {"a", "b"}
    assert not any(m.prompt_id == "b" for frame in found.frames[:4] for m in frame.masks)
    assert [given.status for given in found.prompts] == ["ok", "ok"]
    frame = found.frames[3]
    assert frame.source == f"{3 * STEP_NS}.png"
    assert 0 < frame.latency_ms == pytest.approx((frame.published_ns - frame.stamp_ns) / 1e6, abs=1e-3)
    assert found.wall_s * 1e3 > sum(frame.latency_ms for frame in found.frames)


def test_clip_mode_is_the_published_way_and_its_frames_wait_for_their_clip() -> None:
    prompt = TextPrompt("a", text=f"the {CLIP.objects[0].colour} {CLIP.objects[0].shape}")
    found = method("clip").run(Recorded(), (planned(prompt),))
    frames = [Frame(image, index * STEP_NS, index) for index, image in enumerate(CLIP.frames)]
    results = segment_clip(nano(), frames, prompt, "clip", config=evaluated_config())
    ids = []
    for frame, result in zip(found.frames, results, strict=True):
        expected = {int(i): rle_of(m) for i, m in zip(result.target_ids, result.masks) if m.any()}
        assert {m.target_id: m.rle for m in frame.masks} == expected
        assert {m.prompt_id for m in frame.masks} <= {"a"}
        ids.append(set(expected))
    assert ids[0] and ids[CLIP_LENGTH] and not ids[0] & ids[CLIP_LENGTH]
    waits = [found.frames[i].latency_ms for i in (0, CLIP_LENGTH - 1, CLIP_LENGTH)]
    assert waits[0] > 700 and waits[1] > 0 and waits[2] > 200


def test_a_prompt_within_a_clip_begins_there_and_is_given_again_later() -> None:
    found = method("clip").run(Recorded(), (click(0, 5),))
    shown = [bool(frame.masks) for frame in found.frames]
    assert not any(shown[:5]) and shown[5] and shown[CLIP_LENGTH]


def test_what_goes_wrong_is_noted_and_the_rest_goes_on() -> None:
    outside = planned(PointPrompt("outside", points_px=np.array([[5000.0, 5.0]])))
    never = click(0, 0, "never")
    never = PlannedPrompt(replace(never.given, frame_index=99), never.prompt)
    twice = click(1, 0, "a")
    stamps = [index * STEP_NS for index in range(NUM)]
    stamps[6] = stamps[4] + 1  # a late image
    found = method().run(Recorded(stamps), (click(0), twice, outside, never))
    status = {given.prompt_id: given.status for given in found.prompts}
    assert status == {"a": "ok", "outside": "rejected", "never": "unanswered"}
    assert [frame.is_lost for frame in found.frames] == [index == 6 for index in range(NUM)]
    assert found.frames[6].masks == () and found.frames[7].masks
    said = "\n".join(found.problems)
    for part in ("prompt outside was rejected", "prompt never was never given", "image 6: ", "prompt a was rejected"):
        assert part in said

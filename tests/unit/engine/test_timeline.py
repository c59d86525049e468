"""Late, repeated, strange and out-of-order frames, gaps, clocks that jump, and a GPU that is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import classes, click, drawn, only, run, same, session, text
from tests.unit.model.networks import frames
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.timeline import Arrival, Timeline
from x2sam_ros.engine.tracker import Tracker
from x2sam_ros.errors import FrameError
from x2sam_ros.types import Frame, GroundingStatus, TargetState

SECOND_NS = 1_000_000_000


def verdicts(stamps_ms: Sequence[int], **options: Any) -> str:
    """Feed frames by their stamps; N(ext), R(epeated), A(nother stream) or d(ropped) for each."""
    timeline, letters = Timeline(EngineConfig(**options)), ""
    for index, stamp in enumerate(stamps_ms):
        frame = replace(frames(1)[0], stamp_ns=stamp * 1_000_000, frame_index=index)
        try:
            letters += timeline.judge(frame).name[0]
            timeline.accept(frame)
        except FrameError as error:
            assert "older than the newest" in str(error)
            letters += "d"
    return letters


def test_what_stamps_say() -> None:
    assert verdicts([0, 33, 66, 60_000, 86_400_000]) == "NNNNN", "gaps, however long"
    assert verdicts([0, 33, 33, 66]) == "NNRN"
    assert verdicts([0, 33, 100, 66, 133, 120, 166]) == "NNNdNdN", "late ones are dropped, one by one"
    assert verdicts([9000, 9033, 0, 33]) == "NNAN", "a looping bag"
    assert verdicts([0, 100, 200, 300, 0, 100, 200, 300]) == "NNNNdddA", "one shorter than clock_jump_ms"
    assert verdicts([0, 100, 0, 100], late_frames=0) == "NNAN"
    assert verdicts([500, 499], clock_jump_ms=0.0) == "NA"


def test_a_camera_without_a_clock_goes_on() -> None:
    timeline = Timeline(EngineConfig())
    for frame in frames(4):
        assert timeline.judge(replace(frame, stamp_ns=0)) is Arrival.NEXT
        timeline.accept(replace(frame, stamp_ns=0))


def test_frames_that_the_caller_put_in_order_are_all_the_next() -> None:
    timeline, stream = Timeline(EngineConfig(), in_order=True), frames(2)
    for frame in (*stream, *stream, stream[1], replace(stream[0], frame_id="other")):
        assert timeline.judge(frame) is Arrival.NEXT
        timeline.accept(frame)


def test_another_cameras_frame_is_dropped_until_it_insists() -> None:
    stream = frames(10)
    live = session()
    run(live, stream[:3], {0: [text()]})
    strange = [replace(frame, frame_id="other") for frame in stream]
    for frame in strange[3:6]:
        with pytest.raises(FrameError, match="frame is of 'other', the stream of 'camera'"):
            live.step(frame)
    result = live.step(strange[6])
    assert only(result).status is GroundingStatus.OK and live.target_ids == (1,)
    live.step(strange[7])
    with pytest.raises(FrameError, match="of 'camera'"):
        live.step(stream[8])
    assert live.step(strange[9]).frame_id == "other"


def test_a_repeated_frame_changes_no_target_and_no_memory() -> None:
    stream, live = frames(4), session()
    before = run(live, stream[:3], {0: [text(), classes()]})[-1]
    records = [group.memory.records for group in live._roster.groups]
    again = live.step(stream[2])
    assert same(replace(before, groundings=()), again)
    assert [group.memory.records for group in live._roster.groups] == records and len(live._buffer) == 3
    assert same(live.step(stream[3]), run(session(), stream, {0: [text(), classes()]})[3])


def test_prompts_are_carried_out_on_a_repeated_frame() -> None:
    """A still picture, and one question after another."""
    live, frame = session(), frames(1)[0]
    for number, prompt in enumerate((text(), click(), drawn())):
        live.submit(prompt)
        assert only(live.step(frame)).target_ids == (number + 1,)
    assert live.target_ids == (1, 2, 3)


def test_a_late_frame_changes_nothing() -> None:
    stream = frames(5)
    plain, disturbed = session(), session()
    expected = run(plain, stream, {0: [text()], 3: [click()]})
    run(disturbed, stream[:3], {0: [text()]})
    disturbed.submit(click())
    with pytest.raises(FrameError, match=r"100\.0 ms older than the newest"):
        disturbed.step(stream[1])
    assert all(same(disturbed.step(frame), wanted) for frame, wanted in zip(stream[3:], expected[3:]))


def test_a_gap_keeps_ids_and_memories() -> None:
    stream, live = frames(4), session()
    run(live, stream[:2], {0: [text()]})
    later = live.step(replace(stream[2], stamp_ns=stream[2].stamp_ns + 3600 * SECOND_NS))
    assert later.target_ids.tolist() == [1] and len(live._roster.groups[0].memory) == 3


def looped(stream: list[Frame], start_ns: int) -> list[Frame]:
    """Return a recording with these stamps to begin with, so that playing it again is a jump back."""
    return [replace(frame, stamp_ns=start_ns + 10 * frame.stamp_ns) for frame in stream]


def test_memories_never_mix_two_timelines_and_words_are_asked_again() -> None:
    bag, live = looped(frames(5), SECOND_NS), session()
    first = run(live, bag, {0: [text()]})
    second = [live.step(replace(frame, frame_index=5 + frame.frame_index)) for frame in bag]
    assert only(second[0]).prompt_id == "text" and only(second[0]).target_ids == (1,) == live.target_ids
    for result, wanted in zip(second, first):
        assert np.array_equal(result.masks, wanted.masks), "as if the first round had never been"
        np.testing.assert_allclose(result.scores, wanted.scores, atol=1e-5)
    stamps = [record.stamp_ns for record in live._roster.groups[0].memory.records]
    assert stamps == [frame.stamp_ns for frame in bag]


def test_a_click_is_asked_again_on_the_frame_it_was_given_on() -> None:
    bag, live = looped(frames(5), SECOND_NS), session()
    first = run(live, bag, {2: [drawn()]})
    second = [live.step(frame) for frame in bag]
    assert [len(result.groundings) for result in second] == [0, 0, 1, 0, 0] and live.target_ids == (1,)
    assert [result.states[0] for result in second[:2]] == [TargetState.LOST] * 2 and not second[1].masks.any()
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(first[2:], second[2:]))
    assert only(second[2]).target_ids == (1,)


def test_a_click_whose_frame_does_not_come_again_is_given_up_with_the_reason() -> None:
    bag, live = looped(frames(6), SECOND_NS), session()
    run(live, bag, {0: [click(), text()]})
    result = live.step(replace(bag[2], frame_index=6))  # 3 s back, behind the click
    outcome = {grounding.prompt_id: grounding for grounding in result.groundings}
    assert outcome["click"].status is GroundingStatus.REMOVED and outcome["click"].target_ids == (1,)
    assert "another stream began" in outcome["click"].message
    assert outcome["text"].target_ids == (2,) == live.target_ids


def test_a_list_finds_its_targets_anew() -> None:
    bag, live = looped(frames(3), SECOND_NS), session(max_targets=64)
    before = set(run(live, bag, {0: [classes()]})[-1].target_ids.tolist())
    result = live.step(bag[0])
    assert only(result).prompt_id == "classes" and not set(only(result).target_ids) & before
    assert set(live.target_ids) == set(only(result).target_ids)


def test_prompts_that_wait_or_are_understood_survive_a_jump() -> None:
    bag = looped(frames(5), SECOND_NS)
    with session(language_lane="beside") as live:
        live.step(bag[3])
        live.submit(text("words", stamp_ns=bag[3].stamp_ns))
        live.submit(drawn("region", stamp_ns=bag[4].stamp_ns))
        live.step(bag[4])
        answers = []
        for frame in bag:
            live.wait(60.0)
            answers += [(g.prompt_id, g.stamp_ns, g.status) for g in live.step(frame).groundings]
        live.wait(60.0)
        later = replace(bag[4], stamp_ns=bag[4].stamp_ns + SECOND_NS)
        answers += [(g.prompt_id, g.stamp_ns, g.status) for g in live.step(later).groundings]
    ok = GroundingStatus.OK
    assert answers == [("words", bag[0].stamp_ns, ok), ("region", bag[4].stamp_ns, ok)]


def out_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, method: str = "advance") -> None:
    """Let the tracker run out of GPU memory with more than so many groups, after it has begun to change them."""
    honest = getattr(Tracker, method)

    def full(tracker: Tracker, seen: Any, groups: Any, admit: Any) -> None:
        if len(groups) > most:
            honest(tracker, seen, groups[:1], admit)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        honest(tracker, seen, groups, admit)

    monkeypatch.setattr(Tracker, method, full)


def test_without_gpu_memory_the_least_recently_seen_target_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, live = frames(5), session()
    run(live, stream[:2], {0: [text("a"), click("b"), drawn("c")]})
    live._roster.group_of(2).targets[2].missed_frames = 7
    out_of_memory(monkeypatch, 2)
    result = live.step(stream[2])
    given_up = only(result)
    assert given_up.status is GroundingStatus.REMOVED and given_up.target_ids == (2,) and given_up.prompt_id == "b"
    assert "no GPU memory left for 3 prompts" in given_up.message
    assert result.target_ids.tolist() == [1, 3] == live.step(stream[3]).target_ids.tolist()
    assert live._roster.group_of(1).targets[1].seen_frames == 4, "a step that failed does not count twice"


def test_without_gpu_memory_for_one_target_the_frame_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, live = frames(4), session()
    run(live, stream[:2], {0: [text()]})
    with monkeypatch.context() as full:
        out_of_memory(full, 0)
        with pytest.raises(FrameError, match="no GPU memory left for one prompt"):
            live.step(stream[2])
    assert live.target_ids == (1,) and live.step(stream[3]).target_ids.tolist() == [1]


@pytest.mark.parametrize("lane", ["inline", "beside"])
def test_without_gpu_memory_to_begin_a_prompt_is_rejected(monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    stream = frames(5)
    with session(language_lane=lane) as live:
        live.submit(text("a"))
        live.step(stream[0])
        live.wait(60.0)
        live.step(stream[1])
        out_of_memory(monkeypatch, 0, "begin")
        live.submit(text("b"))
        answers = list(live.step(stream[2]).groundings)
        live.wait(60.0)
        answers += live.step(stream[3]).groundings
        assert [(g.prompt_id, g.status) for g in answers] == [("b", GroundingStatus.REJECTED)]
        assert "no GPU memory" in answers[0].message and live.target_ids == (1,)


def test_a_frame_that_cannot_be_encoded_for_want_of_memory_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    live = session()
    live.submit(text())

    def full(tracker: Tracker, frame: Frame) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "encode", full)
        with pytest.raises(FrameError, match="to encode the frame"):
            live.step(frames(1)[0])
    assert only(live.step(frames(2)[1])).status is GroundingStatus.OK, "the prompt waited"

"""Two lanes: prompts are understood in a thread while frames go on, catch up, and can be called off at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import click, drawn, only, run, same, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.engine.fleet import Turns
from x2sam_ros.engine.frame_buffer import FrameBuffer
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.language_lane import LanguageLane, spread
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.tracker import Tracker
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.model import generation
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, Task, TextPrompt

PATIENCE_S = 60.0


@pytest.fixture
def live() -> Iterator[Session]:
    with session(language_lane="beside") as opened:
        yield opened


class Gate:
    """Holds the language pass up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        ask = Grounder.ask

        def held(grounder: Grounder, *args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self._open.wait(PATIENCE_S)
            return ask(grounder, *args, **options)

        monkeypatch.setattr(Grounder, "ask", held)

    def open(self) -> None:
        self._open.set()


def finished(live: Session, frame: Frame) -> FrameResult:
    """Return the frame's result, with what the lane was doing."""
    assert live.wait(PATIENCE_S)
    return live.step(frame)


def test_frames_go_on_while_a_prompt_is_understood(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stream = Gate(monkeypatch), frames(8)
    live.submit(text())
    results = [live.step(frame) for frame in stream[:6]]
    assert gate.reached.wait(PATIENCE_S)
    assert all(len(result.target_ids) == 0 and not result.groundings for result in results)
    gate.open()
    result = finished(live, stream[6])
    grounding = only(result)
    assert grounding.status is GroundingStatus.OK and grounding.target_ids == (1,) == live.target_ids
    assert grounding.stamp_ns == stream[0].stamp_ns, "it was carried out on the frame it was submitted for"
    assert result.target_ids.tolist() == [1] and result.labels == ("the red circle",)
    assert finished(live, stream[7]).groundings == ()


def test_beside_equals_inline_where_there_is_nothing_to_catch_up_with(live: Session) -> None:
    stream = frames(5)
    expected = run(session(), stream, {0: [text(), click()]})
    live.submit(text())
    live.submit(click())
    live.step(stream[0])
    results = [finished(live, frame) for frame in stream[1:]]
    assert results[0].groundings == expected[0].groundings
    for result, wanted in zip(results, expected[1:]):
        assert np.array_equal(result.masks, wanted.masks)
        np.testing.assert_allclose(result.scores, wanted.scores, atol=1e-5)


def test_a_region_without_words_is_named_by_its_id(live: Session) -> None:
    live.submit(click())
    live.step(frames(1)[0])
    assert finished(live, frames(2)[1]).labels == ("object 1",)


def test_an_old_click_lands_on_what_was_seen_then() -> None:
    """Inline: the group begins on the buffered frame and is led through those that came since."""
    stream = frames(8)
    then = run(session(), stream, {2: [drawn(stamp_ns=stream[2].stamp_ns)]})
    late = run(session(), stream, {6: [drawn(stamp_ns=stream[2].stamp_ns)]})
    assert only(late[6]).stamp_ns == stream[2].stamp_ns
    assert only(late[6]).target_ids == (1,) and np.array_equal(late[6].masks, then[6].masks)
    now = run(session(), stream, {6: [drawn()]})
    assert not np.array_equal(late[6].masks, now[6].masks)


def test_catching_up_is_bounded_and_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, encoded = frames(12), []
    live = session(catch_up_frames=3)
    run(live, stream[:11], {})
    encode = nano().segmentor.encode_image
    monkeypatch.setattr(nano().segmentor, "encode_image", lambda values: encoded.append(1) or encode(values))
    live.submit(click(stamp_ns=stream[1].stamp_ns))
    assert only(live.step(stream[11])).status is GroundingStatus.OK
    assert len(encoded) == 1 + 1 + 3, "the newest frame, the prompt's, and three between"
    buffer = FrameBuffer(20, 1 << 30)
    kept = [buffer.add(frame) for frame in stream]
    assert [item.number for item in spread(kept, 3)] == [3, 7, 11] and spread(kept, 12) == kept


def test_a_prompt_whose_frame_has_left_is_rejected_with_the_numbers() -> None:
    stream = frames(8)
    live = session(buffer_frames=3)
    result = run(live, stream, {7: [click(stamp_ns=stream[1].stamp_ns)]})[7]
    assert only(result).status is GroundingStatus.REJECTED
    assert "600 ms old" in only(result).message and "3 images of the last 200 ms" in only(result).message
    near = run(session(buffer_frames=3), stream, {7: [click(stamp_ns=stream[4].stamp_ns)]})[7]
    assert only(near).stamp_ns == stream[5].stamp_ns, "the nearest, 100 ms away"


def test_a_prompt_ahead_of_its_image_waits_for_it() -> None:
    stream = frames(6)
    results = run(session(), stream, {1: [click(stamp_ns=stream[3].stamp_ns)]})
    assert [len(result.groundings) for result in results] == [0, 0, 0, 1, 0, 0]
    far = run(session(), stream[:1], {0: [click(stamp_ns=stream[0].stamp_ns + 5_000_000_000)]})[0]
    assert "5000 ms ahead" in only(far).message and only(far).status is GroundingStatus.REJECTED


def test_refining_beside_keeps_the_id_and_the_target_goes_on_meanwhile(
    live: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = frames(8)
    live.submit(text())
    live.step(stream[0])
    assert finished(live, stream[1]).target_ids.tolist() == [1]
    gate = Gate(monkeypatch)
    live.submit(click("again", 90, 60, target_id=1))
    live.submit(click("twice", 91, 61, target_id=1))
    assert [live.step(frame).target_ids.tolist() for frame in stream[2:5]] == [[1]] * 3
    gate.open()
    first = finished(live, stream[5])
    assert (only(first).prompt_id, only(first).target_ids, live.target_ids) == ("again", (1,), (1,))
    assert only(finished(live, stream[6])).prompt_id == "twice"


def test_a_removed_prompt_is_called_off(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stream = Gate(monkeypatch), frames(4)
    live.submit(text("gone"))
    live.step(stream[0])
    assert gate.reached.wait(PATIENCE_S)
    assert live.remove_prompt("gone") == ()
    with pytest.raises(PromptError, match="there is no prompt 'gone'"):
        live.remove_prompt("gone")
    gate.open()
    assert finished(live, stream[1]).groundings == () and live.target_ids == ()
    live.submit(text("next"))
    live.step(stream[2])
    assert only(finished(live, stream[3])).status is GroundingStatus.OK, "the thread lives on"


def test_a_target_removed_while_it_is_refined_stays_removed(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(5)
    live.submit(text())
    live.step(stream[0])
    finished(live, stream[1])
    gate = Gate(monkeypatch)
    live.submit(click("late", target_id=1))
    live.step(stream[2])
    assert gate.reached.wait(PATIENCE_S)
    live.remove(1)
    gate.open()
    result = finished(live, stream[3])
    assert only(result).status is GroundingStatus.REJECTED and "target 1 was removed" in only(result).message
    assert live.target_ids == () == finished(live, stream[4]).groundings


@pytest.mark.parametrize("refines", [False, True])
def test_what_is_removed_while_it_catches_up_stays_removed(
    live: Session, monkeypatch: pytest.MonkeyPatch, refines: bool
) -> None:
    stream, advance = frames(8), Tracker.advance
    live.submit(text())
    live.step(stream[0])
    finished(live, stream[1])
    reached, go_on = threading.Event(), threading.Event()

    def held(tracker: Tracker, *args: Any) -> None:
        if threading.current_thread().name == "x2sam-language":
            reached.set()
            assert go_on.wait(PATIENCE_S)
        advance(tracker, *args)

    monkeypatch.setattr(Tracker, "advance", held)
    gate = Gate(monkeypatch)
    live.submit(click("late", target_id=1 if refines else None))
    for frame in stream[2:5]:
        live.step(frame)
    gate.open()
    assert reached.wait(PATIENCE_S)
    if refines:
        live.remove(1)
    else:
        assert live.remove_prompt("late") == ()
    go_on.set()
    result = finished(live, stream[5])
    assert live.target_ids == (() if refines else (1,))
    assert [g.status for g in result.groundings] == ([GroundingStatus.REJECTED] if refines else [])
    assert finished(live, stream[6]).groundings == ()


def test_a_reset_forgets_what_is_being_understood(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stream = Gate(monkeypatch), frames(3)
    live.submit(text("a"))
    live.step(stream[0])
    assert gate.reached.wait(PATIENCE_S)
    live.reset()
    gate.open()
    result = finished(live, stream[1])
    assert result.groundings == () and live.target_ids == ()
    live.submit(text("a"))
    live.step(stream[1])
    assert only(finished(live, stream[2])).target_ids == (1,)


def test_an_answer_ends_at_the_next_token_once_it_is_called_off(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model writes for ever; only the cancellation ends it."""
    tokens, began = [], threading.Event()
    word = nano().tokenizer.encode_template("a")[0]

    def choose(logits: torch.Tensor) -> int:
        tokens.append(word)
        began.set()
        time.sleep(0.01)
        return word

    def generate(model: X2SAM, *args: Any, **options: Any) -> generation.Generated:
        return generation.generate(model, *args, choose=choose, **options)

    monkeypatch.setattr(X2SAM, "generate", generate)
    live.submit(TextPrompt("talk", text="tell me a story", task=Task.CHAT))
    live.step(frames(1)[0])
    assert began.wait(PATIENCE_S)
    live.remove_prompt("talk")
    assert live.wait(PATIENCE_S) and len(tokens) < 200
    assert live.step(frames(2)[1]).groundings == ()


def test_what_raises_in_the_lane_rejects_its_prompt_alone(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, ground = frames(4), Grounder.ground

    def broken(grounder: Grounder, asked: Any, *args: Any) -> Any:
        if asked.prompt.prompt_id == "bad":
            raise ZeroDivisionError("by chance")
        return ground(grounder, asked, *args)

    monkeypatch.setattr(Grounder, "ground", broken)
    for prompt in (text("bad"), text("good")):
        live.submit(prompt)
    live.step(stream[0])
    outcome = {g.prompt_id: g for g in finished(live, stream[1]).groundings}
    assert outcome["bad"].status is GroundingStatus.REJECTED
    assert outcome["bad"].message == "ZeroDivisionError: by chance"
    assert outcome["good"].status is GroundingStatus.OK
    live.submit(click("out", 500, 5))
    live.step(stream[2])
    assert "outside the image" in only(finished(live, stream[3])).message


def test_prompts_in_the_lane_count_towards_both_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stream = Gate(monkeypatch), frames(4)
    with session(language_lane="beside", max_pending_prompts=2, max_targets=1) as live:
        live.submit(text("a"))
        live.step(stream[0])
        live.submit(text("b"))
        with pytest.raises(PromptError, match="2 prompts are waiting, at most 2"):
            live.submit(text("c"))
        assert "1 targets are followed, at most 1" in only(live.step(stream[1])).message
        gate.open()
        assert only(finished(live, stream[2])).target_ids == (1,)


def test_a_closed_session_has_no_thread_and_may_be_used_again(live: Session) -> None:
    stream = frames(4)
    live.submit(text())
    live.step(stream[0])
    live.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "x2sam-language"]
    assert live.step(stream[1]).groundings == () and live.target_ids == ()
    live.submit(text("next"))
    live.step(stream[2])
    assert only(finished(live, stream[3])).status is GroundingStatus.OK


def test_the_thread_ends_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x2sam_ros.engine.language_lane.IDLE_S", 0.05)
    lane = LanguageLane(lambda jobs: [], torch.device("cpu"), session()._config, Turns())
    lane.put([])
    lane.put([])
    deadline = time.monotonic() + PATIENCE_S
    while lane._thread is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lane._thread is None


def test_frames_leave_the_lane_its_threads_while_it_works() -> None:
    before, release = torch.get_num_threads(), threading.Event()
    lane_threads: list[int] = []

    def work(jobs: Any) -> list[Any]:
        lane_threads.append(torch.get_num_threads())
        release.wait(PATIENCE_S)
        return []

    torch.set_num_threads(3)
    try:
        lane = LanguageLane(work, torch.device("cpu"), session()._config, Turns())
        lane.put([object()])  # type: ignore[list-item]
        with lane.sharing():
            assert torch.get_num_threads() == 2
        release.set()
        assert lane.wait(PATIENCE_S)
        with lane.sharing():
            assert torch.get_num_threads() == 3
        assert lane_threads == [1]
        lane.close()
    finally:
        release.set()
        torch.set_num_threads(before)


def test_prompts_every_few_frames_leave_nothing_behind(live: Session) -> None:
    """The lane runs as it likes; ids stay unique and nothing is left in it."""
    answered = []
    for frame in frames(24):
        if frame.frame_index % 4 == 0:
            live.submit(click(f"click {frame.frame_index}", stamp_ns=frame.stamp_ns))
        result = live.step(frame)
        answered += [grounding.prompt_id for grounding in result.groundings]
        assert len(set(result.target_ids.tolist())) == len(result.target_ids)
    last = finished(live, frames(25)[24])
    answered += [grounding.prompt_id for grounding in last.groundings]
    assert sorted(answered) == sorted(f"click {index}" for index in range(0, 24, 4))
    assert same(last, last) and len(live.target_ids) == 6


def test_a_frame_that_fails_loses_no_answer(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(3)
    live.submit(text())
    live.step(stream[0])
    assert live.wait(PATIENCE_S)

    def full(tracker: Tracker, frame: Frame) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "encode", full)
        with pytest.raises(FrameError, match="to encode the frame"):
            live.step(stream[1])
    assert only(live.step(stream[2])).target_ids == (1,) == live.target_ids

"""What a frame that fails, a repeated one, or a clock that jumps leaves of prompts and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.sessions import ScriptedHead, classes, click, nano, run, same, session, text, use_heads
from tests.unit.model.networks import frames
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.task_head import ConversationRequest, ReadContext
from x2sam_ros.engine.tracker import Tracker
from x2sam_ros.errors import FrameError, ModelError, PluginError, X2SamError
from x2sam_ros.types import GroundingStatus, Prompt, TargetState


def failing_once(monkeypatch: pytest.MonkeyPatch, error: X2SamError) -> None:
    """Let the next frame fail, and only that."""
    advance = Tracker.advance

    def fail(*args: Any) -> None:
        monkeypatch.setattr(Tracker, "advance", advance)
        raise error

    monkeypatch.setattr(Tracker, "advance", fail)


def test_a_failed_frame_answers_its_prompts_and_keeps_the_targets_they_refine(monkeypatch: pytest.MonkeyPatch) -> None:
    live, stream = session(), frames(4)
    run(live, stream[:1], {0: [text("a"), click("k")]})
    assert live.target_ids == (1, 2)
    live.submit(click("refined", 90, 60, target_id=2))
    live.submit(text("new", "the blue star"))
    failing_once(monkeypatch, ModelError("it is broken"))
    with pytest.raises(ModelError):
        live.step(stream[1])
    result = live.step(stream[2])
    assert result.target_ids.tolist() == [1, 2]
    assert {g.prompt_id: g.status for g in result.groundings} == dict.fromkeys(
        ("refined", "new"), GroundingStatus.REJECTED
    )
    assert all("it is broken" in grounding.message for grounding in result.groundings)
    assert not live.step(stream[3]).groundings


def test_after_a_dropped_frame_prompts_are_carried_out_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    live, stream = session(), frames(4)
    run(live, stream[:1], {0: [text("a"), click("k")]})
    live.submit(click("refined", 90, 60, target_id=2))
    live.submit(text("new", "the blue star"))
    failing_once(monkeypatch, FrameError("it is dropped"))
    with pytest.raises(FrameError):
        live.step(stream[1])
    answers = [grounding for frame in stream[2:] for grounding in live.step(frame).groundings]
    assert {g.prompt_id: g.status for g in answers} == dict.fromkeys(("refined", "new"), GroundingStatus.OK)
    assert live.target_ids == (1, 2, 3)


def test_a_refusal_survives_a_frame_that_cannot_be_shown() -> None:
    live, stream = session(prompt_tolerance_ms=0.0), frames(3)
    live.step(stream[0])
    live.submit(text("late", stamp_ns=5))
    live.submit(text("now", "the blue star"))
    elongated = replace(stream[1], image=stream[1].image[:1].repeat(50, axis=1))
    with pytest.raises(FrameError):
        live.step(elongated)
    assert {g.prompt_id for g in live.step(stream[2]).groundings} == {"late", "now"}


@pytest.mark.parametrize("catch_up_frames", [0, 2])
def test_what_caught_up_is_brought_to_a_repeated_frame(catch_up_frames: int) -> None:
    stream = frames(6)
    repeated, once = (session(catch_up_frames=catch_up_frames) for _ in range(2))
    run(repeated, stream, {})
    run(once, stream[:5], {})
    for live in (repeated, once):
        live.submit(click("k", stamp_ns=stream[0].stamp_ns))
    results = repeated.step(stream[5]), once.step(stream[5])
    same(*results)
    before = repeated.step(stream[5])
    assert (before.masks == results[0].masks).all(), "nothing moves on a frame that was seen"


def test_a_target_that_rests_survives_a_bad_refinement() -> None:
    live, stream = session(language_lane="beside"), frames(12)
    with live:
        live.submit(click("k", stamp_ns=stream[0].stamp_ns))
        for frame in stream[:4]:
            live.step(frame)
            assert live.wait(60)
        live.step(replace(stream[4], stamp_ns=stream[0].stamp_ns - 10**10))
        assert live.target_ids == (1,)
        live.submit(click("bad", 10_000, 10_000, target_id=1))
        answers = []
        for index in range(3):
            result = live.step(replace(stream[5 + index], stamp_ns=stream[0].stamp_ns - 10**10 + (index + 1) * 10**8))
            answers += result.groundings
            assert live.wait(60)
        assert [g.prompt_id for g in answers] == ["bad"] and answers[0].status is GroundingStatus.REJECTED
        assert live.target_ids == (1,) and result.states == (TargetState.LOST,)


def test_at_the_cap_a_merged_conversation_gives_way_as_others_do() -> None:
    live = session(conversations="merged", at_cap="evict", max_targets=2)
    stream = frames(4)
    names = ("the red circle", "the blue square", "the green star")
    answers = [
        g for r in run(live, stream[:3], {i: [text(f"p{i}", n)] for i, n in enumerate(names)}) for g in r.groundings
    ]
    assert [g.status for g in answers if g.prompt_id == "p2"] == [GroundingStatus.OK]
    assert 3 in live.target_ids and len(live.target_ids) <= 2


def test_a_saved_session_goes_on_where_the_clock_starts_anew(tmp_path: Path) -> None:
    stream = frames(8)
    live = session(memory_interval_s=0.1)
    run(live, [replace(f, stamp_ns=10**15 + i * 10**8) for i, f in enumerate(stream[:4])], {0: [text("a")]})
    live.save(tmp_path / "saved")
    again = Session.load(tmp_path / "saved", nano(), live._config)
    for index, frame in enumerate(stream[4:]):
        result = again.step(replace(frame, stamp_ns=index * 10**8, frame_index=index))
        assert result.target_ids.tolist() == [1]
    (group,) = again._roster.groups
    stamps = [record.stamp_ns for record in group.memory.records]
    assert stamps == sorted(stamps) and stamps[-1] == 3 * 10**8 and stamps[0] > -(10**9)


class _RaisingHead(ScriptedHead):
    """A third party's head with a bug in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__([])
        self.__dict__["method"] = method

    def request(self, prompt: Prompt) -> ConversationRequest:
        if self.__dict__["method"] == "request":
            raise KeyError("oops")
        return super().request(prompt)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        raise KeyError("oops")


@pytest.mark.parametrize("options", [{}, {"conversations": "merged"}, {"language_lane": "beside"}])
def test_a_head_that_raises_costs_its_own_prompt_alone(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_heads(monkeypatch, _RaisingHead("request"))
    stream = frames(5)
    with session(**options) as live:
        for prompt in (text("a"), classes("c"), click("k")):
            live.submit(prompt)
        answers = []
        for frame in stream:
            answers += live.step(frame).groundings
            assert live.wait(60)
        found = {grounding.prompt_id: grounding.status for grounding in answers}
        assert found == {"a": GroundingStatus.OK, "k": GroundingStatus.OK, "c": GroundingStatus.REJECTED}
        assert "KeyError" in next(grounding.message for grounding in answers if grounding.prompt_id == "c")


def test_what_a_head_raises_while_it_reads_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, _RaisingHead("read"))
    live, stream = session(), frames(3)
    live.submit(text("a"))
    live.step(stream[0])
    live.submit(classes("c"))
    with pytest.raises(PluginError, match="genseg.*KeyError"):
        live.step(stream[1])
    result = live.step(stream[2])
    assert [(g.prompt_id, g.status) for g in result.groundings] == [("c", GroundingStatus.REJECTED)]
    assert result.target_ids.tolist() == [1]

"""From submitted prompts to groups: places are held and given back, whatever becomes of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.engine.sessions import classes, click, drawn, only, run, session, text
from tests.unit.model.networks import frames
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.prompt_desk import PromptDesk
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import FrameError
from x2sam_ros.types import GroundingStatus, Task, TextPrompt

PATIENCE_S = 60.0


@pytest.fixture(params=["separate", "merged"])
def live(request: pytest.FixtureRequest) -> Iterator[Session]:
    with session(language_lane="beside", conversations=request.param) as opened:
        yield opened


def desk(of: Session) -> PromptDesk:
    return of._desk


def test_a_place_is_held_while_a_prompt_is_carried_out(live: Session) -> None:
    stream = frames(3)
    live.submit(text("a"))
    live.submit(click("b"))
    live.submit(TextPrompt("c", text="what is this", task=Task.CHAT))
    assert desk(live).waiting_ids == {"a", "b", "c"}
    live.step(stream[0])
    assert live._roster.reserved == 2 and desk(live).waiting_ids == {"a", "b", "c"}, "words alone need no place"
    assert live.wait(PATIENCE_S)
    live.step(stream[1])
    assert live._roster.reserved == 0 and desk(live).waiting_ids == set() and live.target_ids == (1, 2)


@pytest.mark.parametrize("what", ["drop", "close", "reset", "jump"])
def test_a_place_is_given_back_when_a_prompt_is_called_off(live: Session, what: str) -> None:
    stream = [replace(frame, stamp_ns=frame.stamp_ns + 10**10) for frame in frames(3)]
    live.submit(text("a"))
    live.submit(click("b"))
    live.step(stream[0])
    if what == "drop":
        assert desk(live).drop_prompt("a") and desk(live).drop_prompt("b") and not desk(live).drop_prompt("b")
    elif what == "jump":
        desk(live).begin_anew()
        assert len(desk(live).queue) == 2 and all(item.again for item in desk(live).queue)
    else:
        getattr(desk(live), what)()
    assert live._roster.reserved == 0
    live.wait(PATIENCE_S)
    desk(live).take_over()
    assert desk(live).take_answers() == [] and live.target_ids == ()


def test_a_prompt_that_is_rejected_holds_no_place(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(Grounder, "ground", broken)
    stream = frames(3)
    live.submit(text("a"))
    live.submit(text("b", "the blue square"))
    live.step(stream[0])
    assert live.wait(PATIENCE_S)
    answers = live.step(stream[1]).groundings
    assert {g.prompt_id: g.status for g in answers} == dict.fromkeys("ab", GroundingStatus.REJECTED)
    assert all(g.message == "ZeroDivisionError: by chance" for g in answers) and live._roster.reserved == 0


def test_answers_are_returned_once() -> None:
    live, stream = session(), frames(3)
    run(live, stream[:2], {0: [text("a")]})
    live.submit(click("more", target_id=1))
    desk(live)._answers.append(only(run(session(), stream[:1], {0: [text()]})[0]))
    assert len(desk(live).take_answers()) == 1 and desk(live).take_answers() == []


def test_of_two_refinements_of_a_target_the_second_waits_and_keeps_its_frame(live: Session) -> None:
    stream = frames(6)
    live.submit(click("first", 20, 30))
    live.step(stream[0])
    live.wait(PATIENCE_S)
    live.step(stream[1])
    live.submit(click("second", 22, 32, target_id=1))
    live.submit(click("third", 24, 34, target_id=1))
    live.step(stream[2])
    assert [(item.prompt.prompt_id, item.at is not None) for item in desk(live).queue] == [("third", True)]
    reported = []
    for frame in stream[3:]:
        live.wait(PATIENCE_S)
        reported += live.step(frame).groundings
    assert [(g.prompt_id, g.stamp_ns) for g in reported] == [(name, stream[2].stamp_ns) for name in ("second", "third")]


def test_a_frame_that_cannot_be_shown_leaves_every_prompt_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    live = session()
    for prompt in (text("a"), drawn("b")):
        live.submit(prompt)

    def elongated(*args: Any) -> None:
        raise FrameError("too elongated")

    with monkeypatch.context() as patched:
        patched.setattr("x2sam_ros.engine.language_lane.Picture", elongated)
        with pytest.raises(FrameError, match="too elongated"):
            live.step(frames(1)[0])
    assert [item.prompt.prompt_id for item in desk(live).queue] == ["a", "b"]
    assert {g.prompt_id for g in live.step(frames(2)[1]).groundings} == {"a", "b"}


def test_a_target_that_cannot_be_asked_for_on_another_stream_is_given_up_with_the_reason() -> None:
    bag = [replace(frame, stamp_ns=10**10 + 10 * frame.stamp_ns) for frame in frames(6)]
    for mode in ("separate", "merged"):
        live = session(conversations=mode)
        run(live, bag, {0: [drawn("r"), text("w"), classes("l", "circle")]})
        before = live.target_ids
        result = live.step(replace(bag[3], frame_index=6))
        outcome = {g.prompt_id: g for g in result.groundings}
        assert outcome["r"].status is GroundingStatus.REMOVED and len(outcome["r"].target_ids) == 1
        assert "on it this cannot be asked again" in outcome["r"].message
        assert outcome["w"].status is GroundingStatus.OK and outcome["w"].target_ids[0] in before
        assert not set(outcome["r"].target_ids) & set(live.target_ids)

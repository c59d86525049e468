"""Conversations: what is remembered, what is read once, and masks for what answers point at."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.engine.sessions import box, classes, click, counted, make_say, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.chat import ChatSession
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import CaptionPrompt, Frame, GroundingStatus, Prompt, Task, TextPrompt

POINTING = "<p>A red circle</p> lies left of <p>a star</p><SEG>."


def chat(count: int = 1, **options: float) -> ChatSession:
    return ChatSession(nano(), frames(count), EngineConfig(**{"score_threshold": 0.0, **options}))


def test_an_answer_that_points_has_phrases_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, POINTING, "Two.")
    talk, pieces = chat(), []
    turn = talk.ask("What is there?", on_text=pieces.append)
    assert turn.grounding.response == "".join(pieces) == "A red circle lies left of a star."
    assert (turn.finish, turn.grounding.status) == ("stop", GroundingStatus.OK)
    (result,) = turn.results
    assert [phrase.text for phrase in turn.grounding.phrases] == ["A red circle", "a star"] == list(result.labels)
    assert [phrase.target_ids for phrase in turn.grounding.phrases] == [(1,), (2,)]
    assert turn.grounding.target_ids == tuple(result.target_ids.tolist()) == (1, 2)
    mute = talk.ask("How many are there?")
    assert (mute.grounding.response, mute.results) == ("Two.", ())


def test_the_masks_are_those_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, POINTING, POINTING)
    question = TextPrompt(text="What is there?", task=Task.CHAT)
    turn = chat().ask(question)
    session = Session(nano(), EngineConfig(score_threshold=0.0))
    session.submit(question)
    other = session.step(frames(1)[0])
    assert other.groundings == (turn.grounding,)
    assert np.array_equal(other.masks, turn.results[0].masks)


def test_the_picture_and_earlier_turns_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "Yes", "No", "Yes")
    read: list[int] = []
    states = X2SAM.states

    def noted(model: X2SAM, conversations, vision=None, region_tokens=None, prefix=None, cache=None):
        known = 0 if prefix is None else len(prefix.conversation.input_ids)
        read.append(len(conversations[0].input_ids) - known)
        return states(model, conversations, vision, region_tokens, prefix, cache)

    monkeypatch.setattr(X2SAM, "states", noted)
    with counted(nano()) as counts:
        talk = chat()
        for _ in range(3):
            talk.ask("Is there a star?")
    assert counts["picture tower"] == 1
    opening, first, *later = read
    assert max(first, *later) < opening + 40 and later[0] == later[1]


def test_what_was_said_is_remembered_until_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    make_say(monkeypatch, *["Yes."] * 5)
    say = X2SAM.generate

    def noted(model: X2SAM, conversation, **options):
        asked.append(conversation.input_ids.tolist())
        return say(model, conversation, **options)

    monkeypatch.setattr(X2SAM, "generate", noted)
    talk = chat()
    talk.ask("Is there a star?")
    talk.ask(text())  # its answer is fixed: no part of the conversation
    talk.ask("Where is it?")
    talk.reset()
    talk.ask("Is there a star?")
    assert asked[1][: len(asked[0])] == asked[0] and len(asked[1]) > len(asked[0])
    assert asked[2] == asked[0]


def test_a_description_is_the_same_whatever_was_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, *["Yes."] * 3)
    asked: list[list[int]] = []
    say = X2SAM.generate

    def noted(model: X2SAM, conversation, **options):
        asked.append(conversation.input_ids.tolist())
        return say(model, conversation, **options)

    monkeypatch.setattr(X2SAM, "generate", noted)
    talk = chat()
    for question in (CaptionPrompt(), "Is there a star?", CaptionPrompt()):
        talk.ask(question)
    assert asked[0] == asked[2] != asked[1]


def test_an_answer_can_be_stopped_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "one two three four five", "one two three four five", "Yes.")
    talk, pieces = chat(), []
    turn = talk.ask("Count.", on_text=pieces.append, cancelled=lambda: bool(pieces))
    assert turn.finish == "cancelled" and "cancelled" in turn.grounding.message
    assert turn.grounding.response == "".join(pieces) != ""
    assert talk.ask("And now?").grounding.response == "one two three four five"
    assert chat(max_answer_tokens=2).ask("Count.").finish == "length"


@pytest.mark.parametrize("prompt", [text(), classes(), click(), box()], ids=lambda prompt: prompt.prompt_id)
def test_prompts_of_every_kind_on_all_frames_of_a_clip(prompt: Prompt) -> None:
    turn = chat(3).ask(prompt)
    assert len(turn.results) == 3
    assert set(turn.grounding.target_ids) <= set(turn.results[-1].target_ids.tolist()) and turn.grounding.target_ids


def test_questions_that_cannot_be_carried_out_leave_the_conversation_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "Yes.", "Yes.")
    talk = chat()
    talk.ask("Is there a star?")
    for wrong in ("  ", click(x=900), "?" * 5000):
        with pytest.raises(PromptError):
            talk.ask(wrong)
    assert talk.ask("And now?").grounding.response == "Yes."


def test_frames_that_make_no_conversation() -> None:
    with pytest.raises(FrameError, match="1 to 128 frames, got 0"):
        ChatSession(nano(), [])
    with pytest.raises(FrameError, match="different sizes"):
        ChatSession(nano(), [*frames(1), Frame(np.zeros((20, 30, 3), np.uint8), 0)])

"""Prompts and answers in words: queries, phrases with their places, what is wrong with an answer."""

from __future__ import annotations

import pytest

from tests.unit.engine.sessions import box, classes, click, text
from tests.unit.model.networks import frames
from x2sam_ros.engine.reply import Reply, grounding_of, judge_answer, query_of
from x2sam_ros.engine.track import Target
from x2sam_ros.model.conversation import Answer
from x2sam_ros.types import CaptionPrompt, GroundingStatus, Prompt, RegionsPrompt

FRAME = frames(1)[0]
OK, NO_TARGET = GroundingStatus.OK, GroundingStatus.NO_TARGET


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        (text(), "the red circle"),
        (classes("c", "a", "b c"), "a, b c"),
        (click(), "point"),
        (box(), "box"),
        (CaptionPrompt(), "caption"),
        (RegionsPrompt(regions=(click(), box(), box())), "point, box, box"),
        (RegionsPrompt(regions=(click(), box()), labels=("a, b", "c")), "a, b, c"),
    ],
)
def test_queries(prompt: Prompt, query: str) -> None:
    assert query_of(prompt) == query


def test_phrases_point_into_the_query_even_when_one_contains_another() -> None:
    prompt = classes("c", "cup", "red cup", "cup holder")
    targets = [Target(4, "red cup", 1, score=0.5), Target(6, "red cup", 1, score=0.7)]
    found = grounding_of(prompt, FRAME, OK, labels=prompt.classes, targets=targets)
    assert found.target_ids == (4, 6) and found.query == "cup, red cup, cup holder" and not found.response
    phrases = found.phrases
    assert [(p.text, p.start, p.end) for p in phrases] == [("cup", 0, 3), ("red cup", 5, 12), ("cup holder", 14, 24)]
    assert [(p.target_ids, p.score) for p in phrases] == [((), 0.0), ((4, 6), 0.7), ((), 0.0)]


def test_a_head_with_words_of_its_own_has_no_phrases_in_the_query() -> None:
    assert grounding_of(text(), FRAME, NO_TARGET, "why", labels=("something else", "")).phrases == ()
    mixed = grounding_of(text(), FRAME, OK, labels=("something else", "red"), targets=[Target(1, "red", 1)])
    assert [(p.text, p.target_ids) for p in mixed.phrases] == [("red", (1,))]


def test_phrases_of_an_answer_point_into_it() -> None:
    reply = Reply("a cup, a cup", (("a cup", 0, 5), ("a cup", 7, 12)))
    found = grounding_of(
        CaptionPrompt("c"), FRAME, OK, reply=reply, labels=("a cup", "a cup"), targets=[Target(3, "", 1)]
    )
    assert found.response == "a cup, a cup" and found.stamp_ns == FRAME.stamp_ns
    assert [(p.start, p.end, p.target_ids) for p in found.phrases] == [(0, 5, ()), (7, 12, (3,))]


@pytest.mark.parametrize(
    ("answer", "finish", "wants_masks", "status", "words"),
    [
        (Answer("Two.", (), 0), "stop", False, OK, ""),
        (Answer("Two.", (), 0), "stop", True, NO_TARGET, "has no <SEG>, so it points at nothing, marks no phrase"),
        (Answer("Two.", (), 0), "length", False, OK, "is cut off; raise max_answer_tokens"),
        (Answer("Two.", (), 0), "cancelled", False, OK, "was cancelled"),
        (Answer("a cup", (("a cup", 0, 5),), 1), "stop", True, NO_TARGET, ""),
        (Answer("a cup", (), 1), "stop", False, OK, "marks no phrase"),
        (Answer("a cup", (("a cup", 0, 5),), 3), "stop", True, NO_TARGET, "has 3 <SEG>, of which the last counts"),
    ],
)
def test_what_is_wrong_with_an_answer(
    answer: Answer, finish: str, wants_masks: bool, status: GroundingStatus, words: str
) -> None:
    reply = judge_answer(answer, (len(answer.phrases),) * 2, finish, wants_masks)
    assert (reply.status, reply.message) == (status, f"the answer {words}" if words else "")
    assert (reply.text, reply.spans) == (answer.text, answer.phrases)


def test_phrases_of_the_question_count_where_the_answer_marks_none() -> None:
    assert judge_answer(Answer("Sure.", (), 1), (0, 0), "stop", True, asked=2).message == ""
    assert judge_answer(Answer("", (), 1), (2, 0), "stop", True).message.startswith("the answer has 2 <p> without </p>")
    assert "has 1 </p> without <p>" in judge_answer(Answer("", (), 1), (0, 1), "stop", True).message

"""Questions of a chat are held-out ones with known answers, and each place in the chat has a row."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from further_questions import QUESTIONS, pictures, right, rows

from x2sam_ros.checkpoint.load import load_model


def test_every_picture_has_its_questions() -> None:
    for clip, asked in islice(pictures(), 5):
        assert len(asked) == QUESTIONS == len({one.text for one in asked})
        assert all(one.answer in one.choices for one in asked) and clip.frames.shape[0] == 1


def test_a_chat_is_judged_by_its_answers() -> None:
    clip, asked = next(pictures())
    model = load_model("nano")
    found = right(model, clip, asked)
    assert len(found) == QUESTIONS + 1
    wrong = [replace(one, answer="nothing of the kind") for one in asked]
    assert not any(right(model, clip, wrong))
    table = rows(iter([found, found]))
    assert [line[0] for line in table][1:] == ["question 2", "question 3", "question 1 after a description"]
    assert [line[2] for line in table] == [f"{value:.3f}" for value in map(float, found)]

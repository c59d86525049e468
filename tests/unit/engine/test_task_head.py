"""What a head reads is checked, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, Track, checked_read
from x2sam_ros.errors import PluginError
from x2sam_ros.model.template import Template
from x2sam_ros.types import Prompt

FOUND = Candidates(torch.tensor([[0.9, 0.1], [0.2, 0.7]]), torch.ones(2, 4, 6))
CHOICE = Choice(0, 0, 0.9, FOUND.mask_logits[0])
CONTEXT = ReadContext(("cup", "kettle"), tracks=(Track(0, torch.ones(4, 6, dtype=torch.bool)),))


class Answers:
    """A head that answers what it is told."""

    task, templates = "answers", {"short": Template("{phrases}", None)}

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def request(self, prompt: Prompt) -> ConversationRequest:
        return ConversationRequest(("cup",), labels=("cup",))

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        return self.answer


@pytest.mark.parametrize("answer", [(), [CHOICE], [replace(CHOICE, track=0), replace(CHOICE, class_index=1)]])
def test_valid_choices_pass(answer: list[Choice]) -> None:
    assert checked_read(Answers(answer), FOUND, CONTEXT) == tuple(answer)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        ["a"],
        [replace(CHOICE, class_index=2)],
        [replace(CHOICE, class_index=-1)],
        [replace(CHOICE, track=1)],
        [replace(CHOICE, track=-1)],
        [replace(CHOICE, class_index=None)],
        [replace(CHOICE, logits=torch.ones(3, 3))],
        [replace(CHOICE, logits=None)],
    ],
)
def test_garbage_from_a_head_is_named(answer: Any) -> None:
    with pytest.raises(PluginError, match="task head 'answers' read .* expected choices of 2 labels and 1 tracks"):
        checked_read(Answers(answer), FOUND, CONTEXT)


def test_the_threshold_is_the_engines() -> None:
    assert ReadContext(()).score_threshold == EngineConfig().score_threshold

"""Questions as data: other words, the same slots."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.template import TEMPLATE_SETS, Template
from x2sam_ros.training.data import wording
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.training.prompts import task_templates
from x2sam_ros.types import Task


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_canonical_forms_are_those_of_the_task_heads(name):
    words = Wording(name)
    for task, template in task_templates(name).items():
        assert words.canonical(Task(task)) == template
        assert template.question not in words.paraphrases(Task(task))


def test_every_published_task_for_masks_has_several_paraphrases():
    words = Wording("official")
    for task in Task:
        if task not in (Task.CHAT, Task.OVSEG):
            assert len(set(words.paraphrases(task))) >= 3, task


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_canonical_form_is_drawn_as_often_as_asked(share):
    words, draw = Wording("official", share), np.random.default_rng(1)
    drawn = [words.draw(Task.REFSEG, draw) for _ in range(2000)]
    canonical = words.canonical(Task.REFSEG)
    assert np.mean([one == canonical for one in drawn]) == pytest.approx(share, abs=0.04)
    others = {one.question for one in drawn if one.question != canonical.question}
    assert others == (set(words.paraphrases(Task.REFSEG)) if share < 1 else set())
    assert all(one.answer.count("<SEG>") == 1 for one in drawn)


def test_an_answer_that_the_model_writes_stays_open():
    words, draw = Wording("official", 0.0), np.random.default_rng(1)
    assert {words.draw(Task.GCGSEG, draw).answer for _ in range(50)} == {None}
    assert words.draw(Task.CHAT, draw) == Template("{text}", None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"refseg": ["Mark it."]}, r"must have \{phrases\} as often as"),
        ({"gcgseg": ["Describe {phrases}."]}, r"must have \{phrases\} as often as"),
        ({"dance": ["Dance."]}, "has 'dance' under 'official'"),
    ],
)
def test_data_that_would_make_wrong_prompts_is_refused(monkeypatch, said, message):
    monkeypatch.setattr(wording, "_paraphrases", lambda: {"official": said})
    with pytest.raises(ConfigError, match=message):
        Wording("official")

"""The official wording of every head is literally one of the published questions and answers."""

from __future__ import annotations

import json

import pytest

from tests.shared_data import parity_folder
from x2sam_ros.plugins import TASK_HEADS, installed_plugins

PUBLISHED_AS = {"ovseg": "genseg", "grefseg": "refseg", "intseg": "vgdseg"}
"""Tasks that the published lists have under another task's name."""

SLOTS = ("{phrase}", "{sent}", "{categories}", "{regions}")
MEDIA = {"img": "image", "vid": "video"}


def published(kind: str, task: str) -> dict[str, list[str]]:
    """Return question and answer lists of a task for images or videos; {} where there are none."""
    tasks = json.loads((parity_folder("prompts") / "templates.json").read_text())["tasks"]
    lists = tasks.get(f"{kind}_{task}") or tasks.get(f"{kind}_{PUBLISHED_AS.get(task)}")
    return dict(lists or {})


@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("task", sorted(set(installed_plugins().names(TASK_HEADS)) - {"chat"}))
def test_official_wording_is_published(kind: str, task: str) -> None:
    lists = published(kind, task) or published(kind, "vgdseg" if task == "objseg" else task)
    assert lists, f"no published wording of {kind}_{task}"
    questions = {text for name, texts in lists.items() if name.endswith("QUESTIONS") for text in texts}
    for slot in SLOTS:
        questions = {question.replace(slot, "{phrases}") for question in questions}
    template = installed_plugins().task_head(task)().templates["official"]
    assert template.question.replace("{media}", MEDIA[kind]) in questions
    if template.answer is not None:
        answers = {text for name, texts in lists.items() if "ANSWER" in name for text in texts}
        assert template.answer in answers


def test_every_published_task_is_compared() -> None:
    tasks = json.loads((parity_folder("prompts") / "templates.json").read_text())["tasks"]
    assert {name.split("_")[1] for name in tasks} <= set(installed_plugins().names(TASK_HEADS))

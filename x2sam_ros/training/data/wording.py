"""How a task is put into words: the task head's own form, and paraphrases of it that are data (wording.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

import yaml

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.template import Template
from x2sam_ros.training.data.sample import Draw
from x2sam_ros.training.prompts import task_templates
from x2sam_ros.types import Task

_ANSWERS = "answers"
_SLOTS = ("{phrases}", "{text}")


class Wording:
    """The wordings of every task, of one template set.

    Args:
        name: of the template set, official or short: that of the checkpoint.
        canonical_share: how often the canonical form is drawn; the rest is divided among the paraphrases.

    Raises:
        ConfigError: wording.yaml names a task without a head, or a paraphrase has other slots than the canonical form.
    """

    def __init__(self, name: str, canonical_share: float = 0.5) -> None:
        self._canonical = task_templates(name)
        self._share = canonical_share
        said = _paraphrases().get(name, {})
        self._answers = tuple(said.get(_ANSWERS, ()))
        self._others = {task: tuple(listed) for task, listed in said.items() if task != _ANSWERS}
        for task, listed in self._others.items():
            if task not in self._canonical:
                raise ConfigError(f"wording.yaml has {task!r} under {name!r}, there are {', '.join(self._canonical)}")
            for question in listed:
                _check(question, self._canonical[task].question)

    def canonical(self, task: Task) -> Template:
        """Return the form that the task head itself uses, as at inference."""
        return self._canonical[task.value]

    def paraphrases(self, task: Task) -> tuple[str, ...]:
        """Return the other questions of a task; a task without any of its own has none."""
        return self._others.get(task.value, ())

    def draw(self, task: Task, draw: Draw) -> Template:
        """Draw a question and its answer; an answer that the model writes itself stays None."""
        canonical, others = self.canonical(task), self.paraphrases(task)
        if not others or draw.random() < self._share:
            return canonical
        question = others[int(draw.integers(len(others)))]
        if canonical.answer is None or not self._answers:
            return Template(question, canonical.answer)
        return Template(question, (canonical.answer, *self._answers)[int(draw.integers(len(self._answers) + 1))])


def _check(question: str, canonical: str) -> None:
    wrong = [slot for slot in _SLOTS if question.count(slot) != canonical.count(slot)]
    if wrong:
        raise ConfigError(f"wording.yaml: {question!r} must have {wrong[0]} as often as {canonical!r}")


@lru_cache(maxsize=1)
def _paraphrases() -> Mapping[str, Mapping[str, list[str]]]:
    said: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(
        (files(__package__) / "wording.yaml").read_text(encoding="utf-8")
    )
    return said

"""What the session's tests share: prompts, sessions that see everything, and counters of passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.model.networks import nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.default_plugins.task_heads.genseg import ClassListHead
from x2sam_ros.engine import grounding
from x2sam_ros.engine.select import Candidates, Choice, continue_tracks
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.task_head import ReadContext, TaskHead
from x2sam_ros.model import generation
from x2sam_ros.model.template import SHORT_ANSWER, Template
from x2sam_ros.model.tokenizer import TURN_END
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    BoxPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    MaskPrompt,
    PointPrompt,
    Prompt,
    TextPrompt,
)

MANY = tuple("abcdefghijkl")
"""Classes of which random weights find some."""

Sight = tuple[int, tuple[int, int, int, int], float]
"""What a scripted head sees: class, rows from and to, columns from and to in 32nds of the image, score."""


def session(model: X2SAM | None = None, **options: Any) -> Session:
    """Return a session in which every target counts as seen: random weights are sure of nothing."""
    return Session(nano() if model is None else model, EngineConfig(**{"score_threshold": 0.0, **options}))


def text(prompt_id: str = "text", words: str = "the red circle", **rest: Any) -> TextPrompt:
    return TextPrompt(prompt_id, text=words, **rest)


def classes(prompt_id: str = "classes", *names: str, **rest: Any) -> ClassListPrompt:
    return ClassListPrompt(prompt_id, classes=names or MANY, **rest)


def click(prompt_id: str = "click", x: float = 20, y: float = 30, label: int = 1, **rest: Any) -> PointPrompt:
    return PointPrompt(prompt_id, points_px=np.array([[x, y]]), point_labels=np.array([label]), **rest)


def box(prompt_id: str = "box", **rest: Any) -> BoxPrompt:
    return BoxPrompt(prompt_id, box_px=np.array([75.0, 45.0, 110.0, 80.0]), **rest)


def drawn(prompt_id: str = "mask", size: tuple[int, int] = (96, 128), **rest: Any) -> MaskPrompt:
    mask = np.zeros(size, bool)
    mask[50:75, 80:105] = True
    return MaskPrompt(prompt_id, mask=mask, **rest)


def run(of: Session, stream: list[Frame], prompts: dict[int, list[Prompt]]) -> list[FrameResult]:
    """Step through a stream, submitting prompts in front of the frames they are listed for."""
    results = []
    for index, frame in enumerate(stream):
        for prompt in prompts.get(index, []):
            of.submit(prompt)
        results.append(of.step(frame))
    return results


def only(result: FrameResult) -> Grounding:
    assert len(result.groundings) == 1, result.groundings
    return result.groundings[0]


def rejected(result: FrameResult) -> str:
    grounding = only(result)
    assert grounding.status is GroundingStatus.REJECTED and not grounding.target_ids
    return grounding.message


def same(a: FrameResult, b: FrameResult) -> bool:
    """Return whether two results are equal to the bit, wall times aside."""
    return (
        np.array_equal(a.masks, b.masks)
        and np.array_equal(a.scores, b.scores)
        and a.target_ids.tolist() == b.target_ids.tolist()
        and (a.labels, a.states, a.groundings) == (b.labels, b.states, b.groundings)
    )


class ScriptedHead(ClassListHead):
    """A class list that sees what a test wants it to: one list of sights per frame, the last one for ever."""

    def __init__(self, *script: Sequence[Sight], task: str = "genseg", template: Template | None = None) -> None:
        wording = template or Template("Classes {phrases}.", SHORT_ANSWER)
        super().__init__(task, {"short": wording, "official": wording})
        self.__dict__["script"] = list(script)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        script = self.__dict__["script"]
        sights = script.pop(0) if len(script) > 1 else script[0]
        choices = []
        for class_index, (top, bottom, left, right), score in sights:
            height, width = found.mask_logits.shape[1:]
            logits = torch.full((height, width), -5.0)
            rows = slice(top * height // 32, bottom * height // 32)
            logits[rows, left * width // 32 : right * width // 32] = 5.0
            choices.append(Choice(0, class_index, score, logits))
        return continue_tracks(choices, context.tracks, context.stuff)


class _OtherHeads:
    """The installed plugins with some task heads in the place of theirs."""

    def __init__(self, heads: Mapping[str, TaskHead]) -> None:
        self._heads, self._plugins = heads, installed_plugins()

    def task_head(self, name: str) -> Any:
        return (lambda: self._heads[name]) if name in self._heads else self._plugins.task_head(name)


def use_heads(monkeypatch: pytest.MonkeyPatch, *heads: TaskHead) -> None:
    """Let sessions use these heads for their tasks."""
    plugins = _OtherHeads({head.task: head for head in heads})
    monkeypatch.setattr(grounding, "installed_plugins", lambda: plugins)


def make_say(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Let the language model write these answers, one after the other, whatever its weights prefer."""
    tokenizer, waiting = nano().tokenizer, list(answers)

    def generate(model: X2SAM, *args: Any, **options: Any) -> generation.Generated:
        ids = iter(tokenizer.encode_template(waiting.pop(0) + TURN_END))
        return generation.generate(model, *args, choose=lambda logits: next(ids), **options)

    monkeypatch.setattr(X2SAM, "generate", generate)


@contextmanager
def counted(model: X2SAM) -> Iterator[Counter[str]]:
    """Count the passes through the parts of a network."""
    parts = {
        "encoder": model.segmentor.encoder,
        "pixel decoder": model.segmentor.pixel_decoder,
        "mask decoder": model.segmentor.decoder,
        "picture tower": model.language.visual,
        "language tower": model.language.text,
    }
    counts: Counter[str] = Counter()

    def hook(name: str) -> Any:
        return lambda module, args, output: counts.update([name])

    handles = [part.register_forward_hook(hook(name)) for name, part in parts.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()

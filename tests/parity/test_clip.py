"""The streaming session against the reference's clips: from camera pixels and prompts to the logits of every frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.test_full import (
    EMBEDDING_TOLERANCE,
    GIVEN,
    MASK_TOLERANCE,
    WRITTEN,
    Case,
    assert_close,
    case,
    model,
)
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine import grounding
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.engine.session import Session
from x2sam_ros.model import generation, x2sam
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.template import Template
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    GroundingStatus,
    MaskPrompt,
    Prompt,
    RegionsPrompt,
    TextPrompt,
)

__all__ = ["model"]

QUIRKS = EngineConfig(official_quirks=True)
"""Pixels to the last level as the reference reads them."""


def question_of(current: Case) -> str:
    found = re.fullmatch(
        r"<\|im_start\|>user\n<\|vision_start\|><(?:image|video)><\|vision_end\|>(.*)<\|im_end\|>\n"
        r"<\|im_start\|>assistant\n",
        current.meta["conversation_text"][0]["input"],
        re.DOTALL,
    )
    assert found is not None
    return found[1]


def template_of(current: Case) -> Template:
    """Return the fixture's own wording, with the slots of its task."""
    question = re.sub(r"<p>.*</p>", "{phrases}", question_of(current), flags=re.DOTALL)
    if current.meta["task"].endswith("chat"):
        question = "{text}"
    answer = current.meta["conversation_text"][0]["output"].removesuffix("<|im_end|>")
    return Template(question, answer if current.meta["mode"] == "tensor" else None)


def prompt_of(current: Case) -> Prompt:
    """Return what a user would have asked."""
    task = current.meta["task"].split("_")[1]
    phrases = re.findall(r"<p>(.*?)</p>", question_of(current))
    if not phrases:
        return CaptionPrompt(task=task) if task == "gcgseg" else TextPrompt(text=question_of(current), task=task)
    if phrases[0] == "<region>":
        masks = current.inputs["vprompt_masks_raw"][: len(phrases)].numpy().astype(bool)
        regions = tuple(MaskPrompt(mask=mask, task=task) for mask in masks)
        return regions[0] if len(regions) == 1 else RegionsPrompt(regions=regions, task=task)
    if len(phrases) > 1:
        return ClassListPrompt(classes=tuple(phrases), task=task)
    return TextPrompt(text=phrases[0], task=task)


class _FixturePlugins:
    """The installed plugins, but for the wording of the task heads."""

    def __init__(self, template: Template) -> None:
        self._template = template

    def task_head(self, name: str) -> Any:
        head = installed_plugins().task_head(name)()
        return lambda: replace(head, templates=dict.fromkeys(head.templates, self._template))


@pytest.fixture
def outputs(model: X2SAM, monkeypatch: pytest.MonkeyPatch) -> list[StepOutput]:
    """Collect what the network answers, frame by frame."""
    seen: list[StepOutput] = []
    step = model.segmentor.step

    def watched(*args: Any) -> StepOutput:
        seen.append(step(*args))
        return seen[-1]

    monkeypatch.setattr(model.segmentor, "step", watched)
    language = replace(model.config.language, min_pixels=1_024, max_pixels=10**6, video_min_pixels=1_024)
    monkeypatch.setattr(model, "config", replace(model.config, language=language))
    return seen


def prepare(current: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[Prompt, list[Frame]]:
    """Let sessions use the fixture's wording, region points and written answer; return its prompt and frames."""
    plugins = _FixturePlugins(template_of(current))
    monkeypatch.setattr(grounding, "installed_plugins", lambda: plugins)
    if "in.region_points_yx" in current.data:
        monkeypatch.setattr(x2sam, "draw_points", lambda *args: current.data["in.region_points_yx"])
    if current.meta["mode"] == "predict":
        forced = current.data["out.sequences"][0].tolist()

        def generate(network: X2SAM, *args: Any, **options: Any) -> generation.Generated:
            ids = iter(forced)
            options["max_new_tokens"] = len(forced)
            return generation.generate(network, *args, choose=lambda logits: next(ids), **options)

        monkeypatch.setattr(X2SAM, "generate", generate)
    pixels = current.inputs["rgb_uint8"].numpy()
    stack = pixels if current.is_video else pixels[None]
    return prompt_of(current), [Frame(image, index, index) for index, image in enumerate(stack)]


def run(model: X2SAM, prompt: Prompt, frames: Sequence[Frame], is_video: bool) -> list[FrameResult]:
    if is_video:
        return list(segment_clip(model, frames, prompt, clip_length=len(frames), config=QUIRKS))
    session = Session(model, QUIRKS)
    session.submit(prompt)
    return [session.step(frame) for frame in frames]


@pytest.mark.parametrize("name", [*GIVEN, *WRITTEN])
def test_a_session_answers_as_the_reference(
    name: str, model: X2SAM, outputs: list[StepOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    current = case(name)
    prompt, frames = prepare(current, monkeypatch)
    results = run(model, prompt, frames, current.is_video)
    (answer,) = results[0].groundings
    assert answer.status is not GroundingStatus.REJECTED, answer.message
    if not current.meta["has_masks"]:
        assert not outputs and not answer.target_ids
        return
    expected = current.data["out.class_queries_logits"]
    assert_close("class logits", torch.cat([o.class_logits for o in outputs]), expected, EMBEDDING_TOLERANCE)
    choices = (("out.masks_queries_logits_lowres", 1), ("out.masks_queries_logits_lowres_s2", 2))
    key, stride = next(pair for pair in choices if pair[0] in current.data)
    masks = torch.cat([o.mask_logits for o in outputs])[..., ::stride, ::stride]
    assert_close("mask logits", masks, current.data[key], MASK_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in GIVEN if "_vid_" in str(name)] or GIVEN)
def test_clip_and_stream_agree_on_the_first_clip(
    name: str, model: X2SAM, outputs: list[StepOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next clip starts anew: the frames shown twice are segmented twice alike."""
    prompt, frames = prepare(case(name), monkeypatch)
    twice = [*frames, *(replace(frame, frame_index=len(frames) + frame.frame_index) for frame in frames)]
    clip, stream = (
        list(segment_clip(model, twice, prompt, mode, clip_length=len(frames), config=QUIRKS))
        for mode in ("clip", "stream")
    )
    for index, (a, b) in enumerate(zip(clip[: len(frames)], stream)):
        assert np.array_equal(a.masks, b.masks) and np.array_equal(a.scores, b.scores), f"frame {index}"
        assert a.target_ids.tolist() == b.target_ids.tolist() and a.groundings == b.groundings
        again = clip[len(frames) + index]
        assert np.array_equal(a.masks, again.masks) and np.array_equal(a.scores, again.scores), f"frame {index} again"
        assert not set(a.target_ids.tolist()) & set(again.target_ids.tolist())

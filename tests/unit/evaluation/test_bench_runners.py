"""The variants follow what they say they follow; the peers find what the session finds where the rules agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.evaluation.bench_scenes import opened, scene
from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.bench_model import random_model
from x2sam_ros.evaluation.bench_runners import merged, naive, per_clip, separate
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.types import TextPrompt

TARGETS = 2


def test_separate_and_naive_find_the_same() -> None:
    together, alone = separate(opened(), scene(), TARGETS), naive(opened(), scene(), TARGETS)
    for index in range(4):
        ours, theirs = together.step(scene(), index), alone.step(scene(), index)
        assert ours.followed == theirs.followed == TARGETS
        masks = np.concatenate([result.masks for result in alone.results])
        for mine, other in zip(together.results[0].masks, masks):
            assert region_similarity(mine, other) > 0.99
    assert (together.variant, alone.variant) == ("separate", "naive")
    assert ours.stages_ms is not None and theirs.stages_ms is None
    assert abs(ours.stages_ms["total"] - ours.total_ms) < ours.total_ms
    assert together.nbytes == alone.nbytes > 0


def test_per_clip_is_the_published_way_and_equals_the_session_within_the_first_clip() -> None:
    runner = per_clip(opened(), scene(), TARGETS)
    count = 2 * CLIP_LENGTH
    frames = [scene().frame(index) for index in range(count)]
    published = [
        list(segment_clip(opened().model, frames, TextPrompt(text=scene().phrase(target)), "clip"))
        for target in range(TARGETS)
    ]
    ours = Session(opened().model)
    for target in range(TARGETS):
        ours.submit(TextPrompt(text=scene().phrase(target)), scene().clip(0))
    for index in range(count):
        spent = runner.step(scene(), index)
        assert (spent.language_ms > 1) == (index % CLIP_LENGTH == 0)
        assert spent.total_ms > spent.language_ms
        for target in range(TARGETS):
            assert np.array_equal(runner.results[target].masks, published[target][index].masks)
        if index < CLIP_LENGTH:
            result = ours.step(frames[index])
            for target in range(TARGETS):
                assert region_similarity(result.masks[target], runner.results[target].masks[0]) > 0.99


def test_merged_follows_all_targets_in_one_conversation() -> None:
    runner = merged(opened(), scene(), TARGETS)
    spent = [runner.step(scene(), index) for index in range(3)]
    assert [step.followed for step in spent] == [TARGETS] * 3
    assert runner.nbytes < separate_bytes()
    assert merged(opened(), replace(scene(), phrases=("the red square",)), 3).targets == 1


def separate_bytes() -> int:
    runner = separate(opened(), scene(), TARGETS)
    for index in range(3):
        runner.step(scene(), index)
    return runner.nbytes


@pytest.mark.parametrize("has_language", [True, False])
def test_random_weights_keep_every_target(has_language: bool) -> None:
    model = opened().model
    noise = random_model(model.config, model.tokenizer, model.device, opened().dtype, has_language)
    other = replace(opened(), model=noise, is_random=True, has_language=has_language)
    for make in (separate, merged, naive, per_clip):
        runner = make(other, scene(), TARGETS)
        spent = [runner.step(scene(), index) for index in range(CLIP_LENGTH + 2)]
        assert [step.followed for step in spent] == [TARGETS] * len(spent), runner.variant
        if has_language:
            assert spent[0].language_ms > 1

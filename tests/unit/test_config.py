"""Configurations of training: what makes no sense is refused before anything is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from x2sam_ros.config import DistillConfig, PhaseConfig, SceneConfig, TrainConfig
from x2sam_ros.errors import ConfigError

PHASE = PhaseConfig(steps=1, clips=1, prompts=1, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", -1, "steps is -1, expected 0 to"),
        ("clips", 0, "clips is 0, expected 1 to"),
        ("prompts", -1, "prompts is -1, expected 0 to"),
        ("learning_rate", float("nan"), "learning_rate is nan, expected 0.0 to 1.0"),
        ("learning_rate", float("inf"), "learning_rate is inf"),
        ("frames", 0, "frames is 0, expected 1 to"),
        ("max_stride", 0, "max_stride is 0, expected 1 to"),
        ("texts", -1, "texts is -1, expected 0 to"),
    ],
)
def test_phases_that_make_no_sense(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PHASE, **{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"kind_odds": (0.5, 0.5)}, r"kind_odds is \(0.5, 0.5\), expected 5 shares that add up to 1"),
        ({"memory_kind_odds": (0.2, 0.2, 0.2, 0.2, 0.1)}, "memory_kind_odds is .*, expected 5 shares that add up to 1"),
        ({"kind_odds": (-0.2, 0.6, 0.2, 0.2, 0.2)}, "kind_odds is -0.2, expected 0.0 to 1.0"),
        ({"betas": (0.9, 1.0)}, "betas is 1.0, expected 0.0 to 0.999999"),
        ({"weight_decay": float("nan")}, "weight_decay is nan, expected 0.0 to"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0, expected 1e-09 to"),
        ({"warmup_steps": 0}, "warmup_steps is 0, expected 1 to"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0, expected 0.0 to 0.999999"),
        ({"true_memory_share": 1.1}, "true_memory_share is 1.1, expected 0.0 to 1.0"),
        ({"memory_true_shares": (1.0, -0.1)}, "memory_true_shares is -0.1, expected 0.0 to 1.0"),
        ({"remembered_share": float("nan")}, "remembered_share is nan"),
        ({"text_dropout": 2.0}, "text_dropout is 2.0, expected 0.0 to 1.0"),
        ({"text_weight": -1.0}, "text_weight is -1.0, expected 0.0 to"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0, expected 1 to"),
        ({"score_every": 0}, "score_every is 0, expected 1 to"),
        ({"memory": replace(PHASE, frames=1)}, "frames of memory is 1, expected 2 to"),
        ({"video": replace(PHASE, frames=1)}, "frames of video is 1, expected 2 to"),
        ({"image": replace(PHASE, prompts=0)}, "prompts of image is 0, expected 1 to"),
        ({"words": replace(PHASE, learning_rate=0.0)}, "learning_rate of words is 0.0, expected 1e-09 to 1.0"),
    ],
)
def test_recipes_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**given)


def test_a_phase_may_be_left_out() -> None:
    nothing = PhaseConfig(steps=0, clips=1, prompts=0, learning_rate=0.0)
    assert TrainConfig(image=nothing, video=nothing, memory=nothing).video.frames == 1


def test_a_smaller_networks_recipe_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="rounds is 0, expected 1 to 16"):
        DistillConfig(rounds=0)
    with pytest.raises(ConfigError, match="prompts of clicks is 0, expected 1 to"):
        DistillConfig(clicks=replace(PHASE, prompts=0))


def test_scenes_need_as_many_objects_at_most_as_at_least() -> None:
    with pytest.raises(ConfigError, match="max_objects is 3, expected 4 to 16"):
        SceneConfig(min_objects=4, max_objects=3)
    with pytest.raises(ConfigError, match="still_share is 1.5, expected 0.0 to 1.0"):
        SceneConfig(still_share=1.5)

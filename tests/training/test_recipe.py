"""Recipes: who learns how fast, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.errors import ConfigError
from x2sam_ros.training.recipe import Recipe

JOINT = {
    "language.text.layers.0.self_attn.q_proj.base_layer.weight": 0.0,
    "language.text.layers.0.self_attn.q_proj.lora_A.default.weight": 1.0,
    "language.text.layers.0.input_layernorm.weight": 0.0,
    "language.text.embed_tokens.weight": 1.0,
    "language.final_norm.weight": 0.0,
    "language.visual.blocks.0.attn.qkv.weight": 0.0,
    "language.visual.merger.linear_fc1.weight": 1.0,
    "language.visual.deepstack_merger_list.0.linear_fc1.weight": 1.0,
    "segmentor.encoder.backbone.blocks.0.attn.qkv.weight": 0.1,
    "segmentor.decoder.queries_embedder.weight": 1.0,
    "segmentor.memory_attention.layers.0.linear1.weight": 1.0,
    "mlm_projector.model.0.weight": 1.0,
    "bg_embeds.weight": 1.0,
}


@pytest.mark.parametrize(("name", "factor"), JOINT.items())
def test_published_joint_stage(name: str, factor: float) -> None:
    assert Recipe.joint(10).factor(name) == factor


def test_first_stage_and_finetuning() -> None:
    names = load_model("nano").state_dict()
    first = {name for name in names if Recipe.segmentor(10).factor(name)}
    assert first and all(name.startswith("segmentor.") for name in first)
    resting = ("segmentor.encoder.", "segmentor.memory_", "segmentor.class_predictor.")
    assert not [name for name in first if name.startswith(resting) or "text_cross_attn" in name]
    few = {name for name in names if Recipe.finetune(10).factor(name)}
    assert "segmentor.decoder.queries_embedder.weight" in few
    assert not [name for name in few if name.startswith(("language.", "segmentor.encoder."))]


def test_rate_rises_and_falls() -> None:
    recipe = Recipe.joint(100, learning_rate=1.0, warmup=0.1)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-5) and rates[5] == pytest.approx(0.5, abs=1e-4) and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and 0 < rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert Recipe.joint(1, warmup=0.0).rate(0) == 1e-4


def test_a_description_is_plain() -> None:
    described = Recipe.joint(10).describe()
    assert json.loads(json.dumps(described))["loss"]["points"] == 12544
    assert "checkpoint_every" not in described


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.0}, {"warmup": 2.0}, {"checkpoint_every": 0}, {"weight_decay": float("inf")}]
)
def test_senseless_values(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        Recipe.joint(10, **change)
    with pytest.raises(ConfigError, match="steps is 0"):
        Recipe.joint(0)

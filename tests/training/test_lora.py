"""Adapters: nothing at first, and the merged network says what the adapted one says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from x2sam_ros.checkpoint.load import load_model, save_checkpoint
from x2sam_ros.checkpoint.names import takes_lora
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.template import Template
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.lora import LoraSettings, adapt, merged_state

SETTINGS = LoraSettings(rank=4, alpha=12.0, dropout=0.1)


def states(model: X2SAM) -> torch.Tensor:
    conversation = model.conversations.build(
        Template("Segment {phrases}.", "<SEG>."), Media(0), phrases=("the red circle",)
    )
    with torch.no_grad():
        return model.eval().language(model.collate([conversation]))


def adapted(seed: int = 0) -> X2SAM:
    """Return nano with adapters that have learnt something."""
    model = load_model("nano")
    adapt(model, SETTINGS)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def test_new_adapters_change_nothing() -> None:
    model = load_model("nano")
    before = states(model)
    adapt(model, SETTINGS)
    assert torch.equal(states(model), before)
    learning = {name for name, p in model.language.text.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)


def test_every_weight_that_takes_adapters_has_them() -> None:
    wanted = {name for name in load_model("nano").state_dict() if takes_lora(name)}
    names = adapted().state_dict()
    assert wanted == {name.replace(".lora_A.default.", ".") for name in names if "lora_A" in name}


def test_merged_equals_adapted(tmp_path: Path) -> None:
    model = adapted()
    save_checkpoint(model.config, merged_state(model.state_dict(), SETTINGS.scale), model.tokenizer, tmp_path)
    merged, plain = load_model(tmp_path), load_model("nano")
    torch.testing.assert_close(states(merged), states(model), rtol=1e-4, atol=1e-4)
    assert (states(model) - states(plain)).abs().max() > 0.01, "the adapters say something"
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_a_network_without_adapters_is_left_as_it_is() -> None:
    state = load_model("nano").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in merged_state(state, 2.0).items())


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"dropout": 1.0}])
def test_senseless_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="adapters have rank"):
        LoraSettings(**settings)  # type: ignore[arg-type]

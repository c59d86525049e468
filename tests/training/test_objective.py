"""The loss of a batch: every part of the network learns from a clip; the heads only teach."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.training.test_samples import batches
from tests.unit.model.networks import new_nano
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.model.pixel_decoder import DeformableAttention
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.initialise import FUSER_SCALE
from x2sam_ros.training.objective import batch_loss, batch_scores

UNREACHED = {
    "language.final_norm.weight",  # only text logits read it, which these tasks do not
}
"""Parameters that no gradient reaches, each with the reason."""


def training_nano() -> X2SAM:
    return new_nano().train().requires_grad_(True)


def heads(model: X2SAM) -> AuxiliaryHeads:
    torch.manual_seed(0)
    return AuxiliaryHeads(model.config.segmentor.decoder.hidden)


def reached(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_a_clip_reaches_every_parameter() -> None:
    """Text, class list and region prompts over three frames; no memory is replaced by the truth."""
    config = TrainConfig(video=PhaseConfig(steps=1, clips=1, prompts=5, learning_rate=1e-3, frames=3))
    model = training_nano()
    with torch.no_grad():  # sampling weights start at zero and would hide what lies behind them
        for module in model.modules():
            if isinstance(module, DeformableAttention):
                nn.init.normal_(module.sampling_offsets.weight, std=0.1)
                nn.init.normal_(module.attention_weights.weight, std=0.1)
    teachers = heads(model)
    losses = batch_loss(model, teachers, batches("video", config=config)[0], "video", 1.0, 0.0)
    assert set(losses) == {"attributes", "grounding", "centre", "segmentation"}
    total = torch.stack(list(losses.values())).sum()
    assert math.isfinite(float(total.detach()))
    total.backward()
    assert {name for name, _ in model.named_parameters()} - reached(model) == UNREACHED
    assert {name for name, _ in teachers.named_parameters()} == reached(teachers)


def test_the_first_phase_trains_the_encoder_alone() -> None:
    model = training_nano()
    losses = batch_loss(model, heads(model), batches("pixels")[0], "pixels", 1.0, 0.5)
    assert set(losses) == {"attributes"}
    losses["attributes"].backward()
    names = reached(model)
    assert names and all(name.startswith("segmentor.encoder.") for name in names)


def test_true_memories_change_later_frames_only_through_the_memory() -> None:
    model, batch = new_nano(), batches("video")[1]
    with torch.no_grad():
        own, true = (
            batch_loss(model, heads(model), batch, "video", 1.0, share)["segmentation"] for share in (0.0, 1.0)
        )
    assert torch.isfinite(own) and torch.isfinite(true) and not torch.equal(own, true)


def test_the_fuser_starts_open() -> None:
    fusers = [p for name, p in new_nano().named_parameters() if "memory_fuser" in name and name.endswith("scale")]
    assert fusers and all(bool((p == FUSER_SCALE).all()) for p in fusers)


@pytest.mark.parametrize("number", [0, 1])
def test_scores_are_ious(number: int) -> None:
    scores = batch_scores(new_nano(), batches("image")[number])
    assert scores.shape == (16,) and float(scores.min()) >= 0 and float(scores.max()) <= 1

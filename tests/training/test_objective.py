"""The loss of a batch: every part of the network learns from a clip; the heads only teach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.test_samples import CONFIG, batches
from tests.unit.model.networks import new_nano
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.model.pixel_decoder import DeformableAttention
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.initialise import FUSER_SCALE
from x2sam_ros.training.objective import TextStates, batch_loss, batch_scores, text_loss, understand, words_loss


def training_nano() -> X2SAM:
    return new_nano().train().requires_grad_(True)


def heads(model: X2SAM) -> AuxiliaryHeads:
    torch.manual_seed(0)
    return AuxiliaryHeads(model.config.segmentor.decoder.hidden, model.config.language.text.hidden_size)


def reached(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_a_clip_reaches_every_parameter() -> None:
    """Prompts of every kind and questions over three frames; no memory is replaced by the truth."""
    video = PhaseConfig(steps=1, clips=1, prompts=24, learning_rate=1e-3, frames=3, texts=2)
    config = TrainConfig(video=video, true_memory_share=0.0)
    model = training_nano()
    with torch.no_grad():  # sampling weights start at zero and would hide what lies behind them
        for module in model.modules():
            if isinstance(module, DeformableAttention):
                nn.init.normal_(module.sampling_offsets.weight, std=0.1)
                nn.init.normal_(module.attention_weights.weight, std=0.1)
    teachers = heads(model)
    batch = batches("video", config=config)[0]
    assert len(batch.regions) > 0, "no region prompt was drawn: take another batch"
    losses = batch_loss(model, teachers, batch, "video", config)
    assert set(losses) == {"attributes", "cells", "grounding", "centre", "text", "segmentation"}
    total = torch.stack(list(losses.values())).sum()
    assert math.isfinite(float(total.detach()))
    total.backward()
    assert {name for name, _ in model.named_parameters()} == reached(model)
    assert {name for name, _ in teachers.named_parameters()} == reached(teachers)


def test_the_first_phase_trains_the_encoder_alone() -> None:
    model = training_nano()
    losses = batch_loss(model, heads(model), batches("pixels")[0], "pixels", CONFIG)
    assert set(losses) == {"attributes"}
    losses["attributes"].backward()
    names = reached(model)
    assert names and all(name.startswith("segmentor.encoder.") for name in names)


def test_words_are_learnt_beside_what_prompts_meant_before() -> None:
    model, teacher, batch = training_nano(), new_nano(), batches("words")[0]

    def losses(progress: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)  # of the points drawn from regions
        return words_loss(model, teacher, batch, CONFIG, progress)

    first = losses(1.0)
    assert set(first) == {"text", "keep"} and all(bool(x.isfinite()) for x in first.values())
    assert float(first["keep"].detach()) == 0, "the network is its own teacher still"
    with torch.no_grad():
        for layer in model.language.text.layers:
            layer.mlp.down_proj.weight.mul_(1.5)
    early, half, late = losses(0.0)["keep"], losses(0.5)["keep"], losses(1.0)["keep"]
    assert float(early.detach()) == 0 < float(half.detach())
    torch.testing.assert_close(late, 4 * half)
    late.backward()
    names = reached(model)
    assert any(name.startswith("language.text.") for name in names)
    assert not any(name.startswith("segmentor.") for name in names), "nothing of it is learnt, nor led through it"


@torch.no_grad()
def test_each_clip_carries_the_features_of_its_own_frames() -> None:
    """Of the first frame of each pair, in the order in which the robot gives them; the last of three has no partner."""
    model, data = new_nano(), batches("words")
    batch = next(batch for batch in map(data.__getitem__, range(len(data))) if int(batch.grid[0, 0]) > 1)
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1))
    _, vision, _ = understand(model, batch, images)
    patches = batch.patches.chunk(len(batch.grid))
    for clip, found in enumerate(vision.embeds.split(vision.counts)):
        stages = model.segmentor.encode_image(batch.pixel_values[[0, 2], clip]).stages
        alone = model.encode_picture(patches[clip], batch.grid[clip : clip + 1], stages)
        torch.testing.assert_close(found, alone.embeds, atol=1e-5, rtol=1e-4)


def test_true_memories_change_later_frames_only_through_the_memory() -> None:
    model, batch = new_nano(), batches("video")[1]
    with torch.no_grad():
        own, true = (
            batch_loss(model, heads(model), batch, "video", replace(CONFIG, true_memory_share=share))["segmentation"]
            for share in (0.0, 1.0)
        )
    assert torch.isfinite(own) and torch.isfinite(true) and not torch.equal(own, true)


def test_the_fuser_starts_open() -> None:
    fusers = [p for name, p in new_nano().named_parameters() if "memory_fuser" in name and name.endswith("scale")]
    assert fusers and all(bool((p == FUSER_SCALE).all()) for p in fusers)


@pytest.mark.parametrize("number", [0, 1])
def test_scores_are_ious_and_exact_answers(number: int) -> None:
    ious, exact = batch_scores(new_nano(), batches("image")[number])
    assert ious.shape == (16,) and float(ious.min()) >= 0 and float(ious.max()) <= 1
    assert exact.shape == (6,) and exact.dtype == torch.bool


def test_an_answer_is_exact_when_every_token_is_the_likeliest() -> None:
    """Teacher-forced argmax and greedy decoding agree on which answers are right."""
    model, batch = new_nano(), batches("image")[0]
    hidden = torch.zeros(len(batch.texts), 1, model.config.language.text.hidden_size)
    tokens = model.collate(batch.texts)
    states = TextStates(tokens, hidden.expand(-1, tokens.input_ids.shape[1], -1))
    logits, truth, rows = states.answers(model)
    assert logits.shape == (len(truth), model.config.language.text.vocab_size)
    answers = [list(conversation.answer_ids) for conversation in batch.texts]
    assert [truth[rows == row].tolist() for row in range(len(answers))] == answers
    even = math.log(model.config.language.text.vocab_size)
    assert float(text_loss(model, states)) == pytest.approx(even, rel=1e-4), "states of zero know nothing"

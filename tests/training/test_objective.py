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
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.model.pixel_decoder import DeformableAttention
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.initialise import FUSER_SCALE
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.objective import (
    Supervision,
    TextStates,
    _surest_iou,
    batch_loss,
    batch_scores,
    frame_loss,
    frame_part,
    later_frames,
    recall,
    text_loss,
    understand,
    unroll,
    words_loss,
)


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


def test_scores_of_clips_are_means_over_frames_with_a_memory() -> None:
    """A clip of the same picture twice: the second frame is scored with what the first wrote."""
    model, batch = new_nano(), batches("image")[0]
    still, _ = batch_scores(model, batch)
    twice = replace(
        batch, pixel_values=batch.pixel_values.repeat(2, 1, 1, 1, 1), masks=batch.masks.repeat(2, 1, 1, 1, 1)
    )
    gone = replace(twice, masks=torch.cat([batch.masks, torch.zeros_like(batch.masks)]))
    both, empty = batch_scores(model, twice)[0], batch_scores(model, gone)[0]
    assert torch.all((both - still / 2 >= -1e-6) & (both - still / 2 <= 0.5))
    assert not torch.equal(both, empty), "each frame has its own truth"


def test_a_query_is_scored_with_the_object_that_it_fits_best() -> None:
    """Of three objects, the first and the last of one name; what is ignored counts for nothing."""
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    masks[0, 0, 0], masks[0, 1, 1], masks[0, 2, 2] = True, True, True
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[0, 0, 2:] = 1.0
    output = StepOutput(torch.tensor([[[9.0, 0.0, 0.0]]]), logits, torch.zeros(1, 1, 1), ())
    shown = torch.ones(1, 4, 4, dtype=torch.bool)
    labels = torch.tensor([[0, 1, 0]])
    assert _surest_iou(output, labels, masks, None).item() == 0.5
    shown[:, 3] = False
    assert _surest_iou(output, labels, masks, shown).item() == 1.0
    assert _surest_iou(output, torch.tensor([[1, 1, 0]]), masks, None).item() == 0.0


def test_a_chat_has_answers_alone() -> None:
    batch = batches("image")[0]
    chat = replace(batch, conversations=[], regions=batch.regions[:0], region_rows=batch.region_rows[:0])
    ious, exact = batch_scores(new_nano(), chat)
    assert ious.shape == (0,) and exact.shape == (6,)


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


def test_without_heads_masks_and_words_are_learnt() -> None:
    """The same as with them, less their terms."""
    model, batch = training_nano(), batches("image")[0]

    def terms(teachers: AuxiliaryHeads | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)  # of the points drawn from regions
        return batch_loss(model, teachers, batch, "image", CONFIG)

    taught, untaught = terms(heads(model)), terms(None)
    assert set(untaught) == {"text", "segmentation"}
    assert all(torch.equal(untaught[name], taught[name]) for name in untaught)


def test_a_batch_of_chats_teaches_words_alone() -> None:
    model, batch = training_nano(), batches("image")[0]
    regions = torch.zeros(0, *batch.regions.shape[1:], dtype=torch.bool)
    chats = replace(batch, conversations=[], regions=regions, region_rows=torch.zeros(0, dtype=torch.int64))
    losses = batch_loss(model, None, chats, "image", CONFIG)
    assert set(losses) == {"text"}
    losses["text"].backward()
    assert any(name.startswith("language.text") for name in reached(model))
    assert not any(name.startswith("segmentor.decoder") for name in reached(model))


@pytest.mark.parametrize("share", [False, True])
def test_the_published_loss_reaches_the_network_over_a_clip(share: bool) -> None:
    """Sampled points, all layers and frames at once, ignored cells, and phrases of all prompts as choices."""
    model, batch = training_nano(), batches("video")[0]
    ignore = torch.zeros(*batch.masks.shape[:2], *batch.masks.shape[-2:], dtype=torch.bool)
    ignore[..., :4] = True
    loss = replace(LossConfig.published(share_phrases=share), points=64)
    losses = batch_loss(model, None, replace(batch, ignore=ignore), "video", CONFIG, loss)
    torch.stack(list(losses.values())).sum().backward()
    names = reached(model)
    for part in ("decoder", "pixel_decoder", "memory_encoder", "memory_attention", "class_predictor"):
        assert any(name.startswith(f"segmentor.{part}.") for name in names), part
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_over_a_clip_every_object_weighs_the_same() -> None:
    """Two frames of one clip, the second with fewer objects in sight: the clip's mean is that of all objects."""
    model, batch = new_nano(), batches("video")[0]
    images = model.segmentor.encode_image(batch.pixel_values[0])
    with torch.no_grad():
        condition, _, _ = understand(model, batch, images)
        output = model.segmentor.step(model.segmentor.decode_pixels(images, first=True), condition)
    masks, hidden = batch.masks[0], batch.masks[0].clone()
    hidden[0] = 0
    seen = [int(((m.flatten(2).sum(-1) >= 0.5) & (batch.labels >= 0)).sum()) for m in (masks, hidden)]
    assert seen[0] > seen[1] > 0
    frame, clip = LossConfig(classes=0), LossConfig(classes=0, over="clip")
    alone = [float(frame_loss(model, output, condition, batch.labels, m, frame)) for m in (masks, hidden)]
    totals = {}
    for config in (frame, clip):
        supervision = Supervision(model, condition, batch.labels, config)
        supervision.add(output, masks)
        supervision.add(output, hidden)
        totals[config.over] = float(supervision.total())
    assert totals["frame"] == pytest.approx(sum(alone) / 2, rel=1e-5)
    weighed = sum(loss * count for loss, count in zip(alone, seen)) / sum(seen)
    assert totals["clip"] == pytest.approx(weighed, rel=1e-5)
    added = frame_loss(model, output, condition, batch.labels, masks, LossConfig(classes=0, layers="sum"))
    assert float(added) == pytest.approx(alone[0] * len(output.layers), rel=1e-5)


@torch.no_grad()
def test_as_many_memories_are_recalled_as_the_network_looks_at() -> None:
    model, batch = new_nano(), batches("video")[0]
    segmentor, slots = model.segmentor, model.config.segmentor.memory.num_maskmem
    images = segmentor.encode_image(batch.pixel_values[0])
    pixels = segmentor.decode_pixels(images, first=True)
    condition, _, _ = understand(model, batch, images)
    entry = segmentor.write_memory(pixels, segmentor.step(pixels, condition))
    bank = [MemoryEntry(tuple(x + number for x in entry.embeds)) for number in range(slots + 2)]
    memory = recall(segmentor, bank, torch.full((len(batch.labels),), 3))
    assert memory.gaps[0].tolist() == [3 * gap for gap in range(slots, 0, -1)]
    assert torch.equal(memory.embeds[0][:, 0], bank[2].embeds[0]) and len(bank) == slots + 2
    assert recall(segmentor, bank[:2], torch.ones(len(batch.labels))).gaps[0].tolist() == [2, 1]


@torch.no_grad()
def test_words_are_taken_away_after_the_first_frame() -> None:
    """Nothing is drawn where none are; the first frame stays; what classes are compared with stays."""
    model, batch = new_nano(), batches("video")[0]
    frames = len(batch.pixel_values)
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1))
    first = model.segmentor.decode_pixels(frame_part(images, 0, frames), first=True)
    condition, _, _ = understand(model, batch, images)
    drawn = torch.get_rng_state()
    assert later_frames(condition, 0.0) is condition and torch.equal(torch.get_rng_state(), drawn)
    silent = later_frames(condition, 1.0)
    assert not silent.token_embeds.any() and not silent.seg_embeds.any()
    assert torch.equal(silent.cond_embeds, condition.cond_embeds)
    torch.manual_seed(0)
    some = later_frames(condition.rows([0] * 64), 0.25)
    gone = (some.seg_embeds == 0).all(-1)[:, 0]
    assert 4 < int(gone.sum()) < 32 and torch.equal(gone, (some.token_embeds == 0).all(-1).all(-1))
    told, untold = (list(unroll(model, batch, images, first, condition, 1.0, share)) for share in (0.0, 1.0))
    assert torch.equal(told[0].mask_logits, untold[0].mask_logits)
    assert not torch.equal(told[1].mask_logits, untold[1].mask_logits)
    assert len(told) == len(untold) == frames


def test_a_recipe_takes_words_away() -> None:
    model, batch = new_nano(), batches("video")[0]
    config, found = replace(CONFIG, true_memory_share=1.0), []
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        found.append(batch_loss(model, None, batch, "video", replace(config, text_dropout=share)))
    assert torch.equal(found[0]["text"], found[1]["text"])
    assert not torch.equal(found[0]["segmentation"], found[1]["segmentation"])

"""The memory phase: words that fit several objects, and a memory that is needed to tell which is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_loop import Interrupted, Killed, differing, quiet, state
from tests.training.test_samples import CONFIG as SMALL
from tests.training.test_samples import batches
from tests.unit.model.networks import nano_tokenizer, new_nano
from x2sam_ros.config import PhaseConfig
from x2sam_ros.model.config import preset
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.loop import Trainer
from x2sam_ros.training.memory_phase import (
    Recollection,
    SeenClips,
    look,
    memory_loss,
    memory_parts,
)
from x2sam_ros.training.memory_use import memory_use, twins
from x2sam_ros.training.samples import Batch
from x2sam_ros.training.scenes import generate_clip

CONFIG = replace(
    SMALL, memory=PhaseConfig(steps=4, clips=2, prompts=3, learning_rate=1e-3, frames=3), remembered_share=1.0
)


@pytest.fixture(autouse=True)
def drawn_alike() -> Iterator[None]:
    """Shares of true memories are drawn from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def batch() -> Batch:
    return batches("memory", config=CONFIG)[CONFIG.memory.steps // 2]


def test_short_clips_come_first() -> None:
    assert len(batches("memory", config=CONFIG)[0].pixel_values) == 2
    assert len(batch().pixel_values) == CONFIG.memory.frames


def seen(model: X2SAM) -> SeenClips:
    return look(model, batch())


def test_words_fit_others_too() -> None:
    maker = batches("memory", config=CONFIG).maker
    media, found = Media(24), 0
    for seed in range(12):
        clip = generate_clip(seed, 1, 128, 128, kind="twins")
        sample = maker.remembered(clip, np.random.default_rng(seed), media, nameless_share=0.0)
        nameless = maker.remembered(clip, np.random.default_rng(seed), media, nameless_share=1.0)
        assert nameless is not None and nameless.remembered, "two objects or more are in sight"
        if sample is None:
            continue
        (meant,) = [k for k, label in enumerate(sample.classes) if label == 0]
        alike = [k for k, o in enumerate(clip.objects) if o.colour == clip.objects[meant].colour]
        alike += [k for k, o in enumerate(clip.objects) if o.shape == clip.objects[meant].shape]
        assert sample.remembered and set(alike) != {meant}
        found += 1
    assert found > 6, "twins are in sight in most clips"


def head(model: X2SAM) -> Recollection:
    return Recollection(model.config.segmentor.decoder.feature_channels)


def test_memory_and_mask_decoder_learn_and_all_of_them_does() -> None:
    model = new_nano()
    for part in memory_parts(model.segmentor):
        part.requires_grad_(True)
    config = replace(CONFIG, memory_true_shares=(0.0, 0.0))
    teaching = head(model)
    loss = memory_loss(model, seen(model), config, 0.0, teaching)
    assert set(loss) == {"segmentation", "recollection"} and all(bool(term.isfinite()) for term in loss.values())
    torch.stack(list(loss.values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in teaching.parameters())
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    learning = ("segmentor.memory_", "segmentor.decoder.", "segmentor.class_predictor.")
    expected = {name for name, _ in model.named_parameters() if name.startswith(learning)}
    assert reached == {name for name in expected if "vision_downsampler" not in name}


@torch.no_grad()
def test_without_a_memory_only_words_that_suffice_teach() -> None:
    model = new_nano()
    clips = seen(model)
    teaching = head(model)
    assert "alone" not in memory_loss(model, clips, CONFIG, 0.0, teaching)
    some = replace(clips, remembered=torch.arange(len(clips.remembered)) % 2 == 0)
    loss = memory_loss(model, some, CONFIG, 0.0, teaching)["alone"]
    kept = ~some.remembered
    changed = some.masks.clone()
    changed[0, some.remembered] = changed[0, some.remembered].flip(-1)
    torch.testing.assert_close(memory_loss(model, replace(some, masks=changed), CONFIG, 0.0, teaching)["alone"], loss)
    changed[0, kept] = changed[0, kept].flip(-1)
    assert not torch.equal(memory_loss(model, replace(some, masks=changed), CONFIG, 0.0, teaching)["alone"], loss)


@torch.no_grad()
def test_what_is_meant_stands_in_the_first_memory_alone() -> None:
    """With no true memory but that, another mask on the first frame changes the loss, one on the second does not."""
    model = new_nano()
    clips = seen(model)
    assert bool(clips.remembered.all())
    config = replace(CONFIG, memory_true_shares=(0.0, 0.0))
    before = memory_loss(model, clips, config, 0.0, head(model))["segmentation"]
    moved = replace(clips, masks=torch.cat([clips.masks[:1].flip(-1), clips.masks[1:]]))
    assert not torch.equal(memory_loss(model, moved, config, 0.0, head(model))["segmentation"], before)
    forgotten = replace(moved, remembered=torch.zeros_like(clips.remembered))
    same = replace(clips, remembered=torch.zeros_like(clips.remembered))
    torch.testing.assert_close(
        *(memory_loss(model, x, config, 0.0, head(model))["segmentation"] for x in (forgotten, same))
    )


@torch.no_grad()
def test_true_memories_give_way_with_progress() -> None:
    model = new_nano()
    clips = seen(model)
    config = replace(CONFIG, memory_true_shares=(1.0, 0.0))
    early, late = (memory_loss(model, clips, config, progress, head(model))["segmentation"] for progress in (0.0, 1.0))
    for share, expected in ((1.0, early), (0.0, late)):
        always = replace(config, memory_true_shares=(share, share))
        torch.testing.assert_close(memory_loss(model, clips, always, 0.5, head(model))["segmentation"], expected)
    assert not torch.equal(early, late)


@torch.no_grad()
def test_words_are_taken_away_after_the_first_frame() -> None:
    model = new_nano()
    clips, found = seen(model), []
    clips = replace(clips, remembered=torch.arange(len(clips.remembered)) % 2 == 0)
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        found.append(memory_loss(model, clips, replace(CONFIG, text_dropout=share), 0.0, head(model)))
    assert torch.equal(found[0]["alone"], found[1]["alone"])
    assert torch.equal(found[0]["recollection"], found[1]["recollection"]), "true memories: the maps stay"
    assert not torch.equal(found[0]["segmentation"], found[1]["segmentation"])


@torch.no_grad()
def test_twins_are_meant_in_turn_by_the_same_words() -> None:
    model = new_nano()
    (pair,) = twins(1, preset("nano"), nano_tokenizer(), frames=3)
    first, second = pair.conversations
    assert np.array_equal(first.input_ids, second.input_ids)
    assert pair.remembered is not None and bool(pair.remembered.all())
    areas = pair.masks[0, :, 0].flatten(1).sum(1)
    assert bool((areas > 0).all()) and not torch.equal(pair.masks[0, 0], pair.masks[0, 1])
    use = memory_use(model, pair)
    assert use.true.shape == use.none.shape == use.other.shape == (2, 2)
    torch.testing.assert_close(use.gain(), (use.true - use.none).nanmean(0))


@torch.no_grad()
def test_without_a_memory_twins_are_told_apart_by_luck_alone() -> None:
    """The same mask for both, so J with one twin is the other's J with the other."""
    model = new_nano()
    (pair,) = twins(1, preset("nano"), nano_tokenizer(), frames=2)
    clips = look(model, pair, alone=True)
    output = model.segmentor.step(clips.alone[1], clips.condition)
    torch.testing.assert_close(output.mask_logits[0], output.mask_logits[1])


def test_a_resumed_run_equals_an_uninterrupted_one_and_the_rest_stays(tmp_path: Path) -> None:
    none = {name: replace(CONFIG.phase(name), steps=0) for name in ("pixels", "image", "video", "words")}
    small = replace(CONFIG.memory, steps=2, clips=1, prompts=2, frames=2)
    config = replace(CONFIG, **none, memory=small, tokenizer_sentences=300, checkpoint_every=1, score_every=9)
    older = new_nano()
    whole = Trainer(config, preset("nano"), tmp_path / "whole", amp=False, older=older)
    whole.run(quiet())
    broken = Interrupted(config, preset("nano"), tmp_path / "broken", amp=False, older=older)
    broken.dies_at = ("memory", 1)
    with pytest.raises(Killed):
        broken.run(quiet())
    resumed = Trainer(config, preset("nano"), tmp_path / "broken", amp=False, older=older)
    resumed.run(quiet())
    assert differing(state(tmp_path / "broken"), state(tmp_path / "whole")) == []
    start = Trainer(config, preset("nano"), tmp_path / "fresh", amp=False, older=older).model.state_dict()
    moved = {name for name, x in whole.averaged.state_dict().items() if not torch.equal(x, start[name])}
    assert moved and all(
        name.startswith(("segmentor.memory_", "segmentor.decoder.", "segmentor.class_predictor.")) for name in moved
    )

"""Training batches: made from their number alone, from seeds that held-out scenes never share."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.model.networks import nano_tokenizer
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.model.config import preset
from x2sam_ros.model.conversation import REGION_PLACEHOLDER
from x2sam_ros.training import samples
from x2sam_ros.training.drawn import ATTRIBUTE_SIZES
from x2sam_ros.training.samples import (
    FIRST_TRAINING_SEED,
    HELD_OUT_SEEDS,
    Batch,
    SceneBatches,
    ScenePlans,
    collate,
)
from x2sam_ros.training.scenes import lay_out

CONFIG = TrainConfig(
    image=PhaseConfig(steps=9, clips=2, prompts=8, learning_rate=1e-3, texts=3),
    video=PhaseConfig(steps=9, clips=1, prompts=2, learning_rate=1e-3, frames=3, max_stride=3, texts=2),
    pixels=PhaseConfig(steps=9, clips=2, prompts=0, learning_rate=1e-3),
    words=PhaseConfig(steps=9, clips=2, prompts=2, learning_rate=1e-3, frames=3, texts=2),
    memory=PhaseConfig(steps=9, clips=2, prompts=2, learning_rate=1e-3, frames=3, max_stride=3),
)


def batches(phase: str, start: int = 0, stop: int = 9, **rest: Any) -> SceneBatches:
    return SceneBatches(rest.pop("config", CONFIG), preset("nano"), nano_tokenizer(), phase, start, stop, **rest)


def equal(a: Batch, b: Batch) -> bool:
    for item in fields(Batch):
        x, y = getattr(a, item.name), getattr(b, item.name)
        if isinstance(x, Tensor):
            if not torch.equal(x, y):
                return False
        elif x is None or y is None:
            if x is not y:
                return False
        elif [c.input_ids.tolist() for c in x] != [c.input_ids.tolist() for c in y]:
            return False
    return True


@pytest.mark.parametrize("phase", CONFIG.phases)
def test_a_batch_depends_on_its_number_alone(phase: str) -> None:
    data = batches(phase)
    third, second = data[3], data[2]
    torch.manual_seed(99)
    np.random.seed(99)
    later = batches(phase, start=3)
    assert equal(later[0], third) and not equal(second, third)
    assert len(later) == 6
    assert not equal(batches(phase, config=replace(CONFIG, seed=1))[3], third)


def test_shapes_and_truth_of_an_image_batch() -> None:
    batch = batches("image")[0]
    assert batch.pixel_values.shape == (1, 2, 3, 128, 128)
    assert batch.masks.shape[:2] == (1, 16) and batch.masks.shape[-1] == 32
    assert batch.masks.shape[2] == batch.labels.shape[1]
    assert len(batch.conversations) == 16 and len(batch.grid) == 2
    assert float(batch.masks.min()) >= 0 and float(batch.masks.max()) <= 1
    wanted = batch.labels >= 0
    assert not batch.masks[0][~wanted].any(), "where nobody is wanted there is no mask"
    for row, conversation in enumerate(batch.conversations):
        assert int(batch.labels[row].max()) < conversation.num_phrases
    absent = batch.labels.max(1).values < 0
    assert not batch.centres[absent].any() and (batch.centres[~absent, 2] == 1).float().mean() > 0.8
    assert len(batch.texts) == 6 and all(len(text.answer_ids) > 1 for text in batch.texts)
    placeholders = sum((c.input_ids == REGION_PLACEHOLDER).sum() for c in batch.conversations)
    assert len(batch.regions) == len(batch.region_rows) == placeholders
    sums = torch.stack([part.sum(2) for part in batch.attributes.split(ATTRIBUTE_SIZES, dim=2)])
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_region_prompts_lie_on_an_object_they_want() -> None:
    seen = 0
    for number in range(4):
        batch = batches("image")[number]
        for region, row in zip(batch.regions, batch.region_rows.tolist()):
            near = torch.nn.functional.max_pool2d(region[None].float(), 4)[0] > 0
            assert (batch.masks[0, row].amax(0)[near] > 0).any()
            seen += 1
    assert seen > 3


def test_a_video_batch_is_shown_as_picture_or_as_clip() -> None:
    shown = {int(batches("video")[number].grid[0, 0]) for number in range(8)}
    assert shown == {1, 2}, "three frames make two pairs"


def drawn_seeds(monkeypatch: pytest.MonkeyPatch, data: SceneBatches, count: int) -> list[int]:
    """Return the scene seeds of the first batches; the scenes are made all the same."""
    seeds: list[int] = []

    def noted(seed: int, *args: Any, **rest: Any) -> Any:
        seeds.append(seed)
        return lay_out(seed, *args, **rest)

    monkeypatch.setattr(samples, "lay_out", noted)
    for index in range(count):
        data[index]
    return seeds


def test_held_out_seeds_are_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [seed for phase in CONFIG.phases for seed in drawn_seeds(monkeypatch, batches(phase), 3)]
    clips = sum(CONFIG.phase(phase).clips for phase in CONFIG.phases)
    assert len(set(seeds)) == len(seeds) == 3 * clips and min(seeds) >= FIRST_TRAINING_SEED


def test_scoring_draws_held_out_seeds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = drawn_seeds(monkeypatch, batches("image", seeds=HELD_OUT_SEEDS), 3)
    assert seeds and min(seeds) >= 0 and max(seeds) < FIRST_TRAINING_SEED


def test_words_draw_what_the_language_model_is_shown_and_no_more() -> None:
    shapes = {(len(batch.pixel_values), int(batch.grid[0, 0])) for batch in (batches("words")[i] for i in range(8))}
    assert shapes == {(1, 1), (3, 2)}, "a picture, or a clip of two frame pairs"


@pytest.mark.parametrize("phase", CONFIG.phases)
def test_drawn_by_torch_a_batch_says_the_same(phase: str) -> None:
    """The very prompts, questions and regions; what is seen differs by edges and a few levels."""
    data = batches(phase)
    for number in range(3):
        host, device = data[number], collate(ScenePlans(data)[number].to("cpu"), data.model)
        for name in ("conversations", "texts"):
            told, meant = ([c.input_ids.tolist() for c in getattr(batch, name)] for batch in (device, host))
            assert told == meant
        for name in ("grid", "regions", "region_rows", "labels", "centres", "strides", "remembered"):
            assert torch.equal(getattr(device, name), getattr(host, name)), name
        for name, most in (("pixel_values", 0.02), ("patches", 0.01), ("masks", 0.01), ("attributes", 0.01)):
            drawn, wanted = getattr(device, name), getattr(host, name)
            assert drawn.shape == wanted.shape and drawn.dtype == wanted.dtype
            assert not drawn.numel() or float((drawn - wanted).abs().mean()) < most, name
        torch.testing.assert_close(device.cells, host.cells, atol=0.1, rtol=0)

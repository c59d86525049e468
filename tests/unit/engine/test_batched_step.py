"""All targets as one batch, with everything shared, equal each by itself with nothing shared."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from itertools import count

import pytest
import torch
from torch import Tensor

from tests.unit.engine.naive import NaiveTracker, naive_step
from tests.unit.engine.sessions import box, click, counted, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.grounding import Grounder, Picture, View
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.preprocess import mask_encoder_pixels
from x2sam_ros.engine.stepper import Stepper
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import Tracker
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import DecoderConfig, MemoryConfig, ResNetConfig, SegmentorConfig
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.training.initialise import initialise


def near(got: Tensor, expected: Tensor) -> None:
    """Compare within a thousandth of the largest value: rounding that turns a mask's cell on or off moves that much."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@lru_cache(maxsize=8)
def random_segmentor(seed: int) -> Segmentor:
    """Return a small network of sizes that a seed draws; seed 0 is nano."""
    if seed == 0:
        return nano().segmentor
    generator = torch.Generator().manual_seed(seed)

    def pick(*options: int) -> int:
        return options[int(torch.randint(len(options), (), generator=generator))]

    width, heads = pick(32, 64), pick(1, 2)
    config = SegmentorConfig(
        image_size=32 * pick(2, 3, 4),
        mask_encoder="resnet",
        resnet=ResNetConfig(
            embedding_size=16, stage_channels=(16, 16, 32, 32), depths=(1, 1, 1, 1), pyramid_channels=32
        ),
        decoder=DecoderConfig(
            feature_channels=width,
            mask_channels=width,
            hidden=width,
            heads=4,
            pixel_layers=1,
            pixel_points=pick(1, 2),
            pixel_feedforward=48,
            mask_layers=pick(2, 3, 4),
            mask_feedforward=48,
            num_queries=pick(3, 7),
            use_text_cross_attention=bool(pick(0, 1)),
        ),
        memory=MemoryConfig(
            attention_hidden=width,
            attention_heads=heads,
            attention_layers=pick(1, 2, 3),
            attention_feedforward=48,
            encoder_hidden=width,
            encoder_channels=width,
            mask_channels=width,
            fuser_channels=width,
            fuser_hidden=48,
            use_mask_guidance=bool(pick(0, 1, 1)),
            use_class_guidance=bool(pick(0, 1)),
        ),
    )
    torch.manual_seed(seed)
    segmentor = Segmentor(config)
    initialise(segmentor)
    with torch.no_grad():
        segmentor.no_memory_embedding.normal_()
    return segmentor.eval().requires_grad_(False)


def drawn_condition(segmentor: Segmentor, phrases: int, tokens: int, seed: int) -> PromptCondition:
    generator, width = torch.Generator().manual_seed(seed), segmentor.config.decoder.hidden
    dtype = segmentor.no_memory_embedding.dtype

    def draw(length: int) -> Tensor:
        return torch.randn(1, length, width, generator=generator, dtype=dtype)

    keep = torch.ones(1, phrases + 1, dtype=torch.bool), torch.ones(1, tokens, dtype=torch.bool)
    return PromptCondition(draw(phrases + 1), keep[0], draw(tokens), keep[1], draw(1))


def drawn_entries(segmentor: Segmentor, slots: int, seed: int) -> list[MemoryEntry]:
    generator, config = torch.Generator().manual_seed(seed), segmentor.config
    shape = 1, config.memory.encoder_channels, config.image_size // 16, config.image_size // 16
    dtype = segmentor.no_memory_embedding.dtype

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [MemoryEntry((draw(), draw(), draw())) for _ in range(slots)]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(7))
def test_a_batch_of_unequal_memories_equals_the_naive_step(seed: int) -> None:
    segmentor = deepcopy(random_segmentor(seed)).double()  # so that no cell of a mask is turned over by rounding
    pixels = mask_encoder_pixels(frames(1, seed=seed)[0].image, segmentor.config.image_size).double()
    sizes = [(1, 2, 5), (3, 9, 1), (1, 4, 3), (2, 6, 2), (1, 1, 5)]  # phrases, tokens, stored frames
    conditions = [drawn_condition(segmentor, phrases, tokens, i) for i, (phrases, tokens, _) in enumerate(sizes)]
    stored = [drawn_entries(segmentor, slots, 10 + i) for i, (_, _, slots) in enumerate(sizes)]
    gaps = [list(range(2 * len(entries), 0, -2)) for entries in stored]
    for first in (True, False):
        decoded = segmentor.decode_pixels(segmentor.encode_image(pixels), first)
        memory = None if first else MemoryBatch.merge([MemoryBatch.stack(e, g) for e, g in zip(stored, gaps)])
        together = segmentor.step(decoded, PromptCondition.merge(conditions), memory)
        entry = segmentor.write_memory(decoded, together)
        for row, words in enumerate(conditions):
            past = ([], []) if first else (stored[row], gaps[row])
            alone, own = naive_step(segmentor, pixels, words, *past)
            near(together.mask_logits[row], alone.mask_logits[0])
            near(together.queries[row], alone.queries[0])
            near(together.class_logits[row][:, : words.num_phrases], alone.class_logits[0, :, :-1])
            near(together.class_logits[row][:, -1], alone.class_logits[0, :, -1])
            for x, y in zip(entry.embeds, own.embeds):
                near(x[row], y[0])


@torch.no_grad()
def test_memories_make_a_difference() -> None:
    """Else the test above would pass with memories mixed up."""
    segmentor = random_segmentor(0)
    pixels = mask_encoder_pixels(frames(1)[0].image, segmentor.config.image_size)
    words = drawn_condition(segmentor, 1, 2, 0)
    answers = [naive_step(segmentor, pixels, words, drawn_entries(segmentor, 2, i), [2, 1])[0] for i in range(2)]
    assert float((answers[0].mask_logits - answers[1].mask_logits).abs().max()) > 1e-2


def begun(tracker: Tracker, ids: count[int]) -> list[Group]:
    """Return groups that have begun on the first frame."""
    model, config = nano(), EngineConfig(score_threshold=0.0)
    seen = tracker.encode(frames(1)[0])
    grounder = Grounder(model, open_policy("fifo", config), config)
    picture = Picture(model, seen.frame.image, 3, seen.features)
    view = View(seen.frame.size, seen.features, picture)
    answers = [grounder.ground(grounder.ask(prompt, view), picture) for prompt in (text(), click(), box())]
    groups = [answer for answer in answers if isinstance(answer, Group)]
    tracker.begin(seen, groups, lambda group: next(ids))
    return groups


@torch.inference_mode()
def test_the_naive_tracker_follows_the_same_targets_and_shares_nothing() -> None:
    config = EngineConfig(score_threshold=0.0, mask_score_threshold=0.0)
    both = Tracker(nano(), config), NaiveTracker(nano(), config)
    groups, ids = [begun(tracker, count(1)) for tracker in both], count(100)
    assert len(groups[0]) == 3
    for frame in frames(5)[1:]:
        for tracker, followed in zip(both, groups):
            with counted(nano()) as passes:
                tracker.advance(tracker.encode(frame), followed, lambda group: next(ids))
            runs = 3 if isinstance(tracker, NaiveTracker) else 1
            assert [passes[part] for part in ("encoder", "pixel decoder", "mask decoder")] == [runs] * 3
        for one, other in zip(*groups):
            assert len(one.memory) == len(other.memory)
            for x, y in zip(one.memory.entries[-1].embeds, other.memory.entries[-1].embeds):
                near(x, y)
            assert one.targets.keys() == other.targets.keys()


@torch.no_grad()
def test_a_stepper_does_nothing_of_its_own_unless_asked_to() -> None:
    segmentor, stepper = nano().segmentor, Stepper(nano().segmentor, EngineConfig())
    pixels = mask_encoder_pixels(frames(1)[0].image, segmentor.config.image_size)
    features = stepper.encode(pixels)
    decoded = stepper.decode_pixels(features, first=False)
    words = PromptCondition.merge([drawn_condition(segmentor, 1, 3, i) for i in range(3)])
    memory = MemoryBatch.merge([MemoryBatch.stack(drawn_entries(segmentor, n, n), range(n, 0, -1)) for n in (1, 3, 2)])
    output, expected = stepper.step(decoded, words, memory), segmentor.step(decoded, words, memory)
    assert torch.equal(output.mask_logits, expected.mask_logits)
    assert torch.equal(output.class_logits, expected.class_logits)
    for x, y in zip(stepper.write(decoded, output).embeds, segmentor.write_memory(decoded, expected).embeds):
        assert torch.equal(x, y)
    only = replace(memory, padded=True)
    torch.testing.assert_close(stepper.step(decoded, words, only).mask_logits, expected.mask_logits)

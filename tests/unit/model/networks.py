"""Small real networks with random weights, shared by the tests."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from x2sam_ros.config import TrainConfig
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import SegmentorConfig, preset
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.initialise import initialise
from x2sam_ros.training.loop import build_tokenizer
from x2sam_ros.types import Frame

FRAME_PERIOD_NS = 100_000_000


@lru_cache(maxsize=1)
def nano_tokenizer() -> Tokenizer:
    return build_tokenizer(TrainConfig(tokenizer_sentences=300), preset("nano"))


def new_nano(seed: int = 0) -> X2SAM:
    """Build the nano network as training starts it."""
    torch.manual_seed(seed)
    model = X2SAM(preset("nano"), nano_tokenizer())
    initialise(model.segmentor)
    return model.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def nano() -> X2SAM:
    """Return one network that all tests of a process share; do not change it."""
    return new_nano()


def segmentor() -> Segmentor:
    return nano().segmentor


def segmentor_config() -> SegmentorConfig:
    return nano().config.segmentor


def frames(count: int, size: tuple[int, int] = (96, 128), seed: int = 0) -> list[Frame]:
    """Return pictures of two moving squares on noise."""
    rng = np.random.default_rng(seed)
    stream = []
    for index in range(count):
        image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
        image[20 + index : 50 + index, 10 + 2 * index : 40 + 2 * index, 0] = 220
        image[50:75, 80 - index : 105 - index, 2] = 220
        image.flags.writeable = False
        stream.append(Frame(image, index * FRAME_PERIOD_NS, index, "camera"))
    return stream


def condition(phrases: int, tokens: int, seed: int = 0) -> PromptCondition:
    """Return a random condition of one prompt at nano's width."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, segmentor_config().decoder.hidden, generator=generator)

    keep = torch.ones(1, phrases + 1, dtype=torch.bool), torch.ones(1, tokens, dtype=torch.bool)
    return PromptCondition(draw(1, phrases + 1), keep[0], draw(1, tokens), keep[1], draw(1, 1))


def memory(slots: int, seed: int = 0) -> MemoryBatch:
    """Return a random memory of one target at nano's size, its gaps counting down to 1."""
    generator = torch.Generator().manual_seed(seed)
    channels = segmentor_config().memory.encoder_channels
    side = segmentor_config().image_size // 16
    entries = [
        MemoryEntry(tuple(torch.randn(1, channels, side, side, generator=generator) for _ in range(3)))
        for _ in range(slots)
    ]
    return MemoryBatch.stack(entries, range(slots, 0, -1))

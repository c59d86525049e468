"""The network that ``x2sam bench`` measures: a checkpoint, or published sizes with random weights, if memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from x2sam_ros.checkpoint.load import (
    build_model,
    build_skeleton,
    cast_weights,
    load_model,
    read_config,
    read_device,
    read_dtype,
    ships_with_weights,
)
from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.hardware import available_bytes
from x2sam_ros.model.config import PRESETS, SegmentorConfig, X2SAMConfig, preset
from x2sam_ros.model.int8 import INT8, check_weights, int8_layers, quantise
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins

GIB = 2**30
SPARE = 0.9
"""Share of the memory that is free which a run may take."""

BUILT_BYTES = 4
"""Bytes of a weight while a network with random weights is built, before it is cast."""


@dataclass(frozen=True)
class BenchModel:
    """A network to be measured.

    Args:
        model: on its device, ready for inference.
        name: the preset or folder that was asked for.
        dtype: type of the weights.
        is_random: whether its weights are random; what it computes costs the same.
        has_language: whether the language side has weights; without, conditions are random too.
    """

    model: X2SAM
    name: str
    dtype: torch.dtype
    is_random: bool = False
    has_language: bool = True

    @property
    def parameters(self) -> int:
        """Number of weights that are there."""
        rounded = sum(layer.weight.numel() + layer.out_features for layer in int8_layers(self.model))
        return rounded + sum(p.numel() for p in self.model.parameters() if p.device.type != "meta")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, a sentence each."""
        said = []
        if layers := sum(1 for _ in int8_layers(self.model)):
            said.append(f"{layers} large layers have int8 weights.")
        if self.is_random:
            said.append(
                "Random weights: costs are those of the published sizes, masks mean nothing, and every target is kept."
            )
        if not self.has_language:
            said.append(
                "The language side does not fit into memory: random conditions take the place of language passes."
            )
        return tuple(said)


def open_bench_model(name: str, device: str, dtype: str, targets: int, weights: str = NodeConfig.weights) -> BenchModel:
    """Load a checkpoint, or build a preset that ships without weights.

    Of a preset without weights the language side is left out where there is no memory for it.

    Args:
        name: a preset, a checkpoint folder or a hub id.
        device, dtype: as for ``load_model``.
        targets: most targets that are to be followed, which decides how much memory is worked in.
        weights: as for ``load_model``.

    Raises:
        ConfigError: a name is unknown, int8 is not for this device or type, or the model and its targets are too large
            for the memory that is free.
        CheckpointError: the folder is no checkpoint.
    """
    wanted, where = read_dtype(dtype), read_device(device)
    check_weights(weights, where, wanted)
    free = available_bytes(where)
    if name not in PRESETS or ships_with_weights(name):
        if Path(name).is_dir():
            skeleton = build_skeleton(read_config(Path(name)), load_tokenizer(Path(name)), name)
            _check_room(name, _weight_bytes(skeleton, wanted.itemsize), skeleton.config, targets, wanted, free)
        model = load_model(name, device, wanted, weights)
        _check_room(name, 0, model.config, targets, wanted, available_bytes(where))
        return BenchModel(model, name, wanted)
    config, tokenizer = preset(name), train_tokenizer(["segment the red cup", "what do you see?"], 300)
    skeleton = build_skeleton(config, tokenizer, name)
    working = working_bytes(config.segmentor, targets, wanted)
    whole = _weight_bytes(skeleton, BUILT_BYTES)
    has_language = free is None or whole + working <= SPARE * free
    if not has_language:
        _check_room(name, _weight_bytes(skeleton.segmentor, BUILT_BYTES), config, targets, wanted, free)
    model = random_model(config, tokenizer, where, wanted, has_language)
    if weights == INT8:
        quantise(model.segmentor)
    return BenchModel(model, name, wanted, is_random=True, has_language=has_language)


def random_model(
    config: X2SAMConfig, tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype, has_language: bool = True
) -> X2SAM:
    """Build a network with random weights.

    Args:
        config, tokenizer: the network.
        device, dtype: where, and as what.
        has_language: whether the language side gets weights; without, it takes no memory and cannot be run.
    """
    if has_language:
        with device:
            model = build_model(config, tokenizer)
    else:
        model = build_skeleton(config, tokenizer, config.preset)
        with device:
            encoder = installed_plugins().mask_encoder(config.segmentor.mask_encoder)(config.segmentor)
            model.segmentor = Segmentor(config.segmentor, encoder)
            model.bg_embeds = nn.Embedding(1, config.segmentor.decoder.hidden)
    cast_weights(model, dtype)
    if has_language:
        model.language.choose_attention()
    return model.eval().requires_grad_(False)


def working_bytes(config: SegmentorConfig, targets: int, dtype: torch.dtype) -> int:
    """Return about how many bytes a step works in beside the weights, for that many targets in one batch.

    The finest map decides: the hidden layer and the streams of memory attention, and the masks of every query that each
    layer of the decoder leaves, in single precision.
    """
    cells = (config.image_size // 4) ** 2
    memory, decoder = config.memory, config.decoder
    attention = cells * (2 * memory.attention_feedforward + 8 * memory.attention_hidden) * dtype.itemsize
    masks = cells * decoder.num_queries * (decoder.mask_layers + 5) * 4
    shared = cells * 24 * decoder.feature_channels * 4
    return targets * (attention + masks) + shared


def _weight_bytes(module: nn.Module, size: int) -> int:
    return size * sum(p.numel() for p in module.parameters())


def _check_room(
    name: str, weights: int, config: X2SAMConfig, targets: int, dtype: torch.dtype, free: int | None
) -> None:
    """Refuse what does not fit.

    Raises:
        ConfigError: says how much is needed and how much there is.
    """
    working = working_bytes(config.segmentor, targets, dtype)
    if free is None or weights + working <= SPARE * free:
        return
    parts = ([f"{weights / GIB:.1f} for weights"] if weights else []) + [f"{working / GIB:.1f} for {targets} targets"]
    raise ConfigError(
        f"'{name}' needs about {(weights + working) / GIB:.1f} GiB ({', '.join(parts)}), and {free / GIB:.1f} are "
        "free; ask for fewer --targets, another --dtype or a smaller --model"
    )

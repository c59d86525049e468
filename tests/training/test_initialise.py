"""Starting weights: a fresh memory looks at the place it is asked about."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.unit.model.networks import new_nano
from x2sam_ros.model.config import preset
from x2sam_ros.model.layers import rotate, split_heads
from x2sam_ros.model.memory import RotaryAttention
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.training.initialise import initialise, look_in_place, looks_in_place

CELLS = 8  # stored, a side


def new_segmentor(side: int, heads: int) -> Segmentor:
    config = preset("nano").segmentor
    torch.manual_seed(0)
    segmentor = Segmentor(replace(config, image_size=side, memory=replace(config.memory, attention_heads=heads))).eval()
    initialise(segmentor)
    return segmentor


def distances(segmentor: Segmentor, layer: int) -> Tensor:
    """Return how far from its own place each head looks in a layer, at the finest scale, on average, in pictures."""
    finest, stored = segmentor.config.image_size // 4, segmentor.config.image_size // 16
    generator = torch.Generator().manual_seed(1)
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, RotaryAttention)
        q = rotate(split_heads(module.q_proj(args[0]), module.heads), args[3])
        k = split_heads(module.k_proj(args[1]), module.heads)
        found.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1))

    hook = segmentor.memory_attention.layers[layer].cross_attn.register_forward_pre_hook(keep)
    features = torch.randn(1, 64, finest, finest, generator=generator) * 0.3
    memory = torch.randn(1, 1, 64, stored, stored, generator=generator) * 0.3
    segmentor.memory_attention(features, memory, torch.ones(1, 1, dtype=torch.int64), None)
    hook.remove()
    places = [torch.cartesian_prod(*2 * [(torch.arange(side) + 0.5) / side]) for side in (finest, stored)]
    return (found[0][0] * torch.cdist(*places)).sum(-1).mean(-1)


@pytest.mark.parametrize(("side", "heads"), [(128, 1), (256, 1), (128, 2)])
@torch.no_grad()
def test_every_layer_and_head_looks_near_its_own_place(side: int, heads: int) -> None:
    segmentor, fresh = (new_segmentor(side, heads) for _ in range(2))
    look_in_place(segmentor)
    for layer in range(len(segmentor.memory_attention.layers)):
        before, after = distances(fresh, layer), distances(segmentor, layer)
        assert bool((after < 0.6 * before).all()), f"layer {layer}: {before} to {after}"


@torch.no_grad()
def test_only_queries_and_keys_of_the_memory_change() -> None:
    model, fresh = new_nano(), new_nano()
    look_in_place(model.segmentor)
    changed = {n for (n, p), q in zip(model.named_parameters(), fresh.parameters()) if not torch.equal(p, q)}
    layers = range(len(model.segmentor.memory_attention.layers))
    places = [f"segmentor.memory_attention.layers.{i}.cross_attn.{part}_proj" for i in layers for part in "qk"]
    assert {name.rpartition(".")[0] for name in changed} == set(places)


@pytest.mark.parametrize(("side", "heads"), [(128, 1), (256, 1), (128, 2)])
@torch.no_grad()
def test_a_memory_that_was_taught_in_place_stays_as_it_is(side: int, heads: int) -> None:
    """Whatever else was learnt since; a memory that never was started so, is."""
    segmentor = new_segmentor(side, heads)
    for part in segmentor.memory_attention.parameters():
        part.add_(0.02 * torch.randn(part.shape))  # as learning without a start in place leaves it
    assert not looks_in_place(segmentor)
    look_in_place(segmentor)
    for part in segmentor.memory_attention.parameters():
        part.add_(0.02 * torch.randn(part.shape))
    learnt = {name: tensor.clone() for name, tensor in segmentor.state_dict().items()}
    assert looks_in_place(segmentor)
    look_in_place(segmentor)
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in segmentor.state_dict().items())

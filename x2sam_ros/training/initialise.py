"""Starting weights of the segmentor, for training from scratch and for a memory that is to be learnt."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.model.encoder import HieraEncoder
from x2sam_ros.model.layers import rotary_table, rotate, sine_position, split_heads
from x2sam_ros.model.memory import FuserBlock, MemoryAttention, MemoryAttentionLayer
from x2sam_ros.model.pixel_decoder import NUM_LEVELS, DeformableAttention
from x2sam_ros.model.segmentor import Segmentor

FUSER_SCALE = 0.1

SHARPNESS = 12.0
"""The logit that the very same place starts with in the memory's attention."""

_FINEST_STRIDE = 4
_LEAST_TURN = 1.5  # radians over the picture; what turns less says little of where it is
_ASIDE = 0.1
_RIDGE = 1e-3
_NEAR = 0.5  # fresh attention has 1, one that was started in place 0.25, before and after the memory is learnt


def initialise(segmentor: Segmentor) -> None:
    """Set Xavier weights, spread sampling offsets and sine window positions.

    At this size the published 0.02-normal start learns far slower (0.26 against 0.41 mean IoU after 200 steps).
    """
    for module in segmentor.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None and module.groups == 1:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # a norm and a ReLU follow
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, FuserBlock):
            nn.init.constant_(module.scale, FUSER_SCALE)
    for module in segmentor.modules():
        if isinstance(module, DeformableAttention):
            _spread_offsets(module)
    nn.init.normal_(segmentor.no_memory_embedding, std=0.02)
    if isinstance(segmentor.encoder, HieraEncoder):
        _place_windows(segmentor.encoder)


def _place_windows(encoder: HieraEncoder) -> None:
    """Start the backbone's window and background positions as sines."""
    backbone = encoder.backbone
    _, channels, height, width = backbone.pos_embed_window.shape
    with torch.no_grad():
        code = sine_position(height, width, channels, torch.device("cpu"), torch.float32)
        backbone.pos_embed_window.copy_(0.5 * code)
        _, channels, height, width = backbone.pos_embed.shape
        backbone.pos_embed.copy_(0.5 * sine_position(height, width, channels, torch.device("cpu"), torch.float32))


def _spread_offsets(attention: DeformableAttention) -> None:
    """Point each head in its own direction, each sampling point one cell farther (Source: Deformable DETR)."""
    angle = torch.arange(attention.heads) * (2 * math.pi / attention.heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.points + 1, dtype=torch.float32)
    offsets = direction[:, None, None] * steps[None, None, :, None]  # (heads, 1, points, 2)
    with torch.no_grad():
        attention.sampling_offsets.weight.zero_()
        attention.sampling_offsets.bias.copy_(offsets.expand(-1, NUM_LEVELS, -1, -1).flatten())
        attention.attention_weights.weight.zero_()
        attention.attention_weights.bias.zero_()


@torch.no_grad()
def look_in_place(segmentor: Segmentor) -> None:
    """Start the memory's attention so that a place of the frame looks at the same place of the stored ones.

    Queries turn with their place and keys do not, so that the same place is nothing that a fresh attention can see; and
    where twins are, nothing but the place tells which one is meant. But a constant query turns into sine and cosine of
    its place, and a key carries the same of its own, read from its sine position code. Some channel pairs of each head,
    those that turn about once over the finest map, are set to do so in every layer, and look past the features. The
    architecture stays as published.

    An attention that looks in place already stays as it is: it was started so before, and a memory may have been learnt
    since. See `looks_in_place`.
    """
    if looks_in_place(segmentor):
        return
    attention = segmentor.memory_attention
    finest, stored = _sides(segmentor)
    pairs, angles = _place_code(attention, finest, stored)
    codes = _stored_places(segmentor)
    seen = torch.cat([codes, torch.ones(len(codes), 1)], dim=1)  # what keys are made of, and a bias
    square = seen.T @ seen + _RIDGE * torch.eye(seen.shape[1])
    read = torch.linalg.solve(square, seen.T @ torch.cat([angles.cos(), angles.sin()], dim=1))
    gain = math.sqrt(SHARPNESS * math.sqrt(attention.head_dim) / len(pairs))
    for layer in attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        query, key = layer.cross_attn.q_proj, layer.cross_attn.k_proj
        for head in range(layer.cross_attn.heads):
            even = head * attention.head_dim + 2 * pairs
            both = torch.cat([even, even + 1])
            query.weight[both] *= _ASIDE
            query.bias[even], query.bias[even + 1] = gain, 0.0
            key.weight[both], key.bias[both] = (gain * read[:-1].T).to(key.weight), (gain * read[-1]).to(key.bias)


@torch.no_grad()
def looks_in_place(segmentor: Segmentor) -> bool:
    """Tell whether every layer of the memory's attention looks near the very place, from what places alone say.

    That is, without features: from the queries' bias at places of the finest map to the codes of all places in a stored
    one, each head is less than half as far off on average as if it looked everywhere.
    """
    attention, cpu = segmentor.memory_attention, torch.device("cpu")
    finest, stored = _sides(segmentor)
    step = finest // stored  # as many places of the finest map as there are stored ones
    some = torch.arange(finest * finest).view(finest, finest)[step // 2 :: step, step // 2 :: step].flatten()
    cos, sin = rotary_table(finest, finest, attention.head_dim, attention.rope_theta, cpu)
    here, there = (torch.cartesian_prod(*2 * [(torch.arange(side) + 0.5) / side]) for side in (finest, stored))
    far, codes = torch.cdist(here[some], there), _stored_places(segmentor)[None]
    for layer in attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        query, key, heads = layer.cross_attn.q_proj, layer.cross_attn.k_proj, layer.cross_attn.heads
        q = rotate(split_heads(query.bias.float().cpu().expand(1, len(some), -1), heads), (cos[some], sin[some]))
        k = split_heads(F.linear(codes, key.weight.float().cpu(), key.bias.float().cpu()), heads)
        looks = (q @ k.transpose(-2, -1) / math.sqrt(attention.head_dim)).softmax(-1)
        if bool(((looks * far).sum(-1).mean(-1) > _NEAR * far.mean()).any()):
            return False
    return True


def _sides(segmentor: Segmentor) -> tuple[int, int]:
    """Return the cells on a side of the finest map, and of what is stored of it."""
    finest = segmentor.config.image_size // _FINEST_STRIDE
    return finest, finest // segmentor.config.memory.feature_strides[-1]


def _stored_places(segmentor: Segmentor) -> Tensor:
    """Return what keys carry of the place of each stored cell, (cells, channels)."""
    _, side = _sides(segmentor)
    channels = segmentor.config.memory.encoder_channels
    return sine_position(side, side, channels, torch.device("cpu"), torch.float32).flatten(2)[0].T


def _place_code(attention: MemoryAttention, finest: int, stored: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of a head that code the place, x before y, and their angles, (stored cells, pairs)."""
    per_axis = attention.head_dim // 4
    frequency = attention.rope_theta ** (-torch.arange(per_axis) / per_axis)
    turns = frequency * finest
    chosen = ((turns > _LEAST_TURN) & (turns <= 2 * math.pi)).nonzero().squeeze(1)
    centres = (torch.arange(stored) + 0.5) * (finest / stored) - 0.5  # in cells of the finest map
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    angles = [axis.flatten()[:, None] * frequency[chosen] for axis in (x, y)]
    return torch.cat([chosen, chosen + per_axis]), torch.cat(angles, dim=1)

"""Mask Memory: batches of unequal memories, the shared first layer, and what an entry holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.model.networks import memory, segmentor
from x2sam_ros.model.layers import rotary_table, sine_position, temporal_code
from x2sam_ros.model.memory import MemoryAttention, MemoryBatch


def feature(batch: int = 1, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 64, side, side, generator=generator)


def test_merging_pads_with_invalid_slots_behind() -> None:
    short, long = memory(2, seed=1), memory(5, seed=2)
    both = MemoryBatch.merge([short, long])
    assert both.valid.tolist() == [[True, True, False, False, False], [True] * 5]
    assert both.gaps.tolist() == [[2, 1, 1, 1, 1], [5, 4, 3, 2, 1]]
    for merged, a, b in zip(both.embeds, short.embeds, long.embeds):
        assert merged.shape == (2, 5, *a.shape[2:])
        assert torch.equal(merged[0, :2], a[0]) and torch.equal(merged[1], b[0])
        assert not merged[0, 2:].any()


@torch.no_grad()
def test_what_lies_in_invalid_slots_does_not_matter() -> None:
    attention = segmentor().memory_attention
    both = MemoryBatch.merge([memory(2, seed=1), memory(5, seed=2)])
    dirty = both.embeds[0].clone()
    dirty[0, 2:] = 1e3
    clean = attention(feature(), both.embeds[0], both.gaps, both.valid)
    torch.testing.assert_close(attention(feature(), dirty, both.gaps, both.valid), clean)


@torch.no_grad()
def test_targets_together_equal_each_alone() -> None:
    attention = segmentor().memory_attention
    parts = [memory(slots, seed=slots) for slots in (1, 3, 5)]
    both = MemoryBatch.merge(parts)
    together = attention(feature(), both.embeds[0], both.gaps, both.valid)
    alone = torch.cat([attention(feature(), part.embeds[0], part.gaps, part.valid) for part in parts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def naive(attention: MemoryAttention, image: Tensor, stored: Tensor, gaps: Tensor) -> Tensor:
    """Attend for one target of one image, every layer in full, one stored frame after the other."""
    height, width = image.shape[-2:]
    table = rotary_table(height, width, attention.head_dim, attention.rope_theta, image.device)
    keys, values = [], []
    for frame, gap in zip(stored, gaps):
        place = sine_position(*frame.shape[-2:], frame.shape[0], frame.device, frame.dtype)[0]
        keys.append((frame + place + temporal_code(gap, frame.shape[0])[:, None, None]).flatten(1).T)
        values.append(frame.flatten(1).T)
    x = image + 0.1 * sine_position(height, width, image.shape[0], image.device, image.dtype)[0]
    x = x.flatten(1).T[None]
    for layer in attention.layers:
        x = layer.attend_self(x, table)
        x = layer.attend_memory(x, torch.cat(keys)[None], torch.cat(values)[None], table, None)
    return attention.layer_norm(x)[0].T.reshape(image.shape)


@torch.no_grad()
@pytest.mark.parametrize(("images", "targets"), [(1, 1), (1, 3), (2, 4)])
def test_sharing_the_first_self_attention_equals_the_naive_loop(images: int, targets: int) -> None:
    attention, maps = segmentor().memory_attention, feature(images)
    stored = MemoryBatch.merge([memory(3, seed=index) for index in range(targets)])
    shared = attention(maps, stored.embeds[0], stored.gaps, stored.valid)
    for row in range(targets):
        expected = naive(attention, maps[row * images // targets], stored.embeds[0][row], stored.gaps[row])
        torch.testing.assert_close(shared[row], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_first_self_attention_runs_once_per_image() -> None:
    attention = segmentor().memory_attention
    seen: list[int] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        for layer in attention.layers
    ]
    stored = MemoryBatch.merge([memory(3, seed=index) for index in range(4)])
    attention(feature(), stored.embeds[0], stored.gaps, stored.valid)
    for hook in hooks:
        hook.remove()
    assert seen == [1, 4]


@torch.no_grad()
def test_an_entry_depends_on_the_mask_and_is_shared_by_no_one() -> None:
    encoder = segmentor().memory_encoder
    vision = tuple(torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    soft = torch.zeros(2, 1, 32, 32)
    soft[1, :, 8:24, 8:24] = 1
    both = encoder(vision, soft)
    assert both.nbytes == sum(x.numel() * 4 for x in both.embeds)
    for scale, x in enumerate(both.embeds):
        assert (x[0] - x[1]).abs().max() > 1e-3
        torch.testing.assert_close(x[1:], encoder(vision, soft[1:]).embeds[scale], rtol=0, atol=1e-5)


def test_fused_masks_are_probabilities_led_by_the_confident_query() -> None:
    encoder = segmentor().memory_encoder
    masks = torch.full((1, 3, 4, 4), -8.0)
    masks[0, 0, :2], masks[0, 1, 2:] = 8.0, 8.0
    classes = torch.tensor([[[9.0, 0.0], [-30.0, 9.0], [-30.0, 9.0]]])
    fused = encoder.fuse_masks(classes, masks)
    assert fused.shape == (1, 1, 4, 4) and float(fused.min()) >= 0 and float(fused.max()) <= 1
    assert float(fused[0, 0, :2].min()) > 0.99
    padded = torch.cat([classes[..., :1], torch.full((1, 3, 2), -1e6), classes[..., 1:]], dim=-1)
    torch.testing.assert_close(encoder.fuse_masks(padded, masks), fused)

"""Windowed attention with pooled keys: the formula, and where it is exact."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.model.networks import memory, segmentor
from x2sam_ros.model.layers import cell_centres, rotary_table, sine_position, temporal_frequency
from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.windowed import Shortcuts, Windows, key_bias, pooled_keys

CPU = torch.device("cpu")


def drawn(height: int, width: int, batch: int = 2, heads: int = 2, channels: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return [torch.randn(batch, heads, height * width, channels, generator=generator) for _ in range(3)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, height: int, width: int, window: int, pool: int) -> Tensor:
    """Attend for each query by itself, as the docstring of `Windows.attend` says."""
    out = torch.empty_like(q)
    places = [(y, x) for y in range(height) for x in range(width)]
    for index, (y, x) in enumerate(places):
        own = y // window, x // window
        near = [i for i, (r, c) in enumerate(places) if (r // window, c // window) == own]
        squares: dict[tuple[int, int], list[int]] = {}
        for i, (r, c) in enumerate(places):
            if (r // window, c // window) != own:
                squares.setdefault((r // pool, c // pool), []).append(i)
        keys = [k[:, :, i] for i in near] + [k[:, :, cells].mean(2) for cells in squares.values()]
        values = [v[:, :, i] for i in near] + [v[:, :, cells].mean(2) for cells in squares.values()]
        counts = torch.tensor([1.0] * len(near) + [float(len(cells)) for cells in squares.values()])
        logits = torch.einsum("bhd,bhnd->bhn", q[:, :, index], torch.stack(keys, 2)) / math.sqrt(q.shape[-1])
        weights = (logits + counts.log()).softmax(-1)
        out[:, :, index] = torch.einsum("bhn,bhnd->bhd", weights, torch.stack(values, 2))
    return out


@pytest.mark.parametrize(
    ("height", "width", "window", "pool"),
    [(8, 8, 4, 2), (8, 8, 4, 4), (6, 9, 4, 2), (5, 7, 3, 3), (4, 8, 2, 1), (3, 10, 6, 2)],
)
def test_windows_do_what_the_formula_says(height: int, width: int, window: int, pool: int) -> None:
    q, k, v = drawn(height, width)
    got = Windows((height, width), window, pool).attend(q, k, v)
    torch.testing.assert_close(got, by_hand(q, k, v, height, width, window, pool), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 2), (6, 9, 4), (5, 5, 3)])
def test_squares_of_one_cell_are_exact(height: int, width: int, window: int) -> None:
    q, k, v = drawn(height, width)
    got = Windows((height, width), window, 1).attend(q, k, v)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v), rtol=1e-4, atol=1e-5)


def test_a_window_of_the_whole_map_is_none() -> None:
    assert Windows.of((8, 6), Shortcuts(8, 4)) is None
    assert Windows.of((8, 6), Shortcuts(32, 4)) is None
    assert Windows.of((8, 6), Shortcuts()) is None
    assert Windows.of((8, 6), Shortcuts(4, 2)) == Windows((8, 6), 4, 2)


def test_stored_maps_are_pooled_with_what_is_left_at_the_edge() -> None:
    x = torch.randn(2, 3, 5 * 4, 7, generator=torch.Generator().manual_seed(0))
    means = pooled_keys(x, (5, 4), 2)
    grid = x.view(2, 3, 5, 4, 7)
    assert means.shape == (2, 3, 6, 7)
    torch.testing.assert_close(means[:, :, 0], grid[:, :, :2, :2].mean((2, 3)))
    torch.testing.assert_close(means[:, :, 5], grid[:, :, 4:, 2:].mean((2, 3)))
    assert key_bias((5, 4), 2, CPU).exp().round().tolist() == [4, 4, 4, 4, 2, 2]


@torch.no_grad()
def test_memory_attention_with_shortcuts() -> None:
    attention = segmentor().memory_attention
    feature = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    stored = MemoryBatch.merge([memory(2, 1), memory(5, 2)])
    inputs = feature, stored.embeds[0], stored.gaps, stored.valid
    exact = attention(*inputs)
    assert torch.equal(attention(*inputs, Shortcuts(16, 4)), exact)
    torch.testing.assert_close(attention(*inputs, Shortcuts(4, 1)), exact, rtol=0, atol=1e-4)
    for shortcuts in (Shortcuts(8, 4), Shortcuts(0, 1, 2), Shortcuts(4, 2, 3)):
        near = attention(*inputs, shortcuts)
        assert not torch.equal(near, exact)
        assert float((near - exact).abs().mean()) < 0.5 * float(exact.abs().mean())
        alone = attention(feature, stored.embeds[0][:1, :2], stored.gaps[:1, :2], None, shortcuts)
        torch.testing.assert_close(near[:1], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_only_the_finest_scale_is_cut_short() -> None:
    model, shortcuts = segmentor(), Shortcuts(4, 2, 2)
    decoded = model.decode_pixels(model.encode_image(torch.randn(1, 3, 128, 128)), first=False)
    stored = memory(3)
    for scale in range(3):
        same = torch.equal(model.recall(decoded, stored, scale, shortcuts), model.recall(decoded, stored, scale))
        assert same == (scale < 2)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (sine_position, (3, 5, 16, CPU, torch.float32)),
        (rotary_table, (3, 5, 8, 10000.0, CPU)),
        (temporal_frequency, (8, CPU)),
        (cell_centres, (((2, 3), (4, 6)), CPU)),
        (key_bias, ((5, 4), 2, CPU)),
    ],
)
def test_tables_are_made_once_and_serve_training_too(make: object, arguments: tuple[object, ...]) -> None:
    assert callable(make)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        first = make(*arguments)
    again = make(*arguments)
    for x, y in zip(first if isinstance(first, tuple) else (first,), again if isinstance(again, tuple) else (again,)):
        assert x is y and x.dtype is torch.float32 and not x.is_inference() and not x.requires_grad
        weight = torch.ones_like(x, requires_grad=True)
        (weight * x).sum().backward()
        assert weight.grad is not None and torch.equal(weight.grad, x)

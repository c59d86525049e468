"""Resize uint8 pictures level for level as PIL or torch's CPU kernel does, on any device.

Both work in fixed point, one axis after the other, with whole levels in between. They differ in how many bits their
coefficients have and in which axis comes first. Sums of such products are whole numbers far below 2^53, so float64
matrix products give them exactly, whatever order a device adds them up in.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, repeat
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Filter = Literal["bilinear", "bicubic"]
Arithmetic = Literal["pil", "torch"]

_RADIUS: dict[Filter, int] = {"bilinear": 1, "bicubic": 2}
_PIL_BITS = 22
"""Fraction bits of PIL's coefficients, and most of torch's."""

_WINDOW = 48
"""Source pixels that one matrix product reads; a wider band holds more zeros, a narrower one means more products."""

_CHUNK_VALUES = 1 << 21
"""Values held as float64 at a time, of the source and of the result each."""

_CACHED_TABLES = 32


class _Block(NamedTuple):
    """Some neighbouring pixels of the result: they read from ``start``, by float64 weights (source pixels, pixels)."""

    start: int
    weights: Tensor


class _Table(NamedTuple):
    blocks: tuple[_Block, ...]
    bits: int


def resize_levels(planes: Tensor, size: tuple[int, int], kind: Filter, arithmetic: Arithmetic) -> Tensor:
    """Resize with a filter that is widened when shrinking, exactly as the chosen library does.

    Args:
        planes: uint8 (N, C, H, W), on any device that has float64.
        size: (height, width) of the result, pixels.
        kind: "bilinear" or "bicubic".
        arithmetic: "pil" (Pillow 13) or "torch" (its antialiased uint8 kernel on the CPU).

    Returns:
        uint8 (N, C, height, width); ``planes`` themselves when they have that size.

    Source: Pillow's ``Image.resize``; ``torch.nn.functional.interpolate`` with ``antialias=True``.
    """
    if tuple(planes.shape[2:]) == tuple(size):
        return planes
    if arithmetic == "torch" and planes.device.type == "cpu":
        return F.interpolate(planes, size=size, mode=kind, antialias=True)
    return resize_portably(planes, size, kind, arithmetic)


def resize_portably(planes: Tensor, size: tuple[int, int], kind: Filter, arithmetic: Arithmetic) -> Tensor:
    """Do what ``resize_levels`` does without torch's kernel for the CPU, which is quicker there."""
    height, width = planes.shape[2:]
    lost_rows, lost_columns = height - size[0], width - size[1]
    # Pillow 13 began to go down first where that saves work; bicubic results differ by up to tens of levels
    down_first = arithmetic == "pil" and lost_rows > max(0, 2 * lost_columns)
    for axis in (2, 3) if down_first else (3, 2):
        if planes.shape[axis] != size[axis - 2]:
            planes = _pass(planes, size[axis - 2], axis, kind, arithmetic)
    return planes


def resize_nearest(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (..., H, W) of any type to ``size`` by the pixel that PIL takes for the nearest."""
    height, width = planes.shape[-2:]
    rows = _nearest(height, size[0], planes.device)
    return planes.index_select(-2, rows).index_select(-1, _nearest(width, size[1], planes.device))


def _pass(planes: Tensor, length: int, axis: int, kind: Filter, arithmetic: Arithmetic) -> Tensor:
    """Resize along one axis: 2 is down, 3 is across."""
    table = _table(planes.shape[axis], length, kind, arithmetic, planes.device)
    shape = list(planes.shape)
    shape[axis] = length
    resized = planes.new_empty(shape)
    other = 5 - axis
    lines = max(1, _CHUNK_VALUES * planes.shape[other] // max(planes.numel(), resized.numel()))
    for part, target in zip(torch.split(planes, lines, other), torch.split(resized, lines, other)):
        levels = part.to(torch.float64, memory_format=torch.contiguous_format)
        sums = torch.cat([_product(levels, block, axis) for block in table.blocks], axis)
        target.copy_(sums.mul_(0.5**table.bits).add_(0.5).floor_().clamp_(0, 255))
    return resized


def _product(levels: Tensor, block: _Block, axis: int) -> Tensor:
    source = levels.narrow(axis, block.start, len(block.weights))
    return source @ block.weights if axis == 3 else block.weights.T @ source


@lru_cache(maxsize=_CACHED_TABLES)
def _table(source: int, length: int, kind: Filter, arithmetic: Arithmetic, device: torch.device) -> _Table:
    """Return the coefficients, times 2^bits, that make ``length`` pixels of ``source``; in blocks, which are dense."""
    first, count, weights = _coefficients(source, length, kind)
    bits = _PIL_BITS if arithmetic == "pil" else _torch_bits(float(weights.max()))
    fixed = np.trunc(weights * 2.0**bits + np.copysign(0.5, weights))
    blocks = []
    step = max(1, _WINDOW * length // source)
    for begin in range(0, length, step):
        pixels = range(begin, min(begin + step, length))
        start = int(first[begin])
        dense = np.zeros((int(first[pixels[-1]] + count[pixels[-1]]) - start, len(pixels)))
        for column, pixel in enumerate(pixels):
            row = int(first[pixel]) - start
            dense[row : row + count[pixel], column] = fixed[pixel, : count[pixel]]
        blocks.append(_Block(start, torch.from_numpy(dense).to(device)))
    return _Table(tuple(blocks), bits)


def _coefficients(
    source: int, length: int, kind: Filter
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the first source pixel and the number of them, each (length,), and weights (length, most of them)."""
    scale = source / length
    stretch = max(scale, 1.0)
    centre = (np.arange(length) + 0.5) * scale
    reach = _RADIUS[kind] * stretch
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + reach + 0.5).astype(np.int64), source) - first
    tap = np.arange(count.max())
    distance = np.abs((tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(tap < count[:, None], _kernel(distance, kind), 0.0)
    # added up from left to right: another order rounds differently
    return first, count, weights / np.cumsum(weights, axis=1)[:, -1:]


def _kernel(distance: npt.NDArray[np.float64], kind: Filter) -> npt.NDArray[np.float64]:
    x = distance
    if kind == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _torch_bits(largest: float) -> int:
    """Return the most fraction bits with which the largest coefficient still fits 16 bits with a sign."""
    return next((bits for bits in range(_PIL_BITS) if int(0.5 + largest * 2 ** (bits + 1)) >= 1 << 15), _PIL_BITS)


@lru_cache(maxsize=_CACHED_TABLES)
def _nearest(source: int, length: int, device: torch.device) -> Tensor:
    """Return the source pixel of each pixel, int64 (length,)."""
    scale = source / length
    # PIL adds the scale up rather than multiplying, and its rounding decides which neighbour is taken
    positions = accumulate(repeat(scale, length - 1), initial=0.5 * scale)
    return torch.tensor([int(position) for position in positions], device=device)

"""Approximate attention over large maps: near cells one by one, far ones and stored ones by the mean of a square.

Source: windowed attention as in Swin (Liu et al. 2021), joined with the pooled memory tokens of EfficientTAM (Xiong et
al. 2024): a mean stands for its n cells, so that ln n is added to its logit. Here every cell is counted once: one that
lies in the window is not in a mean too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.model.layers import cached_table


@dataclass(frozen=True)
class Shortcuts:
    """What the memory attention leaves out at the finest scale; as by default it is exact.

    Args:
        window: side of the windows that self attention is cut into, cells; 0 for the whole map.
        pool: side of the squares outside of a window whose cells are looked at by their mean; divides ``window``.
        key_pool: side of the squares of a stored map whose cells are looked at by their mean.
    """

    window: int = 0
    pool: int = 1
    key_pool: int = 1


EXACT = Shortcuts()


@dataclass(frozen=True)
class Windows:
    """Self attention of a map's cells in windows, for a map of ``shape`` (height, width); see `Shortcuts`."""

    shape: tuple[int, int]
    window: int
    pool: int

    @classmethod
    def of(cls, shape: tuple[int, int], shortcuts: Shortcuts) -> Windows | None:
        """Return the windows of a map; None where one holds all of it, which is the exact attention."""
        if not 0 < shortcuts.window < max(shape):
            return None
        return cls(shape, shortcuts.window, shortcuts.pool)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend among cells, all (B, heads, H * W, D) and the answer too.

        A query i of window W weighs key j by exp(q_i k_j / sqrt(D)) for j in W, and the mean key of each pooled square
        by n exp(q_i k / sqrt(D)), n being how many of the map's cells outside of W it holds.
        """
        batch, heads, length, width = q.shape
        side = self.window
        grids = [self._grid(x) for x in (q, k, v)]  # (B, heads, rows, columns, D), padded
        rows, columns = grids[0].shape[2] // side, grids[0].shape[3] // side
        near = [self._cut(x, side) for x in grids]  # (B, windows, heads, side * side, D)
        counts = pooled_counts(self.shape, grids[0].shape[2:4], self.pool, q.device)
        far = [self._means(x, counts)[:, None].expand(-1, rows * columns, -1, -1, -1) for x in grids[1:]]
        keys, values = (torch.cat(pair, dim=3).flatten(0, 1) for pair in zip(near[1:], far))
        bias = window_bias(self.shape, side, self.pool, q.device).to(q.dtype)
        bias = bias.repeat(batch, 1)[:, None, None].expand(-1, -1, side * side, -1)
        out = F.scaled_dot_product_attention(near[0].flatten(0, 1), keys, values, attn_mask=bias)
        out = out.view(batch, rows, columns, heads, side, side, width).permute(0, 3, 1, 4, 2, 5, 6)
        whole = out.reshape(batch, heads, rows * side, columns * side, width)
        return whole[:, :, : self.shape[0], : self.shape[1]].reshape(batch, heads, length, width)

    def _grid(self, x: Tensor) -> Tensor:
        missing = [-length % self.window for length in self.shape]
        return F.pad(x.unflatten(2, self.shape), (0, 0, 0, missing[1], 0, missing[0]))

    def _cut(self, x: Tensor, side: int) -> Tensor:
        """(B, heads, rows, columns, D) to (B, squares, heads, side * side, D), the squares row by row."""
        blocks = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5, 6)
        return blocks.flatten(4, 5).flatten(1, 2)

    def _means(self, x: Tensor, counts: Tensor) -> Tensor:
        """(B, heads, rows, columns, D) to the mean of each pooled square, (B, heads, squares, D)."""
        sums = self._cut(x, self.pool).sum(3).transpose(1, 2)
        return sums / counts.clamp_min(1)[:, None].to(x.dtype)


@cached_table
def _pooled_counts(device: torch.device, shape: tuple[int, int], padded: tuple[int, int], pool: int) -> Tensor:
    inside = torch.zeros(padded, device=device)
    inside[: shape[0], : shape[1]] = 1
    return F.avg_pool2d(inside[None, None], pool, divisor_override=1).flatten()


def pooled_counts(shape: tuple[int, int], padded: tuple[int, ...], pool: int, device: torch.device) -> Tensor:
    """Return how many of a map's cells each pooled square of its padded grid holds, float32 (squares,); cached."""
    return _pooled_counts(device, shape, tuple(padded), pool)


@cached_table
def _window_bias(device: torch.device, shape: tuple[int, int], window: int, pool: int) -> Tensor:
    rows, columns = (-(-length // window) for length in shape)
    y, x = (torch.arange(count * window, device=device) for count in (rows, columns))
    inside = (y < shape[0])[:, None] & (x < shape[1])
    own = inside.view(rows, window, columns, window).transpose(1, 2).reshape(rows * columns, -1)
    near = torch.zeros(own.shape, device=device).masked_fill(~own, -torch.inf)
    counts = _pooled_counts(device, shape, (rows * window, columns * window), pool)
    at = (y[::pool] // window)[:, None] * columns + x[::pool] // window  # the window of each pooled square
    mine = at.flatten() == torch.arange(rows * columns, device=device)[:, None]
    return torch.cat([near, counts.log().expand(rows * columns, -1).masked_fill(mine, -torch.inf)], dim=1)


def window_bias(shape: tuple[int, int], window: int, pool: int, device: torch.device) -> Tensor:
    """Return what is added to each window's logits, float32 (windows, window * window + squares); cached.

    0 for its own cells, ln n for a pooled square of n cells, minus infinity for padding and for squares inside of it.
    """
    return _window_bias(device, shape, window, pool)


def pooled_keys(x: Tensor, shape: tuple[int, int], pool: int) -> Tensor:
    """Return the means of the squares of stored maps, (N, S, h * w, C) to (N, S, squares, C); the last are cut off."""
    maps = x.transpose(2, 3).reshape(-1, x.shape[3], *shape)
    means = F.avg_pool2d(maps, pool, ceil_mode=True, count_include_pad=False)
    return means.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])


@cached_table
def _key_bias(device: torch.device, shape: tuple[int, int], pool: int) -> Tensor:
    rows, columns = (
        torch.tensor([min(pool, length - start) for start in range(0, length, pool)], device=device).float()
        for length in shape
    )
    return torch.outer(rows, columns).flatten().log()


def key_bias(shape: tuple[int, int], pool: int, device: torch.device) -> Tensor:
    """Return ln n of each square of `pooled_keys`, n being its cells, float32 (squares,); cached."""
    return _key_bias(device, shape, pool)

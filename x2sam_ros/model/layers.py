"""Small parts shared by the decoders and the memory: positions, attention, channel-wise norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CACHED_SHAPES = 64
"""Tables of each kind that are kept, those of the shapes used last."""

Table = TypeVar("Table", Tensor, tuple[Tensor, Tensor])


def cached_table(make: Callable[..., Table]) -> Callable[..., Table]:
    """Keep what a function of a device and plain values makes; whoever gets it never changes it in place.

    It is made as ordinary tensors, whatever inference mode, gradients and autocast are at that time, and is complete
    when it is returned, so that other threads and CUDA streams may use it. Compiled code makes its own.
    """

    def exact(device: torch.device, *values: object) -> Table:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return make(device, *values)

    @lru_cache(maxsize=CACHED_SHAPES)
    def kept(device: torch.device, *values: object) -> Table:
        with torch.inference_mode(False):
            table = exact(device, *values)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return table

    def table(device: torch.device, *values: object) -> Table:
        # compilers look through a cache, and warn of it
        return exact(device, *values) if torch.compiler.is_compiling() else kept(device, *values)

    return table


@cached_table
def _sine_position(device: torch.device, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
    half = channels // 2
    index = torch.arange(half, device=device)
    frequency = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def code(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)  # (length, half)

    y, x = code(height), code(width)
    grid = torch.cat([y[:, None].expand(height, width, half), x[None].expand(height, width, half)], dim=2)  # (H, W, C)
    return grid.permute(2, 0, 1)[None].to(dtype).contiguous()


def sine_position(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the 2-D sine position code, (1, channels, height, width); cached, so never change it in place.

    The first half of the channels codes y, the second x, each interleaving sine and cosine.

    Source: Mask2Former and SAM 2 (normalised to 2 pi, temperature 10000).
    """
    return _sine_position(device, height, width, channels, dtype)


@cached_table
def _rotary_table(device: torch.device, height: int, width: int, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    frequency = 1.0 / (theta ** (torch.arange(0, dim, 4, device=device)[: dim // 4].float() / dim))
    index = torch.arange(height * width, device=device)
    x, y = index % width, torch.div(index, width, rounding_mode="floor")
    angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], dim=-1).repeat_interleave(2, dim=-1)
    return angle.cos(), angle.sin()


def rotary_table(height: int, width: int, dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the axial rotary code, each float32 (height * width, dim); cached.

    Source: SAM 2's memory attention: the first half of the pairs turns with x, the second with y.
    """
    return _rotary_table(device, height, width, dim, theta)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring channel pairs of ``x`` (..., L, D) by the angles of `rotary_table`, in float32."""
    cos, sin = table
    wide = x.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (wide * cos + turned * sin).to(x.dtype)


@cached_table
def _temporal_frequency(device: torch.device, half: int) -> Tensor:
    return torch.exp(-math.log(10000.0) * torch.arange(half, device=device, dtype=torch.float32) / half)


def temporal_frequency(half: int, device: torch.device) -> Tensor:
    """Return the angular frequencies of `temporal_code`, float32 (half,); cached."""
    return _temporal_frequency(device, half)


def temporal_code(gaps: Tensor, channels: int) -> Tensor:
    """Return the sinusoid of frame gaps: ``gaps`` (...,) to (..., channels), sine half then cosine half.

    Source: X2SAM, frequencies 10000^(-k / half).
    """
    angle = gaps.float()[..., None] * temporal_frequency(channels // 2, gaps.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@cached_table
def _cell_centres(device: torch.device, shapes: tuple[tuple[int, int], ...]) -> Tensor:
    points = []
    for height, width in shapes:
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        points.append(torch.stack([x.flatten(), y.flatten()], dim=-1))
    return torch.cat(points)


def cell_centres(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return the centres of all cells of all levels (height, width), float32 (L, 2), x and y in 0 to 1; cached."""
    return _cell_centres(device, shapes)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) to (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention on projected (B, L, C) tensors; ``mask`` is True where attention is allowed."""
    out = F.scaled_dot_product_attention(
        split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), attn_mask=mask
    )
    return out.transpose(1, 2).flatten(2)


class PackedAttention(nn.Module):
    """Cross attention whose three input projections share one matrix, named as in ``nn.MultiheadAttention``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from ``query`` (B, Q, C) to ``key``/``value`` (B, L, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))
        return self.out_proj(attend(q, k, v, self.heads, mask))


class SelfAttention(nn.Module):
    """Self attention of the queries; the position is added to query and key, not to the value."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Attend among ``x`` (B, Q, C)."""
        placed = x + position
        return self.out_proj(attend(self.q_proj(placed), self.k_proj(placed), self.v_proj(x), self.heads))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each cell of ``x``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

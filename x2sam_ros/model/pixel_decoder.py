"""The pixel decoder: multi-scale deformable attention over three levels, then one fine mask map.

Source: Mask2Former's pixel decoder with strides 4, 8, 16, as X2SAM uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.model.config import DecoderConfig
from x2sam_ros.model.layers import cell_centres, sine_position

Shapes = list[tuple[int, int]]
NUM_LEVELS = 3
NORM_GROUPS = 32


@dataclass(frozen=True)
class PixelFeatures:
    """What the pixel decoder made of B images.

    Args:
        multi_scale: three maps, coarse to fine, each (B, C, H, W) at strides 16, 8, 4.
        mask_features: (B, C, H, W) at stride 4; a mask is a query's dot product with it.
    """

    multi_scale: tuple[Tensor, ...]
    mask_features: Tensor


class DeformableAttention(nn.Module):
    """Attention that reads each level at a few learned offsets around a reference point."""

    def __init__(self, channels: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(channels, heads * NUM_LEVELS * points * 2)
        self.attention_weights = nn.Linear(channels, heads * NUM_LEVELS * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """Attend among ``tokens``.

        Args:
            tokens: (B, L, C), the levels joined, coarse to fine.
            position: (1, L, C).
            reference: (L, 2), x and y of each token's centre in 0 to 1.
            shapes: (height, width) of each level.

        Returns:
            The attention's output (B, L, C) and its weights (B, L, heads, levels, points).
        """
        batch, length, channels = tokens.shape
        placed = tokens + position
        # places need more than bfloat16's eight bits: on a 256-cell map half a cell would be lost
        value = self.value_proj(tokens).transpose(1, 2).float()  # (B, C, L)
        offsets = self.sampling_offsets(placed).float().view(batch, length, self.heads, NUM_LEVELS, self.points, 2)
        weights = self.attention_weights(placed).view(batch, length, self.heads, -1).softmax(-1)
        sizes = offsets.new_tensor([[w, h] for h, w in shapes])
        # grid_sample's coordinates run from -1 to 1
        grid = 2 * (reference[None, :, None, None, None] + offsets / sizes[None, None, None, :, None]) - 1
        grid = grid.permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (levels, B * heads, L, points, 2)
        sampled, start = [], 0
        for level, (height, width) in enumerate(shapes):
            stop = start + height * width
            level_value = value[:, :, start:stop].reshape(batch * self.heads, -1, height, width)
            sampled.append(F.grid_sample(level_value, grid[level], align_corners=False))
            start = stop
        gathered = torch.cat(sampled, dim=-1)  # (B * heads, C / heads, L, levels * points)
        per_head = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, 1, L, levels * points)
        out = (gathered * per_head).sum(-1).view(batch, channels, length).transpose(1, 2)
        return self.output_proj(out), weights.view(batch, length, self.heads, NUM_LEVELS, self.points)


class DeformableLayer(nn.Module):
    """Deformable attention and a feed-forward, each with a residual and a norm behind it."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        channels = config.feature_channels
        self.self_attn = DeformableAttention(channels, config.heads, config.pixel_points)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, config.pixel_feedforward)
        self.fc2 = nn.Linear(config.pixel_feedforward, channels)
        self.final_layer_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """Refine ``tokens`` (B, L, C)."""
        attended, _ = self.self_attn(tokens, position, reference, shapes)
        tokens = self.self_attn_layer_norm(tokens + attended)
        return self.final_layer_norm(tokens + self.fc2(F.relu(self.fc1(tokens))))


class DeformableEncoder(nn.Module):
    """The stack of deformable layers."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableLayer(config) for _ in range(config.pixel_layers))

    def forward(self, tokens: Tensor, position: Tensor, shapes: Shapes) -> Tensor:
        """Refine ``tokens`` (B, L, C) through every layer."""
        reference = reference_points(shapes, tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)
        return tokens


def reference_points(shapes: Shapes, device: torch.device) -> Tensor:
    """Return the centres of all cells of all levels, float32 (L, 2), x and y in 0 to 1; cached."""
    return cell_centres(tuple(shapes), device)


class PixelDecoder(nn.Module):
    """Mix the pyramid's levels and make the mask features. Knows neither prompt nor time."""

    def __init__(self, config: DecoderConfig, in_channels: int) -> None:
        super().__init__()
        channels = config.feature_channels
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, channels))
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.GroupNorm(NORM_GROUPS, channels))
            for _ in range(NUM_LEVELS)
        )
        self.encoder = DeformableEncoder(config)
        self.mask_projection = nn.Conv2d(channels, config.mask_channels, 1)
        self.adapter_1 = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.GroupNorm(NORM_GROUPS, channels)
        )
        self.layer_1 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(NORM_GROUPS, channels), nn.ReLU()
        )

    def forward(self, pyramid: tuple[Tensor, ...]) -> PixelFeatures:
        """Decode ``pyramid``: three maps, fine to coarse, each (B, C, H, W)."""
        inputs = [project(x) for project, x in zip(self.input_projections, reversed(pyramid))]
        shapes = [(x.shape[2], x.shape[3]) for x in inputs]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in inputs], dim=1)  # (B, L, C)
        refined = self.encoder(tokens, self._position(shapes, tokens), shapes)
        levels = refined.split([h * w for h, w in shapes], dim=1)
        maps = tuple(x.transpose(1, 2).unflatten(2, shape) for x, shape in zip(levels, shapes))
        fine = self.adapter_1(pyramid[0])
        upsampled = F.interpolate(maps[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(maps, self.mask_projection(self.layer_1(fine + upsampled)))

    def _position(self, shapes: Shapes, like: Tensor) -> Tensor:
        return torch.cat(
            [
                sine_position(h, w, like.shape[-1], like.device, like.dtype).flatten(2).transpose(1, 2) + level
                for (h, w), level in zip(shapes, self.level_embed)
            ],
            dim=1,
        )

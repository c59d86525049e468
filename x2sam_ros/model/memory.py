"""Mask Memory: what was segmented in earlier frames conditions the present one.

Source: X2SAM's extension of SAM 2's memory attention and memory encoder to three scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.model.config import MemoryConfig
from x2sam_ros.model.layers import ChannelNorm, rotary_table, rotate, sine_position, split_heads, temporal_code
from x2sam_ros.model.windowed import EXACT, Shortcuts, Windows, key_bias, pooled_keys

MIN_CLASS_PROB = 1e-6


@dataclass(frozen=True)
class MemoryEntry:
    """One stored frame of N targets: ``embeds`` holds a (N, C, h, w) map for each scale, coarse to fine."""

    embeds: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes the tensors hold."""
        return sum(x.numel() * x.element_size() for x in self.embeds)


@dataclass(frozen=True)
class MemoryBatch:
    """Stored frames of N targets in S slots, oldest first, ready to be attended to.

    Args:
        embeds: for each scale (N, S, C, h, w).
        gaps: (N, S), frames between the stored one and the present one, >= 1.
        valid: bool (N, S); every target needs at least one valid slot.
        padded: whether a slot may be invalid; known on the host, so that the device need not be asked.
    """

    embeds: tuple[Tensor, ...]
    gaps: Tensor
    valid: Tensor
    padded: bool = True

    @classmethod
    def stack(cls, entries: Sequence[MemoryEntry], gaps: Sequence[int]) -> MemoryBatch:
        """Join entries that hold the same N targets; ``gaps`` has one number for each entry."""
        embeds = tuple(torch.stack(scale, dim=1) for scale in zip(*(entry.embeds for entry in entries)))
        count, device = embeds[0].shape[0], embeds[0].device
        return cls(
            embeds=embeds,
            gaps=torch.tensor(list(gaps), device=device).expand(count, -1),
            valid=torch.ones(count, len(entries), dtype=torch.bool, device=device),
            padded=False,
        )

    def rows(self, index: Sequence[int]) -> MemoryBatch:
        """Return the memories of the targets chosen by ``index``; one may be taken more than once."""
        return MemoryBatch(tuple(x[index] for x in self.embeds), self.gaps[index], self.valid[index], self.padded)

    @classmethod
    def merge(cls, batches: Sequence[MemoryBatch], least_slots: int = 1) -> MemoryBatch:
        """Join batches of different targets, padding the shorter memories with invalid slots."""
        slots = max(least_slots, *(batch.gaps.shape[1] for batch in batches))

        def pad(x: Tensor, value: float) -> Tensor:
            missing = slots - x.shape[1]
            return F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing], value=value) if missing else x

        embeds = tuple(torch.cat([pad(x, 0.0) for x in scale]) for scale in zip(*(batch.embeds for batch in batches)))
        gaps = torch.cat([pad(batch.gaps, 1) for batch in batches])
        valid = torch.cat([pad(batch.valid, False) for batch in batches])
        return cls(embeds, gaps, valid, any(batch.padded or batch.gaps.shape[1] < slots for batch in batches))


class RotaryAttention(nn.Module):
    """Attention with separate projections; queries (and, when asked, keys) turn with their 2-D position."""

    def __init__(self, config: MemoryConfig, key_channels: int) -> None:
        super().__init__()
        inner = config.attention_hidden // config.attention_downsample
        self.heads = config.attention_heads
        self.q_proj = nn.Linear(config.attention_hidden, inner)
        self.k_proj = nn.Linear(key_channels, inner)
        self.v_proj = nn.Linear(key_channels, inner)
        self.o_proj = nn.Linear(inner, config.attention_hidden)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        table: tuple[Tensor, Tensor],
        rotate_keys: bool,
        mask: Tensor | None = None,
        windows: Windows | None = None,
    ) -> Tensor:
        """Attend from (N, L, C) to (N, K, C').

        Args:
            query, key, value: not yet projected.
            table: the rotary code of the queries' places.
            rotate_keys: whether the keys lie at the same places.
            mask: True where attention is allowed, or what is added to the logits.
            windows: cuts the attention of a map's cells to each other short, without a mask.
        """
        q = rotate(split_heads(self.q_proj(query), self.heads), table)
        k = split_heads(self.k_proj(key), self.heads)
        k = rotate(k, table) if rotate_keys else k
        v = split_heads(self.v_proj(value), self.heads)
        out = windows.attend(q, k, v) if windows else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MemoryAttentionLayer(nn.Module):
    """Self attention, attention to the memory, feed-forward; norms in front."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        hidden = config.attention_hidden
        self.self_attn = RotaryAttention(config, hidden)
        self.cross_attn = RotaryAttention(config, config.encoder_channels)
        self.linear1 = nn.Linear(hidden, config.attention_feedforward)
        self.linear2 = nn.Linear(config.attention_feedforward, hidden)
        self.layer_norm1 = nn.LayerNorm(hidden)
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.layer_norm3 = nn.LayerNorm(hidden)

    def attend_self(self, x: Tensor, table: tuple[Tensor, Tensor], windows: Windows | None = None) -> Tensor:
        """Mix the present frame's tokens (B, L, C)."""
        normed = self.layer_norm1(x)
        return x + self.self_attn(normed, normed, normed, table, rotate_keys=True, windows=windows)

    def attend_memory(
        self, x: Tensor, keys: Tensor, values: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Read the memory (N, K, C') into the tokens (N, L, C)."""
        x = x + self.cross_attn(self.layer_norm2(x), keys, values, table, rotate_keys=False, mask=mask)
        return x + self.linear2(F.relu(self.linear1(self.layer_norm3(x))))


class MemoryAttention(nn.Module):
    """Condition one scale of the present frame on the stored frames; the weights serve every scale."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.head_dim = config.attention_hidden // (config.attention_downsample * config.attention_heads)
        self.rope_theta = config.rope_theta
        self.layers = nn.ModuleList(MemoryAttentionLayer(config) for _ in range(config.attention_layers))
        self.layer_norm = nn.LayerNorm(config.attention_hidden)

    def forward(
        self, feature: Tensor, memory: Tensor, gaps: Tensor, valid: Tensor | None, shortcuts: Shortcuts = EXACT
    ) -> Tensor:
        """Condition ``feature``.

        Args:
            feature: (B, C, H, W), B images.
            memory: (N, S, C', h, w), N targets of those images, N a multiple of B.
            gaps: (N, S) frames; valid: bool (N, S), None where every slot is.
            shortcuts: what is left out.

        Returns:
            (N, C, H, W).
        """
        batch, channels, height, width = feature.shape
        count, _, memory_channels, h, w = memory.shape
        values = memory.flatten(3).transpose(2, 3)  # (N, S, h * w, C')
        place = sine_position(h, w, memory_channels, memory.device, memory.dtype).flatten(2).transpose(1, 2)
        time = temporal_code(gaps, memory_channels).to(memory.dtype)
        keys = values + place[:, None] + time[:, :, None]
        pool = shortcuts.key_pool
        if pool > 1:
            keys, values = (pooled_keys(x, (h, w), pool) for x in (keys, values))
        mask = None if valid is None else valid.repeat_interleave(keys.shape[2], dim=1)[:, None, None]
        if h % pool or w % pool:  # squares of unequal size
            bias = key_bias((h, w), pool, keys.device).to(keys.dtype).repeat(keys.shape[1])
            mask = bias.expand(1, 1, 1, -1) if mask is None else torch.where(mask, bias, -torch.inf)
        windows = Windows.of((height, width), shortcuts)
        return (
            self._layers(feature, keys.flatten(1, 2), values.flatten(1, 2), mask, count // batch, windows)
            .transpose(1, 2)
            .reshape(count, channels, height, width)
        )

    def _layers(
        self, feature: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, share: int, windows: Windows | None
    ) -> Tensor:
        _, channels, height, width = feature.shape
        table = rotary_table(height, width, self.head_dim, self.rope_theta, feature.device)
        x = feature + 0.1 * sine_position(height, width, channels, feature.device, feature.dtype)
        x = x.flatten(2).transpose(1, 2)  # (B, L, C)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, MemoryAttentionLayer)
            x = layer.attend_self(x, table, windows)
            if index == 0:  # up to here nothing depends on the target, so its targets share the image's result
                x = x.repeat_interleave(share, dim=0)
            x = layer.attend_memory(x, keys, values, table, mask)
        return self.layer_norm(x)


class DownsampleStep(nn.Module):
    """Strided convolution, norm, GELU."""

    def __init__(self, config: MemoryConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            config.downsampler_kernel,
            stride=config.downsampler_stride,
            padding=config.downsampler_padding,
        )
        self.layer_norm = ChannelNorm(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        return F.gelu(self.layer_norm(self.conv(x)))


class Downsampler(nn.Module):
    """Shrink a map by ``total_stride``; channels grow by the square of each step's stride, then project."""

    def __init__(self, config: MemoryConfig, in_channels: int, out_channels: int, total_stride: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels, stride = in_channels, 1
        while stride * config.downsampler_stride <= total_stride:
            grown = channels * config.downsampler_stride**2
            self.layers.append(DownsampleStep(config, channels, grown))
            channels, stride = grown, stride * config.downsampler_stride
        self.final_conv = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / total_stride, W / total_stride)."""
        for layer in self.layers:
            x = layer(x)
        return self.final_conv(x)


class FuserBlock(nn.Module):
    """A ConvNeXt block: depth-wise convolution, norm, two point-wise layers, learned scale."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        channels = config.fuser_channels
        self.depthwise_conv = nn.Conv2d(
            channels, channels, config.fuser_kernel, padding=config.fuser_padding, groups=channels
        )
        self.layer_norm = ChannelNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, config.fuser_hidden)
        self.pointwise_conv2 = nn.Linear(config.fuser_hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        y = self.layer_norm(self.depthwise_conv(x)).permute(0, 2, 3, 1)
        y = self.scale * self.pointwise_conv2(F.gelu(self.pointwise_conv1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryFuser(nn.Module):
    """The stack of fuser blocks."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock(config) for _ in range(config.fuser_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Write a memory entry: what the frame looked like (shared by its targets) plus where the target was."""

    channels_last = True  # how its weights are best stored

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.use_mask, self.use_class = config.use_mask_guidance, config.use_class_guidance
        self.mask_scale, self.mask_bias = config.mask_scale, config.mask_bias
        if self.use_mask:
            self.mask_downsampler = Downsampler(config, 1, config.mask_channels, config.mask_stride)
            self.memory_fuser = MemoryFuser(config)
        self.vision_downsampler = nn.ModuleList(
            Downsampler(config, config.encoder_hidden, config.encoder_channels, stride)
            for stride in config.feature_strides
        )
        self.projection = nn.Conv2d(config.encoder_hidden, config.encoder_hidden, 1)

    def encode_vision(self, multi_scale: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Bring the unconditioned maps, coarse to fine, to the memory's size; once per frame."""
        return tuple(shrink(x) for shrink, x in zip(self.vision_downsampler, multi_scale))

    def fuse_masks(self, class_logits: Tensor, mask_logits: Tensor) -> Tensor:
        """Fuse all queries into one soft map.

        Args:
            class_logits: (N, Q, C), background last; mask_logits: (N, Q, H, W).

        Returns:
            (N, 1, H, W) in 0 to 1.
        """
        weight = mask_logits
        if self.use_class:
            best = class_logits.softmax(-1)[..., :-1].amax(-1)
            weight = weight + best.clamp_min(MIN_CLASS_PROB).log()[..., None, None]
        return (weight.softmax(1) * mask_logits.sigmoid()).sum(1, keepdim=True)

    def forward(self, vision: tuple[Tensor, ...], soft_mask: Tensor) -> MemoryEntry:
        """Write the entry of N targets over B images, N a multiple of B.

        Args:
            vision: `encode_vision`'s maps, each (B, C, h, w).
            soft_mask: (N, 1, H, W) in 0 to 1, from `fuse_masks` or a known mask.
        """
        if not self.use_mask:
            share = soft_mask.shape[0] // vision[0].shape[0]
            return MemoryEntry(tuple(self.projection(x.repeat_interleave(share, dim=0)) for x in vision))
        where = self.mask_downsampler(soft_mask * self.mask_scale + self.mask_bias)
        share = where.shape[0] // vision[0].shape[0]
        return MemoryEntry(
            tuple(self.projection(self.memory_fuser(x.repeat_interleave(share, dim=0) + where)) for x in vision)
        )

"""The mask decoder: queries that attend to the image, to the prompt's text and to each other.

Source: Mask2Former's masked-attention decoder with X2SAM's text cross-attention and cosine class head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.errors import ModelError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import DecoderConfig
from x2sam_ros.model.layers import PackedAttention, SelfAttention, sine_position
from x2sam_ros.model.pixel_decoder import NUM_LEVELS, PixelFeatures

PADDED_CLASS_LOGIT = -1e6
CLASS_LOGIT_LIMIT = 50.0


def padded_class_logit(dtype: torch.dtype) -> float:
    """Return the class logit of padding; float16 ends at -65504."""
    return max(PADDED_CLASS_LOGIT, torch.finfo(dtype).min)


@dataclass(frozen=True)
class LayerPrediction:
    """What one layer predicts: ``queries`` (N, Q, C), normed, and ``mask_logits`` (N, Q, H, W) at stride 4."""

    queries: Tensor
    mask_logits: Tensor


class ClassPredictor(nn.Module):
    """Score each query against each condition of the prompt; the last condition is background."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "learn":
            self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))
        elif kind == "auto":
            self.cls_bias = nn.Parameter(torch.tensor([-math.log((1 - 0.01) / 0.01)]))
        else:
            raise ModelError(f"unknown class head '{kind}'; available: learn (cosine), auto (dot product)")
        self.kind = kind

    def forward(self, queries: Tensor, conditions: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return class logits (N, Q, C) for ``queries`` (N, Q, D) and ``conditions`` (N, C, D)."""
        if self.kind == "learn":
            cosine = F.normalize(queries, dim=-1) @ F.normalize(conditions, dim=-1).transpose(1, 2)
            logits = self.logit_scale.exp() * cosine
        else:
            logits = queries @ conditions.transpose(1, 2) / math.sqrt(queries.shape[-1]) + self.cls_bias
        logits = logits.clamp(-CLASS_LOGIT_LIMIT, CLASS_LOGIT_LIMIT)
        if keep is not None:
            logits = logits.masked_fill(~keep.bool()[:, None], padded_class_logit(logits.dtype))
        return logits


class MaskPredictor(nn.Module):
    """Turn queries into masks: a three-layer perceptron, then a dot product with the mask features."""

    def __init__(self, hidden: int, mask_channels: int) -> None:
        super().__init__()
        self.mask_embedder = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, out)) for out in (hidden, hidden, mask_channels)
        )

    def forward(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """Return mask logits (N, Q, H, W) for N prompts over the B images they share evenly."""
        for layer in self.mask_embedder[:-1]:
            queries = F.relu(layer(queries))
        embedded = self.mask_embedder[-1](queries)
        batch, _, height, width = mask_features.shape
        shared = embedded.reshape(batch, -1, embedded.shape[-1])  # prompts of one image side by side
        return (shared @ mask_features.flatten(2)).view(*embedded.shape[:2], height, width)


class MaskDecoderLayer(nn.Module):
    """Masked attention to one image level, attention to the text, self attention, feed-forward; post-norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.cross_attn = PackedAttention(hidden, config.heads)
        self.cross_attn_layer_norm = nn.LayerNorm(hidden)
        self.use_text = config.use_text_cross_attention
        if self.use_text:
            self.text_cross_attn = PackedAttention(hidden, config.heads)
            self.text_cross_attn_layer_norm = nn.LayerNorm(hidden)
        self.self_attn = SelfAttention(hidden, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(hidden)
        self.fc1 = nn.Linear(hidden, config.mask_feedforward)
        self.fc2 = nn.Linear(config.mask_feedforward, hidden)
        self.final_layer_norm = nn.LayerNorm(hidden)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        features: Tensor,
        feature_position: Tensor,
        allowed: Tensor,
        text: Tensor,
        text_keep: Tensor,
    ) -> Tensor:
        """Refine the queries.

        Args:
            queries: (N, Q, C); query_position: (1, Q, C).
            features: (B, L, C) of B images, N a multiple of B; feature_position: (1, L, C).
            allowed: bool (N, Q, L), True where a query may look.
            text: (N, T, C); text_keep: bool (N, T), False on padding.
        """
        batch = features.shape[0]
        placed = (queries + query_position).reshape(batch, -1, queries.shape[-1])
        mask = allowed.reshape(batch, 1, -1, allowed.shape[-1])
        seen = self.cross_attn(placed, features + feature_position, features, mask).view_as(queries)
        queries = self.cross_attn_layer_norm(queries + seen)
        if self.use_text:
            read = self.text_cross_attn(queries + query_position, text, text, text_keep[:, None, None])
            queries = self.text_cross_attn_layer_norm(queries + read)
        queries = self.self_attn_layer_norm(queries + self.self_attn(queries, query_position))
        return self.final_layer_norm(queries + self.fc2(F.relu(self.fc1(queries))))


class QueryStack(nn.Module):
    """The layers, the norm and the mask predictor that all layers share."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskDecoderLayer(config) for _ in range(config.mask_layers))
        self.layernorm = nn.LayerNorm(config.hidden)
        self.mask_predictor = MaskPredictor(config.hidden, config.mask_channels)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        levels: list[Tensor],
        positions: list[Tensor],
        shapes: list[tuple[int, int]],
        mask_features: Tensor,
        condition: PromptCondition,
    ) -> list[LayerPrediction]:
        """Run every layer; the prediction before the first one is included, so there are layers + 1."""
        predictions = [self._predict(queries, mask_features)]
        for index, layer in enumerate(self.layers):
            level = index % len(levels)
            allowed = allowed_region(predictions[-1].mask_logits, shapes[level])
            queries = layer(
                queries,
                query_position,
                levels[level],
                positions[level],
                allowed,
                condition.token_embeds,
                condition.token_mask,
            )
            predictions.append(self._predict(queries, mask_features))
        return predictions

    def _predict(self, queries: Tensor, mask_features: Tensor) -> LayerPrediction:
        normed = self.layernorm(queries)
        return LayerPrediction(normed, self.mask_predictor(normed, mask_features))


def allowed_region(mask_logits: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return where each query may look: bool (N, Q, H * W); a query with an empty mask may look everywhere."""
    resized = F.interpolate(mask_logits.detach(), size=shape, mode="bilinear", align_corners=False)
    inside = resized.flatten(2) >= 0  # sigmoid >= 0.5
    return inside | ~inside.any(-1, keepdim=True)


class MaskDecoder(nn.Module):
    """Turn pixel features and a prompt's condition into queries and masks. Knows nothing of time."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.queries_embedder = nn.Embedding(config.num_queries, hidden)
        self.queries_features = nn.Embedding(config.num_queries, hidden)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden)
        self.decoder = QueryStack(config)
        same = config.feature_channels == hidden
        self.input_projections = nn.ModuleList(
            nn.Identity() if same else nn.Conv2d(config.feature_channels, hidden, 1) for _ in range(NUM_LEVELS)
        )

    def forward(self, features: PixelFeatures, condition: PromptCondition) -> list[LayerPrediction]:
        """Decode N prompts over B images.

        N must be a multiple of B: prompts i * N / B to (i + 1) * N / B - 1 look at image i.
        """
        count, batch = condition.seg_embeds.shape[0], features.mask_features.shape[0]
        if count % batch:
            raise ModelError(f"{count} prompts cannot share {batch} images evenly")
        levels, positions, shapes = [], [], []
        for index, raw in enumerate(features.multi_scale):
            projected = self.input_projections[index](raw)
            height, width = projected.shape[-2:]
            levels.append(projected.flatten(2).transpose(1, 2) + self.level_embed.weight[index])
            position = sine_position(height, width, projected.shape[1], projected.device, projected.dtype)
            positions.append(position.flatten(2).transpose(1, 2))
            shapes.append((height, width))
        queries = self.queries_features.weight[None] + condition.seg_embeds  # (N, Q, C)
        query_position = self.queries_embedder.weight[None]
        return self.decoder(queries, query_position, levels, positions, shapes, features.mask_features, condition)

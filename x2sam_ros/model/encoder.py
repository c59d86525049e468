"""Mask encoders, run once per frame: SAM 2's Hiera as published, and the small residual network of nano."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetBackbone, Sam2HieraDetConfig, Sam2VisionConfig
from transformers import ResNetConfig as StockResNetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2VisionNeck

from x2sam_ros.errors import ModelError
from x2sam_ros.model.config import HieraConfig, ResNetConfig, SegmentorConfig


@dataclass(frozen=True)
class ImageFeatures:
    """What the encoder made of B images.

    Args:
        stages: outputs of the backbone's stages, fine to coarse, each (B, H, W, C) at strides 4, 8, 16, 32.
        pyramid: feature maps, fine to coarse, each (B, C, H, W) at strides 4, 8, 16.
    """

    stages: tuple[Tensor, ...]
    pyramid: tuple[Tensor, ...]


class MaskEncoder(nn.Module):
    """What every mask encoder is. Does not normalise pixels; see engine/preprocess.

    Attributes:
        stage_channels: channels of each of `ImageFeatures.stages`.
        pyramid_channels: channels of all of `ImageFeatures.pyramid`.
    """

    stage_channels: tuple[int, ...]
    pyramid_channels: int

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode ``pixel_values``, float (B, 3, S, S), normalised."""
        raise NotImplementedError


class HieraEncoder(MaskEncoder):
    """SAM 2's Hiera with its feature pyramid."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        backbone_config = Sam2HieraDetConfig(
            hidden_size=config.embed_dims[0],
            num_attention_heads=config.heads[0],
            patch_kernel_size=[config.patch_kernel] * 2,
            patch_stride=[config.patch_stride] * 2,
            patch_padding=[config.patch_padding] * 2,
            query_stride=list(config.query_stride),
            window_positional_embedding_background_size=list(config.background_size),
            num_query_pool_stages=config.num_query_pool_stages,
            blocks_per_stage=list(config.blocks),
            embed_dim_per_stage=list(config.embed_dims),
            num_attention_heads_per_stage=list(config.heads),
            window_size_per_stage=list(config.windows),
            global_attention_blocks=list(config.global_blocks),
            mlp_ratio=config.mlp_ratio,
            layer_norm_eps=config.layer_norm_eps,
        )
        backbone_config._attn_implementation = "sdpa"
        neck_config = Sam2VisionConfig(
            backbone_config=backbone_config,
            backbone_channel_list=list(reversed(config.embed_dims)),
            fpn_hidden_size=config.fpn_channels,
            fpn_kernel_size=config.fpn_kernel,
            fpn_padding=config.fpn_kernel // 2,
            fpn_top_down_levels=list(config.fpn_top_down_levels),
        )
        self.stage_channels, self.pyramid_channels = config.embed_dims, config.fpn_channels
        self.top_down_levels = frozenset(config.fpn_top_down_levels)
        self.backbone = Sam2HieraDetModel(backbone_config)
        self.neck = Sam2VisionNeck(neck_config)

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode ``pixel_values``, float (B, 3, S, S), normalised."""
        stages = self.backbone(pixel_values).intermediate_hidden_states
        return ImageFeatures(stages=tuple(stages), pyramid=self._pyramid(stages))

    def _pyramid(self, stages: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # The neck's own forward also builds position maps that nothing here reads: 1 ms a frame at nano size.
        last = len(stages) - 1
        levels: list[Tensor] = []
        for level in range(last, -1, -1):
            feature = self.neck.convs[last - level](stages[level].permute(0, 3, 1, 2))
            if level in self.top_down_levels and level != last:
                feature = feature + F.interpolate(levels[-1], scale_factor=2.0, mode="nearest")
            levels.append(feature)
        return tuple(reversed(levels[1:]))  # the coarsest level only feeds the next one


class ResNetEncoder(MaskEncoder):
    """A small residual network with a full top-down pyramid.

    From scratch on generated scenes it names shapes after 80 s of CPU (98 % of cells), where Hiera in the same time
    stays near chance (33 %); see docs/log.md.
    """

    channels_last = True  # how its weights are best stored

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stage_channels, self.pyramid_channels = config.stage_channels, config.pyramid_channels
        backbone_config = StockResNetConfig(
            embedding_size=config.embedding_size,
            hidden_sizes=list(config.stage_channels),
            depths=list(config.depths),
            layer_type="basic",
        )
        backbone_config.out_features = [f"stage{index + 1}" for index in range(len(config.stage_channels))]
        self.backbone = ResNetBackbone(backbone_config)
        self.laterals = nn.ModuleList(nn.Conv2d(c, config.pyramid_channels, 1) for c in config.stage_channels)

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode ``pixel_values``, float (B, 3, S, S), normalised."""
        stages = self.backbone(pixel_values.contiguous(memory_format=torch.channels_last)).feature_maps
        levels = [self.laterals[-1](stages[-1])]
        for lateral, stage in zip(self.laterals[-2::-1], stages[-2::-1]):
            levels.append(lateral(stage) + F.interpolate(levels[-1], scale_factor=2.0, mode="nearest"))
        return ImageFeatures(tuple(stage.permute(0, 2, 3, 1) for stage in stages), tuple(reversed(levels[1:])))


def build_encoder(config: SegmentorConfig) -> MaskEncoder:
    """Build one of the encoders of this file, with random weights.

    Raises:
        ModelError: the configuration names another one; those of plugins are built by `checkpoint.load`.
    """
    if config.mask_encoder == "hiera":
        return HieraEncoder(config.hiera)
    if config.mask_encoder == "resnet":
        return ResNetEncoder(config.resnet)
    raise ModelError(f"mask encoder '{config.mask_encoder}' is not built in; available: hiera, resnet")

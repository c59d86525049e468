"""SAM 2's video session of transformers as a peer in speed: a backbone of the same size, random weights.

Weights do not change what a step costs. Behind the backbone it has the published layout, at the widths of the network
it is compared with: with the release preset these are SAM 2.1 Large's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from x2sam_ros.engine.grounding import pixel_values
from x2sam_ros.evaluation.bench_model import BenchModel
from x2sam_ros.evaluation.bench_runners import Stepped
from x2sam_ros.evaluation.bench_scene import BenchScene
from x2sam_ros.evaluation.hardware import wait_for
from x2sam_ros.model.config import HieraConfig, SegmentorConfig
from x2sam_ros.model.encoder import HieraEncoder

PATCH = 16
"""Pixels per cell of the map that SAM 2's memory works on."""

MEMORY_CHANNELS = 64
"""Width of SAM 2's stored memories, which transformers has fixed; other widths are multiples of it."""

SMALL_WIDTHS = range(8, 129, 2)
"""First widths of the small Hieras that are tried where the network compared with has another backbone."""


class Sam2Peer:
    """SAM 2's streaming session: N objects clicked on the first frame, then frame after frame.

    Args:
        opened: the network it is compared with.
        targets: how many objects.
        model: shared between peers.
    """

    variant = "SAM 2"

    def __init__(self, opened: BenchModel, targets: int, model: Sam2VideoModel) -> None:
        self.targets = targets
        self._opened, self._model = opened, model
        side, device = opened.model.config.segmentor.image_size, opened.model.device
        self.session = Sam2VideoInferenceSession(
            video_height=side,
            video_width=side,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=opened.dtype,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors the session holds: frames, features, memories, masks."""
        held = _tensors({**vars(self.session), "cache": vars(self.session.cache)})
        return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in held}.values())

    @torch.inference_mode()
    def step(self, scene: BenchScene, index: int) -> Stepped:
        """Bring a frame to the session and its masks to the image's size; see ``Runner``."""
        device = self._opened.model.device
        image = scene.image(index)
        wait_for(device)
        started = time.perf_counter()
        if index == 0:
            self._click(scene)
        with torch.autocast(device.type, self._opened.dtype, enabled=self._opened.dtype is not torch.float32):
            pixels = pixel_values(self._opened.model, image)
            output = self._model(inference_session=self.session, frame=pixels.to(self._opened.dtype))
        masks = output.pred_masks.float().reshape(self.targets, 1, *output.pred_masks.shape[-2:])
        (F.interpolate(masks, size=scene.size, mode="bilinear", align_corners=False) > 0).cpu().numpy()
        wait_for(device)
        return Stepped((time.perf_counter() - started) * 1e3, followed=self.targets)

    def _click(self, scene: BenchScene) -> None:
        side, (height, width) = self._opened.model.config.segmentor.image_size, scene.size
        for target in range(self.targets):
            x, y = scene.click(target)
            point = torch.tensor([[[[x * side / width, y * side / height]]]], device=self._opened.model.device)
            labels = torch.ones(1, 1, 1, dtype=torch.int32, device=self._opened.model.device)
            position = self.session.obj_id_to_idx(target + 1)
            self.session.add_point_inputs(position, 0, {"point_coords": point, "point_labels": labels})
            self.session.obj_with_new_inputs.append(target + 1)


class _Sam2Video(Sam2VideoModel):
    """SAM 2 that may be as narrow as its stored memories: then transformers leaves object pointers an axis too many."""

    def _process_object_pointers(self, *args: Any, **options: Any) -> Any:
        pointers, places = super()._process_object_pointers(*args, **options)
        return (None if pointers is None else pointers.flatten(1, -2)), places


def build_sam2(opened: BenchModel) -> Sam2VideoModel:
    """Build the peer's network with random weights, where and as what the network is that it is compared with."""
    segmentor = opened.model.config.segmentor
    backbone = (
        segmentor.hiera if segmentor.mask_encoder == "hiera" else _like(opened.model.segmentor.encoder, segmentor)
    )
    with opened.model.device:
        model = _Sam2Video(sam2_config(segmentor, backbone))
    nn.Module.to(model, opened.dtype)
    return model.eval().requires_grad_(False)


def sam2_config(segmentor: SegmentorConfig, backbone: HieraConfig) -> Sam2VideoConfig:
    """Return SAM 2's configuration with a backbone and with the widths of a segmentor."""
    side, memory = segmentor.image_size, segmentor.memory
    width = MEMORY_CHANNELS * math.ceil(backbone.fpn_channels / MEMORY_CHANNELS)
    cells = side // PATCH
    detector = Sam2HieraDetConfig(
        hidden_size=backbone.embed_dims[0],
        num_attention_heads=backbone.heads[0],
        image_size=[side, side],
        window_positional_embedding_background_size=list(backbone.background_size),
        blocks_per_stage=list(backbone.blocks),
        embed_dim_per_stage=list(backbone.embed_dims),
        num_attention_heads_per_stage=list(backbone.heads),
        window_size_per_stage=list(backbone.windows),
        global_attention_blocks=list(backbone.global_blocks),
        mlp_ratio=backbone.mlp_ratio,
    )
    detector._attn_implementation = "sdpa"
    vision = Sam2VisionConfig(
        backbone_config=detector,
        backbone_channel_list=list(reversed(backbone.embed_dims)),
        backbone_feature_sizes=[[side // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=width,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=width, image_size=side, patch_size=PATCH),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(hidden_size=width, mlp_dim=8 * width, iou_head_hidden_dim=width),
        image_size=side,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=memory.attention_layers,
        memory_attention_num_attention_heads=memory.attention_heads,
        memory_attention_feed_forward_hidden_size=memory.attention_feedforward,
        memory_attention_rope_feat_sizes=[cells, cells],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=MEMORY_CHANNELS,
        mask_downsampler_embed_dim=width,
        memory_fuser_num_layers=memory.fuser_layers,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=memory.fuser_hidden,
    )
    config._attn_implementation = "sdpa"
    return config


def _like(encoder: nn.Module, segmentor: SegmentorConfig) -> HieraConfig:
    """Return the small Hiera, pyramid included, whose number of weights is nearest to an encoder's."""
    wanted = _count(encoder)
    return min(
        (_small(width, segmentor.decoder.feature_channels) for width in SMALL_WIDTHS),
        key=lambda config: abs(_weights_of(config) - wanted),
    )


def _small(width: int, channels: int) -> HieraConfig:
    """Return a Hiera of one block a stage and two in the third, the last of which looks at the whole map."""
    return HieraConfig(
        embed_dims=(width, 2 * width, 4 * width, 8 * width),
        blocks=(1, 1, 2, 1),
        heads=(1, 2, 4, 8),
        windows=(8, 4, 8, 4),
        global_blocks=(3,),
        fpn_channels=channels,
    )


def _weights_of(config: HieraConfig) -> int:
    with torch.device("meta"):
        return _count(HieraEncoder(config))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def describe(model: Sam2VideoModel) -> dict[str, Any]:
    """Return what was built, ready for JSON."""
    config: Sam2VideoConfig = model.config
    vision: Any = config.vision_config
    return {
        "parameters": _count(model),
        "backbone_parameters": _count(model.vision_encoder),
        "embed_dims": list(vision.backbone_config.embed_dim_per_stage),
        "blocks": list(vision.backbone_config.blocks_per_stage),
        "image_side": int(vision.backbone_feature_sizes[0][0]) * 4,
        "width": vision.fpn_hidden_size,
        "memory_attention_layers": config.memory_attention_num_layers,
        "memory_frames": config.num_maskmem,
        "memory_channels": config.memory_encoder_output_channels,
    }

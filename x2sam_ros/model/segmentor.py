"""The segmentor: one frame in, masks and a memory entry out. Pure: time and memory live in the session."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.model.encoder import ImageFeatures, MaskEncoder, build_encoder
from x2sam_ros.model.mask_decoder import ClassPredictor, LayerPrediction, MaskDecoder
from x2sam_ros.model.memory import MemoryAttention, MemoryBatch, MemoryEncoder, MemoryEntry
from x2sam_ros.model.pixel_decoder import NUM_LEVELS, PixelDecoder, PixelFeatures
from x2sam_ros.model.windowed import EXACT, Shortcuts

FINEST = NUM_LEVELS - 1
"""Where the finest scale lies in `PixelFeatures.multi_scale`."""


@dataclass(frozen=True)
class StepOutput:
    """One frame's prediction for N prompts.

    Args:
        class_logits: (N, Q, C), the last class is background.
        mask_logits: (N, Q, H, W) at stride 4 of the square input.
        queries: (N, Q, D), the normed queries the classes were scored from.
        layers: every layer's prediction, for deep supervision.
    """

    class_logits: Tensor
    mask_logits: Tensor
    queries: Tensor
    layers: tuple[LayerPrediction, ...]


class Segmentor(nn.Module):
    """Mask encoder, pixel decoder, Mask Memory, mask decoder and class predictor.

    Args:
        config: all sizes.
        encoder: the mask encoder, by default the built-in one that ``config`` names.
    """

    def __init__(self, config: SegmentorConfig, encoder: MaskEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config) if encoder is None else encoder
        channels = self.encoder.pyramid_channels
        self.pixel_decoder = PixelDecoder(config.decoder, channels)
        self.decoder = MaskDecoder(config.decoder)
        self.memory_encoder = MemoryEncoder(config.memory)
        self.memory_attention = MemoryAttention(config.memory)
        self.class_predictor = ClassPredictor(config.decoder.class_head)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, channels))

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """Run the mask encoder on ``pixel_values``, float (B, 3, S, S), normalised; once per frame."""
        features: ImageFeatures = self.encoder(pixel_values)
        return features

    def decode_pixels(self, features: ImageFeatures, first: bool) -> PixelFeatures:
        """Run the pixel decoder; ``first`` marks targets without memory, which see a learned vector added."""
        pyramid = features.pyramid
        if first:
            mark = self.no_memory_embedding.transpose(1, 2)[..., None]  # (1, C, 1, 1)
            pyramid = tuple(x + mark for x in pyramid)
        decoded: PixelFeatures = self.pixel_decoder(pyramid)
        return decoded

    def step(
        self,
        pixels: PixelFeatures,
        condition: PromptCondition,
        memory: MemoryBatch | None = None,
        shortcuts: Shortcuts = EXACT,
        finest: Tensor | None = None,
    ) -> StepOutput:
        """Segment one frame for N prompts.

        Args:
            pixels: B images from `decode_pixels`, with ``first=memory is None``.
            condition: N prompts, N a multiple of B, those of one image side by side.
            memory: the prompts' stored frames, or None on their first frame.
            shortcuts: what is left out at the finest scale.
            finest: what `recall` would return for the finest scale, (N, C, H, W), where it is known already.
        """
        if memory is not None:
            known = () if finest is None else (finest,)
            scales = range(len(pixels.multi_scale) - len(known))
            maps = (*(self.recall(pixels, memory, scale, shortcuts) for scale in scales), *known)
            # the mask features stay unconditioned, hence shared by the targets of an image
            pixels = PixelFeatures(maps, pixels.mask_features)
        layers = self.decoder(pixels, condition)
        last = layers[-1]
        class_logits = self.class_predictor(last.queries, condition.cond_embeds, condition.embed_mask)
        return StepOutput(class_logits, last.mask_logits, last.queries, tuple(layers))

    def recall(
        self, pixels: PixelFeatures, memory: MemoryBatch, scale: int = FINEST, shortcuts: Shortcuts = EXACT
    ) -> Tensor:
        """Condition one scale of B images on the stored frames of N prompts, (N, C, H, W); see `step`."""
        valid = memory.valid if memory.padded else None
        allowed = shortcuts if scale == FINEST else EXACT
        conditioned: Tensor = self.memory_attention(
            pixels.multi_scale[scale], memory.embeds[scale], memory.gaps, valid, allowed
        )
        return conditioned

    def write_memory(self, pixels: PixelFeatures, output: StepOutput) -> MemoryEntry:
        """Encode what `step` found, to be stored. ``pixels`` are the unconditioned ones given to `step`."""
        vision = self.memory_encoder.encode_vision(pixels.multi_scale)
        soft_mask = self.memory_encoder.fuse_masks(output.class_logits, output.mask_logits)
        entry: MemoryEntry = self.memory_encoder(vision, soft_mask)
        return entry

"""The plain way, target after target with nothing shared: what the batched step must equal, and is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import Admit, Seen, Tracker
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.layers import rotary_table, sine_position, temporal_code
from x2sam_ros.model.memory import MemoryAttention, MemoryAttentionLayer, MemoryEntry
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import Segmentor, StepOutput


def naive_step(
    segmentor: Segmentor,
    pixel_values: Tensor,
    condition: PromptCondition,
    entries: Sequence[MemoryEntry] = (),
    gaps: Sequence[int] = (),
) -> tuple[StepOutput, MemoryEntry]:
    """Segment one frame for one prompt from its pixels on, and write the memory entry.

    Args:
        segmentor: the network.
        pixel_values: float (1, 3, S, S), normalised.
        condition: the prompt.
        entries: its stored frames, oldest first; none on its first frame.
        gaps: how many frames back each lies.
    """
    features = segmentor.encode_image(pixel_values)
    pixels = segmentor.decode_pixels(features, first=not entries)
    seen = pixels
    if entries:
        attention = segmentor.memory_attention
        scales = zip(pixels.multi_scale, zip(*(entry.embeds for entry in entries)))
        maps = tuple(naive_attention(attention, feature[0], stored, gaps)[None] for feature, stored in scales)
        seen = PixelFeatures(maps, pixels.mask_features)
    layers = segmentor.decoder(seen, condition)
    last = layers[-1]
    class_logits = segmentor.class_predictor(last.queries, condition.cond_embeds, condition.embed_mask)
    output = StepOutput(class_logits, last.mask_logits, last.queries, tuple(layers))
    return output, naive_entry(segmentor, pixels, output)


def naive_attention(
    attention: MemoryAttention, feature: Tensor, stored: Sequence[Tensor], gaps: Sequence[int]
) -> Tensor:
    """Condition one scale of one image (C, H, W) on stored maps, each (1, C', h, w): every layer in full."""
    height, width = feature.shape[-2:]
    table = rotary_table(height, width, attention.head_dim, attention.rope_theta, feature.device)
    keys, values = [], []
    for (frame,), gap in zip(stored, gaps):
        channels = frame.shape[0]
        place = sine_position(frame.shape[-2], frame.shape[-1], channels, frame.device, frame.dtype)[0]
        time = temporal_code(torch.tensor(gap, device=frame.device), channels).to(frame.dtype)
        keys.append((frame + place + time[:, None, None]).flatten(1).T)
        values.append(frame.flatten(1).T)
    x = feature + 0.1 * sine_position(height, width, feature.shape[0], feature.device, feature.dtype)[0]
    x = x.flatten(1).T[None]
    for layer in attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        x = layer.attend_self(x, table)
        x = layer.attend_memory(x, torch.cat(keys)[None], torch.cat(values)[None], table, None)
    conditioned: Tensor = attention.layer_norm(x)[0].T.reshape(feature.shape)
    return conditioned


def naive_entry(segmentor: Segmentor, pixels: PixelFeatures, output: StepOutput) -> MemoryEntry:
    """Write one target's entry, its visual half anew."""
    encoder = segmentor.memory_encoder
    soft_mask = encoder.fuse_masks(output.class_logits, output.mask_logits)
    vision = [shrink(x) for shrink, x in zip(encoder.vision_downsampler, pixels.multi_scale)]
    if not encoder.use_mask:
        return MemoryEntry(tuple(encoder.projection(x) for x in vision))
    where = encoder.mask_downsampler(soft_mask * encoder.mask_scale + encoder.mask_bias)
    return MemoryEntry(tuple(encoder.projection(encoder.memory_fuser(x + where)) for x in vision))


class NaiveTracker(Tracker):
    """A tracker that runs the whole network, encoder and pixel decoder included, for each group by itself."""

    def begin(self, seen: Seen, groups: Sequence[Group], admit: Admit) -> None:
        """Segment a frame for new groups, one after the other; see ``Tracker.begin``."""
        for position, group in enumerate(groups):
            super().begin(self.encode(seen.frame) if position else seen, [group], admit)

    def advance(self, seen: Seen, groups: Sequence[Group], admit: Admit) -> None:
        """Segment a frame for groups that have a memory, one after the other; see ``Tracker.advance``."""
        for position, group in enumerate(groups):
            super().advance(self.encode(seen.frame) if position else seen, [group], admit)

"""The memory phase: memory and mask decoder learn, in part from words that fit several objects.

Left alone, a memory is not learnt: words and looks find the object anew in every frame, and attention that does not
know places yet has nothing to offer. Here the words do not suffice, attention starts out looking in the right place
(`look_in_place`), and the decoder, which has never found anything worth reading in the conditioned maps, learns along.
All else rests. Prompts whose words suffice keep the decoder what it was on pictures without a memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.config import TrainConfig
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.mask_decoder import LayerPrediction
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.model.pixel_decoder import NUM_LEVELS, PixelFeatures
from x2sam_ros.model.segmentor import Segmentor, StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.objective import (
    draw_rows,
    frame_loss,
    frame_part,
    later_frames,
    recall,
    remember,
    understand,
)
from x2sam_ros.training.samples import Batch


def memory_parts(segmentor: Segmentor) -> tuple[nn.Module, ...]:
    """Return what learns in this phase: the memory's attention and what writes it, and the mask decoder.

    How a frame is shrunk for the memory rests: it is most of the memory encoder's weights and of the time, and says
    nothing of which object is meant.
    """
    writers = [part for name, part in segmentor.memory_encoder.named_children() if name != "vision_downsampler"]
    return segmentor.memory_attention, *writers, segmentor.decoder, segmentor.class_predictor


class Recollection(nn.Module):
    """A head that only teaches: where the remembered object is now, straight from the maps the memory has touched.

    Through the decoder alone the gradient says too little of places; labels for every cell teach the memory in minutes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in range(NUM_LEVELS))

    def forward(self, maps: tuple[Tensor, ...], truth: Tensor) -> Tensor:
        """Return the loss of each scale's (N, C, H, W) against the soft masks (N, 1, h, w), averaged."""
        losses = []
        for head, features in zip(self.scales, maps):
            logits = head(features).float()
            wanted = F.adaptive_avg_pool2d(truth, logits.shape[-2:])
            found, axes = logits.sigmoid(), (1, 2, 3)
            dice = 1 - (2 * (found * wanted).sum(axes) + 1) / (found.sum(axes) + wanted.sum(axes) + 1)
            losses.append(2 * F.binary_cross_entropy_with_logits(logits, wanted) + dice.mean())
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class SeenClips:
    """What the resting parts of the network make of a batch; no gradient leads into it.

    Args:
        frames: features of each frame, as for targets that have a memory but in the first.
        alone: features of each frame, as for targets without a memory.
        condition: of the N prompts.
        masks, labels, strides, remembered: the batch's, on the network's device.
    """

    frames: tuple[PixelFeatures, ...]
    alone: tuple[PixelFeatures, ...]
    condition: PromptCondition
    masks: Tensor
    labels: Tensor
    strides: Tensor
    remembered: Tensor


@torch.no_grad()
def look(model: X2SAM, batch: Batch, alone: bool = False) -> SeenClips:
    """Run encoder, pixel decoder and language model; ``alone`` also does frames after the first without a memory."""
    device, count = model.device, len(batch.pixel_values)
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(device))
    parts = [frame_part(images, t, count) for t in range(count)]
    first = tuple(model.segmentor.decode_pixels(part, first=True) for part in parts[: count if alone else 1])
    later = tuple(model.segmentor.decode_pixels(part, first=False) for part in parts[1:])
    condition, _, _ = understand(model, batch, images)
    remembered = torch.zeros(len(batch.labels), dtype=torch.bool) if batch.remembered is None else batch.remembered
    rest = (x.to(device) for x in (batch.masks, batch.labels, batch.strides, remembered))
    return SeenClips((first[0], *later), first, condition, *rest)


def memory_loss(
    model: X2SAM, seen: SeenClips, config: TrainConfig, progress: float, recollection: Recollection
) -> dict[str, Tensor]:
    """Return the terms of the loss, `Segmentor.step` unrolled over the clips.

    What a prompt of ``remembered`` means stands in its first memory; on the first frame it teaches nothing. Later
    memories, and the first of other prompts, are written from the true mask for a share of the prompts that goes from
    the first of ``memory_true_shares`` to the second with ``progress`` from 0 to 1. After the first frame a share of
    the prompts, ``text_dropout``, has no words.
    """
    segmentor, (start, end) = model.segmentor, config.memory_true_shares
    share = start + (end - start) * progress
    output = segmentor.step(seen.frames[0], seen.condition)
    terms = _first_frame(model, seen, output)
    condition = later_frames(seen.condition, config.text_dropout)
    bank: list[MemoryEntry] = []
    losses, recollected = [], []
    for t in range(1, len(seen.frames)):
        true = draw_rows(len(seen.labels), share, seen.labels.device)
        true = true | seen.remembered if t == 1 else true
        bank.append(remember(segmentor, seen.frames[t - 1], output, seen.masks[t - 1], true))
        memory = recall(segmentor, bank, seen.strides)
        maps = tuple(segmentor.recall(seen.frames[t], memory, scale) for scale in range(NUM_LEVELS))
        # what `step` does with a memory, but for the maps, which are wanted here too
        output = segmentor.step(PixelFeatures(maps, seen.frames[t].mask_features), condition)
        recollected.append(recollection(maps, seen.masks[t].sum(1, keepdim=True).clamp(0, 1)))
        losses.append(frame_loss(model, output, condition, seen.labels, seen.masks[t]))
    terms["recollection"] = config.recollection_weight * torch.stack(recollected).mean()
    terms["segmentation"] = torch.stack(losses).mean()
    return terms


def _first_frame(model: X2SAM, seen: SeenClips, output: StepOutput) -> dict[str, Tensor]:
    """Return the loss of what was found without a memory, where words suffice; nothing where they never do."""
    rows = (~seen.remembered).nonzero().squeeze(1)
    if not len(rows):
        return {}
    layers = tuple(LayerPrediction(x.queries[rows], x.mask_logits[rows]) for x in output.layers)
    alone = StepOutput(output.class_logits[rows], output.mask_logits[rows], output.queries[rows], layers)
    return {"alone": frame_loss(model, alone, seen.condition.rows(rows), seen.labels[rows], seen.masks[0][rows])}

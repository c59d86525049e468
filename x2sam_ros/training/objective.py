"""The loss of one batch: the very `Segmentor.step` the robot runs, unrolled over the clip's frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.config import TrainConfig
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.conversation import TokenBatch
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.language import VisionFeatures
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.regions import draw_points
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.losses import LossWeights, segmentation_loss
from x2sam_ros.training.samples import Batch


def understand(
    model: X2SAM, batch: Batch, images: ImageFeatures, points: Tensor | None = None
) -> tuple[PromptCondition, VisionFeatures, TextStates]:
    """Run the language pass of all prompts and questions; ``images`` holds the clips' frames, (T * I) of them.

    ``points`` are those of the regions, see ``X2SAM.region_tokens``; without them some are drawn.

    Returns:
        The condition of the N prompts for masks, what the language side saw, and its states for `text_loss`.
    """
    device = model.device
    images_of = [
        i * len(batch.grid) // len(rows) for rows in (batch.conversations, batch.texts) for i in range(len(rows))
    ]
    clips, pair = len(batch.grid), model.config.language.vision.temporal_patch_size
    order = [step * pair * clips + clip for clip in range(clips) for step in range(int(batch.grid[0, 0]))]
    vision = model.encode_picture(batch.patches.to(device), batch.grid, tuple(x[order] for x in images.stages))
    regions = None
    if len(batch.regions):
        per_clip = len(batch.conversations) // len(batch.grid)
        maps = model.region_maps(tuple(x[:clips] for x in images.stages))
        rows = (batch.region_rows // per_clip).to(device)
        regions = model.region_tokens(maps, batch.regions, rows, points_yx=points)
    tokens = model.collate([*batch.conversations, *batch.texts])
    hidden = model.language(tokens, vision, images_of, regions)
    condition = model.condition_from_states(model.collate(batch.conversations), hidden[: len(batch.conversations)])
    return condition, vision, TextStates(tokens, hidden)


@dataclass(frozen=True)
class TextStates:
    """The language pass of all rows of a batch: tokens and states, float (R, L, D)."""

    tokens: TokenBatch
    hidden: Tensor

    def answers(self, model: X2SAM) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (A, V) and true tokens (A,) at the A tokens of all answers, and the row of each (A,)."""
        rows, columns = self.tokens.answer_mask.nonzero(as_tuple=True)
        logits = model.language.logits(self.hidden[rows, columns - 1])
        return logits, self.tokens.input_ids[rows, columns], rows


def text_loss(model: X2SAM, states: TextStates) -> Tensor:
    """Return the cross entropy of the answers' tokens, each answer weighing the same."""
    logits, truth, rows = states.answers(model)
    cross = F.cross_entropy(logits.float(), truth, reduction="none")
    count = torch.bincount(rows, minlength=len(states.hidden)).clamp_min(1)
    return (cross / count[rows]).sum() / len(states.hidden)


def frame_loss(model: X2SAM, output: StepOutput, condition: PromptCondition, labels: Tensor, masks: Tensor) -> Tensor:
    """Return the deeply supervised loss of one frame, summed over terms and averaged over layers."""
    weights = LossWeights()
    total = masks.new_zeros(())
    for layer in output.layers:
        logits = model.segmentor.class_predictor(layer.queries, condition.cond_embeds, condition.embed_mask)
        total = total + sum(segmentation_loss(logits, layer.mask_logits, labels, masks, weights).values())
    return total / len(output.layers)


def batch_loss(model: X2SAM, heads: AuxiliaryHeads, batch: Batch, phase: str, config: TrainConfig) -> dict[str, Tensor]:
    """Return the terms of one batch's loss; their sum is what is minimised."""
    device = model.device
    frames = len(batch.pixel_values)
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(device))
    first = _part(images, 0, frames)
    if phase == "pixels":
        return {"attributes": heads.attribute_loss(first.pyramid, batch.attributes[0].to(device))}
    pixels = model.segmentor.decode_pixels(first, first=True)
    condition, vision, states = understand(model, batch, images)
    labels, masks = batch.labels.to(device), batch.masks.to(device)
    weight = config.auxiliary_weight
    maps = (*first.pyramid, *pixels.multi_scale, pixels.mask_features)
    losses = {
        "attributes": weight * heads.attribute_loss(maps, batch.attributes[0].to(device)),
        "cells": weight * heads.cell_loss(vision.embeds, batch.cells.to(device)),
        "grounding": weight * heads.grounding_loss(pixels, condition, labels, masks[0]),
        "centre": weight * heads.centre_loss(condition, batch.centres.to(device)),
        "text": config.text_weight * text_loss(model, states),
    }
    output = model.segmentor.step(pixels, condition)
    total = frame_loss(model, output, condition, labels, masks[0])
    bank: list[MemoryEntry] = []
    for t in range(1, frames):
        bank.append(_remember(model, pixels, output, masks[t - 1], config.true_memory_share))
        bank = bank[-model.config.segmentor.memory.num_maskmem :]
        pixels = model.segmentor.decode_pixels(_part(images, t, frames), first=False)
        output = model.segmentor.step(pixels, condition, _recall(bank, batch.strides.to(device)))
        total = total + frame_loss(model, output, condition, labels, masks[t])
    losses["segmentation"] = total / frames
    return losses


def words_loss(model: X2SAM, teacher: X2SAM, batch: Batch, config: TrainConfig, progress: float) -> dict[str, Tensor]:
    """Return the terms of the last phase: answers are learnt while every prompt for masks keeps its meaning.

    What a picture shows rests, so that there is something to learn to read. What steers the masks is held to what the
    ``teacher``, the network before this phase, says, ever more firmly with ``progress`` from 0 to 1: held firmly from
    the start, the answers are not learnt.

    Source: learning without forgetting, Li and Hoiem, 2016.
    """
    with torch.no_grad():
        images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(model.device))
        points = draw_points(batch.regions, model.config.region.num_sample_point) if len(batch.regions) else None
        wanted, _, _ = understand(teacher, batch, images, points)
    found, _, states = understand(model, batch, images, points)
    kept = [
        F.mse_loss(new.float(), old.float()) / old.float().square().mean()
        for new, old in (
            (found.cond_embeds, wanted.cond_embeds),
            (found.token_embeds, wanted.token_embeds),
            (found.seg_embeds, wanted.seg_embeds),
        )
    ]
    return {
        "text": config.text_weight * text_loss(model, states),
        "keep": config.keep_weight * progress**2 * torch.stack(kept).sum(),
    }


def _part(images: ImageFeatures, index: int, parts: int) -> ImageFeatures:
    return ImageFeatures(
        tuple(x.chunk(parts)[index] for x in images.stages), tuple(x.chunk(parts)[index] for x in images.pyramid)
    )


def _recall(bank: list[MemoryEntry], strides: Tensor) -> MemoryBatch:
    """Return the memories with gaps in camera frames, so that gaps as long as on a robot are seen in short clips."""
    memory = MemoryBatch.stack(bank, range(len(bank), 0, -1))
    return replace(memory, gaps=memory.gaps * strides[:, None])


def _remember(
    model: X2SAM, pixels: PixelFeatures, output: StepOutput, masks: Tensor, true_memory_share: float
) -> MemoryEntry:
    """Write what was predicted, or for some prompts the truth, so that the memory is worth reading from the start."""
    encoder = model.segmentor.memory_encoder
    soft = encoder.fuse_masks(output.class_logits.float(), output.mask_logits.float())
    truth = masks.sum(1, keepdim=True).clamp(0, 1)
    # drawn on the host, whose generator the training state holds
    use_truth = (torch.rand(len(soft), 1, 1, 1) < true_memory_share).to(soft.device)
    entry: MemoryEntry = encoder(encoder.encode_vision(pixels.multi_scale), torch.where(use_truth, truth, soft))
    return entry


@torch.no_grad()
def batch_scores(model: X2SAM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score a batch of pictures.

    Returns:
        The IoU of each prompt's first wanted object with the surest query of its label, (N,), 1 where nothing is
        rightly found; and for each question whether greedy decoding would give the very answer, bool (texts,).
    """
    images = model.segmentor.encode_image(batch.pixel_values[0].to(model.device))
    condition, _, states = understand(model, batch, images)
    output = model.segmentor.step(model.segmentor.decode_pixels(images, first=True), condition)
    rows = torch.arange(len(batch.conversations), device=model.device)
    label = batch.labels[:, 0].to(model.device)
    probs = output.class_logits.float().softmax(-1)[..., :-1]
    chosen = torch.where((label >= 0)[:, None], probs[rows, :, label.clamp_min(0)], probs.amax(-1))
    score, query = chosen.max(1)
    mask = (output.mask_logits[rows, query] > 0) & (score > 0.5)[:, None, None]
    truth = batch.masks[0, :, 0].to(model.device) > 0.5
    inter, union = (mask & truth).flatten(1).sum(1), (mask | truth).flatten(1).sum(1)
    logits, tokens, answer_rows = states.answers(model)
    wrong = torch.zeros(len(states.hidden), device=model.device).index_add(
        0, answer_rows, (logits.argmax(-1) != tokens).float()
    )
    return torch.where(union > 0, inter / union.clamp_min(1), 1.0), wrong[len(batch.conversations) :] == 0

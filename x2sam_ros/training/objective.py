"""The loss of one batch: the very `Segmentor.step` the robot runs, unrolled over the clip's frames."""

from __future__ import annotations

from collections.abc import Iterator
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
from x2sam_ros.model.segmentor import Segmentor, StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.losses import language_loss, segmentation_loss
from x2sam_ros.training.matching import share_phrases
from x2sam_ros.training.samples import Batch

BUILT_IN = LossConfig()
"""How the built-in recipe weighs losses."""


def understand(
    model: X2SAM, batch: Batch, images: ImageFeatures, points: Tensor | None = None
) -> tuple[PromptCondition, VisionFeatures, TextStates]:
    """Run the language pass of all prompts and questions; ``images`` holds the clips' frames, (T * I) of them.

    ``points`` are those of the regions, see ``X2SAM.region_tokens``; without them some are drawn.

    Returns:
        The condition of the N prompts for masks, what the language side saw, and its states for `text_loss`.
    """
    vision, states = read(model, batch, images, points)
    prompts = len(batch.conversations)
    condition = model.condition_from_states(model.collate(batch.conversations), states.hidden[:prompts])
    return condition, vision, states


def read(
    model: X2SAM, batch: Batch, images: ImageFeatures, points: Tensor | None = None
) -> tuple[VisionFeatures, TextStates]:
    """Run the language pass; see `understand`."""
    device = model.device
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
    clip_of = [i * clips // len(rows) for rows in (batch.conversations, batch.texts) for i in range(len(rows))]
    images_of = [clip if shown else None for clip, shown in zip(clip_of, tokens.images_per_row)]
    return vision, TextStates(tokens, model.language(tokens, vision, images_of, regions))


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


def text_loss(model: X2SAM, states: TextStates, loss: LossConfig = BUILT_IN) -> Tensor:
    """Return the cross entropy of the answers' tokens."""
    logits, truth, rows = states.answers(model)
    return language_loss(logits, truth, rows, len(states.hidden), loss)


def frame_loss(
    model: X2SAM,
    output: StepOutput,
    condition: PromptCondition,
    labels: Tensor,
    masks: Tensor,
    loss: LossConfig = BUILT_IN,
    ignore: Tensor | None = None,
) -> Tensor:
    """Return the deeply supervised loss of one frame, summed over terms; see `segmentation_loss`."""
    supervision = Supervision(model, condition, labels, loss)
    supervision.add(output, masks, ignore)
    return supervision.total()


class Supervision:
    """The deeply supervised loss of a clip's frames, one added after the other.

    Args:
        model: whose class predictor scores each layer's queries.
        condition: N prompts; labels: int64 (N, M), the phrase each wanted object answers.
        loss: how terms are weighed, and whether over each frame or the whole clip.
    """

    def __init__(self, model: X2SAM, condition: PromptCondition, labels: Tensor, loss: LossConfig) -> None:
        self.model, self.condition, self.labels, self.loss = model, condition, labels, loss
        self.losses: list[Tensor] = []
        self.waiting: list[tuple[StepOutput, Tensor, Tensor | None]] = []

    def add(self, output: StepOutput, masks: Tensor, ignore: Tensor | None = None) -> None:
        """Add a frame: its prediction, its masks (N, M, h, w) and, bool (N, h, w), what of it teaches nothing."""
        self.waiting.append((output, masks, ignore))
        if self.loss.over == "frame":
            self._settle()

    def total(self) -> Tensor:
        """Return the loss of all frames."""
        if self.waiting:
            self._settle()
        return sum(self.losses[1:], start=self.losses[0]) / len(self.losses)

    def _settle(self) -> None:
        """Work out the loss of the frames that wait, as rows of one batch."""
        outputs, masks, ignored = zip(*self.waiting)
        self.waiting = []
        labels, truth = self.labels.repeat(len(outputs), 1), torch.cat(masks)
        ignore = torch.cat(ignored) if ignored[0] is not None else None
        total = torch.zeros((), device=labels.device)
        for layers in zip(*(output.layers for output in outputs)):
            logits = torch.cat([self._classes(layer.queries) for layer in layers])
            predicted = torch.cat([layer.mask_logits for layer in layers])
            terms = segmentation_loss(logits, predicted, labels, truth, self.loss, ignore)
            total = total + sum(terms.values())
        self.losses.append(total / len(outputs[0].layers) if self.loss.layers == "mean" else total)

    def _classes(self, queries: Tensor) -> Tensor:
        scores: Tensor = self.model.segmentor.class_predictor(
            queries, self.condition.cond_embeds, self.condition.embed_mask
        )
        return scores


def batch_loss(
    model: X2SAM,
    heads: AuxiliaryHeads | None,
    batch: Batch,
    phase: str,
    config: TrainConfig,
    loss: LossConfig = BUILT_IN,
) -> dict[str, Tensor]:
    """Return the terms of one batch's loss; their sum is what is minimised.

    Args:
        model: the network.
        heads: those that only teach; None where the batch says nothing for them.
        batch: clips, prompts for masks, questions for words; either may be missing.
        phase: name of the phase; in ``pixels`` only the heads teach.
        config: the recipe.
        loss: how terms are weighed.
    """
    device = model.device
    frames = len(batch.pixel_values)
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(device))
    first = frame_part(images, 0, frames)
    if phase == "pixels" and heads is not None:
        return {"attributes": heads.attribute_loss(first.pyramid, batch.attributes[0].to(device))}
    if not batch.conversations:
        return {"text": config.text_weight * text_loss(model, read(model, batch, images)[1], loss)}
    pixels = model.segmentor.decode_pixels(first, first=True)
    condition, vision, states = understand(model, batch, images)
    labels, masks = batch.labels.to(device), batch.masks.to(device)
    losses = {}
    if heads is not None:
        maps = (*first.pyramid, *pixels.multi_scale, pixels.mask_features)
        terms = {
            "attributes": heads.attribute_loss(maps, batch.attributes[0].to(device)),
            "cells": heads.cell_loss(vision.embeds, batch.cells.to(device)),
            "grounding": heads.grounding_loss(pixels, condition, labels, masks[0]),
            "centre": heads.centre_loss(condition, batch.centres.to(device)),
        }
        losses = {name: config.auxiliary_weight * term for name, term in terms.items()}
    losses["text"] = config.text_weight * text_loss(model, states, loss)
    if loss.share_phrases:
        condition, labels = share_phrases(condition, labels, masks, len(batch.grid))
    ignored = [None] * frames if batch.ignore is None else batch.ignore.to(device)
    supervision = Supervision(model, condition, labels, loss)
    unrolled = unroll(model, batch, images, pixels, condition, config.true_memory_share, config.text_dropout)
    for output, true, hidden in zip(unrolled, masks, ignored):
        supervision.add(output, true, hidden)
    losses["segmentation"] = supervision.total()
    return losses


def unroll(
    model: X2SAM,
    batch: Batch,
    images: ImageFeatures,
    pixels: PixelFeatures,
    condition: PromptCondition,
    true_memory_share: float,
    text_dropout: float,
) -> Iterator[StepOutput]:
    """Yield what `Segmentor.step` finds in one frame of a batch's clips after the other.

    Args:
        model: the network.
        batch: T frames, N prompts.
        images: features of all frames; pixels: those of the first, decoded.
        condition: of the prompts.
        true_memory_share: how often a memory is written from the true masks.
        text_dropout: see `later_frames`.
    """
    segmentor, frames, device = model.segmentor, len(batch.pixel_values), model.device
    output = segmentor.step(pixels, condition)
    yield output
    condition = later_frames(condition, text_dropout)
    bank: list[MemoryEntry] = []
    for t in range(1, frames):
        true = draw_rows(len(batch.conversations), true_memory_share, device)
        bank.append(remember(segmentor, pixels, output, batch.masks[t - 1].to(device), true))
        pixels = segmentor.decode_pixels(frame_part(images, t, frames), first=False)
        output = segmentor.step(pixels, condition, recall(segmentor, bank, batch.strides.to(device)))
        yield output


def words_loss(model: X2SAM, teacher: X2SAM, batch: Batch, config: TrainConfig, progress: float) -> dict[str, Tensor]:
    """Return the terms of the words phase: answers are learnt while every prompt for masks keeps its meaning.

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
    return {
        "text": config.text_weight * text_loss(model, states),
        "keep": config.keep_weight * progress**2 * condition_error(found, wanted),
    }


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean square error of ``found`` as a share of the mean square of ``wanted``."""
    return F.mse_loss(found.float(), wanted.float()) / wanted.float().square().mean()


def condition_error(found: PromptCondition, wanted: PromptCondition) -> Tensor:
    """Return the summed relative errors of all that steers the masks."""
    return torch.stack(
        [
            relative_error(found.cond_embeds, wanted.cond_embeds),
            relative_error(found.token_embeds, wanted.token_embeds),
            relative_error(found.seg_embeds, wanted.seg_embeds),
        ]
    ).sum()


def frame_part(images: ImageFeatures, index: int, parts: int) -> ImageFeatures:
    """Return one frame of the features of a clip's frames."""
    return ImageFeatures(
        tuple(x.chunk(parts)[index] for x in images.stages), tuple(x.chunk(parts)[index] for x in images.pyramid)
    )


def later_frames(condition: PromptCondition, text_dropout: float) -> PromptCondition:
    """Return what steers the masks after the first frame: the words of a share of the N prompts are taken away.

    Which object is meant, and where it is, only the memory tells then. What classes are compared with stays.
    """
    if not text_dropout:  # nothing is drawn
        return condition
    kept = ~draw_rows(len(condition.seg_embeds), text_dropout, condition.seg_embeds.device)[:, None, None]
    return replace(condition, token_embeds=condition.token_embeds * kept, seg_embeds=condition.seg_embeds * kept)


def recall(segmentor: Segmentor, bank: list[MemoryEntry], strides: Tensor) -> MemoryBatch:
    """Return the newest memories, as many as the network looks at.

    Gaps are in camera frames, so that gaps as long as on a robot are seen in short clips.

    Args:
        segmentor: the network.
        bank: a memory of each frame so far, oldest first, at least one.
        strides: int64 (N,), camera frames between two frames of each prompt's clip.
    """
    newest = bank[-segmentor.config.memory.num_maskmem :]
    memory = MemoryBatch.stack(newest, range(len(newest), 0, -1))
    return replace(memory, gaps=memory.gaps * strides[:, None])


def remember(
    segmentor: Segmentor, pixels: PixelFeatures, output: StepOutput, masks: Tensor, true: Tensor
) -> MemoryEntry:
    """Write what was predicted or, where ``true``, bool (N,), the true masks (N, M, H, W), worth reading at once."""
    encoder = segmentor.memory_encoder
    soft = encoder.fuse_masks(output.class_logits.float(), output.mask_logits.float())
    truth = masks.sum(1, keepdim=True).clamp(0, 1)
    chosen = torch.where(true[:, None, None, None], truth, soft)
    entry: MemoryEntry = encoder(encoder.encode_vision(pixels.multi_scale), chosen)
    return entry


def draw_rows(count: int, share: float, device: torch.device) -> Tensor:
    """Draw bool (count,), on the host, whose generator the training state holds."""
    return (torch.rand(count) < share).to(device)


@torch.no_grad()
def batch_scores(model: X2SAM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score a batch; of clips every frame, with the memory of what was found before.

    Returns:
        For each prompt, (N,), the mean over frames of the IoU of the surest query of its first wanted object's label
        with the object of that label that it fits best, 1 where nothing is rightly found; and for each question
        whether greedy decoding would give the very answer, bool (texts,).
    """
    images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(model.device))
    if not batch.conversations:
        return torch.zeros(0, device=model.device), _exact(model, read(model, batch, images)[1])
    condition, _, states = understand(model, batch, images)
    first = model.segmentor.decode_pixels(frame_part(images, 0, len(batch.pixel_values)), first=True)
    labels, ignored = batch.labels.to(model.device), batch.ignore
    ious = []
    for t, output in enumerate(unroll(model, batch, images, first, condition, 0.0, 0.0)):
        shown = None if ignored is None else ~ignored[t].to(model.device)
        ious.append(_surest_iou(output, labels, batch.masks[t].to(model.device) > 0.5, shown))
    return torch.stack(ious).mean(0), _exact(model, states)[len(batch.conversations) :]


def _surest_iou(output: StepOutput, labels: Tensor, masks: Tensor, shown: Tensor | None) -> Tensor:
    """Return the IoU of each prompt in one frame, (N,); see `batch_scores`."""
    rows, label = torch.arange(len(labels), device=labels.device), labels[:, 0]
    probs = output.class_logits.float().softmax(-1)[..., :-1]
    chosen = torch.where((label >= 0)[:, None], probs[rows, :, label.clamp_min(0)], probs.amax(-1))
    score, query = chosen.max(1)
    mask = (output.mask_logits[rows, query] > 0) & (score > 0.5)[:, None, None]
    truth = masks & (labels == label[:, None])[..., None, None]
    if shown is not None:
        mask, truth = mask & shown, truth & shown[:, None]
    inter, union = (mask[:, None] & truth).flatten(2).sum(2), (mask[:, None] | truth).flatten(2).sum(2)
    ious = torch.where(union > 0, inter / union.clamp_min(1), 1.0)
    return torch.where(labels == label[:, None], ious, 0.0).amax(1)


def _exact(model: X2SAM, states: TextStates) -> Tensor:
    """Return for each row of a batch whether greedy decoding would give the very answer, bool (R,)."""
    logits, tokens, rows = states.answers(model)
    wrong = torch.zeros(len(states.hidden), device=model.device)
    return wrong.index_add(0, rows, (logits.argmax(-1) != tokens).float()) == 0

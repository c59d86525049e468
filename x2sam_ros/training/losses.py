"""What is minimised: class and mask terms of matched queries, and next-token cross entropy of answers.

Source: Mask2Former (cross entropy, binary cross entropy and dice of matched queries, at points where the mask is in
doubt); wanghao9610/X2SAM for what the terms are averaged over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.matching import at_size, match, uncertain_points, values_at

IGNORED_TOKEN = -100
"""A true token of this id teaches nothing."""

_LEAST_AREA = 0.5  # of a cell; less is no object in this frame


def segmentation_loss(
    class_logits: Tensor | None,
    mask_logits: Tensor,
    labels: Tensor,
    masks: Tensor,
    config: LossConfig,
    ignore: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the class, bce and dice terms of one layer's prediction, each averaged over prompts or objects.

    Args:
        class_logits: (N, Q, C), the last class is background and padded ones are as good as impossible; None where
            queries have no class, and then there is no class term.
        mask_logits: (N, Q, H, W).
        labels: int64 (N, M), the class of each wanted object; negative where there is none. More objects than
            queries are answered for as far as queries go.
        masks: (N, M, H', W') in 0 to 1, of any size. An object whose mask is empty is not wanted.
        config: weights, and at how many points masks are compared.
        ignore: bool (N, H', W'), True where nothing is to be learnt: such places count for no mask, and a query that
            mostly lies there is not held to be background.
    """
    counted = None if ignore is None else (~ignore).float()
    visible = masks if counted is None else masks * counted[:, None]
    labels = labels.masked_fill(visible.flatten(2).sum(-1) < _LEAST_AREA, -1)
    chosen = match(class_logits, mask_logits, labels, masks, config, counted)
    rows, slots = (chosen >= 0).nonzero(as_tuple=True)
    queries = chosen[rows, slots]
    objects = _objects_per_process(labels)
    places = None if counted is None else counted[rows]
    bce, dice = _mask_terms(mask_logits[rows, queries], masks[rows, slots], config, places)
    terms = {"bce": config.bce * (bce.sum() / objects), "dice": config.dice * (dice.sum() / objects)}
    if class_logits is None:
        return terms
    background = class_logits.shape[-1] - 1
    target = torch.full(class_logits.shape[:2], background, device=labels.device)
    target[rows, queries] = labels[rows, slots]
    weight = torch.where(target == background, config.background, 1.0)
    if counted is not None:
        weight = weight.masked_fill((target == background) & _mostly_ignored(mask_logits, counted), 0.0)
    per_query = F.cross_entropy(class_logits.float().transpose(1, 2), target, reduction="none")
    classes = (per_query * weight).sum() / weight.sum().clamp_min(1e-6)
    return {"class": config.classes * classes, **terms}


def _mask_terms(logits: Tensor, masks: Tensor, config: LossConfig, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return binary cross entropy and dice of K masks, (K,) each: logits (K, H, W), masks and counted (K, H', W')."""
    if config.points:
        with torch.no_grad():
            points = uncertain_points(logits, config, counted)
            truth = values_at(masks[:, None], points)[:, 0]
            places = None if counted is None else (values_at(counted[:, None], points)[:, 0] > 0.5).float()
        predicted = values_at(logits[:, None], points)[:, 0]
    else:
        size = (masks.shape[-2], masks.shape[-1])
        predicted, truth = at_size(logits[:, None], size)[:, 0].float().flatten(1), masks.float().flatten(1)
        places = None if counted is None else counted.flatten(1)
    cross = F.binary_cross_entropy_with_logits(predicted, truth, reduction="none")
    probs = predicted.sigmoid()
    if places is None:
        bce = cross.mean(1)
    else:
        bce = (cross * places).sum(1) / places.sum(1).clamp_min(1)
        probs, truth = probs * places, truth * places
    return bce, 1 - (2 * (probs * truth).sum(1) + 1) / (probs.sum(1) + truth.sum(1) + 1)


def _mostly_ignored(mask_logits: Tensor, counted: Tensor) -> Tensor:
    """Return which queries' masks lie for the larger part where nothing is to be learnt, bool (N, Q)."""
    height, width = mask_logits.shape[-2:]
    ignored = 1 - F.adaptive_avg_pool2d(counted[:, None], (height, width))
    inside = (mask_logits.detach() > 0).float()
    return (inside * ignored).flatten(2).sum(-1) > 0.5 * inside.flatten(2).sum(-1)


def _objects_per_process(labels: Tensor) -> float:
    """Return the number of wanted objects, at least 1; the mean of all processes, whose gradients are averaged too."""
    count = (labels >= 0).sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = count.float()
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return max(float(count), 1.0)


def language_loss(logits: Tensor, truth: Tensor, rows: Tensor, answers: int, config: LossConfig) -> Tensor:
    """Return the cross entropy of answers, without label smoothing; 0 where there is nothing to learn.

    Args:
        logits: (A, V), what was expected at each token; truth: int64 (A,), the token, or `IGNORED_TOKEN`.
        rows: int64 (A,), the answer each token is of; answers: how many there are.
        config: whether each answer weighs the same, or each token.
    """
    cross = F.cross_entropy(logits.float(), truth, reduction="none", ignore_index=IGNORED_TOKEN)
    counted = truth != IGNORED_TOKEN
    if config.text == "token":
        return cross.sum() / counted.sum().clamp_min(1)
    count = torch.bincount(rows[counted], minlength=answers).clamp_min(1)
    return (cross / count[rows]).sum() / max(answers, 1)

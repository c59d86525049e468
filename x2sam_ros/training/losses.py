"""Matching of queries to wanted objects, and the losses of masks and classes.

Source: Mask2Former (Hungarian matching; cross entropy, binary cross entropy and dice), on dense stride-4 masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; the matching cost uses the same ones."""

    classes: float = 4.0
    bce: float = 5.0
    dice: float = 5.0
    background: float = 0.1


def match(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor, weights: LossWeights) -> Tensor:
    """Assign one query to each wanted object at the least total cost.

    Args:
        class_logits: (N, Q, C); mask_logits: (N, Q, H, W).
        labels: int64 (N, M), -1 where there is no object; masks: (N, M, H, W) in 0 to 1.

    Returns:
        int64 (N, M), the query of each object; undefined where labels is -1.
    """
    with torch.no_grad():
        logits, truth = mask_logits.float().flatten(2), masks.flatten(2)  # (N, Q, P), (N, M, P)
        pixels = logits.shape[-1]
        positive, negative = F.softplus(-logits), F.softplus(logits)
        bce = (positive @ truth.transpose(1, 2) + negative @ (1 - truth).transpose(1, 2)) / pixels
        probs = logits.sigmoid()
        overlap = 2 * probs @ truth.transpose(1, 2)
        dice = 1 - (overlap + 1) / (probs.sum(-1)[:, :, None] + truth.sum(-1)[:, None] + 1)
        wanted = labels.clamp_min(0)[:, None].expand(-1, logits.shape[1], -1)
        likely = class_logits.float().softmax(-1).gather(2, wanted)
        cost = weights.bce * bce + weights.dice * dice - weights.classes * likely  # (N, Q, M)
        chosen = cost.argmin(1)  # right wherever there is one object
        count = (labels >= 0).sum(1)
        several = (count > 1).nonzero().flatten().tolist()
        if several:
            table = cost.cpu().numpy()
            for row in several:
                slots = np.flatnonzero((labels[row] >= 0).cpu().numpy())
                queries, columns = linear_sum_assignment(table[row][:, slots])
                chosen[row, slots[columns]] = torch.as_tensor(queries, device=chosen.device)
        return chosen


def segmentation_loss(
    class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Return the class, bce and dice terms of one layer's prediction, each averaged over prompts or objects.

    Args: as for `match`; the last class is background. An object whose mask is empty in this frame is not wanted.
    """
    labels = labels.masked_fill(masks.flatten(2).sum(-1) < 0.5, -1)
    chosen = match(class_logits, mask_logits, labels, masks, weights)
    rows, slots = (labels >= 0).nonzero(as_tuple=True)
    queries = chosen[rows, slots]
    background = class_logits.shape[-1] - 1
    target = torch.full(class_logits.shape[:2], background, device=labels.device)
    target[rows, queries] = labels[rows, slots]
    per_query = F.cross_entropy(class_logits.float().transpose(1, 2), target, reduction="none")
    weight = torch.where(target == background, weights.background, 1.0)
    classes = (per_query * weight).sum() / weight.sum()
    predicted = mask_logits[rows, queries].float().flatten(1)
    truth = masks[rows, slots].flatten(1)
    objects = max(len(rows), 1)
    bce = F.binary_cross_entropy_with_logits(predicted, truth, reduction="none").mean(1).sum() / objects
    probs = predicted.sigmoid()
    dice = (1 - (2 * (probs * truth).sum(1) + 1) / (probs.sum(1) + truth.sum(1) + 1)).sum() / objects
    return {"class": weights.classes * classes, "bce": weights.bce * bce, "dice": weights.dice * dice}

"""Who answers for which wanted object: points on masks, costs, and the assignment of least total cost.

Source: DETR (Hungarian matching); Mask2Former and PointRend (masks compared at sampled points).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.training.loss_config import LossConfig

_COST_LIMIT = 1e10


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """Return the bilinear values of ``maps`` (B, C, H, W) at ``points``, as float (B, C, P).

    Args:
        maps: any numbers; outside of them lies zero.
        points: float (B, P, 2), x and y in 0 to 1.
    """
    return F.grid_sample(maps.float(), (2 * points[:, :, None] - 1).float(), align_corners=False).squeeze(3)


def uncertain_points(mask_logits: Tensor, config: LossConfig, counted: Tensor | None = None) -> Tensor:
    """Draw the points at which masks are compared: most where the prediction is in doubt, the others anywhere.

    Args:
        mask_logits: (K, H, W).
        config: how many, of how many.
        counted: float (K, H', W'), 0 where nothing is to be learnt; such places are not sought.

    Returns:
        float (K, P, 2), x and y in 0 to 1.
    """
    uncertain, device = int(config.importance * config.points), mask_logits.device
    drawn = torch.rand(len(mask_logits), int(config.points * config.oversample), 2, device=device)
    doubt = -values_at(mask_logits[:, None], drawn)[:, 0].abs()
    if counted is not None:
        doubt = doubt.masked_fill(values_at(counted[:, None], drawn)[:, 0] <= 0.5, -torch.inf)
    order = doubt.topk(uncertain, dim=1).indices
    anywhere = torch.rand(len(mask_logits), config.points - uncertain, 2, device=device)
    return torch.cat([drawn.gather(1, order[:, :, None].expand(-1, -1, 2)), anywhere], dim=1)


def at_size(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``mask_logits`` (N, Q, H, W) at ``size``, bilinear; where it is theirs already, the very same."""
    if mask_logits.shape[-2:] == size:
        return mask_logits
    return F.interpolate(mask_logits.float(), size, mode="bilinear", align_corners=False)


def pair_costs(
    class_logits: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    truth: Tensor,
    config: LossConfig,
    counted: Tensor | None = None,
) -> Tensor:
    """Return what it costs to give each object to each query, (N, Q, M).

    Args:
        class_logits: (N, Q, C), or None where queries have no class.
        logits: float (N, Q, P), masks at P places; truth: float (N, M, P) in 0 to 1.
        labels: int64 (N, M), negative where there is no object.
        config: the weights.
        counted: float (N, P), 0 where nothing is to be learnt.
    """
    probs, places = logits.sigmoid(), float(logits.shape[-1])
    inside, outside = truth, 1 - truth
    if counted is None:
        found, wanted = probs.sum(-1), truth.sum(-1)
        pixels: float | Tensor = places
    else:
        inside, outside = inside * counted[:, None], outside * counted[:, None]
        found, wanted = (probs * counted[:, None]).sum(-1), inside.sum(-1)
        pixels = counted.sum(-1).clamp_min(1)[:, None, None]
    positive, negative = F.softplus(-logits), F.softplus(logits)
    bce = (positive @ inside.transpose(1, 2) + negative @ outside.transpose(1, 2)) / pixels
    overlap = 2 * probs @ inside.transpose(1, 2)
    dice = 1 - (overlap + 1) / (found[:, :, None] + wanted[:, None] + 1)
    cost = config.bce * bce + config.dice * dice
    if class_logits is None:
        return cost
    index = labels.clamp_min(0)[:, None].expand(-1, logits.shape[1], -1)
    return cost - config.classes * class_logits.float().softmax(-1).gather(2, index)


def assign(cost: Tensor, labels: Tensor) -> Tensor:
    """Assign a query of its own to each wanted object at the least total cost.

    Args:
        cost: (N, Q, M); what is not finite never stops the search.
        labels: int64 (N, M), negative where there is no object.

    Returns:
        int64 (N, M), the query of each object; -1 where there is no object, or none is left for it.
    """
    cost = torch.nan_to_num(cost.float(), nan=0.0, posinf=_COST_LIMIT, neginf=-_COST_LIMIT)
    wanted = labels >= 0
    chosen = cost.argmin(1)  # right wherever there is one object
    several = (wanted.sum(1) > 1).nonzero().flatten().tolist()
    if several:
        chosen[several] = -1
        table = cost.cpu().numpy()
        for row in several:
            slots = np.flatnonzero(wanted[row].cpu().numpy())
            queries, columns = linear_sum_assignment(table[row][:, slots])
            chosen[row, slots[columns]] = torch.as_tensor(queries, device=chosen.device)
    return chosen.masked_fill(~wanted, -1)


@torch.no_grad()
def match(
    class_logits: Tensor | None,
    mask_logits: Tensor,
    labels: Tensor,
    masks: Tensor,
    config: LossConfig,
    counted: Tensor | None = None,
) -> Tensor:
    """Assign one query to each wanted object at the least total cost.

    Args:
        class_logits: (N, Q, C), or None where queries have no class; mask_logits: (N, Q, H, W).
        labels: int64 (N, M), negative where there is no object; masks: (N, M, H', W') in 0 to 1.
        config: the weights, and at how many points masks are compared, the same ones for all of a row.
        counted: float (N, H', W'), 0 where nothing is to be learnt.

    Returns:
        int64 (N, M), the query of each object; -1 where there is no object, or none is left for it.
    """
    if config.points:
        points = torch.rand(len(mask_logits), config.points, 2, device=mask_logits.device)
        logits, truth = values_at(mask_logits, points), values_at(masks, points)
        places = None if counted is None else (values_at(counted[:, None], points)[:, 0] > 0.5).float()
    else:
        size = (masks.shape[-2], masks.shape[-1])
        logits, truth = at_size(mask_logits, size).float().flatten(2), masks.float().flatten(2)
        places = None if counted is None else counted.flatten(1)
    return assign(pair_costs(class_logits, logits, labels, truth, config, places), labels)


def share_phrases(
    condition: PromptCondition, labels: Tensor, masks: Tensor, pictures: int
) -> tuple[PromptCondition, Tensor]:
    """Make the phrases of all prompts of a batch choices of each one, so that those of the others are what it is not.

    Other words for the very masks that a prompt wants are no choice of it. Each prompt keeps its own state at
    ``<SEG>``, where the published code takes another one's.

    Args:
        condition: N prompts, each with its own phrases.
        labels: int64 (N, M), which phrase of its prompt each object answers; negative where there is no object.
        masks: float (T, N, M, h, w), the objects on the T frames of a clip or of a picture.
        pictures: how many of these there are, each with as many prompts side by side.

    Returns:
        The condition with all phrases, prompt after prompt, in every row; and the labels that count among them.

    Source: wanghao9610/X2SAM, referring and reasoning batches.
    """
    rows, real = len(labels), condition.embed_mask[:, :-1].bool()
    phrases = condition.cond_embeds[:, :-1][real]
    tokens = condition.token_embeds[condition.token_mask.bool()]
    count = real.sum(1)
    offsets = count.cumsum(0) - count
    choices = torch.cat([~_said_otherwise(real, labels, masks, pictures), real.new_ones(rows, 1)], dim=1)
    shared = PromptCondition(
        cond_embeds=torch.cat([phrases.expand(rows, -1, -1), condition.cond_embeds[:, -1:]], dim=1),
        embed_mask=choices.to(condition.embed_mask.dtype),
        token_embeds=tokens.expand(rows, -1, -1),
        token_mask=condition.token_mask.new_ones(rows, len(tokens)),
        seg_embeds=condition.seg_embeds,
    )
    return shared, torch.where(labels >= 0, labels + offsets[:, None], labels)


def _said_otherwise(real: Tensor, labels: Tensor, masks: Tensor, pictures: int) -> Tensor:
    """Return which of all P phrases mean, in another prompt about the same picture, what a prompt wants, bool (N, P).

    Only phrases that an object answers are compared, so that long lists of absent classes cost nothing. ``real`` is
    bool (N, C), the phrases of each prompt; see `share_phrases` for the others.
    """
    said = real.new_zeros(len(real), int(real.sum()))
    count = real.sum(1)
    prompt, slot = (labels >= 0).nonzero(as_tuple=True)
    place = labels[prompt, slot] + (count.cumsum(0) - count)[prompt]
    phrases, which = place.unique(return_inverse=True)
    objects = masks[:, prompt, slot].transpose(0, 1).flatten(1)
    united = objects.new_zeros(len(phrases), objects.shape[1])
    meant = united.scatter_reduce(0, which[:, None].expand_as(objects), objects, "amax")
    kind = meant.unique(dim=0, return_inverse=True)[1]
    owner = real.nonzero()[:, 0][phrases]
    picture = owner * pictures // len(real)
    alike = (kind[:, None] == kind) & (picture[:, None] == picture) & meant.any(1)
    own = torch.arange(len(real), device=owner.device)[:, None] == owner
    said[:, phrases] = (own.float() @ alike.float() > 0) & ~own
    return said

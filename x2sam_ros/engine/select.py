"""Choose queries: which of the decoder's queries is a target now, given the prompt and where it was before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_ros.engine.region import Region, mask_iou, overlap

PROMPT_WEIGHT = 2.0
"""Weight of the overlap with a click, box or mask against a class probability of 1: the instance decides."""

FOLLOW_WEIGHT = 1.0
"""Weight of the overlap with the mask on the frame before."""

NMS_IOU = 0.5
"""Two masks of one class that overlap more are one object."""

MATCH_IOU = 0.3
"""A detection that overlaps a target's last mask more is that target."""


@dataclass(frozen=True)
class Candidates:
    """One prompt's queries on one frame.

    Args:
        probs: float (Q, C), probability of each phrase, background left out.
        mask_logits: float (Q, h, w) at stride 4.
    """

    probs: Tensor
    mask_logits: Tensor

    @classmethod
    def read(cls, class_logits: Tensor, mask_logits: Tensor) -> Candidates:
        """Read one prompt's row: class_logits (Q, C + 1), mask_logits (Q, h, w)."""
        return cls(class_logits.float().softmax(-1)[:, :-1], mask_logits.float())


@dataclass(frozen=True)
class Choice:
    """A chosen query: ``score`` in 0 to 1, ``logits`` float (h, w)."""

    query: int
    class_index: int
    score: float
    logits: Tensor


def best_query(found: Candidates, region: Region | None, previous: Tensor | None) -> Choice:
    """Choose the one query of a one-target prompt.

    Args:
        found: the queries.
        region: the prompt, on the frame it was given on; None later and for texts.
        previous: bool (h, w), the target's mask on the frame before, or None.
    """
    score, class_index = found.probs.max(1)
    value = score
    if region is not None:
        value = value + PROMPT_WEIGHT * overlap(region, found.mask_logits)
    elif previous is not None:
        value = value + FOLLOW_WEIGHT * mask_iou(found.mask_logits > 0, previous)
    query = int(value.argmax())
    return Choice(query, int(class_index[query]), float(score[query]), found.mask_logits[query])


def instances(found: Candidates, threshold: float) -> list[Choice]:
    """Choose every confident query of every class, the surest first, one for each object."""
    score, class_index = found.probs.max(1)
    masks = found.mask_logits > 0
    chosen: list[Choice] = []
    for query in score.argsort(descending=True).tolist():
        if float(score[query]) < threshold:
            break
        if not bool(masks[query].any()):
            continue
        taken = [c.query for c in chosen if c.class_index == int(class_index[query])]
        if taken and float(mask_iou(masks[taken], masks[query]).max()) > NMS_IOU:
            continue
        chosen.append(Choice(query, int(class_index[query]), float(score[query]), found.mask_logits[query]))
    return chosen


def match_tracks(choices: list[Choice], previous: list[tuple[int, Tensor]]) -> dict[int, int]:
    """Match detections to targets, the best overlap first.

    Args:
        choices: this frame's detections.
        previous: (class index, bool (h, w) last mask) of each target.

    Returns:
        Target index to detection index. Source: X2SAM's greedy mask-IoU matching of class-list tasks.
    """
    pairs = []
    for track, (class_index, mask) in enumerate(previous):
        rows = [i for i, choice in enumerate(choices) if choice.class_index == class_index]
        if rows:
            iou = mask_iou(torch.stack([choices[i].logits for i in rows]) > 0, mask)
            pairs += [(float(value), track, row) for value, row in zip(iou, rows) if value > MATCH_IOU]
    matched: dict[int, int] = {}
    for _, track, row in sorted(pairs, reverse=True):
        if track not in matched and row not in matched.values():
            matched[track] = row
    return matched

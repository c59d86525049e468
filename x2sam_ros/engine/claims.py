"""Several regions in one conversation: an instance for each, and none for two that were apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.follow import followed, pointed_at
from x2sam_ros.engine.region import mask_iou
from x2sam_ros.engine.select import CUT, NMS_IOU, Candidates, Choice
from x2sam_ros.engine.task_head import ReadContext, Track


def one_instance_each(found: Candidates, context: ReadContext) -> list[Choice]:
    """Choose the instance of every region: what it points at, later what is where that should be.

    Of two targets that were apart and now choose one object, it belongs to the one that it fits better; the other one
    is looked for beside it. A label that has no target is left out, unless its prompt is given on this frame.

    Args:
        found: the queries, with a column for each region.
        context: the regions, and what was found before.
    """
    labels = range(len(context.labels))
    track_of: dict[int, int] = {}
    for index, track in enumerate(context.tracks):
        track_of.setdefault(track.class_index, index)
    alone = {label: against_background(found, label) for label in labels}
    chosen = []
    for label in labels:
        if label not in track_of and context.prompted:
            choice = pointed_at(alone[label], context.regions[label], label)
            chosen += [choice] if choice is not None else []
    return chosen + _follow_apart(alone, context.tracks, track_of)


def against_background(found: Candidates, label: int) -> Candidates:
    """Return the queries with the probability of one label as if no other were asked for.

    Regions on look-alikes share what is one category to the network, so that each would get a part of it.
    """
    if found.probs.shape[1] == 1:
        return found
    background = (1 - found.probs.sum(1)).clamp_min(0)
    own = found.probs[:, label] / (found.probs[:, label] + background).clamp_min(1e-6)
    probs = found.probs.clone()
    probs[:, label] = own
    return replace(found, probs=probs)


def _follow_apart(alone: dict[int, Candidates], tracks: Sequence[Track], track_of: dict[int, int]) -> list[Choice]:
    """Follow every track, those first that fit best."""
    first = {label: followed(alone[label], tracks[track_of[label]], label) for label in track_of}
    kept: list[Choice] = []
    for label, choice in sorted(first.items(), key=lambda item: -_fit(item[1], tracks[track_of[item[0]]])):
        track = tracks[track_of[label]]
        others = [other for other in kept if _were_apart(track, tracks[track_of[other.class_index]])]
        if choice is not None and others and _meets(choice, others):
            taken = torch.stack([other.mask for other in others]).any(0)
            choice = followed(_without(alone[label], taken), track, label)
            choice = None if choice is not None and _meets(choice, others) else choice
        if choice is not None:
            kept.append(replace(choice, track=track_of[label]))
    return kept


def _fit(choice: Choice | None, track: Track) -> float:
    return -1.0 if choice is None else float(mask_iou(choice.mask[None], track.mask)) - track.missed


def _were_apart(track: Track, other: Track) -> bool:
    return float(mask_iou(track.mask[None], other.mask)) <= NMS_IOU


def _meets(choice: Choice, others: Sequence[Choice]) -> bool:
    return float(mask_iou(torch.stack([other.mask for other in others]), choice.mask).max()) > NMS_IOU


def _without(found: Candidates, taken: Tensor) -> Candidates:
    """Return the queries less what is taken, bool (h, w), and less the rim that would be left around it."""
    wide = F.max_pool2d(taken[None].float(), 3, stride=1, padding=1)[0] > 0
    cut = found.mask_logits.new_tensor(CUT)
    return replace(found, mask_logits=torch.where(wide, torch.minimum(found.mask_logits, cut), found.mask_logits))

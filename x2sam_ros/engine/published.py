"""The rules of the published evaluation that ours differ from, for ``official_quirks``: to reproduce its numbers.

Everything here is computed at the picture's size, as there. What is wrong with each rule is said beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.postprocess import PANOPTIC_SHARE, instance_list, label_map
from x2sam_ros.engine.region import mask_iou
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.types import BoolArray

GEOMETRY_WEIGHT = 0.2
"""Weight of the overlap with earlier masks in object segmentation; the class probability has the rest."""

TRACKING_IOU = 0.5
"""A thing that overlaps one of the frame before more takes over its id."""


def prompted_query(found: Candidates, prompt: BoolArray, score_threshold: float) -> Choice:
    """Choose the query whose mask overlaps a prompt mask best (interactive segmentation).

    Args:
        found: the queries of one region.
        prompt: bool (H, W); resized to the queries' masks by the nearest pixel.
        score_threshold: queries below it, by class times mean mask probability, count only if they are the best.
    """
    listed = instance_list(found, 0.0, official_quirks=True)
    best = max(choice.score for choice in listed)
    listed = [choice for choice in listed if choice.score >= score_threshold or choice.score == best]
    maps = torch.from_numpy(np.ascontiguousarray(prompt, dtype=np.float32)).to(found.mask_logits.device)
    inside = F.interpolate(maps[None, None], size=found.mask_logits.shape[1:], mode="nearest")[0, 0] > 0
    return listed[int(mask_iou(torch.stack([choice.mask for choice in listed]), inside).argmax())]


def followed_query(
    found: Candidates,
    anchor: Tensor | None,
    history: Sequence[tuple[Tensor, float]],
    score_threshold: float,
    geometry_weight: float = GEOMETRY_WEIGHT,
) -> Choice:
    """Choose the query of a followed object by class probability and overlap with where it was.

    Args:
        found: the queries of one region.
        anchor: bool (H, W), the prompt mask; None for an empty one. The published program's is always empty, since it
            looks for 255 in masks of 0 and 1: all it does is to weaken the overlap with the others.
        history: masks, bool (H, W), of the last frames with a score above the threshold, and those scores.
        score_threshold: class probability below which a query counts only if it is the best.
        geometry_weight: weight of the mean overlap, each mask weighted by its score and the anchor by 1.

    Returns:
        A choice whose score is the weighted sum.
    """
    probs = found.probs[:, 0]
    rows = ((probs >= score_threshold) | (probs == probs.max())).nonzero()[:, 0]
    masks = found.mask_logits[rows] > 0
    empty = torch.zeros_like(masks[0])
    references = [(empty if anchor is None else anchor, 1.0), *history]
    weights = probs.new_tensor([weight for _, weight in references])
    iou = torch.stack([mask_iou(masks, mask) for mask, _ in references], dim=1)
    value = geometry_weight * (iou * weights).sum(1) / weights.sum() + (1 - geometry_weight) * probs[rows]
    best = int(value.argmax())
    query = int(rows[best])
    return Choice(query, 0, float(value[best]), found.mask_logits[query])


def panoptic_pieces(found: Candidates, score_threshold: float, mask_threshold: float = 0.5) -> list[Choice]:
    """Divide the picture among the confident queries, in their order.

    Every pixel goes to some query, also where no mask is: a lone object fills the picture. A query must win more than
    ``PANOPTIC_SHARE`` of the area where its mask probability times its score reaches ``mask_threshold``.
    """
    if not found.probs.shape[1]:
        return []
    score, label = found.probs.max(1)
    rows = (score > score_threshold).nonzero()[:, 0]
    if not len(rows):
        return []
    weighted = found.mask_logits[rows].sigmoid() * score[rows].view(-1, 1, 1)
    winner = weighted.argmax(0)
    pieces = []
    for index, query in enumerate(rows.tolist()):
        won, own = winner == index, weighted[index] >= mask_threshold
        if bool(won.any()) and bool(own.any()) and float(won.sum() / own.sum()) > PANOPTIC_SHARE:
            pieces.append(Choice(query, int(label[query]), float(score[query]), won.float() - 0.5))
    return pieces


def segment_ids(pieces: Sequence[Choice], stuff: Collection[int]) -> list[int]:
    """Number the segments of a picture from 1.

    Pieces of one stuff class share an id; after such a piece the count goes on from that id, so that later segments get
    ids that are taken.
    """
    ids: list[int] = []
    of_stuff: dict[int, int] = {}
    last = 0
    for piece in pieces:
        last = of_stuff.get(piece.class_index, last + 1)
        ids.append(last)
        if piece.class_index in stuff:
            of_stuff[piece.class_index] = last
    return ids


@dataclass(frozen=True)
class PanopticFrame:
    """One frame of a clip, divided into segments.

    Args:
        ids: int32 (H, W), 0 where there is none.
        segments: the pieces, in order.
        segment_ids: id of each piece; several may share one.
    """

    ids: Tensor
    segments: tuple[Choice, ...]
    segment_ids: tuple[int, ...]


def panoptic_clip(
    clip: Sequence[Candidates],
    image_sizes: Sequence[tuple[int, int]],
    stuff: Collection[int],
    score_threshold: float,
    valid_sizes: Sequence[tuple[int, int]] | None = None,
    mask_threshold: float = 0.5,
) -> list[PanopticFrame]:
    """Divide the frames of a clip into segments with the ids of the published evaluation; an image is a clip of one.

    All frames get the first one's size. A thing takes over the id of the thing of its class that it overlaps most on
    the frame before, even when another segment has that id; stuff is not followed.

    Args:
        clip: each frame's queries, before they are resized.
        image_sizes: (height, width) of each frame.
        stuff: labels that are stuff.
        score_threshold, mask_threshold: see `panoptic_pieces`.
        valid_sizes: see `Candidates.resized`.
    """
    frames = []
    before: dict[int, tuple[int, Tensor]] = {}
    for found in clip:
        resized = found.resized(image_sizes[0], valid_sizes[0] if valid_sizes else None)
        pieces = panoptic_pieces(resized, score_threshold, mask_threshold)
        ids = segment_ids(pieces, stuff)
        painted = label_map(pieces, ids, image_sizes[0])
        if bool((resized.probs > score_threshold).any()):
            class_of = dict(zip(ids, (piece.class_index for piece in pieces)))
            if before:
                painted, ids = _taken_over(painted, ids, class_of, before, stuff)
                class_of = {v: p.class_index for v, p in zip(ids, pieces) if p.class_index not in stuff}
            before = {v: (label, painted == v) for v, label in class_of.items() if label not in stuff}
        frames.append(PanopticFrame(painted, tuple(pieces), tuple(ids)))
    return frames


def _taken_over(
    painted: Tensor,
    ids: Sequence[int],
    class_of: dict[int, int],
    before: dict[int, tuple[int, Tensor]],
    stuff: Collection[int],
) -> tuple[Tensor, list[int]]:
    """Return map and ids of a frame whose things took over the ids of the frame before."""
    new_id: dict[int, int] = {}
    for value, label in class_of.items():
        rivals = {old: mask for old, (its, mask) in before.items() if its == label and old not in new_id.values()}
        if label in stuff or not rivals:
            continue
        iou = mask_iou(torch.stack(list(rivals.values())), painted == value)
        if float(iou.max()) > TRACKING_IOU:
            new_id[value] = list(rivals)[int(iou.argmax())]
    renamed = painted.clone()
    for value, new in new_id.items():
        renamed[painted == value] = new
    return renamed, [new_id.get(value, value) for value in ids]

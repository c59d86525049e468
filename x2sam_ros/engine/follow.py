"""Follow one object: the part of a query's mask that was pointed at, later the part that lies where it should be.

A query may cover several look-alikes at once, so masks are taken apart into connected pieces, and pieces are chosen. A
target that was not found is looked for in a circle around its place, which grows from frame to frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.region import Region, mask_iou, overlap
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import Track
from x2sam_ros.types import BoolArray

MAX_QUERIES, MAX_PARTS = 12, 8
"""Queries that are taken apart on a frame, those that fit best, and pieces of each that are looked at."""

PROMPT_WEIGHT = 2.0
"""Weight of the overlap with a click, box or mask against a class probability of 1: the instance decides."""

SURE_WEIGHT = 0.5
"""Weight of a query's class probability against an overlap of 1 with where the target should be."""

NEAR_WEIGHT = 0.3
"""Weight of lying at the very place, which decides where nothing overlaps."""

REACH, REACH_GROWTH = 1.0, 0.3
"""How far from its place a target may be found, in sizes (square root of its area), and how much farther after each
frame on which it was not found."""

LEAST_IOU = 0.1
"""Overlap with where the target should be from which the distance does not matter."""

COVERED = 0.7
"""Share of a piece that a query must cover to speak for it."""

MERGED = 1.6
"""Growth of area from one frame to the next that means that the piece covers something else, too."""

PART_SHARE = 0.5
"""Share of another piece of the same query that must lie where the target should be to belong to it."""

_MARGIN = 0.25
"""How far beyond its place a merged piece is kept, in sizes."""

_CUT = -5.0
"""Mask logit of what was cut off."""


@dataclass(frozen=True)
class Pieces:
    """Connected parts of queries' masks.

    Args:
        queries: int64 (P,), the query of each.
        masks: bool (P, h, w).
        support: float (P,), the highest class probability among the queries that cover it.
    """

    queries: Tensor
    masks: Tensor
    support: Tensor

    @classmethod
    def of(cls, found: Candidates, fit: Tensor, near: Tensor, class_index: int) -> Pieces:
        """Take the queries that fit best apart.

        Args:
            found: the queries.
            fit: float (Q,), how well each fits as a whole.
            near: bool (h, w), where the target should be; of many pieces those that cover most of it are looked at,
                then the largest.
            class_index: the target's label.
        """
        queries = fit.topk(min(MAX_QUERIES, len(fit))).indices
        whole, place = found.mask_logits[queries] > 0, near.cpu().numpy()
        owners: list[int] = []
        parts: list[BoolArray] = []
        for row, plane in enumerate(whole.cpu().numpy().astype(np.uint8)):
            count, names, stats, _ = cv2.connectedComponentsWithStats(plane, connectivity=8)
            covered = np.bincount(names[place], minlength=count)
            order = np.lexsort((stats[:, cv2.CC_STAT_AREA], covered))[::-1]
            chosen = order[order > 0][:MAX_PARTS]  # 0 is what the mask leaves free
            owners += [row] * len(chosen)
            parts += [names == name for name in chosen]
        stacked = np.array(parts, dtype=bool).reshape(len(parts), *place.shape)
        masks = torch.from_numpy(stacked).to(found.mask_logits.device)
        flat = masks.flatten(1).float()
        share = flat @ whole.flatten(1).float().T / flat.sum(1, keepdim=True).clamp_min(1)
        score = found.probs[queries, class_index]
        support = torch.where(share >= COVERED, score, 0.0).amax(1)
        return cls(queries[torch.tensor(owners, dtype=torch.long, device=queries.device)], masks, support)

    def choice(self, found: Candidates, row: int, mask: Tensor, class_index: int) -> Choice:
        """Return a piece as a choice whose mask is ``mask``, bool (h, w), a part of its query's."""
        query = int(self.queries[row])
        whole = found.mask_logits[query]
        logits = torch.where((whole > 0) & ~mask, whole.new_tensor(_CUT), whole)
        return Choice(query, class_index, float(self.support[row]), logits)


def pointed_at(found: Candidates, region: Region, class_index: int = 0) -> Choice | None:
    """Choose the object that a region points at, on the frame that the region lies on.

    Args:
        found: the queries.
        region: the click, box or mask.
        class_index: the region's label.

    Returns:
        The piece that overlaps the region best, sure queries first; None where no query has a mask.
    """
    score = found.probs[:, class_index]
    fit = PROMPT_WEIGHT * overlap(region, found.mask_logits) + score
    drawn = torch.from_numpy(region.mask.astype(np.float32))[None, None]
    near = F.adaptive_max_pool2d(drawn, (found.mask_logits.shape[1], found.mask_logits.shape[2]))[0, 0] > 0
    pieces = Pieces.of(found, fit, near, class_index)
    if not len(pieces.queries):
        return None
    logits = torch.where(pieces.masks, found.mask_logits[pieces.queries], _CUT)
    value = PROMPT_WEIGHT * overlap(region, logits) + score[pieces.queries]
    row = int(value.argmax())
    return pieces.choice(found, row, pieces.masks[row], class_index)


def followed(found: Candidates, track: Track, class_index: int = 0) -> Choice | None:
    """Choose the piece that is a target now.

    Args:
        found: the queries.
        track: the target so far.
        class_index: its label.

    Returns:
        The piece, with the score of the surest query that covers it; None where nothing is within reach.
    """
    place = expected(track)
    score = found.probs[:, class_index]
    inside = found.mask_logits > 0
    covers = (inside & place).flatten(1).sum(1) / place.sum().clamp_min(1)
    pieces = Pieces.of(found, covers + score, place, class_index)
    if not len(pieces.queries):
        return None
    size = float(track.mask.sum().clamp_min(1)) ** 0.5
    reach = REACH + REACH_GROWTH * track.missed
    iou = mask_iou(pieces.masks, place)
    distance = (_centres(pieces.masks) - (_centres(track.mask[None]) + _drift(track))).norm(dim=1) / size
    value = iou + SURE_WEIGHT * score[pieces.queries] + NEAR_WEIGHT * (-((distance / reach) ** 2)).exp()
    # the centre of what is much larger says nothing: there it counts whether it comes near
    larger = pieces.masks.flatten(1).sum(1) > MERGED * size**2
    touches = (pieces.masks & _widened(place, math.ceil(reach * size))).flatten(1).any(1)
    value = torch.where((iou >= LEAST_IOU) | (distance <= reach) | (larger & touches), value, -1.0)
    row = int(value.argmax())
    if float(value[row]) < 0:
        return None
    mask = pieces.masks[row]
    # parts of one object, such as what is seen of it on both sides of a pole
    stays = (pieces.masks & place).flatten(1).sum(1) >= PART_SHARE * pieces.masks.flatten(1).sum(1)
    mask = mask | pieces.masks[stays & (pieces.queries == pieces.queries[row])].any(0)
    if not track.missed and float(mask.sum()) > MERGED * size**2 and bool((mask & place).any()):
        mask = mask & _widened(place, 1 + round(_MARGIN * size))
    return pieces.choice(found, row, mask, class_index)


def expected(track: Track) -> Tensor:
    """Return where a target should be now, bool (h, w): its last mask, moved on by whole cells."""
    dx, dy = (round(float(step)) for step in _drift(track))
    height, width = track.mask.shape
    moved = torch.zeros_like(track.mask)
    rows, columns = track.mask.nonzero(as_tuple=True)
    rows, columns = rows + dy, columns + dx
    kept = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved[rows[kept], columns[kept]] = True
    return moved


def _drift(track: Track) -> Tensor:
    height, width = track.mask.shape
    return torch.tensor([track.drift[0] * width, track.drift[1] * height], device=track.mask.device)


def _centres(masks: Tensor) -> Tensor:
    """Return x and y of the centres of gravity of bool (N, h, w), in cells, (N, 2)."""
    weight = masks.float() / masks.flatten(1).sum(1).clamp_min(1).view(-1, 1, 1)
    height, width = masks.shape[1:]
    columns, rows = (torch.arange(n, device=masks.device) + 0.5 for n in (width, height))
    return torch.stack([(weight.sum(1) * columns).sum(1), (weight.sum(2) * rows).sum(1)], dim=1)


def _widened(mask: Tensor, cells: int) -> Tensor:
    """Return bool (h, w) grown by a number of cells on every side."""
    reach = min(cells, max(mask.shape))
    wide = F.max_pool2d(mask[None].float(), (1, 2 * reach + 1), stride=1, padding=(0, reach))
    return F.max_pool2d(wide, (2 * reach + 1, 1), stride=1, padding=(reach, 0))[0] > 0

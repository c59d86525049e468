"""Follow one object: the part of a query's mask that was pointed at, later the part that lies where it should be.

A query may cover several look-alikes at once, so masks are taken apart into connected pieces, and pieces are chosen. A
target that was not found is looked for in a circle around its place, which grows from frame to frame. One that nothing
else looked like so far is also found where a query is sure of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.region import Region, overlap
from x2sam_ros.engine.select import CUT, Candidates, Choice
from x2sam_ros.engine.task_head import Track
from x2sam_ros.types import BoolArray, FloatArray, IntArray

MAX_QUERIES, MAX_PIECES = 12, 16
"""Queries that are taken apart on a frame, those that fit best, and pieces of all of them that are looked at."""

PROMPT_WEIGHT = 2.0
"""Weight of the overlap with a click, box or mask against a class probability of 1: the instance decides."""

SURE_WEIGHT = 0.5
"""Weight of a query's class probability against an overlap of 1 with where the target should be."""

NEAR_WEIGHT = 0.3
"""Weight of lying at the very place, which decides where nothing overlaps."""

REACH, REACH_GROWTH = 1.0, 0.1
"""How far from its place a target may be found, in sizes (square root of its area), and how much farther after each
frame on which it was not found."""

SURE_ELSEWHERE = 0.9
"""Class probability from which a piece out of reach is the target, where none looks like it and it is not in reach."""

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


@dataclass(frozen=True)
class Pieces:
    """Connected parts of queries' masks.

    Args:
        queries: int64 (P,), the query of each.
        masks: bool (P, h, w).
        areas, shared: int (P,), cells of each, and those of them where the target should be.
        iou: float (P,), overlap with where the target should be.
        distance: float (P,), from the centre of gravity of that place to their own, cells.
        score: float (P,), class probability of each one's query.
        support: float (P,), the highest class probability among the queries that cover it.
    """

    queries: IntArray
    masks: BoolArray
    areas: IntArray
    shared: IntArray
    iou: FloatArray
    distance: FloatArray
    score: FloatArray
    support: FloatArray

    @classmethod
    def of(
        cls, found: Candidates, fit: Tensor, place: BoolArray, centre: FloatArray, size: float, class_index: int
    ) -> Pieces:
        """Take the queries that fit best apart.

        Args:
            found: the queries.
            fit: float (Q,), how well each fits as a whole.
            place: bool (h, w), where the target should be.
            centre: x and y of the middle of that, cells, which may lie outside of the image.
            size: of the target, cells. Of many pieces those that suit place, distance and class best are looked at.
            class_index: the target's label.
        """
        queries = fit.topk(min(MAX_QUERIES, len(fit))).indices
        score = found.probs[queries, class_index].double().cpu().numpy()
        whole = (found.mask_logits[queries] > 0).cpu().numpy()
        names, areas, covered, centres = [], [], [], []
        rows: list[int] = []
        parts: list[int] = []
        for row, plane in enumerate(whole.view(np.uint8)):
            count, named, stats, middle = cv2.connectedComponentsWithStats(plane, connectivity=8)
            names.append(named)
            rows += [row] * (count - 1)  # 0 is what the mask leaves free
            parts += range(1, count)
            areas.append(stats[1:, cv2.CC_STAT_AREA])
            covered.append(np.bincount(named[place], minlength=count)[1:])
            centres.append(middle[1:])
        area, shared, owner = np.concatenate(areas), np.concatenate(covered), np.array(rows, dtype=np.int64)
        iou = shared / np.maximum(area + int(place.sum()) - shared, 1)
        distance = np.linalg.norm(np.concatenate(centres) + 0.5 - centre, axis=1)
        suits = iou + SURE_WEIGHT * score[owner] + NEAR_WEIGHT * np.exp(-((distance / size) ** 2))
        best = np.argsort(-suits, kind="stable")[:MAX_PIECES]
        masks = np.zeros((len(best), *place.shape), dtype=np.bool_)
        for into, i in zip(masks, best):
            np.equal(names[rows[i]], parts[i], out=into)
        flat, cells = masks.reshape(len(best), place.size).astype(np.float32), whole.reshape(len(whole), place.size)
        share = flat @ cells.astype(np.float32).T / np.maximum(area[best, None], 1)
        support = np.where(share >= COVERED, score, 0.0).max(axis=1)
        known = area[best], shared[best], iou[best], distance[best], score[owner[best]]
        return cls(queries.cpu().numpy()[owner[best]], masks, *known, support)

    def choice(self, found: Candidates, row: int, mask: BoolArray, class_index: int) -> Choice:
        """Return a piece as a choice whose mask is ``mask``, bool (h, w), a part of its query's."""
        query = int(self.queries[row])
        whole = found.mask_logits[query]
        inside = torch.from_numpy(mask).to(whole.device)
        logits = torch.where((whole > 0) & ~inside, whole.new_tensor(CUT), whole)
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
    near = F.adaptive_max_pool2d(drawn, (found.mask_logits.shape[1], found.mask_logits.shape[2]))[0, 0].numpy() > 0
    pieces = Pieces.of(found, fit, near, _centre(near), float(near.sum()) ** 0.5, class_index)
    if not len(pieces.queries):
        return None
    queries = torch.from_numpy(pieces.queries).to(score.device)
    logits = torch.where(torch.from_numpy(pieces.masks).to(score.device), found.mask_logits[queries], CUT)
    row = int((PROMPT_WEIGHT * overlap(region, logits) + score[queries]).argmax())
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
    last, place = track.mask.cpu().numpy(), expected(track).cpu().numpy()
    # what leaves the image or hides is last seen as a sliver
    area = max(float(last.sum()), track.extent * last.size if track.missed else 0.0, 1.0)
    size = area**0.5
    fit = _covers(found.mask_logits, place) + found.probs[:, class_index]
    # whoever left the image comes back over its edge
    centre = np.clip(_centre(last) + _drift(track), 0, last.shape[::-1])
    pieces = Pieces.of(found, fit, place, centre, size, class_index)
    if not len(pieces.queries):
        return None
    reach = REACH + REACH_GROWTH * track.missed
    closeness = np.exp(-((pieces.distance / size / reach) ** 2))
    value = pieces.iou + SURE_WEIGHT * pieces.score + NEAR_WEIGHT * closeness
    within = (pieces.iou >= LEAST_IOU) | (pieces.distance <= reach * size)
    # the centre of what is much larger says nothing: there it counts whether it comes near
    for large in np.flatnonzero(~within & (pieces.areas > MERGED * size**2)):
        within[large] = (pieces.masks[large] & _widened(place, math.ceil(reach * size))).any()
    row = int(np.where(within, value, -1.0).argmax())
    if not track.has_rivals and (not within[row] or pieces.support[row] < track.threshold):
        sure = pieces.support >= SURE_ELSEWHERE
        if sure.any():
            elsewhere = int((pieces.areas * sure).argmax())
            return pieces.choice(found, elsewhere, pieces.masks[elsewhere], class_index)
    if not within[row]:
        return None
    # parts of one object, such as what is seen of it on both sides of a pole
    stays = pieces.shared >= PART_SHARE * pieces.areas
    mask = pieces.masks[row] | pieces.masks[stays & (pieces.queries == pieces.queries[row])].any(axis=0)
    if not track.missed and mask.sum() > MERGED * size**2 and (mask & place).any():
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


def _drift(track: Track) -> FloatArray:
    height, width = track.mask.shape
    return np.array([track.drift[0] * width, track.drift[1] * height])


def _centre(mask: BoolArray) -> FloatArray:
    """Return x and y of the centre of gravity of bool (h, w), cells; 0, 0 where it is empty."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) if len(rows) else np.zeros(2)


def _covers(mask_logits: Tensor, place: BoolArray) -> Tensor:
    """Return the share of a place, bool (h, w), that each query's mask covers, float (Q,)."""
    rows, columns = np.flatnonzero(place.any(axis=1)), np.flatnonzero(place.any(axis=0))
    if not len(rows):
        return mask_logits.new_zeros(mask_logits.shape[0])
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    weight = torch.from_numpy(place[box].astype(np.float32)).to(mask_logits.device).flatten()
    return (mask_logits[:, box[0], box[1]] > 0).flatten(1).float() @ weight / weight.sum()


def _widened(mask: BoolArray, cells: int) -> BoolArray:
    """Return bool (h, w) grown by a number of cells on every side."""
    away = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_C, 3)
    grown: BoolArray = away <= cells
    return grown

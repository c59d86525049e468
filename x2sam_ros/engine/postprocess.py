"""From queries to pictures of labels: semantic maps, scored instance lists, panoptic segments; at any resolution."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from x2sam_ros.engine.select import Candidates, Choice, instances
from x2sam_ros.engine.task_head import Track

VOID = -1
"""Class index of a pixel that belongs to no class."""

UNION_SCORE = 0.6
"""Score at which a query joins the union of a generalised referring phrase (as published)."""

PANOPTIC_SHARE = 0.8
"""Share of its own mask that a segment must win from the others, or it is dropped (as published)."""

_MIN_PROBABILITY = 1e-30
"""Keeps log-odds finite."""

_CHUNK_VALUES = 1 << 27
"""Most float values of class maps held at once, 0.5 GiB: 500 classes of a large image would be 96 GB."""


def semantic_map(found: Candidates, score_threshold: float | None = None) -> Tensor:
    """Say for every pixel which class it is.

    Args:
        found: the queries.
        score_threshold: leaves pixels VOID that no query of at least this class probability covers; None, as
            published, gives every pixel a class.

    Returns:
        int64 (h, w), class index or ``VOID``. Source: Mask2Former's semantic inference: the class with the greatest
        sum over queries of class probability times mask probability.
    """
    count, (height, width) = found.probs.shape[1], found.mask_logits.shape[1:]
    if not count:
        return found.mask_logits.new_full((height, width), VOID, dtype=torch.int64)
    rows = max(1, _CHUNK_VALUES // (count * width))
    labels = torch.cat(
        [
            torch.einsum("qc,qhw->chw", found.probs, part.sigmoid()).argmax(0)
            for part in torch.split(found.mask_logits, rows, dim=1)
        ]
    )
    if score_threshold is not None:
        sure = found.probs.amax(1) >= score_threshold
        labels[~(found.mask_logits[sure] > 0).any(0)] = VOID
    return labels


def instance_list(
    found: Candidates,
    score_threshold: float,
    things: Collection[int] | None = None,
    classes: Sequence[int] | None = None,
    official_quirks: bool = False,
) -> list[Choice]:
    """List scored instances for average precision: the best (query, class) pairs, as many as there are queries.

    Args:
        found: the queries.
        score_threshold: lowest score listed.
        things: labels that count; None counts all.
        classes: class index to report for each label, such as its place in a data set; None reports the label's own.
        official_quirks: whether to list empty masks too, and in no order in particular.

    Returns:
        Choices, the surest first. The score is class probability times mean mask probability inside the mask, so one
        query may be listed under several classes. Source: Mask2Former's instance inference.
    """
    num_queries, count = found.probs.shape
    if not count:
        return []
    probs, flat = found.probs.flatten().topk(num_queries, sorted=not official_quirks)
    query, label = flat // count, flat % count
    inside = found.mask_logits > 0
    mean = (found.mask_logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    score = probs * mean[query]
    listed = [
        Choice(q, c if classes is None else classes[c], s, found.mask_logits[q])
        for q, c, s in zip(query.tolist(), label.tolist(), score.tolist())
        if s >= score_threshold and (things is None or c in things)
    ]
    if official_quirks:
        return listed
    seen = inside.flatten(1).any(1).tolist()
    return sorted((choice for choice in listed if seen[choice.query]), key=lambda choice: -choice.score)


def union(found: Candidates, class_index: int, score_threshold: float) -> Choice:
    """Join all queries that answer a label: the best one, and those of at least ``UNION_SCORE`` and the threshold.

    Returns:
        One choice with the union of their masks and the mean of their scores. Source: X2SAM's generalised referring
        segmentation.
    """
    score = found.probs[:, class_index]
    keep = (score >= max(UNION_SCORE, score_threshold)) | (score == score.max())
    return Choice(int(score.argmax()), class_index, float(score[keep].mean()), found.mask_logits[keep].amax(0))


def panoptic(
    found: Candidates, stuff: Collection[int], score_threshold: float, tracks: Sequence[Track] = ()
) -> list[Choice]:
    """Divide the picture into segments that do not overlap; stuff is one segment for each class.

    Args:
        found: the queries.
        stuff: labels that are stuff.
        score_threshold: class probability below which a query is no segment.
        tracks: targets so far, which may be continued by less; see `instances`.

    Returns:
        Choices, the surest first. No two are positive at one pixel, nor after they have been resized bilinearly: where
        two meet, each carries at most its lead over the other, and two leads add up to at most zero. Source:
        Mask2Former's panoptic inference, but segments are dropped one at a time, the one that loses most first, and
        what it leaves goes to the others: two that overlap do not drop each other.
    """
    pieces = fused(instances(found, score_threshold, tracks, tuple(stuff)), stuff)
    if not pieces:
        return []
    logits = torch.stack([piece.logits for piece in pieces])
    odds = _log_odds(logits, logits.new_tensor([piece.score for piece in pieces])[:, None, None])
    area = (logits > 0).flatten(1).sum(1)
    while True:
        winner = odds.argmax(0, keepdim=True)
        share = winner[logits.gather(0, winner) > 0].bincount(minlength=len(pieces)) / area
        worst = int(share.argmin())
        if float(share[worst]) > PANOPTIC_SHARE or len(pieces) == 1:
            break
        keep = [row for row in range(len(pieces)) if row != worst]
        pieces, logits, odds, area = [pieces[row] for row in keep], logits[keep], odds[keep], area[keep]
    limited = torch.minimum(logits, _lead(odds))
    return [replace(piece, logits=limits) for piece, limits in zip(pieces, limited)]


def fused(pieces: Sequence[Choice], stuff: Collection[int]) -> list[Choice]:
    """Join the pieces of each stuff class, under the surest one's name and score, in order of first appearance."""
    segments: dict[tuple[bool, int], Choice] = {}
    for piece in pieces:
        is_stuff = piece.class_index in stuff
        key = (is_stuff, piece.class_index if is_stuff else piece.query)
        first = segments.setdefault(key, piece)
        surest = max(first, piece, key=lambda choice: choice.score)
        segments[key] = replace(surest, logits=torch.maximum(first.logits, piece.logits))
    return list(segments.values())


def _log_odds(logits: Tensor, score: Tensor) -> Tensor:
    """Return the log-odds of mask probability times score; unlike the product they tell two near 1 apart."""
    hit, miss = score * logits.sigmoid(), 1 - score + score * (-logits).sigmoid()
    return hit.clamp_min(_MIN_PROBABILITY).log() - miss.clamp_min(_MIN_PROBABILITY).log()


def _lead(value: Tensor) -> Tensor:
    """Return how far each row of float (N, h, w) is ahead of the best other row; below 0 where it is behind."""
    best, winner = value.max(0, keepdim=True)
    second = value.scatter(0, winner, -torch.inf).amax(0, keepdim=True)
    return (value - best).scatter(0, winner, best - second)


def label_map(choices: Sequence[Choice], ids: Sequence[int], size: tuple[int, int], background: int = 0) -> Tensor:
    """Paint choices into one picture, later ones over earlier ones.

    Args:
        choices: with masks of ``size``.
        ids: value of each.
        size: (height, width).
        background: value where there is none.

    Returns:
        int32 (height, width).
    """
    device = choices[0].logits.device if choices else None
    painted = torch.full(size, background, dtype=torch.int32, device=device)
    for choice, value in zip(choices, ids):
        painted[choice.mask] = value
    return painted

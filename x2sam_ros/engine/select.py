"""Choose queries: which of the decoder's queries is a target now, given the prompt and where it was before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.region import mask_iou
from x2sam_ros.engine.task_head import Track
from x2sam_ros.errors import ModelError

FOLLOW_WEIGHT = 1.0
"""Weight of the overlap with the mask on the frame before."""

NMS_IOU = 0.5
"""Two masks of one class that overlap more are one object."""

CUT = -5.0
"""Mask logit of what is taken away from a mask."""

MATCH_IOU = 0.3
"""A detection that overlaps a target's last mask more is that target."""


@dataclass(frozen=True)
class Candidates:
    """One prompt's queries on one frame.

    Args:
        probs: float (Q, C), probability of each phrase, background left out.
        mask_logits: float (Q, h, w), at stride 4 or any other size.
    """

    probs: Tensor
    mask_logits: Tensor

    @classmethod
    def read(cls, class_logits: Tensor, mask_logits: Tensor) -> Candidates:
        """Read one prompt's row: class_logits (Q, C + 1), mask_logits (Q, h, w).

        Raises:
            ModelError: a value is not a number; nothing can be read from such an answer.
        """
        if bool(class_logits.isnan().any()) or bool(mask_logits.isnan().any()):
            raise ModelError(
                "the network answered with values that are not numbers (NaN); run it in float32 or bfloat16, "
                "or check the checkpoint"
            )
        return cls(class_logits.float().softmax(-1)[:, :-1], mask_logits.float())

    def resized(self, image_size: tuple[int, int], valid_size: tuple[int, int] | None = None) -> Candidates:
        """Return the same queries at the image's size.

        Args:
            image_size: (height, width) in pixels.
            valid_size: (height, width) of the maps' upper left part that shows the image, where the input was padded;
                None where it is all of them.

        Returns:
            Mask logits float (Q, H, W), bilinear, pixel centres aligned.

        Raises:
            ModelError: a size is not positive, or the valid part is larger than the maps.
        """
        height, width = valid = valid_size or (self.mask_logits.shape[1], self.mask_logits.shape[2])
        if min(*image_size, *valid) < 1 or height > self.mask_logits.shape[1] or width > self.mask_logits.shape[2]:
            raise ModelError(
                f"cannot resize the {valid} part of masks of {tuple(self.mask_logits.shape[1:])} to {image_size}; "
                "give (height, width) of a part that lies inside, and of an image with pixels"
            )
        maps = self.mask_logits[None, :, :height, :width]
        return replace(self, mask_logits=F.interpolate(maps, size=image_size, mode="bilinear", align_corners=False)[0])


@dataclass(frozen=True)
class Choice:
    """A chosen query.

    Args:
        query: its index; of several that were joined, the surest.
        class_index: the label it answers.
        score: 0 to 1.
        logits: float (h, w), positive where the target is.
        track: index of the track it continues; None for a new target.
    """

    query: int
    class_index: int
    score: float
    logits: Tensor
    track: int | None = None

    @property
    def mask(self) -> Tensor:
        """Where the target is, bool (h, w)."""
        return self.logits > 0

    @property
    def mask_score(self) -> float:
        """Mean probability inside the mask, 0.5 to 1, or 0 without a pixel. Source: Mask2Former's mask score."""
        inside = self.mask
        return float((self.logits.sigmoid() * inside).sum() / inside.sum().clamp_min(1))


def best_query(found: Candidates, previous: Tensor | None = None, class_index: int = 0) -> Choice:
    """Choose the one query that answers a label best.

    Args:
        found: the queries.
        previous: bool (h, w), the target's mask on the frame before, or None.
        class_index: the label.
    """
    score = found.probs[:, class_index]
    value = score
    if previous is not None:
        value = value + FOLLOW_WEIGHT * mask_iou(found.mask_logits > 0, previous)
    query = int(value.argmax())
    return Choice(query, class_index, float(score[query]), found.mask_logits[query])


def one_per_label(found: Candidates, tracks: Sequence[Track], follow: bool = True) -> list[Choice]:
    """Choose the best query of every label, each its own mask, in the labels' order.

    Args:
        found: the queries.
        tracks: the prompt's targets so far; a label continues the first track that answers it.
        follow: whether the overlap with where a target was counts, beside the score.
    """
    choices = []
    for class_index in range(found.probs.shape[1]):
        track = next((i for i, track in enumerate(tracks) if track.class_index == class_index), None)
        previous = tracks[track].mask if follow and track is not None else None
        choices.append(replace(best_query(found, previous, class_index), track=track))
    return choices


def instances(
    found: Candidates, threshold: float, tracks: Sequence[Track] = (), stuff: Sequence[int] = ()
) -> list[Choice]:
    """Choose every confident query of every class, the surest first, one for each object.

    Args:
        found: the queries.
        threshold: least class probability.
        tracks: targets so far; where nothing so sure continues one of them, a query that reaches its own threshold may.
        stuff: labels that have one target each, wherever it is.
    """
    least = min(threshold, *(track.threshold for track in tracks), 1.0)
    chosen = _distinct(found, least)
    sure, weak = ([c for c in chosen if (c.score >= threshold) is is_sure] for is_sure in (True, False))
    if not weak:
        return sure
    taken = {choice.track for choice in continue_tracks(sure, tracks, stuff)}
    left = [track for index, track in enumerate(tracks) if index not in taken]
    kept = [c for c in continue_tracks(weak, left, stuff) if c.track is not None and c.score >= left[c.track].threshold]
    return [*sure, *(replace(choice, track=None) for choice in kept)]


def _distinct(found: Candidates, threshold: float) -> list[Choice]:
    """Choose every query above a threshold that no surer one of its class covers, the surest first."""
    if not found.probs.shape[1]:
        return []
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


def match_tracks(choices: Sequence[Choice], previous: Sequence[tuple[int, Tensor]]) -> dict[int, int]:
    """Match detections to targets, the best overlap first.

    Args:
        choices: this frame's detections.
        previous: (class index, bool (h, w) last mask) of each target.

    Returns:
        Target index to detection index. Source: X2SAM's greedy mask-IoU matching of class-list tasks, which goes
        through the detections in their order and asks for an overlap of 0.5 (engine/published.py).
    """
    pairs = []
    for track, (class_index, mask) in enumerate(previous):
        rows = [i for i, choice in enumerate(choices) if choice.class_index == class_index]
        if rows:
            iou = mask_iou(torch.stack([choices[i].mask for i in rows]), mask)
            pairs += [(value, track, row) for value, row in zip(iou.tolist(), rows) if value > MATCH_IOU]
    matched: dict[int, int] = {}
    for _, track, row in sorted(pairs, reverse=True):
        if track not in matched and row not in matched.values():
            matched[track] = row
    return matched


def continue_tracks(choices: Sequence[Choice], tracks: Sequence[Track], stuff: Sequence[int] = ()) -> list[Choice]:
    """Say which track each detection continues.

    Args:
        choices: this frame's detections; at most one for each label of ``stuff``.
        tracks: the prompt's targets so far.
        stuff: labels that have one target each, wherever it is; the others go by overlap.
    """
    matched = match_tracks(choices, [(track.class_index, track.mask) for track in tracks])
    track_of = {row: track for track, row in matched.items()}
    track_of_label = {track.class_index: index for index, track in enumerate(tracks)}
    return [
        replace(
            choice, track=track_of_label.get(choice.class_index) if choice.class_index in stuff else track_of.get(row)
        )
        for row, choice in enumerate(choices)
    ]

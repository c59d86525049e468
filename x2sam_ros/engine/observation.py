"""What is noted of a frame in a conversation's memory: the one place that fills in a MemoryRecord."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.motion import Box, BoxMotion, box_iou
from x2sam_ros.engine.region import mask_boxes
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.track import SIZES, Group, Target
from x2sam_ros.types import Frame

STABLE_FRAMES = 15
"""Frames in a row on which a target must be seen before its motion is relied on (SAMURAI's number)."""

STABILITY_OFFSET = 1.0
"""Mask logits between which a stable mask does not change (SAM's number)."""

DISTRACTOR_SCORE = 0.1
"""Probability of the target's label from which another query may be a distractor."""

RIVAL_SCORE = 0.5
"""Probability of the target's label from which another query looks like it."""

RIVAL_WEIGHT = 0.1
"""What the newest frame weighs in a target's rivalry."""

DISTRACTOR_SHARE = 0.2
"""Size of what a distractor covers beside the target, in sizes of the target, from which it counts."""

DISTRACTOR_IOU = 0.7
"""Overlap with the target's box below which the box around both shows a distractor (DAM4SAM's number)."""


def observe(group: Group, found: Candidates, frame: Frame, prompted: bool) -> MemoryRecord:
    """Note how the targets of a conversation were seen on a frame, and move their boxes and stamps on.

    Args:
        group: the conversation, its targets brought to the frame.
        found: its queries on that frame.
        frame: the frame.
        prompted: whether its prompt was carried out on it.
    """
    seen = [target for target in group.targets.values() if target.logits is not None]
    for target in group.targets.values():
        if target.logits is None and target.motion is not None:
            target.motion = target.motion.at(frame.frame_index)
    if not seen:
        return MemoryRecord(frame.frame_index, frame.stamp_ns, 0.0, 0.0, prompted, stability=0.0)
    logits = torch.stack([target.logits for target in seen if target.logits is not None])
    inside = logits > 0
    measured = torch.cat([inside.float().mean((1, 2))[:, None], _stability(logits)[:, None], mask_boxes(inside)], 1)
    rows = measured.tolist()
    overlaps, ratios = [], []
    covered = inside.any(0)
    beside = (found.mask_logits > 0) & ~covered
    beside_area = beside.flatten(1).sum(1)
    rivals = _rivals(found, seen, beside_area, inside)
    for target, (size, _, *box), has_rival in zip(seen, rows, rivals):
        target.seen_before_ns, target.last_seen_ns = target.last_seen_ns, frame.stamp_ns
        target.rivalry += (RIVAL_WEIGHT if target.sizes else 1.0) * (has_rival - target.rivalry)
        ratios.append(size / median(target.sizes or [size]))
        target.sizes = (*target.sizes, size)[-SIZES:]
        overlaps.append(_follow(target, frame.frame_index, (box[0], box[1], box[2], box[3])))
    distractors = _distractors(found, seen, beside, beside_area, covered)
    return MemoryRecord(
        frame_index=frame.frame_index,
        stamp_ns=frame.stamp_ns,
        score=max(target.score for target in seen),
        mask_fraction=min(1.0, sum(row[0] for row in rows)),
        prompted=prompted,
        stability=min(row[1] for row in rows),
        size_ratio=max(ratios, key=lambda ratio: abs(ratio - 1)),
        motion_iou=min(overlaps),
        distractors=sum(overlap <= DISTRACTOR_IOU for overlap in distractors),
        distractor_iou=min(distractors, default=1.0),
    )


def _stability(logits: Tensor) -> Tensor:
    """Return how little masks (N, h, w) depend on their threshold, (N,). Source: stability score of SAM."""
    sure, possible = (logits > STABILITY_OFFSET).flatten(1).sum(1), (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    return sure / possible.clamp_min(1)


def _follow(target: Target, frame_index: int, box: Box) -> float:
    """Move a seen target's box on; return the overlap with where it was expected, 1 while its motion is not known."""
    motion = target.motion
    overlap = 1.0
    if motion is not None and motion.seen >= STABLE_FRAMES and not motion.unseen:
        overlap = box_iou(motion.at(frame_index).box, box)
    target.motion = BoxMotion.begin(frame_index, box) if motion is None else motion.see(frame_index, box)
    return overlap


def _rivals(found: Candidates, seen: list[Target], beside_area: Tensor, inside: Tensor) -> list[bool]:
    """Tell for each seen target whether a query that looks like it covers something beside all of them.

    Args:
        found: the queries.
        seen: the targets.
        beside_area: int (Q,), how many cells each covers beside them.
        inside: bool (N, h, w), their masks.
    """
    alike = found.probs[:, [target.class_index for target in seen]] >= RIVAL_SCORE  # (Q, N)
    return ((beside_area[:, None] >= DISTRACTOR_SHARE * inside.flatten(1).sum(1)) & alike).any(0).tolist()


def _distractors(
    found: Candidates, seen: list[Target], beside: Tensor, beside_area: Tensor, covered: Tensor
) -> list[float]:
    """Return for each query that looks like a seen target and lies elsewhere how little it would change the box.

    Source: DAM4SAM's introspection (Videnovic et al. 2025), where the alternatives are SAM 2's other two masks. Here
    they are the queries that may well be of the same label.

    Args:
        found: the queries.
        seen: the targets.
        beside: bool (Q, h, w), what each covers beside them; beside_area: int (Q,), how many cells.
        covered: bool (h, w), where they are.

    Returns:
        IoU of the box around the targets with that around them and the query.
    """
    labels = sorted({target.class_index for target in seen})
    alike = found.probs[:, labels].amax(1) >= DISTRACTOR_SCORE
    beside = beside[alike & (beside_area >= DISTRACTOR_SHARE * covered.sum())]
    own, *larger = mask_boxes(torch.cat([covered[None], beside | covered])).tolist()
    return [box_iou(own, box) for box in larger]

"""Scores descriptions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from pycocotools import mask as coco_mask

from x2sam_ros.evaluation.metrics.captions import Phrase, missing_tools
from x2sam_ros.evaluation.metrics.mask_ap import coco_rle
from x2sam_ros.evaluation.scorers.frames import Found, Job, ScoredFrame, best_overlap, overlaps


class _Said:
    """A phrase with its masks so far, one for each frame that counts."""

    def __init__(self, text: str, ids: Collection[int]) -> None:
        self.text, self.ids = text, ids
        self.rles: list[str | None] = []
        self.scores: list[float] = []

    def see(self, rles: dict[int, str], size: tuple[int, int]) -> None:
        """Add the next frame, given the mask of each target or object on it."""
        own = [coco_rle(rles[one], size) for one in self.ids if one in rles]
        self.rles.append(coco_mask.merge(own)["counts"].decode() if own else None)

    def phrase(self, size: tuple[int, int]) -> Phrase:
        """Return it whole."""
        return Phrase(self.text, size, tuple(self.rles), float(np.mean(self.scores)) if self.scores else 0.0)


def score_captions(job: Job) -> Found:
    """Score the masks of a description's phrases, and its words; a phrase without a mask does not count."""
    found, name = Found(), job.sequence.name
    said = [_Said(text, ids) for prompt in job.prompts for text, ids in prompt.phrases if ids]
    meant = [_Said(item.text, item.object_ids) for item in job.sequence.expressions if item.object_ids]
    size = (0, 0)
    for frame, truth in job.counted():
        size = frame.size
        own, true = _own_rles(frame, said), frame.true_rles(truth)
        for phrase in said:
            phrase.see(own, size)
        for phrase in meant:
            phrase.see(true, size)
        shown = [[rle for phrase in some if (rle := phrase.rles[-1])] for some in (said, meant)]
        found.frame_scores.append((frame.index, best_overlap(overlaps(shown[0], shown[1], size))))
    if found.frame_scores:
        grounded = found.kept.make("grounded", official_quirks=job.official_quirks)
        grounded.update(name, [phrase.phrase(size) for phrase in said], [phrase.phrase(size) for phrase in meant])
    if job.sequence.captions:
        answer = " ".join(prompt.response for prompt in job.prompts)
        found.kept.make("words").update(name, answer, job.sequence.captions)
        found.notes = missing_tools()
    return found


def _own_rles(frame: ScoredFrame, said: list[_Said]) -> dict[int, str]:
    """Return the predicted masks by target, and give each phrase their scores."""
    for phrase in said:
        phrase.scores += [mask.score for mask in frame.masks if mask.target_id in phrase.ids]
    return {frame.masks[row].target_id: rle for row, rle in frame.rles().items()}

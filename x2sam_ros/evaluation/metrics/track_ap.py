"""Average precision of tracks as YouTube-VIS defines it: the whole tube of an answer has to overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.mask_ap import AveragePrecision, Group, best_first, coco_rle


@dataclass(frozen=True)
class TrueTrack:
    """One true object through a clip.

    Args:
        category_id: its class.
        size: (height, width) of all masks.
        rles: one for each annotated frame, as ``PredictedMask.rle``; None where it has no pixel.
        is_crowd: neither to be found nor wrong.
    """

    category_id: int
    size: tuple[int, int]
    rles: tuple[str | None, ...]
    is_crowd: bool = False


@dataclass(frozen=True)
class Track:
    """One predicted object through a clip: as a true one, with a score on every frame."""

    category_id: int
    size: tuple[int, int]
    rles: tuple[str | None, ...]
    scores: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean score of the frames on which it has a mask; 0 where it has none."""
        seen = [score for rle, score in zip(self.rles, self.scores) if rle is not None]
        return float(np.mean(seen)) if seen else 0.0


class Tube:
    """Masks through a clip with their areas; what is None has no pixel."""

    def __init__(self, rles: Sequence[str | None], size: tuple[int, int]) -> None:
        self.rles = [None if rle is None else coco_rle(rle, size) for rle in rles]
        areas = [0 if rle is None else int(coco_mask.area(rle)) for rle in self.rles]
        self.volume, num_seen = sum(areas), sum(area > 0 for area in areas)
        self.area = self.volume / num_seen if num_seen else 0.0

    def iou(self, other: Tube) -> float:
        """Divide the pixels in common by the pixels of either, over all frames."""
        common = sum(
            int(coco_mask.area(coco_mask.merge([own, its], intersect=True)))
            for own, its in zip(self.rles, other.rles)
            if own is not None and its is not None
        )
        union = self.volume + other.volume - common
        return common / union if union else 0.0


class TrackAP(AveragePrecision):
    """Average precision of tracks: AP, AP50, AP75, by size, and average recall, over clips.

    The size of a track is its mean area over the frames on which it has a pixel: medium from 128 x 128 pixels, large
    from 256 x 256. The overlap with a crowd is an overlap like any other, unlike COCO's.

    Source: Yang et al., ICCV 2019, "Video Instance Segmentation"; the rules are those of the ytvoseval program.
    """

    _sizes = (128**2, 256**2)

    def update(self, sequence: str, tracks: Sequence[Track], truths: Sequence[TrueTrack]) -> None:
        """Add one clip.

        Args:
            sequence: a name that no other clip has.
            tracks: what was answered, of all classes.
            truths: what is there, of all classes.

        Raises:
            FrameError: the clip was added before, or its tracks differ in length or in size.
        """
        every: list[Track | TrueTrack] = [*tracks, *truths]
        kinds = {(track.size, len(track.rles)) for track in every}
        if len(kinds) > 1:
            raise FrameError(f"{sequence}: tracks have one size and one length, got (size, frames) {sorted(kinds)}")
        groups = []
        for category_id in sorted({track.category_id for track in every}):
            own = [track for track in tracks if track.category_id == category_id]
            own = [own[index] for index in best_first([track.score for track in own])]
            true = [track for track in truths if track.category_id == category_id]
            tubes, true_tubes = ([Tube(track.rles, track.size) for track in some] for some in (own, true))
            groups.append(
                Group(
                    category_id,
                    scores=[track.score for track in own],
                    areas=[tube.area for tube in tubes],
                    true_areas=[tube.area for tube in true_tubes],
                    crowds=[track.is_crowd for track in true],
                    ious=[[tube.iou(true_tube) for true_tube in true_tubes] for tube in tubes],
                )
            )
        self.add(sequence, groups)

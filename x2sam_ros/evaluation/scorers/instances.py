"""Scores instances of listed classes, and everything that looks like what was shown: average precision."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from x2sam_ros.evaluation.metrics.mask_ap import Detection, TrueMask
from x2sam_ros.evaluation.metrics.track_ap import Track, TrueTrack
from x2sam_ros.evaluation.scorers.frames import Found, Job, ScoredFrame, best_overlap, overlaps
from x2sam_ros.truth.dataset import Kind, TrueFrame


@dataclass
class _Tube:
    """One object or target through a clip: masks by the number of the frame that counts."""

    category_ids: Counter[int] = field(default_factory=Counter)
    rles: dict[int, str] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def add(self, number: int, category_id: int, rle: str, score: float = 1.0) -> None:
        """Add its mask on a frame."""
        self.category_ids[category_id] += 1
        self.rles[number], self.scores[number] = rle, score

    @property
    def category_id(self) -> int:
        """The class it had most often."""
        return self.category_ids.most_common(1)[0][0]


def score_instances(job: Job) -> Found:
    """Score masks image by image, and clips by whole tracks too."""
    found = Found()
    is_visual = job.dataset.kind is Kind.VISUAL
    masks = None if is_visual else found.kept.make("masks")
    tracks: dict[int, _Tube] = {}
    truths: dict[int, _Tube] = {}
    sizes: list[tuple[int, int]] = []
    for frame, truth in job.counted():
        detections, true_masks = _detections(job, frame), _true_masks(job, frame, truth)
        if masks is not None:
            name = f"{job.sequence.name}/{frame.index:06d}"
            masks.update(name, frame.size, list(detections.values()), list(true_masks.values()))
        for target_id, own in detections.items():
            tracks.setdefault(target_id, _Tube()).add(len(sizes), own.category_id, own.rle, own.score)
        for object_id, true in true_masks.items():
            truths.setdefault(object_id, _Tube()).add(len(sizes), true.category_id, true.rle)
        sizes.append(frame.size)
        iou = overlaps(
            (item.rle for item in detections.values()), (item.rle for item in true_masks.values()), frame.size
        )
        found.frame_scores.append((frame.index, best_overlap(iou)))
    if sizes and (is_visual or job.is_clip):
        metric = found.kept.make("visual" if is_visual else "tracks")
        metric.update(job.sequence.name, _tracks(tracks, sizes), _true_tracks(job, truths, sizes))
    return found


def _detections(job: Job, frame: ScoredFrame) -> dict[int, Detection]:
    """Return the masks of one frame that have a class, by target."""
    return {
        frame.masks[row].target_id: Detection(category.category_id, frame.masks[row].score, rle)
        for row, rle in frame.rles().items()
        if (category := job.category_of(frame.masks[row]))
    }


def _true_masks(job: Job, frame: ScoredFrame, truth: TrueFrame) -> dict[int, TrueMask]:
    """Return the true masks of one frame that have a class, by object."""
    return {
        object_id: TrueMask(category.category_id, rle, job.object(object_id).is_crowd)
        for object_id, rle in frame.true_rles(truth).items()
        if (category := job.category(object_id))
    }


def _tracks(tubes: dict[int, _Tube], sizes: list[tuple[int, int]]) -> list[Track]:
    return [
        Track(
            tube.category_id,
            sizes[0],
            tuple(tube.rles.get(number) for number in range(len(sizes))),
            tuple(tube.scores.get(number, 0.0) for number in range(len(sizes))),
        )
        for tube in tubes.values()
    ]


def _true_tracks(job: Job, tubes: dict[int, _Tube], sizes: list[tuple[int, int]]) -> list[TrueTrack]:
    return [
        TrueTrack(
            tube.category_id,
            sizes[0],
            tuple(tube.rles.get(number) for number in range(len(sizes))),
            job.object(object_id).is_crowd,
        )
        for object_id, tube in tubes.items()
    ]

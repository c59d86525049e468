"""Scores pictures and clips in which every pixel has a segment or a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np

from x2sam_ros.evaluation.metrics.panoptic import VOID, PanopticQuality, Segments, SharedPixels, shared_pixels
from x2sam_ros.evaluation.metrics.semantic import UNMARKED
from x2sam_ros.evaluation.scorers.frames import Found, Job, ScoredFrame
from x2sam_ros.truth.dataset import Category, TrueFrame
from x2sam_ros.truth.label_maps import values_in
from x2sam_ros.types import BoolArray, IntArray


def score_panoptic(job: Job) -> Found:
    """Score pictures frame by frame, and clips as tubes too."""
    found, names = Found(), class_names(job.dataset.categories)
    stuff = [names[item.category_id] for item in job.dataset.categories if item.is_stuff]
    quality = found.kept.make("panoptic", stuff=stuff)
    clip: list[SharedPixels] = []
    for frame, truth in job.counted():
        shared = shared_pixels(_predicted_segments(job, frame, names), _true_segments(job, truth, names))
        quality.add(shared)
        clip.append(shared)
        alone = PanopticQuality(stuff)
        alone.add(shared)
        found.frame_scores.append((frame.index, float(np.nan_to_num(alone.quality().overall.pq, nan=1.0))))
    if job.is_clip:
        found.kept.make("video_panoptic", stuff=stuff).update(clip)
        found.kept.make("tracking_quality", stuff=stuff, official_quirks=job.official_quirks).update(clip)
    return found


def score_semantic(job: Job) -> Found:
    """Score pictures pixel by pixel, and how steady clips are too."""
    found, names = Found(), class_names(job.dataset.categories)
    quirks = job.official_quirks
    semantic = found.kept.make("semantic", classes=list(names.values()), official_quirks=quirks)
    label_of = {category_id: label for label, category_id in enumerate(names)}

    def labels() -> Iterator[tuple[IntArray, IntArray]]:
        for frame, truth in job.counted():
            maps = _predicted_labels(job, frame, label_of), _true_labels(job, truth, label_of)
            semantic.update(*maps)
            marked = maps[1] != UNMARKED
            right = np.count_nonzero((maps[0] == maps[1]) & marked)
            found.frame_scores.append((frame.index, right / max(int(np.count_nonzero(marked)), 1)))
            yield maps

    if job.is_clip:
        found.kept.make("consistency", official_quirks=quirks).update(labels())
    else:
        for _ in labels():
            pass
    return found


def class_names(categories: tuple[Category, ...]) -> dict[int, str]:
    """Return a name for each category's number; of two with one name each gets its number too."""
    times = Counter(item.name for item in categories)
    return {
        item.category_id: item.name if times[item.name] == 1 else f"{item.name} ({item.category_id})"
        for item in categories
    }


def _painted(size: tuple[int, int], background: int, layers: list[tuple[int, BoolArray]]) -> IntArray:
    """Draw numbers into a map, the last on top."""
    painted = np.full(size, background, np.int32)
    for number, mask in layers:
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        box = slice(top, top + height), slice(left, left + width)
        np.copyto(painted[box], np.int32(number), where=mask[box])
    return painted


def _surest_last(job: Job, frame: ScoredFrame) -> list[tuple[int, Category]]:
    """Return rows and classes of the targets that have one; of two that are equally sure, the first is on top."""
    classes = [(row, category) for row, mask in enumerate(frame.masks) if (category := job.category_of(mask))]
    return sorted(classes, key=lambda item: (frame.masks[item[0]].score, -item[0]))


def _predicted_segments(job: Job, frame: ScoredFrame, names: dict[int, str]) -> Segments:
    surest_last = _surest_last(job, frame)
    numbers = [frame.masks[row].target_id + 1 for row, _ in surest_last]  # a target may have id 0, which is void's
    ids = _painted(frame.size, VOID, [(number, frame.raw(row)) for number, (row, _) in zip(numbers, surest_last)])
    shown = values_in(ids)  # a target that is wholly covered is none
    classes = {number: names[item.category_id] for number, (_, item) in zip(numbers, surest_last) if number in shown}
    return Segments(ids, classes)


def _true_segments(job: Job, truth: TrueFrame, names: dict[int, str]) -> Segments:
    known = {one: category for one in truth.object_ids if (category := job.category(one))}
    layers = [(one, mask) for one, mask in zip(truth.object_ids, truth.masks) if one in known and mask.any()]
    ids = _painted(truth.size, VOID, layers)
    if truth.ignore is not None:
        ids[truth.ignore] = VOID
    classes = {one: names[known[one].category_id] for one, _ in layers}
    return Segments(ids, classes, tuple(one for one in classes if job.object(one).is_crowd))


def _predicted_labels(job: Job, frame: ScoredFrame, label_of: dict[int, int]) -> IntArray:
    layers = [(label_of[category.category_id], frame.raw(row)) for row, category in _surest_last(job, frame)]
    return _painted(frame.size, UNMARKED, layers)


def _true_labels(job: Job, truth: TrueFrame, label_of: dict[int, int]) -> IntArray:
    layers = [
        (label_of[category.category_id], mask)
        for one, mask in zip(truth.object_ids, truth.masks)
        if (category := job.category(one))
    ]
    labels = _painted(truth.size, UNMARKED, layers)
    if truth.ignore is not None:
        labels[truth.ignore] = UNMARKED
    return labels

"""Scores what a method answered on one sequence, and makes the numbers over many. The rules, for all kinds:

- Frames without annotation do not count, nor do annotated frames before a prompt: for objects and phrases before their
  own, for the other kinds before the first. A sequence of which no frame counts has an error and no numbers.
- The prompted frame counts, and so does the last one. DAVIS 2017 leaves out both where an object was shown: that is
  J&F_davis.
- A frame without an answer, lost or refused, counts as empty.
- A phrase is one sample of cIoU, gIoU, N-acc and T-acc: all pixels of all frames of its clip that count, together.
- Where an object is not there, an empty mask is right: J and F are 1, and 0 for any other.
- Pixels that nobody annotated are taken out of answer and truth alike.
- A target belongs to the objects of its prompt. J and F are those of all its targets and all its objects together;
  identities are matched by overlap. An object that several prompts mean is followed by the first of them.
- The class of a target is its label, in any case, or else the only class of the objects of its prompt. A target of no
  class of the dataset does not count, and is noted.
- Where targets overlap and each pixel has one class, the surest is on top.
- Predictions of another size than the image or its truth, of more frames or of fewer, are an error of that sequence
  that names the first case.
- ``official_quirks`` counts as the published X2SAM evaluators do; each metric says what that means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from x2sam_ros.errors import TruthError, X2SamError, described
from x2sam_ros.evaluation.metrics.names import ordered
from x2sam_ros.evaluation.predictions import SequencePredictions
from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.scorers.captions import score_captions
from x2sam_ros.evaluation.scorers.frames import Found, Job
from x2sam_ros.evaluation.scorers.instances import score_instances
from x2sam_ros.evaluation.scorers.objects import score_objects
from x2sam_ros.evaluation.scorers.registry import ONLY_TOGETHER, Kept
from x2sam_ros.evaluation.scorers.segments import score_panoptic, score_semantic
from x2sam_ros.truth.dataset import Dataset, Kind, Sequence

NUM_WORST = 5
"""Frames that are named as the worst of a sequence."""

SCORERS: Mapping[Kind, Callable[[Job], Found]] = {
    Kind.OBJECTS: score_objects,
    Kind.REFERRING: score_objects,
    Kind.INSTANCES: score_instances,
    Kind.VISUAL: score_instances,
    Kind.PANOPTIC: score_panoptic,
    Kind.SEMANTIC: score_semantic,
    Kind.CAPTIONS: score_captions,
}


def score_sequence(
    sequence: Sequence, dataset: Dataset, predictions: SequencePredictions, *, official_quirks: bool = False
) -> SequenceResult:
    """Score one sequence, reading its ground truth once.

    Args:
        sequence: one of the dataset's.
        dataset: whose kind decides what is counted.
        predictions: what was answered.
        official_quirks: count as the published evaluators do, defects and all.

    Returns:
        The numbers, or in ``error`` why there are none: predictions or ground truth that do not fit never raise.
    """
    started = time.perf_counter()
    frames = predictions.frames
    result = SequenceResult(
        sequence.name,
        stamps_ns=tuple(frame.stamp_ns for frame in frames),
        latencies_ms=tuple(None if frame.is_lost else frame.latency_ms for frame in frames),
        num_frames=len(frames),
        num_lost=sum(frame.is_lost for frame in frames),
        wall_s=predictions.wall_s,
        notes=predictions.problems,
    )
    job = Job(sequence, dataset, predictions, official_quirks)
    try:
        found = _found(job)
        result = replace(
            result,
            metrics=_in_order(found.kept.numbers(without=ONLY_TOGETHER), dataset.kind),
            curves=found.curves,
            worst=tuple(index for index, _ in sorted(found.frame_scores, key=lambda item: item[::-1])[:NUM_WORST]),
            counts=found.kept.counts(),
            notes=(*result.notes, *found.notes),
        )
    except X2SamError as error:
        result = replace(result, error=described(error))
    return replace(
        result,
        num_annotated=job.num_annotated,
        notes=(*result.notes, *job.notes()),
        scoring_s=time.perf_counter() - started,
    )


def combine(kind: Kind | str, results: Iterable[SequenceResult]) -> dict[str, float]:
    """Return the numbers over several sequences: counts are merged, so it does not matter who counted them.

    Args:
        kind: of their dataset; decides which numbers come first.
        results: those with an error are left out.

    Raises:
        ResultsError: they were not counted in the same way.
    """
    kept = Kept()
    for result in results:
        if not result.error:
            kept.add(result.counts)
    return _in_order(kept.numbers(), Kind(kind))


def _found(job: Job) -> Found:
    if not job.prompts:
        raise TruthError(f"{job.sequence.name}: no prompt was given, so nothing was asked that could be scored")
    found = SCORERS[job.dataset.kind](job)
    if not found.frame_scores:
        raise TruthError(
            f"{job.sequence.name}: nothing to score, as none of its {len(job.predictions.frames)} frames is annotated "
            f"{'from its first prompt on' if job.num_annotated else 'at all'}"
        )
    return found


def _in_order(numbers: dict[str, float], kind: Kind) -> dict[str, float]:
    return {name: numbers[name] for name in ordered(set(numbers), kind)}

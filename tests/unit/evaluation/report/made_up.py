"""Results of generated scenes and a method that nobody would use, for tests of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.evaluation.metrics.masks import score_clip
from x2sam_ros.evaluation.predictions import (
    FramePrediction,
    GivenPrompt,
    PredictedMask,
    SequencePredictions,
    rle_of,
    write_predictions,
)
from x2sam_ros.evaluation.results import Cell, CellResult, Curve, Results, SequenceResult
from x2sam_ros.evaluation.runner import predictions_path
from x2sam_ros.training.scenes import Clip, generate_clip
from x2sam_ros.training.scenes.vocabulary import SHAPES
from x2sam_ros.truth.dataset import Category, Dataset, Kind, Sequence, TrueFrame, TrueObject
from x2sam_ros.types import BoolArray, Frame

INTERVAL_NS = 33_333_333


class SceneSequence(Sequence):
    """A generated clip with its labels."""

    def __init__(self, name: str, clip: Clip) -> None:
        objects = (TrueObject(number, SHAPES.index(item.shape)) for number, item in enumerate(clip.objects, start=1))
        super().__init__(name, tuple(objects))
        self.clip = clip

    def frames(self) -> FrameSource:
        return _ClipSource(self.name, self.clip)

    def truth(self, frame: Frame) -> TrueFrame | None:
        labels = self.clip.labels[frame.frame_index]
        ids = tuple(number for number in range(1, len(self.clip.objects) + 1) if (labels == number).any())
        return TrueFrame(
            ids, np.stack([labels == number for number in ids]) if ids else np.zeros((0, *frame.size), bool)
        )


class _ClipSource(FrameSource):
    def __init__(self, name: str, clip: Clip) -> None:
        super().__init__(name, "", 1)
        self.clip = clip

    @property
    def num_images(self) -> int:
        return len(self.clip.frames)

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for number, image in enumerate(self.clip.frames):
            yield lambda image=image, number=number: RawFrame(image, number * INTERVAL_NS)


def scenes(count: int, frames: int = 24, size: tuple[int, int] = (96, 128), kind: str = "reentry") -> Dataset:
    clips = [generate_clip(seed, frames, *size, kind=kind) for seed in range(count)]
    categories = tuple(Category(number, name) for number, name in enumerate(SHAPES))
    sequences = tuple(SceneSequence(f"{kind}/scene_{seed:02}", clip) for seed, clip in enumerate(clips))
    return Dataset("generated scenes", Kind.OBJECTS, sequences, categories, "ab" * 32)


def predict(sequence: SceneSequence, lag: int, first: int = 2, lost: tuple[int, ...] = ()) -> SequencePredictions:
    """Answer with the truth of ``lag`` frames ago for the clip's target and one more object."""
    labels, rng = sequence.clip.labels, np.random.default_rng(lag)
    asked = sorted({sequence.clip.target + 1, 1})
    prompts = tuple(GivenPrompt(f"object-{number}", "point", first, (number,), status="ok") for number in asked)
    frames = []
    for index in range(len(labels)):
        old = labels[max(index - lag, 0)]
        masks = tuple(
            PredictedMask(
                number + 4, f"object-{number}", sequence.clip.objects[number - 1].shape, 0.9, rle_of(old == number)
            )
            for number in asked
            if index >= first and index not in lost and (old == number).any()
        )
        latency = float(rng.lognormal(3.2 + 0.2 * lag, 0.25))
        frames.append(FramePrediction(index, index * INTERVAL_NS, old.shape, masks, latency, is_lost=index in lost))
    return SequencePredictions(sequence.name, prompts, tuple(frames), 1.25)


def _mask_of(prompt: GivenPrompt, frame: FramePrediction) -> BoolArray:
    own = (frame.mask(one) for one in frame.masks if one.prompt_id == prompt.prompt_id)
    return next(own, np.zeros(frame.size, np.bool_))


def score(sequence: SceneSequence, predictions: SequencePredictions) -> SequenceResult:
    labels, curves = sequence.clip.labels, []
    for prompt in predictions.prompts:
        (number,) = prompt.object_ids
        start = prompt.frame_index
        found = [_mask_of(prompt, frame) for frame in predictions.frames[start:]]
        clip = score_clip(found, [label == number for label in labels[start:]])
        item = sequence.clip.objects[number - 1]
        absent = tuple(not bool((label == number).any()) for label in labels)
        before = (None,) * start
        j, f = before + tuple(clip.j.tolist()), before + tuple(clip.f.tolist())
        curves.append(Curve(number, f"{item.colour} {item.shape}", prompt.prompt_id, j, f, absent))
    means = {name: float(np.nanmean([np.array(getattr(c, name), float) for c in curves])) for name in ("j", "f")}
    lost = sum(frame.is_lost for frame in predictions.frames)
    per_frame = np.nan_to_num(np.mean([np.array(curve.j, float) for curve in curves], axis=0), nan=np.inf)
    return SequenceResult(
        sequence.name,
        {"J&F": (means["j"] + means["f"]) / 2, "J": means["j"], "F": means["f"], "IDsw": 1.0},
        tuple(curves),
        tuple(frame.stamp_ns for frame in predictions.frames),
        tuple(None if frame.is_lost else frame.latency_ms for frame in predictions.frames),
        tuple(np.argsort(per_frame, kind="stable")[:5].tolist()),
        len(labels),
        len(labels),
        lost,
        1.25,
        0.1,
        ("the prompted frame counts", *(["frames were lost"] if lost else [])),
    )


def cell_result(cell: Cell, results: tuple[SequenceResult, ...], folder: str, **said: str) -> CellResult:
    there = [result for result in results if not result.error]
    metrics = {name: float(np.mean([r.metrics[name] for r in there])) for name in there[0].metrics} if there else {}
    streaming = {"latency_J&F": 0.41, "first_mask_s": 0.05, "reacquired_share": 0.5, "stability": float("nan")}
    return CellResult(cell, folder, metrics | streaming, results, "/data/scenes", "bag", **said)


def evaluate(out: Path, dataset: Dataset, lags: tuple[int, ...] = (1, 4)) -> Results:
    """Score two methods, the second of which loses frames and fails on one more sequence."""
    cells = []
    for place, lag in enumerate(lags):
        method = ("x2sam", "copy_first")[place % 2]
        preset = ("nano", "fifo") if method == "x2sam" else ("", "")
        cell = Cell(dataset.name, dataset.kind, method, *preset, "point", "stream")
        found = CellResult(cell, f"cells/{place}", {}, ())
        results = []
        for sequence in dataset.sequences:
            predictions = predict(sequence, lag, lost=(9, 10) if place else ())
            path = predictions_path(out / found.folder, sequence.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(predictions, path)
            results.append(score(sequence, predictions))
        if place:
            results.append(SequenceResult("broken", error="broken/labels: 3 images, 4 annotations; record it again"))
        sha = "c0ffee" * 10 + "abcd" if method == "x2sam" else ""
        cells.append(
            cell_result(cell, tuple(results), found.folder, fingerprint=dataset.fingerprint, weights_sha256=sha)
        )
    settings = {"eval.seed": 0, "engine.score_threshold": 0.5, "engine.memory_policy": "fifo"}
    return Results(tuple(cells), settings, {"hardware": "2 cores", "torch": "2.13.0", "date": "2026-11-21"})

"""Sequences that are shown with curves and pictures: which ones, and where their ground truth comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from x2sam_ros.errors import TruthError, described
from x2sam_ros.evaluation.predictions import SequencePredictions, read_predictions
from x2sam_ros.evaluation.report.pictures import Picture, draw_frames
from x2sam_ros.evaluation.report.series import Chart, chart, mean, name_of
from x2sam_ros.evaluation.results import CellResult, Results, SequenceResult
from x2sam_ros.evaluation.runner import predictions_path
from x2sam_ros.truth.dataset import Dataset

MAX_CARDS = 36
"""Most sequences of a page that are shown with curves and pictures; the cells share them, each has one at least."""

MAX_CARDS_OF_CELL = 12
MAX_PICTURES = 36
"""Most frames of a page that are shown as pictures; each card has one at least."""

MAX_PICTURES_OF_CARD = 3
MAX_SCORES = 3
"""Most objects that are named above a picture."""

OpenTruth = Callable[[CellResult], Dataset]


@dataclass(frozen=True)
class Card:
    """A sequence with its curves and its worst frames; ``problem`` says why there are no pictures."""

    result: SequenceResult
    chart: Chart | None
    pictures: tuple[Picture, ...]
    problem: str = ""

    def about(self, frame_index: int) -> list[str]:
        """Say when a frame was, and the lowest scores on it."""
        stamps = self.result.stamps_ns
        when = [f"{(stamps[frame_index] - stamps[0]) / 1e9:.2f} s"] if frame_index < len(stamps) else []
        curves = [curve for curve in self.result.curves if frame_index < min(len(curve.j), len(curve.f))]
        scores = [(mean((curve.j[frame_index], curve.f[frame_index])), name_of(curve)) for curve in curves]
        lowest = sorted((score, name) for score, name in scores if score is not None)[:MAX_SCORES]
        return when + [f"{name} J&F {score:.3f}" for score, name in lowest]


@dataclass(frozen=True)
class CardMaker:
    """Makes the cards of a page.

    Args:
        out: folder of the evaluation.
        open_truth: opens the ground truth of a cell; None leaves the pictures out.
        num_cards: most cards of a cell.
        num_pictures: most pictures of a card.
    """

    out: Path
    open_truth: OpenTruth | None
    num_cards: int
    num_pictures: int

    @classmethod
    def sharing(cls, results: Results, out: Path, open_truth: OpenTruth | None) -> CardMaker:
        """Share what a page has room for among the cells."""
        num_cards = max(1, min(MAX_CARDS_OF_CELL, MAX_CARDS // max(1, len(results.cells))))
        total = sum(min(num_cards, sum(not each.error for each in found.sequences)) for found in results.cells)
        return cls(out, open_truth, num_cards, max(1, min(MAX_PICTURES_OF_CARD, MAX_PICTURES // max(1, total))))

    def cards(self, found: CellResult, metric: str | None) -> Iterator[Card]:
        """Yield the sequences of a cell that are lowest in a metric, lowest first."""
        chosen = [result for result in found.sequences if not result.error]
        chosen.sort(key=lambda result: _rank(result.metrics.get(metric or "", math.nan)))
        dataset, problem = self._truth(found)
        for result in chosen[: self.num_cards]:
            yield self._card(found, result, dataset, problem)

    def _truth(self, found: CellResult) -> tuple[Dataset | None, str]:
        if self.open_truth is None:
            return None, "No frames are drawn: the ground truth was not given."
        try:
            dataset = self.open_truth(found)
            if found.fingerprint and dataset.fingerprint != found.fingerprint:
                raise TruthError(f"the ground truth at {found.truth_path} is another one than was scored")
        except Exception as error:  # whatever reads the truth, a page without pictures is better than none
            return None, f"No frames are drawn: {described(error)}"
        return dataset, ""

    def _card(self, found: CellResult, result: SequenceResult, dataset: Dataset | None, problem: str) -> Card:
        predictions = SequencePredictions(result.sequence, (), ())
        pictures: tuple[Picture, ...] = ()
        wanted = _apart(result)[: self.num_pictures]
        try:
            predictions = read_predictions(predictions_path(self.out / found.folder, result.sequence))
            if dataset is not None:
                drawn = draw_frames(dataset, dataset.sequence(result.sequence), predictions, wanted)
                pictures = tuple(sorted(drawn, key=lambda picture: wanted.index(picture.frame_index)))
        except Exception as error:  # as above: what cannot be drawn costs its own pictures
            problem = f"No frames are drawn: {described(error)}"
        prompts = {prompt.prompt_id: prompt.frame_index for prompt in predictions.prompts}
        return Card(result, chart(result, prompts), pictures, problem)


def _apart(result: SequenceResult) -> list[int]:
    """Return the worst frames without those that are near a worse one and look like it."""
    kept: list[int] = []
    for index in result.worst:
        if all(abs(index - other) > result.num_frames // 20 for other in kept):
            kept.append(index)
    return kept


def _rank(score: float) -> float:
    return math.inf if math.isnan(score) else score

"""Compares two evaluations cell by cell: what is better, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from x2sam_ros.errors import ResultsError
from x2sam_ros.evaluation.bootstrap import CONFIDENCE, NUM_RESAMPLES, difference_intervals
from x2sam_ros.evaluation.metrics.names import HEADLINES, about
from x2sam_ros.evaluation.results import Cell, CellResult, Results, SequenceResult
from x2sam_ros.evaluation.scoring import combine
from x2sam_ros.truth.dataset import Kind

FORMAT = "x2sam-comparison-1"

NAN = float("nan")

_TOLD = ("cell.", "cells/", "weights_sha256", "truth_fingerprint")
"""Settings, by how their names begin, of which no note is made."""


@dataclass(frozen=True)
class Difference:
    """One number of A and B over the sequences that both have.

    Args:
        name: of the metric.
        a, b: its values.
        difference: b - a.
        low, high: bounds of the difference at ``CONFIDENCE``; NaN where they cannot be told.
        verdict: better or worse where the interval excludes 0, B judged against A; '' where it does not.
    """

    name: str
    a: float
    b: float
    difference: float
    low: float = NAN
    high: float = NAN
    verdict: str = ""


@dataclass(frozen=True)
class SequenceDifference:
    """All numbers of one sequence."""

    sequence: str
    numbers: tuple[Difference, ...]


@dataclass(frozen=True)
class CellComparison:
    """A cell of A beside one of B.

    Args:
        a, b: the cells.
        differs: names of the fields that are not the same.
        metric: the number that sorts the sequences.
        numbers: over the sequences that both have.
        sequences: the one that lost most first; those without ``metric`` last.
        left_out: sequences that do not count, with the reason.
        notes: what else is not the same.
    """

    a: Cell
    b: Cell
    differs: tuple[str, ...]
    metric: str
    numbers: tuple[Difference, ...]
    sequences: tuple[SequenceDifference, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations.

    Args:
        cells: what could be matched.
        only_in_a, only_in_b: cells without a partner.
    """

    cells: tuple[CellComparison, ...]
    only_in_a: tuple[Cell, ...]
    only_in_b: tuple[Cell, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {"format": FORMAT, "confidence": CONFIDENCE, "resamples": NUM_RESAMPLES, **asdict(self)}


def compare(a: Results, b: Results, *, seed: int = 0) -> Comparison:
    """Compare B with A.

    A cell is compared with the cells of B on the same dataset, prompt and mode: with the very same one, else with
    those that differ in one of method, checkpoint and memory policy, else, where each side has one, with that. Where
    both files have a single cell on one dataset, these are compared whatever they are.

    Args:
        a, b: the evaluations.
        seed: of the bootstrap.

    Raises:
        ResultsError: no cell of one has a partner in the other.
    """
    pairs = list(_pairs(a.cells, b.cells))
    if not pairs:
        held = [", ".join(sorted({_place(item.cell) for item in results.cells})) or "nothing" for results in (a, b)]
        raise ResultsError(f"nothing to compare: A has {held[0]:.300}, B has {held[1]:.300}; evaluate the same in both")
    used = [{id(item) for item in side} for side in zip(*pairs)]
    return Comparison(
        tuple(
            _compared(one, other, seed, _other_settings(_settings(a, one), _settings(b, other))) for one, other in pairs
        ),
        tuple(item.cell for item in a.cells if id(item) not in used[0]),
        tuple(item.cell for item in b.cells if id(item) not in used[1]),
    )


def _place(cell: Cell) -> str:
    return f"{cell.dataset} ({cell.kind}, {cell.prompt}, {cell.mode})"


def _differing(a: Cell, b: Cell) -> tuple[str, ...]:
    return tuple(field.name for field in fields(Cell) if getattr(a, field.name) != getattr(b, field.name))


def _num_choices(a: Cell, b: Cell) -> int:
    """Count what was chosen differently; a baseline has no checkpoint and no policy of its own."""
    return 1 if a.method != b.method else len(_differing(a, b))


def _pairs(a: Sequence[CellResult], b: Sequence[CellResult]) -> Iterator[tuple[CellResult, CellResult]]:
    if len(a) == len(b) == 1 and (a[0].cell.dataset, a[0].cell.kind) == (b[0].cell.dataset, b[0].cell.kind):
        yield a[0], b[0]
        return
    for one in a:
        rivals = [item for item in a if _place(item.cell) == _place(one.cell)]
        others = [item for item in b if _place(item.cell) == _place(one.cell)]
        fewest = min((_num_choices(one.cell, item.cell) for item in others), default=0)
        if fewest <= 1:
            yield from ((one, item) for item in others if _num_choices(one.cell, item.cell) == fewest)
        elif len(rivals) == len(others) == 1:
            yield one, others[0]


def _settings(results: Results, cell: CellResult) -> dict[str, Any]:
    """Return the settings of a cell: those that all cells have, and those that have its folder in front."""
    own = f"{cell.folder}."
    return {name.removeprefix(own): value for name, value in results.configuration.items()}


def _other_settings(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    """Say which settings differ, those aside that the cells themselves or other notes tell."""
    return tuple(
        f"{name} is {value!r:.80} in A, {b[name]!r:.80} in B"
        for name, value in a.items()
        if name in b and b[name] != value and not name.startswith(_TOLD)
    )


def _compared(a: CellResult, b: CellResult, seed: int, notes: tuple[str, ...]) -> CellComparison:
    ours, theirs = ({item.sequence: item for item in side.sequences} for side in (a, b))
    left_out = _left_out(ours, theirs)
    common = [name for name in ours if name in theirs and name not in left_out]
    kind = Kind(a.cell.kind)
    own, other = [ours[name] for name in common], [theirs[name] for name in common]
    totals = combine(kind, own), combine(kind, other)
    intervals = difference_intervals(own, other, seed=seed) if common else {}
    numbers = _differences(*totals, intervals)
    lead = [*HEADLINES[kind], *totals[0]]
    metric = next((name for name in lead if any(name == item.name and item.a == item.a for item in numbers)), lead[0])
    rows = [SequenceDifference(name, _differences(ours[name].metrics, theirs[name].metrics, {})) for name in common]
    return CellComparison(
        a.cell,
        b.cell,
        _differing(a.cell, b.cell),
        metric,
        numbers,
        tuple(sorted(rows, key=lambda row: _gain(row, metric))),
        left_out,
        (*_notes(a, b, len(common)), *notes),
    )


def _differences(
    a: dict[str, float], b: dict[str, float], intervals: dict[str, tuple[float, float]]
) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, a[name], b[name], b[name] - a[name], *bounds, _verdict(name, *bounds))
        for name in a
        if name in b
        for bounds in [intervals.get(name, (NAN, NAN))]
    )


def _verdict(name: str, low: float, high: float) -> str:
    if not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == about(name).higher_is_better else "worse"


def _gain(row: SequenceDifference, metric: str) -> tuple[float, str]:
    """Return how much B gained on a sequence, and its name."""
    gain = next((item.difference for item in row.numbers if item.name == metric), NAN)
    if not about(metric).higher_is_better:
        gain = -gain
    return (math.inf if math.isnan(gain) else gain), row.sequence


def _left_out(a: dict[str, SequenceResult], b: dict[str, SequenceResult]) -> dict[str, str]:
    reasons = {}
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            reasons[name] = f"only in {'A' if name in a else 'B'}"
        elif a[name].error or b[name].error:
            side = "A" if a[name].error else "B"
            reasons[name] = f"failed in {side}: {a[name].error or b[name].error}"
    return reasons


def _notes(a: CellResult, b: CellResult, num_common: int) -> tuple[str, ...]:
    notes = []
    if a.fingerprint != b.fingerprint:
        notes.append("the ground truth of A and of B is not the same")
    if a.cell.checkpoint == b.cell.checkpoint and a.weights_sha256 != b.weights_sha256:
        notes.append(f"{a.cell.checkpoint} has other weights in A than in B")
    if num_common < 2:
        notes.append(f"{num_common} sequences in common: an interval needs two or more")
    return tuple(notes)

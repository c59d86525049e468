"""Results of evaluations, made of answers that cover a part of one object each."""

from __future__ import annotations

from collections.abc import Mapping

from tests.unit.evaluation.made_sequences import MadeSequence, answered, columns, made_dataset, prompt
from x2sam_ros.evaluation.results import Cell, CellResult, Results, SequenceResult
from x2sam_ros.evaluation.scoring import combine, score_sequence
from x2sam_ros.truth.dataset import Category, Kind, TrueObject

CELL = Cell("made", "objects", "x2sam", "nano", "fifo", "box", "stream")
CUP = (Category(3, "cup"),)


def scored(name: str, num_columns: int, kind: Kind = Kind.OBJECTS) -> SequenceResult:
    """Score a clip of three frames with an object of four columns, of which some are found: J is a quarter of them."""
    sequence = MadeSequence([{1: columns(0, 4)}] * 3, (TrueObject(1, 3),), name=name)
    answers = answered([{1: columns(0, num_columns)}] * 3, (prompt(),), {1: "cup"}, name=name)
    return score_sequence(sequence, made_dataset(kind, sequence, categories=CUP), answers)


def cell_result(found: Mapping[str, int], cell: Cell = CELL, *more: SequenceResult, **fields: str) -> CellResult:
    """Return a cell with a sequence for each name, of so many columns."""
    sequences = (*(scored(name, number, Kind(cell.kind)) for name, number in found.items()), *more)
    return CellResult(cell, "cells/made", combine(cell.kind, sequences), sequences, **fields)


def made_results(*cells: CellResult) -> Results:
    return Results(cells, {"engine.score_threshold": 0.5, "seeds": [1, 2], "none": None}, {"cpu": "a made one"})

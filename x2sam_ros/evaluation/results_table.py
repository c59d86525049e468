"""Results as tables for a terminal or a Markdown page: one for each data set, one row for each cell."""

from __future__ import annotations

from pathlib import PurePath

from x2sam_ros.evaluation.metrics.names import HEADLINES
from x2sam_ros.evaluation.report.values import NOTHING, heading, number
from x2sam_ros.evaluation.results import Cell, CellResult, Results
from x2sam_ros.truth.dataset import Kind

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, heading and rows."""

_WORDS = ("method", "checkpoint", "memory", "prompt", "mode")


def results_tables(results: Results) -> list[Table]:
    """Return the main numbers of every cell; what all cells of a data set have in common is in the title."""
    grouped: dict[str, list[CellResult]] = {}
    for cell in results.cells:
        grouped.setdefault(cell.cell.dataset, []).append(cell)
    return [_table(dataset, cells) for dataset, cells in grouped.items()]


def _table(dataset: str, cells: list[CellResult]) -> Table:
    names = [name for name in HEADLINES[Kind(cells[0].cell.kind)] if any(name in cell.metrics for cell in cells)]
    checkpoints = {cell.cell.checkpoint for cell in cells}
    are_short = len({PurePath(checkpoint).name for checkpoint in checkpoints}) == len(checkpoints)
    words = [_words(cell.cell, are_short) for cell in cells]
    differing = [place for place in range(len(_WORDS)) if place == 0 or len({row[place] for row in words}) > 1]
    common = [word for place, word in enumerate(words[0]) if word and place not in differing]
    rows = [
        (
            *(row[place] or NOTHING for place in differing),
            *(number(name, cell.metrics.get(name)) for name in names),
            f"{sum(not sequence.error for sequence in cell.sequences)} of {len(cell.sequences)}",
        )
        for row, cell in zip(words, cells)
    ]
    header = (*(_WORDS[place] for place in differing), *map(heading, names), "sequences")
    return ", ".join([dataset, *common]), header, rows


def _words(cell: Cell, is_short: bool) -> tuple[str, ...]:
    checkpoint = PurePath(cell.checkpoint).name if is_short else cell.checkpoint
    return cell.method, checkpoint, cell.memory_policy, cell.prompt, cell.mode

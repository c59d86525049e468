"""``x2sam compare``: two evaluations side by side, with confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.errors import plain

if TYPE_CHECKING:
    from rich.console import Console

    from x2sam_ros.evaluation.compare import CellComparison, Difference
    from x2sam_ros.evaluation.results import Cell

MOST_ROWS = 10
"""Sequences that are printed, of those that lost and of those that gained."""


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="results.json of x2sam eval, or its folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, judged against A.")],
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write everything, with every sequence, into this file.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Say what is better in B than in A, by how much, and where the difference is more than chance.

    Cells on the same dataset, prompt and mode are compared, over the sequences that both have.
    Intervals are 95 %, from a bootstrap over these sequences.
    """
    from rich.console import Console

    from x2sam_ros.evaluation.compare import compare as compare_results
    from x2sam_ros.evaluation.results_file import read_results, write_json

    one, other = (read_results(path / "results.json" if path.is_dir() else path) for path in (a, b))
    comparison = compare_results(one, other, seed=seed)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for cells in comparison.cells:
        print_cells(cells, console)
    for side, cells_left in (("A", comparison.only_in_a), ("B", comparison.only_in_b)):
        for cell in cells_left:
            console.print(f"only in {side}: {_described(cell)}")
    if json_path is not None:
        write_json(comparison.to_plain(), json_path)
        console.print(f"wrote {json_path}")


def _described(cell: Cell) -> str:
    chosen = (cell.method, cell.checkpoint, cell.memory_policy, cell.prompt, cell.mode)
    return f"{cell.dataset}: {', '.join(part for part in chosen if part)}"


def print_cells(cells: CellComparison, console: Console) -> None:
    """Print one pair of cells: what they are, the numbers, the sequences."""
    from rich.table import Table

    from x2sam_ros.cli.printing import counted
    from x2sam_ros.evaluation.metrics.names import about

    console.print(f"A: {plain(_described(cells.a))}")
    console.print(f"B: {plain(_described(cells.b))}")
    table = Table(title=f"over {counted(len(cells.sequences), 'sequence')} of both")
    table.add_column("metric")
    for heading in ("A", "B", "B - A", "95 % interval", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for item in cells.numbers:
        if item.a != item.a and item.b != item.b:  # neither could be measured
            continue
        unit = about(item.name).unit
        interval = "-" if item.low != item.low else f"{item.low:+.4f} to {item.high:+.4f}"
        table.add_row(f"{plain(item.name)}{f' ({unit})' if unit else ''}", *_cells(item), interval, item.verdict)
    console.print(table)
    table = Table(title=f"{plain(cells.metric)} by sequence, the largest loss first")
    table.add_column("sequence")
    for heading in ("A", "B", "B - A"):
        table.add_column(heading, justify="right")
    hidden = len(cells.sequences) - 2 * MOST_ROWS
    for number, row in enumerate(cells.sequences):
        if hidden > 0 and number == MOST_ROWS:
            table.add_row(f"... {hidden} more, see --json", "", "", "")
        if hidden <= 0 or not MOST_ROWS <= number < MOST_ROWS + hidden:
            found = next((item for item in row.numbers if item.name == cells.metric), None)
            table.add_row(plain(row.sequence), *(_cells(found) if found else ("-", "-", "-")))
    console.print(table)
    for name, reason in cells.left_out.items():
        console.print(f"left out: {plain(name)}: {plain(reason)}")
    for note in cells.notes:
        console.print(f"warning: {plain(note)}")


def _cells(item: Difference) -> tuple[str, str, str]:
    values = (f"{item.a:.4f}", f"{item.b:.4f}", f"{item.difference:+.4f}")
    return tuple("-" if "nan" in value else value for value in values)  # type: ignore[return-value]

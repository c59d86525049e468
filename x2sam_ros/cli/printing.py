"""What the commands print alike: answers and targets in the colours of their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from x2sam_ros.errors import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from x2sam_ros.bag.replay import TargetSummary
    from x2sam_ros.bag.source import Problems
    from x2sam_ros.types import Grounding


PIPED_WIDTH = 160
"""Columns that tables may take where no terminal says how many it has."""


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, "1 target" or "2 targets"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_problems(problems: Problems, console: Console) -> None:
    """Print what was left out, the first ones in words."""
    for line in problems.lines():
        console.print(plain(line), markup=False, soft_wrap=True)


def coloured(grounding: Grounding, before: str = "") -> Text:
    """Return what was answered, or else asked, its phrases in the colours that their masks have in the overlay.

    Args:
        grounding: the answer.
        before: what to say first.
    """
    from rich.text import Text

    from x2sam_ros.visualise import coloured_text

    text = Text(before)
    for piece, colour in coloured_text(grounding.response or grounding.query, grounding.phrases):
        text.append(plain(piece), style=f"bold {_style(colour)}" if colour else None)
    return text


def target_table(targets: Iterable[TargetSummary], frames: int) -> Table:
    """Return a table of targets; with more than one frame it says how many each was seen on, and gives means."""
    from rich.table import Table
    from rich.text import Text

    from x2sam_ros.visualise import target_colour

    mean = "mean " if frames > 1 else ""
    table = Table("", "label")
    for heading in (*(["frames seen"] if frames > 1 else []), f"{mean}score", f"{mean}area px"):
        table.add_column(heading, justify="right")
    for target in targets:
        style = f"bold {_style(target_colour(target.target_id))}"
        seen = [f"{target.seen} of {frames}"] if frames > 1 else []
        row = (*seen, f"{target.mean_score:.2f}", f"{target.mean_area_px:.0f}")
        table.add_row(Text(f"#{target.target_id}", style), Text(plain(target.label), style), *row)
    return table


def print_tables(tables: Iterable[tuple[str, Sequence[str], Iterable[Sequence[str]]]]) -> None:
    """Print tables, each a title, a header and rows; all columns but the first hold numbers."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    for title, header, rows in tables:
        table = Table(title=title, title_justify="left")
        for place, name in enumerate(header):
            table.add_column(name, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _style(colour: tuple[int, int, int]) -> str:
    return "rgb({},{},{})".format(*colour)

"""What the benchmark scripts share: tables on the terminal or as Markdown, and the line that names the machine."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

PIPED_WIDTH = 140
"""Columns of a table when the output is no terminal."""


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads an option that counts something: a whole number from ``least`` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected {least} or more")
        return int(text)

    return number


def arguments(description: str | None, pages: bool = True) -> argparse.ArgumentParser:
    """Return a parser of what most scripts take: the model, where it runs, and how tables are printed.

    Args:
        description: the script's docstring.
        pages: whether tables can be written into pages.
    """
    from x2sam_ros.config import NodeConfig

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=NodeConfig.preset, help="preset or checkpoint folder")
    parser.add_argument("--device", default=NodeConfig.device)
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    if pages:
        parser.add_argument("--into", type=Path, nargs="+", default=[], help="Markdown pages to write the tables into")
    return parser


def hardware_line(device: str) -> str:
    """Name the processor, the cores this process may use, torch and, on CUDA, the GPU."""
    from x2sam_ros.evaluation.hardware import hardware

    return str(hardware(device))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """Print a table to standard output; the first column is left-aligned, the others are numbers."""
    if markdown:
        print(f"\n**{title}**\n")
        print(f"| {' | '.join(header)} |")
        print(f"|---|{'---:|' * (len(header) - 1)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)


@contextmanager
def printed_into(pages: Sequence[Path], name: str) -> Iterator[None]:
    """Put what is printed meanwhile between ``<!-- name:begin -->`` and ``<!-- name:end -->`` of every page.

    It is printed to standard output at the end, too. Nothing is written when an exception ends the block.

    Raises:
        SystemExit: a page does not have the markers; told before anything is run.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    for page in pages:
        if not re.search(f"{begin}.*{end}", page.read_text(encoding="utf-8"), re.S):
            raise SystemExit(f"{page} has no lines {begin.strip()} and {end}; add them where the tables belong")
    printed = io.StringIO()
    with redirect_stdout(printed):
        yield
    text = printed.getvalue()
    print(text, end="")
    for page in pages:
        before, _, rest = page.read_text(encoding="utf-8").partition(begin)
        page.write_text(f"{before}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def progress(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    """Pass ``items`` on behind a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total, console=Console(stderr=True), transient=True)


def number(value: float, digits: int = 3) -> str:
    """Format a number; NaN, which means "was not asked", becomes a dash."""
    return "-" if value != value else f"{value:.{digits}f}"

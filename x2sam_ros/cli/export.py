"""``x2sam export``: what an evaluation answered, in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x2sam_ros.errors import ConfigError, ResultsError


def export(
    evaluation: Annotated[Path, typer.Argument(help="Folder that x2sam eval made.")],
    to: Annotated[str, typer.Option(help="davis, ytvis, coco or mcap.")],
    out: Annotated[Path, typer.Option(help="Folder for davis and mcap, a .json file for ytvis and coco.")],
    cell: Annotated[str | None, typer.Option(help="Folder of one cell, where the evaluation has several.")] = None,
) -> None:
    """Write predictions as DAVIS label images, YouTube-VIS or COCO results, or recordings with masks."""
    from rich.console import Console

    from x2sam_ros.cli.eval_inputs import reopen
    from x2sam_ros.cli.printing import counted
    from x2sam_ros.evaluation.export import EXPORTS
    from x2sam_ros.evaluation.predictions import read_predictions

    if to not in EXPORTS:
        raise ConfigError(f"cannot export to {to!r}; expected {', '.join(EXPORTS)}")
    folder = _cell_folder(evaluation, cell)
    files = sorted((folder / "predictions").rglob("*.json.gz"))
    if not files:
        raise ResultsError(f"{folder} holds no predictions; run x2sam eval again, it does what is missing")
    console = Console()
    dataset = reopen(folder) if to in ("ytvis", "coco") else None
    EXPORTS[to]((read_predictions(file) for file in files), out, dataset)
    console.print(f"{out}: {counted(len(files), 'sequence')} as {to}", markup=False)


def _cell_folder(evaluation: Path, cell: str | None) -> Path:
    cells = sorted(folder for folder in (evaluation / "cells").glob("*") if (folder / "predictions").is_dir())
    chosen = [folder for folder in cells if cell in (None, folder.name)]
    if len(chosen) == 1:
        return chosen[0]
    if not cells:
        raise ResultsError(f"{evaluation} holds no predictions; give a folder that x2sam eval made")
    names = ", ".join(folder.name for folder in cells)
    raise ConfigError(f"which cell? {cell!r} does not name one of {names}; choose one with --cell")

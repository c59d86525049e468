"""``x2sam convert``: published checkpoints into folders that every command takes as ``--checkpoint``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.config import BASE_MODEL, NodeConfig
from x2sam_ros.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from x2sam_ros.checkpoint.convert import Report


def convert(
    source: Annotated[
        str | None, typer.Argument(help="File, folder or hub id of an X2SAM export, for example hao9610/X2SAM.")
    ] = None,
    target: Annotated[Path | None, typer.Argument(help="Checkpoint folder to make.")] = None,
    base: Annotated[
        str,
        typer.Option(help="File, folder or hub id of the base model, read for what the export lacks."),
    ] = BASE_MODEL,
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: float32 loses nothing; bfloat16 or float16 takes half the room.")
    ] = NodeConfig.dtype,
    force: Annotated[bool, typer.Option(help="Replace a checkpoint folder that exists.")] = False,
    download: Annotated[bool, typer.Option(help="Fetch what is neither here nor in the hub's cache.")] = True,
    check: Annotated[
        Path | None, typer.Option(help="Compare a checkpoint folder with its manifest instead of making one.")
    ] = None,
) -> None:
    """Convert a published checkpoint, once; nothing in it is ever run."""
    from rich.console import Console

    console = Console()
    if check is not None:
        _check(check, console)
        return
    if source is None or target is None:
        raise ConfigError("x2sam convert takes a source and a target, or --check FOLDER; see x2sam convert --help")

    from x2sam_ros.checkpoint.convert import convert_checkpoint

    start = time.monotonic()
    with _bar(console) as bar:
        task = bar.add_task("converting", total=None)
        report = convert_checkpoint(
            source,
            target,
            base,
            dtype,
            force,
            download,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(_summary(report))
    console.print(f"{report.folder}: {report.nbytes / 1e9:.2f} GB of {dtype} in {time.monotonic() - start:.0f} s")


def _check(folder: Path, console: Console) -> None:
    from x2sam_ros.checkpoint.manifest import check_manifest

    if not folder.is_dir():
        raise ConfigError(f"no checkpoint folder at {folder}; give the folder that x2sam convert made")
    with _bar(console) as bar:
        task = bar.add_task("checking", total=sum(path.stat().st_size for path in folder.glob("*") if path.is_file()))
        count = check_manifest(folder, sums=True, advance=lambda size: bar.advance(task, size))
    console.print(f"{folder}: {count} files are as the manifest says")


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _summary(report: Report) -> Table:
    """Say what became of each source's tensors."""
    from rich.table import Table

    table = Table(
        title=f"{len(report.plan.entries)} tensors, configuration: {report.settings.origin}", title_justify="left"
    )
    for heading in ("source", "files", "copied", "merged", "dropped"):
        table.add_column(heading, justify="left" if heading in ("source", "files") else "right")
    for origin, files in report.files.items():
        counts = report.plan.used(origin)
        names = ", ".join(files) if len(files) < 4 else f"{len(files)} files"
        table.add_row(origin, names, *(str(counts[kind]) for kind in ("copied", "merged", "dropped")))
    lines = [f"dropped: {len(names)} {reason}" for reason, names in report.dropped().items()]
    table.caption, table.caption_justify = "\n".join(lines), "left"
    return table

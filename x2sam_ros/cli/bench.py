"""``x2sam bench``: what following costs here, by stage, by number of targets, by length of the stream, beside peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.cli import options
from x2sam_ros.config import CLIP_LENGTH, NodeConfig
from x2sam_ros.errors import ConfigError

if TYPE_CHECKING:
    from x2sam_ros.evaluation.bench import BenchOptions
    from x2sam_ros.evaluation.bench_model import BenchModel
    from x2sam_ros.evaluation.bench_report import BenchReport
    from x2sam_ros.evaluation.bench_scene import BenchScene

SMALLEST, LARGEST = 32, 4096
"""Pixels of a picture's side."""


def bench(
    model: Annotated[
        str, typer.Option(help="A preset, nano or release, the latter with random weights; or a checkpoint folder.")
    ] = NodeConfig.preset,
    device: options.Device = NodeConfig.device,
    dtype: options.Dtype = NodeConfig.dtype,
    weights: options.Weights = NodeConfig.weights,
    targets: Annotated[str, typer.Option(help="Numbers of targets to measure, with commas.")] = "1,2,4,8,16",
    frames: Annotated[
        int, typer.Option(help=f"Timed frames of each variant and number of targets; a multiple of {CLIP_LENGTH}.")
    ] = CLIP_LENGTH,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the pictures.")] = "640x480",
    stream_frames: Annotated[int, typer.Option(help="Length of the long stream; 0 leaves it out.")] = 200,
    stream_targets: Annotated[int, typer.Option(help="Targets of the long stream.")] = 1,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers/--no-peers",
            help="Also run a session for each target, the published clips of each target, and transformers' SAM 2.",
        ),
    ] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: as torch chooses]")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write everything into this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this .svg or .png.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown tables.")] = False,
) -> None:
    """Measure milliseconds per frame by stage, against targets and stream length, and memory, beside peers.

    All variants take turns frame by frame on the same pictures. With nano on two cores it takes about a minute.
    """
    from x2sam_ros.evaluation.bench import BenchOptions
    from x2sam_ros.evaluation.bench_plot import check_plot_path, plot_bench
    from x2sam_ros.evaluation.bench_report import write_json

    wanted = BenchOptions(_read_targets(targets), frames, stream_frames, stream_targets, peers)
    width, height = _read_size(size)
    for path in (json_path, plot):
        if path is not None and not path.resolve().parent.is_dir():
            raise ConfigError(f"there is no folder {path.resolve().parent} for {path.name}; make it first")
    if plot is not None:
        check_plot_path(plot)
    opened = _open(model, device, dtype, weights, max(*wanted.targets, stream_targets), threads)
    report = _run(opened, _scene(width, height), wanted)
    print_report(report, markdown)
    if json_path is not None:
        write_json(report, json_path)
    if plot is not None:
        plot_bench(report, plot)
    for path in (json_path, plot):
        if path is not None:
            typer.echo(f"wrote {path}")


def _read_targets(text: str) -> tuple[int, ...]:
    """Read "1,2,4"; ConfigError where that is no list of whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--targets is {text!r:.80}, expected whole numbers with commas, like 1,2,4") from error


def _read_size(text: str) -> tuple[int, int]:
    """Read "640x480" as width and height; ConfigError where that is no size."""
    parts = text.lower().split("x")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        width, height = int(parts[0]), int(parts[1])
        if all(SMALLEST <= side <= LARGEST for side in (width, height)):
            return width, height
    raise ConfigError(f"--size is {text!r:.80}, expected WIDTHxHEIGHT in pixels, each {SMALLEST} to {LARGEST}")


def _open(name: str, device: str, dtype: str, weights: str, targets: int, threads: int | None) -> BenchModel:
    """Set the threads and load; late, so that every other mistake is found before these seconds are spent."""
    import torch

    from x2sam_ros.evaluation.bench_model import open_bench_model

    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads is {threads}, expected 1 or more")
        torch.set_num_threads(threads)
    return open_bench_model(name, device, dtype, targets, weights)


def _scene(width: int, height: int) -> BenchScene:
    from x2sam_ros.cli.bench_scene import draw_bench_scene

    return draw_bench_scene(width, height)


def _run(opened: BenchModel, scene: BenchScene, wanted: BenchOptions) -> BenchReport:
    """Measure behind a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    from x2sam_ros.evaluation.bench import run

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"measuring {opened.name}", total=wanted.steps)
        return run(opened, scene, wanted, lambda: progress.advance(task))


def print_report(report: BenchReport, markdown: bool) -> None:
    """Print what was measured, on what, and the tables."""
    from x2sam_ros.cli.printing import print_tables
    from x2sam_ros.evaluation.bench_report import headline, tables

    height, width = report.image_size
    timed = f"{width}x{height}, {report.timed_frames} timed frames each, at most {report.resident_mib:.0f} MiB resident"
    on_gpu = f", {report.gpu_mib:.0f} MiB on the GPU" if report.gpu_mib else ""
    for line in (headline(report), timed + on_gpu, *report.model.notes):
        typer.echo(line + ("  " if markdown else ""))
    if not markdown:
        print_tables(tables(report))
        return
    for title, header, rows in tables(report):
        lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
        typer.echo("\n".join(["", f"**{title}**", "", *lines, *(f"| {' | '.join(row)} |" for row in rows)]))

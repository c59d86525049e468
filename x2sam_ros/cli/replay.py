"""``x2sam replay``: a recording in, tracked masks out, without ROS."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.cli import options
from x2sam_ros.config import NodeConfig

if TYPE_CHECKING:
    from rich.console import Console

    from x2sam_ros.bag.replay import ReplayReport, ResultSink, ScheduledPrompt, StepSession
    from x2sam_ros.bag.source import FrameSource


def replay(
    input_path: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A bag (folder, .mcap, .db3), a video, a folder of images, an image."),
    ],
    out: Annotated[Path, typer.Option(help="Results as MCAP; an older file is replaced when the new one is whole.")],
    text: Annotated[list[str] | None, typer.Option(help="What to look for, in words. Repeatable.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help='Every instance of each: "cup, plate, fork". Repeatable.')
    ] = None,
    stuff: Annotated[
        list[str] | None,
        typer.Option(help='Classes that cannot be counted: "sky, road". With any, masks do not overlap. Repeatable.'),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task of all prompts: reaseg, grefseg, chat, vgdseg (regions of a second are one prompt), or gcgseg, "
            "which needs no other option. [default: the usual one of each kind of prompt]"
        ),
    ] = None,
    click: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y[,LABEL][@SECONDS]",
            help="A click in pixels; each is a target of its own. With label 0 it is a place that does not belong to "
            "the click before it. Seconds count from the first frame. Repeatable.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X1,Y1,X2,Y2[@SECONDS]", help="A box around one target, in pixels. Repeatable."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="An image of the input's size, not black on one target of the first frame. Repeatable."),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Image topic of a bag; needed when it holds more than one camera.")
    ] = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = NodeConfig.device,
    dtype: options.Dtype = NodeConfig.dtype,
    weights: options.Weights = NodeConfig.weights,
    stride: Annotated[int, typer.Option(help="Use every n-th image.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Rate of a folder of images, which has no stamps.")] = None,
    memory_policy: Annotated[
        str, typer.Option(help="Which frames a target remembers; see x2sam plugins.")
    ] = NodeConfig.memory_policy,
    video: Annotated[Path | None, typer.Option(help="Also draw the masks into this .mp4.")] = None,
    overlay: Annotated[bool, typer.Option(help="Also put the drawn images into the MCAP file, as JPEG.")] = False,
) -> None:
    """Track targets through a recording and write their masks to an MCAP file.

    Without --topic a bag's only image topic is taken, or the only one that is not named like labels, masks, depth
    or overlays. A prompt that finds nothing is reported; one that is rejected ends the command with exit code 2.
    So does a truncated or damaged bag, once the frames that can be read are answered and written.
    """
    from rich.console import Console

    from x2sam_ros.bag.media import OverlayVideo
    from x2sam_ros.bag.prompt_options import read_schedule
    from x2sam_ros.bag.source import open_source
    from x2sam_ros.bag.writer import ResultWriter
    from x2sam_ros.errors import ConfigError

    name = options.model_name(preset, checkpoint)
    prompts = (text or (), classes or (), click or (), box or (), mask or ())
    schedule = read_schedule(*prompts, stuff=stuff or (), task=task)
    source = open_source(input_path, topic, stride, fps)
    for option, path in (("--out", out), ("--video", video)):
        if path is not None and input_path.resolve() in (path.resolve(), *path.resolve().parents):
            raise ConfigError(f"{option} {path} is the input itself or lies in it; write it somewhere else")
    console = Console(stderr=True)
    with ExitStack() as stack:
        sinks: list[ResultSink] = [stack.enter_context(ResultWriter(out, overlay))]
        if video is not None:
            sinks.append(stack.enter_context(OverlayVideo(video)))
        session = _open_session(name, device, dtype, weights, memory_policy)
        report = _run(source, session, sinks, schedule, console)
    _print_report(report, source, [out, *([video] if video else [])], schedule)
    _check_complete(report, source, out)


def _open_session(name: str, device: str, dtype: str, weights: str, memory_policy: str) -> StepSession:
    """Load the model; late, so that every other mistake is found before these seconds are spent."""
    from x2sam_ros.checkpoint.load import load_model
    from x2sam_ros.engine.session import Session

    return Session(load_model(name, device, dtype, weights), memory_policy=memory_policy)


def _run(
    source: FrameSource,
    session: StepSession,
    sinks: list[ResultSink],
    schedule: tuple[ScheduledPrompt, ...],
    console: Console,
) -> ReplayReport:
    """Replay behind a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from x2sam_ros.bag.replay import run_replay
    from x2sam_ros.errors import X2SamError

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(source.topic, total=source.num_frames, rate=0.0)

        def show(report: ReplayReport) -> None:
            progress.update(task, completed=report.frames, rate=report.frames_per_s)

        try:
            return run_replay(source, session, sinks, schedule, show)
        except X2SamError:
            progress.live.transient = True  # the error is the only line that remains
            progress.disable = not console.is_terminal
            raise


def _print_report(
    report: ReplayReport, source: FrameSource, written: list[Path], schedule: tuple[ScheduledPrompt, ...]
) -> None:
    """Print the summary: targets, frames, rate, what was left out, what was written."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from x2sam_ros.types import GroundingStatus

    console = Console()
    table = Table(title=f"{len(report.targets)} targets in {source.name}")
    table.add_column("id", justify="right")
    table.add_column("label")
    for heading in ("frames seen", "mean score", "mean area px"):
        table.add_column(heading, justify="right")
    for target in report.targets.values():
        seen = f"{target.seen} of {report.frames}"
        row = (seen, f"{target.mean_score:.2f}", f"{target.mean_area_px:.0f}")
        table.add_row(str(target.target_id), Text(target.label or "-"), *row)
    console.print(table)
    console.print(
        f"{report.frames} frames of {source.topic} in {report.wall_s:.1f} s, {report.frames_per_s:.1f} frames/s, "
        f"{report.frames_dropped} problems",
        markup=False,
        soft_wrap=True,
    )
    origins = {item.prompt.prompt_id: item.origin for item in schedule}
    last = {grounding.prompt_id: grounding for grounding in report.groundings}
    for prompt_id, grounding in last.items():
        if grounding.response:
            console.print(f"{origins.get(prompt_id, prompt_id)}: {grounding.response}", markup=False, soft_wrap=True)
    warnings = [
        f"{origins.get(prompt_id, prompt_id)} found no target" + (f": {grounding.message}" if grounding.message else "")
        for prompt_id, grounding in last.items()
        if grounding.status in (GroundingStatus.NO_TARGET, GroundingStatus.REMOVED)
    ]
    for warning in (*warnings, *report.problems):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _check_complete(report: ReplayReport, source: FrameSource, out: Path) -> None:
    """Raise for a damaged recording, or a prompt whose second never came; the results are written nevertheless.

    Raises:
        BagError: a part of the recording could not be read.
        PromptError: a prompt was never given.
    """
    from x2sam_ros.errors import BagError, PromptError

    if report.is_damaged:
        raise BagError(
            f"{source.name} is truncated or damaged; the {report.frames} frames that can be read are in {out}; "
            "record it again, or repair it with 'mcap recover'"
        )
    if report.not_reached:
        lasts_s = (report.last_stamp_ns - report.first_stamp_ns) / 1e9
        origins = ", ".join(item.origin for item in report.not_reached)
        raise PromptError(f"never given: {origins}; the input lasts {lasts_s:.2f} s")

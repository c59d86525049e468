"""``x2sam segment``: one prompt about a picture, pictures or a recording; masks as PNG and COCO JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

import x2sam_ros
from x2sam_ros.cli import options
from x2sam_ros.cli.printing import coloured, counted, target_table
from x2sam_ros.config import CLIP_LENGTH, EngineConfig, NodeConfig
from x2sam_ros.errors import BagError, ConfigError, plain

if TYPE_CHECKING:
    from x2sam_ros.bag.coco import ResultFolder
    from x2sam_ros.bag.replay import ReplayReport
    from x2sam_ros.bag.source import FrameSource
    from x2sam_ros.types import Frame, FrameResult, Grounding, Prompt

_MAX_ROWS = 40


class _Done(NamedTuple):
    """What was found, and each answer with the frame it was given on."""

    report: ReplayReport
    answers: list[tuple[int, Grounding]]


def segment(
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A picture, a folder of pictures, a video or a bag.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; it is made where there is none.")],
    text: Annotated[
        list[str] | None, typer.Option(help="What to look for, or a question. Repeated: a target for each phrase.")
    ] = None,
    classes: Annotated[list[str] | None, typer.Option(help='Every instance of each: "cup, plate, fork".')] = None,
    stuff: Annotated[
        list[str] | None, typer.Option(help='Names that are no countable things: "sky, grass"; no masks overlap then.')
    ] = None,
    click: Annotated[
        list[str] | None,
        typer.Option(
            "--click",
            "--point",
            metavar="X,Y[,LABEL]",
            help="A click in pixels; label 0 means not this. Repeated: all on one object; with --task vgdseg each "
            "positive one is an example of what to find.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X1,Y1,X2,Y2", help="A box in pixels. Repeated: each is an example of what to find."),
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="A picture of the input's size, not black on the target. Repeatable.")
    ] = None,
    caption: Annotated[bool, typer.Option("--caption", help="Describe the input and point at what is named.")] = False,
    task: Annotated[
        str | None,
        typer.Option(help="Task, such as reaseg, grefseg, ovseg, chat; by default the usual one for the prompt."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="image: each picture by itself; clip: anew for every clip; stream: follow the targets. By default "
            "image for one picture, else stream."
        ),
    ] = None,
    clip_length: Annotated[
        int, typer.Option(help="Frames of a clip, and frames the language model is shown.")
    ] = CLIP_LENGTH,
    topic: options.Topic = None,
    stride: Annotated[int, typer.Option(help="Use every n-th image.")] = 1,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = NodeConfig.device,
    dtype: options.Dtype = NodeConfig.dtype,
    weights: options.Weights = NodeConfig.weights,
    score_threshold: options.ScoreThreshold = EngineConfig.score_threshold,
    max_answer_tokens: options.MaxAnswerTokens = EngineConfig.max_answer_tokens,
    official_quirks: Annotated[
        bool, typer.Option("--official-quirks", help="Read masks as the published evaluation does, mistakes included.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Segment a picture, pictures or a recording for one prompt of any task.

    The folder gets a label picture, a mask for each target and an overlay for each image, and results.json: COCO
    instances that pycocotools reads, with the answer in words. A class list adds semantic and panoptic maps, a
    recording overlay.mp4. Where nothing is found, results.json says so.
    """
    from x2sam_ros.bag.coco import ResultFolder
    from x2sam_ros.bag.one_prompt import read_prompt
    from x2sam_ros.bag.source import open_source

    name = options.model_name(preset, checkpoint)
    if input_path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"--out {out} is the input itself or lies in it; write it somewhere else")
    source = open_source(input_path, topic, stride)
    still = source.num_frames == 1
    given = (text or (), classes or (), stuff or (), click or (), box or (), mask or ())
    prompt = read_prompt(*given, caption=caption, task=task, still=still)
    chosen = mode or ("image" if still else "stream")
    config = EngineConfig(
        score_threshold=score_threshold, max_answer_tokens=max_answer_tokens, official_quirks=official_quirks
    )
    info = {
        "description": "x2sam segment",
        "version": x2sam_ros.__version__,
        "input": str(input_path),
        "model": name,
        "task": prompt.task_name,
        "mode": chosen,
    }
    with ResultFolder(out, prompt, info, force, video=not still and chosen != "image") as folder:
        results = _results(source, prompt, chosen, clip_length, config, (name, device, dtype, weights))
        done = _write(results, source, folder)
    _print(done, source, out)


def _results(
    source: FrameSource,
    prompt: Prompt,
    mode: str,
    clip_length: int,
    config: EngineConfig,
    model: tuple[str, str, str, str],
) -> Iterator[tuple[Frame, FrameResult]]:
    """Load the model, late, so that every other mistake is found before these seconds are spent; segment."""
    from x2sam_ros.checkpoint.load import load_model
    from x2sam_ros.engine.recording import check_mode, segment_recording

    way = check_mode(mode)
    network = load_model(*model)
    # a picture can hold no more targets than the network has queries
    config = replace(config, max_targets=network.config.segmentor.decoder.num_queries)
    return segment_recording(network, source, prompt, way, clip_length, config)


def _write(results: Iterator[tuple[Frame, FrameResult]], source: FrameSource, folder: ResultFolder) -> _Done:
    """Write every result, behind a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from x2sam_ros.bag.replay import ReplayReport

    done = _Done(ReplayReport(), [])
    columns = TextColumn(source.name, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=source.num_frames)
        for frame, result in results:
            folder.write(frame, result)
            done.report.add(result)
            done.answers.extend((frame.frame_index, grounding) for grounding in result.groundings)
            progress.advance(bar)
    return done


def _print(done: _Done, source: FrameSource, out: Path) -> None:
    """Print answers, targets, and what was written.

    Raises:
        BagError: a part of the recording could not be read; the results of the rest are written.
    """
    from rich.console import Console

    console, report = Console(highlight=False, soft_wrap=True), done.report
    for index, grounding in done.answers[:_MAX_ROWS]:
        where = f"image {index}: " if report.frames > 1 else ""
        if grounding.response:
            console.print(coloured(grounding, where))
        if grounding.message:
            console.print(f"{where}{plain(grounding.message)}", markup=False, style="dim")
    targets = list(report.targets.values())
    if targets:
        followed = any(target.frames > 1 for target in targets)
        console.print(target_table(targets[:_MAX_ROWS], report.frames if followed else 1))
    left = max(len(targets), len(done.answers)) - _MAX_ROWS
    if left > 0:
        console.print(f"and {left} more", markup=False)
    for problem in source.problems.messages:
        console.print(f"warning: {problem}", markup=False)
    found = counted(len(targets), "target") if targets else "nothing found"
    images = counted(report.frames, "image")
    console.print(f"{found} on {images}, written to {out / 'results.json'}", markup=False)
    if source.problems.is_damaged:
        raise BagError(f"{source.name} is truncated or damaged; the rest of it is in {out}; record it again")

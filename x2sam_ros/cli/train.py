"""``x2sam train``: train the weights of a preset on generated scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from x2sam_ros.config import TrainConfig

_DEFAULTS = TrainConfig()


def train(
    out: Annotated[Path, typer.Option(help="Folder for states, log, plot and weights; an unfinished run resumes.")],
    weights: Annotated[
        str,
        typer.Option(
            help="Checkpoint to start from, for example nano; empty: from scratch. A memory that looks at the place it "
            "is asked about, as a memory phase leaves it, is taught on; any other is started so for that phase."
        ),
    ] = "",
    preset: Annotated[str, typer.Option(help="Which network.")] = "nano",
    seed: Annotated[int, typer.Option(help="Seed of scenes and weights.")] = _DEFAULTS.seed,
    device: Annotated[
        str, typer.Option(help="auto takes a GPU where there is one; else cpu, cuda or cuda:N.")
    ] = "auto",
    render: Annotated[
        str, typer.Option(help="Who draws the scenes: host (OpenCV), device (torch), or auto: device on a GPU.")
    ] = "auto",
    bf16: Annotated[bool, typer.Option(help="Multiply in bfloat16.")] = True,
    pixels_steps: Annotated[int, typer.Option(min=0, help="Batches of the first phase.")] = _DEFAULTS.pixels.steps,
    image_steps: Annotated[int, typer.Option(min=0, help="Batches of the second phase.")] = _DEFAULTS.image.steps,
    video_steps: Annotated[int, typer.Option(min=0, help="Batches of the third phase.")] = _DEFAULTS.video.steps,
    words_steps: Annotated[int, typer.Option(min=0, help="Batches of the fourth phase.")] = _DEFAULTS.words.steps,
    memory_steps: Annotated[int, typer.Option(min=0, help="Batches of the last phase.")] = _DEFAULTS.memory.steps,
    text_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a clip's prompts without their words after the first frame.")
    ] = _DEFAULTS.text_dropout,
) -> None:
    """Train a preset on generated scenes; Ctrl-C is safe, the same command goes on."""
    import torch
    from rich.console import Console

    from x2sam_ros.training.loop import train_preset

    config = replace(
        _DEFAULTS,
        seed=seed,
        pixels=replace(_DEFAULTS.pixels, steps=pixels_steps),
        image=replace(_DEFAULTS.image, steps=image_steps),
        video=replace(_DEFAULTS.video, steps=video_steps),
        words=replace(_DEFAULTS.words, steps=words_steps),
        memory=replace(_DEFAULTS.memory, steps=memory_steps),
        text_dropout=text_dropout,
    )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if render == "auto":
        render = "host" if device == "cpu" else "device"
    train_preset(preset, config, out, device, bf16, weights, render, Console())

"""The options that several commands have alike: which model, where it runs, what counts as found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import ConfigError

Preset = Annotated[str | None, typer.Option(help=f"Built-in model; {NodeConfig.preset} by default.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Folder of a model of your own.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Weights = Annotated[str, typer.Option(help="exact, or int8: large layers in eight bits, for a CPU and float32.")]
ScoreThreshold = Annotated[float, typer.Option(help="Confidence below which nothing counts as found.")]
MaxAnswerTokens = Annotated[
    int, typer.Option("--max-answer-tokens", "--max-tokens", help="Tokens after which an answer is cut off.")
]
Topic = Annotated[str | None, typer.Option(help="Image topic of a bag with several cameras.")]


def model_name(preset: str | None, checkpoint: Path | None) -> str:
    """Return what to load: the checkpoint, else the preset, else the default one.

    Raises:
        ConfigError: both are given.
    """
    if preset is not None and checkpoint is not None:
        raise ConfigError("--preset and --checkpoint name two models; give one of them")
    return str(checkpoint or preset or NodeConfig.preset)

"""``x2sam joint``: train a network on many datasets at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x2sam_ros.config import NodeConfig


def joint(
    plan: Annotated[Path, typer.Argument(help="YAML file with stage, steps, sources and settings.")],
    out: Annotated[Path, typer.Option(help="Folder for states, log, plot and weights; an unfinished run resumes.")],
    checkpoint: Annotated[str, typer.Option(help="Weights to start from.")] = NodeConfig.preset,
    dtype: Annotated[str, typer.Option(help="Type of the weights that do not learn.")] = NodeConfig.dtype,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.")] = False,
) -> None:
    """Train on many datasets at once; several processes with accelerate launch. Ctrl-C is safe, it resumes."""
    from rich.console import Console

    from x2sam_ros.training.plan import read_plan, train_plan

    train_plan(read_plan(plan), checkpoint, out, Console(), dtype, cpu)

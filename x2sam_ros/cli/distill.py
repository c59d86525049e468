"""``x2sam distill``: teach a smaller network what a larger one sees and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from x2sam_ros.config import DistillConfig

_DEFAULTS = DistillConfig()


def distill(
    out: Annotated[Path, typer.Option(help="Folder for states, logs, plots and weights; an unfinished run resumes.")],
    teacher: Annotated[str, typer.Option(help="Checkpoint or preset to learn from.")] = "nano",
    student: Annotated[
        str, typer.Option(help="Preset, or a folder whose config.json describes the smaller network.")
    ] = "nano-half",
    seed: Annotated[int, typer.Option(help="Seed of scenes and weights.")] = _DEFAULTS.seed,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.")] = False,
    bf16: Annotated[bool, typer.Option(help="Multiply in bfloat16.")] = True,
    features_steps: Annotated[
        int, typer.Option(min=1, help="Batches of pictures whose features are learnt.")
    ] = _DEFAULTS.features.steps,
    clicks_steps: Annotated[
        int, typer.Option(min=1, help="Batches of clicks and boxes that are asked in rounds.")
    ] = _DEFAULTS.clicks.steps,
    prompts_steps: Annotated[
        int, typer.Option(min=1, help="Batches of prompts of every kind on short clips.")
    ] = _DEFAULTS.prompts.steps,
    rounds: Annotated[int, typer.Option(min=1, max=16, help="How often a click is asked.")] = _DEFAULTS.rounds,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that draw ahead; 0 for none.")] = None,
) -> None:
    """Distil a network into a smaller one on generated scenes; Ctrl-C is safe, the same command goes on."""
    from rich.console import Console

    from x2sam_ros.checkpoint.load import load_model, weights_sha256
    from x2sam_ros.training.distill import distil, read_student

    config = replace(
        _DEFAULTS,
        seed=seed,
        features=replace(_DEFAULTS.features, steps=features_steps),
        clicks=replace(_DEFAULTS.clicks, steps=clicks_steps),
        prompts=replace(_DEFAULTS.prompts, steps=prompts_steps),
        rounds=rounds,
    )
    given = {} if workers is None else {"workers": workers}
    start = weights_sha256(teacher)
    distil(load_model(teacher), read_student(student), config, out, Console(), bf16, cpu, start=start, **given)

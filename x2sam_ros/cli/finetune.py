"""``x2sam finetune``: train a model on bags with label images, and say what it gained and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x2sam_ros.cli import options
from x2sam_ros.cli.compare import print_cells
from x2sam_ros.errors import ConfigError, plain

if TYPE_CHECKING:
    from rich.console import Console

    from x2sam_ros.evaluation.compare import Comparison
    from x2sam_ros.evaluation.inputs import Input

KEPT_CLIPS, KEPT_FRAMES, KEPT_SEQUENCES = 2, 20, 10
"""What is tested of what must not be forgotten: generated clips of each kind and their length, or sequences."""


def finetune(
    bag: Annotated[list[Path], typer.Option(help="Bag with label images, as x2sam label writes it. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for states, weights and the report; an unfinished run goes on.")],
    test: Annotated[
        list[Path] | None,
        typer.Option(help="Bag with label images to test with; by default the end of each --bag. Repeatable."),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(help="Share of each --bag, its end, that is tested with instead of trained on, without --test."),
    ] = None,
    rehearse: Annotated[
        list[Path] | None,
        typer.Option(
            help="Other ground truth, as x2sam eval reads it, or chats, that must not be forgotten. Repeatable. What "
            "knows generated scenes rehearses those, too."
        ),
    ] = None,
    rehearsal: Annotated[
        float | None, typer.Option(help="Share of the batches that rehearse what must not be forgotten; 0 for none.")
    ] = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    steps: Annotated[int | None, typer.Option(help="Batches of the bags; what is rehearsed comes on top.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures a batch; clips are a quarter of that.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip; 1 trains on pictures alone.")] = None,
    lora: Annotated[bool, typer.Option(help="Adapters on the language model; else it learns itself.")] = True,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Test with text, point, scribble, box or mask; text and box. Repeatable.")
    ] = None,
    topic: options.Topic = None,
    label_topic: Annotated[str | None, typer.Option(help="Topic of the label images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.")] = False,
    bf16: Annotated[bool, typer.Option(help="Multiply in bfloat16.")] = True,
    workers: Annotated[int | None, typer.Option(help="Processes that read ahead; 0 for none.")] = None,
) -> None:
    """Fine-tune a model on your own bags; Ctrl-C is safe, the same command goes on.

    The weights in OUT/weights are a checkpoint like any other. OUT/report says how the model did before and after, on
    images that it was not trained on: of the bags, and of what it must not forget. What is not given is as in
    FinetuneConfig (training/finetune.py).
    """
    import torch
    from rich.console import Console

    from x2sam_ros.bag.source import Problems
    from x2sam_ros.cli.printing import counted, print_problems
    from x2sam_ros.evaluation.before_after import BeforeAfter
    from x2sam_ros.training import finetune as training

    if test and held_out:
        raise ConfigError("--test and --held-out are two ways to test; give one of them")
    if not test and held_out == 0:
        raise ConfigError("nothing is left to test with: give --test, or a --held-out above 0")
    start = options.model_name(preset, checkpoint)
    given: dict[str, Any] = {
        "steps": steps,
        "learning_rate": learning_rate,
        "batch": batch,
        "frames": frames,
        "workers": workers,
        "rehearsal": rehearsal,
    }
    given |= {"held_out": 0.0 if test else held_out}
    config = training.FinetuneConfig(
        lora=lora, bf16=bf16, seed=seed, **{name: value for name, value in given.items() if value is not None}
    )
    share = config.held_out
    topics = {"topic": topic, "label_topic": label_topic}
    _check_apart(bag, test or [], rehearse or [])
    console, problems = Console(), Problems()
    learnt = training.bag_sources(bag, config, problems, **topics)
    rehearsed = training.rehearsal_sources(rehearse or (), config)
    print_problems(problems, console)
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    kept = _kept(start, rehearse or [])
    scores = BeforeAfter([*_tests(bag, test, share, topics), *kept], out / "report", device, seed, prompt or ())
    console.print("scoring the model as it is", markup=False)
    scores.before(start)
    training.finetune(start, learnt, out, config, console, cpu, rehearsed)
    weights = str(out / "weights")
    console.print("scoring what became of it", markup=False)
    _, comparison = scores.after(start, weights)
    _print(comparison, console, share, counted(len(bag), "bag"), {item.dataset.name for item in kept})
    for path in (weights, out / "report" / "report.html"):
        typer.echo(f"wrote {path}")


def _check_apart(bags: list[Path], tests: list[Path], rehearsed: list[Path]) -> None:
    """Raise ConfigError where something would be both trained on and tested with, or both new and old."""
    from x2sam_ros.truth.files import overlap

    if twice := overlap(tests, bags):
        raise ConfigError(
            f"--test {twice[0]} and --bag {twice[1]} share recordings, which would be both trained on and tested with; "
            "give another bag, or --held-out"
        )
    if twice := overlap(rehearsed, [*bags, *tests]):
        raise ConfigError(
            f"--rehearse {twice[0]} and {twice[1]}, a --bag or --test, share recordings; leave them away in one place"
        )


def _tests(bags: list[Path], tests: list[Path] | None, share: float, topics: dict[str, str | None]) -> list[Input]:
    """Open what is scored: bags of their own, or the ends of the bags that are trained on."""
    from dataclasses import replace

    from x2sam_ros.evaluation.inputs import open_inputs
    from x2sam_ros.training.finetune import BAG
    from x2sam_ros.truth.part import later_part

    if tests:
        return open_inputs(tests, BAG, **topics)
    return [replace(item, dataset=later_part(item.dataset, share)) for item in open_inputs(bags, BAG, **topics)]


def _kept(start: str, rehearsed: list[Path]) -> list[Input]:
    """Open what must not be forgotten: generated clips, for a model that knows them, and the ends of what is given."""
    from dataclasses import replace

    from x2sam_ros.cli.eval_scenes import NAME, generated_dataset
    from x2sam_ros.evaluation.inputs import Input, open_inputs
    from x2sam_ros.training.finetune import KEPT_HELD_OUT, knows_scenes
    from x2sam_ros.truth.chat import is_chat
    from x2sam_ros.truth.part import held_out_part

    found = []
    if knows_scenes(start):
        scenes = generated_dataset(KEPT_CLIPS, KEPT_FRAMES)
        found.append(Input(replace(scenes, name=f"kept: {NAME}"), (NAME,)))
    for number, path in enumerate(rehearsed, 1):
        if not is_chat(path):
            (item,) = open_inputs([path], None, training=True)
            held = held_out_part(item.dataset, KEPT_HELD_OUT, KEPT_SEQUENCES)
            found.append(replace(item, dataset=replace(held, name=f"kept {number}: {held.name}")))
    return found


def _print(comparison: Comparison, console: Console, share: float, bags: str, kept: set[str]) -> None:
    """Print the numbers of what was learnt, then of what was to be kept, and all in short."""
    from rich.table import Table

    learnt = [cells for cells in comparison.cells if cells.a.dataset not in kept]
    others = [cells for cells in comparison.cells if cells.a.dataset in kept]
    where = f"the last {share:.0%} of the annotated images of {bags}" if share else "bags of their own"
    console.print(f"A before, B after, on {where}; none of it was trained on", markup=False)
    for cells in learnt:
        print_cells(cells, console)
    if others:
        console.print("A before, B after, on what must not be forgotten", markup=False)
    for cells in others:
        print_cells(cells, console)
    table = Table("tested on", "prompt", "metric", "before", "after")
    for cells in (*learnt, *others):
        number = next((item for item in cells.numbers if item.name == cells.metric), None)
        values = (f"{number.a:.3f}", f"{number.b:.3f}") if number else ("-", "-")
        table.add_row(plain(cells.a.dataset), cells.a.prompt, cells.metric, *values)
    console.print(table)
    if not others:
        console.print("what it forgot nobody measured: give --rehearse ground truth that it must not forget")

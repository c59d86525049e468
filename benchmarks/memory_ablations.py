"""Measure what makes the memory learn: the memory phase from the same weights, with one thing changed at a time.

The weights to start from must not have been through that phase (`x2sam train --memory-steps 0`). Every run has as many
batches; those of clips of another length have fewer or more clips, so that a batch has about as many frames once the
first third is over, in which every clip has two. Twins and pictures are held out and the same for all, so that the
difference to the recipe has a standard error of its own: a clip of twins counts once, so does a batch of pictures. The
gain is that of `memory_use.py`; pictures are prompts without a memory, which the phase must not spoil.

Stopped by --minutes or Ctrl-C, the same command goes on; without --minutes it ends with the table.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pieces import Notes, mean_and_error, minutes, network, stop_after
from rich.console import Console
from tables import arguments, at_least, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import load_model, weights_sha256
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.training.loop import Trainer
from x2sam_ros.training.memory_use import memory_use, twins
from x2sam_ros.training.objective import batch_scores
from x2sam_ros.training.samples import HELD_OUT_SEEDS, SceneBatches

RECIPE = "the recipe"
NO_TWINS = (0.5, 0.2, 0.0, 0.0, 0.3)
"""The odds of the memory phase's scenes with twins left out, the others as among themselves."""

HEADER = ("changed", "gain", "std error", "gain - recipe's", "std error", "J of pictures", "std error")


def recipe(steps: int, clips: int) -> TrainConfig:
    """Return the recipe with no other phase than the last."""
    shipped = TrainConfig()
    others = {name: replace(shipped.phase(name), steps=0) for name in shipped.phases}
    others["memory"] = replace(shipped.memory, steps=steps, clips=clips)
    return replace(shipped, **others, score_every=10 * steps, checkpoint_every=50)


def variations(base: TrainConfig) -> dict[str, TrainConfig]:
    """Return what is tried, by name; each changes one thing."""

    def frames(count: int) -> PhaseConfig:
        memory = base.memory
        return replace(memory, frames=count, clips=max(1, round(memory.clips * memory.frames / count)))

    return {
        RECIPE: base,
        "attention does not start in place": replace(base, start_in_place=False),
        "no labels for every cell of the maps": replace(base, recollection_weight=0.0),
        "no words that fit several objects": replace(base, remembered_share=0.0),
        "nothing but words that fit several objects": replace(base, remembered_share=1.0),
        "those words are 'the object' throughout": replace(base, nameless_share=1.0),
        "no twins": replace(base, memory_kind_odds=NO_TWINS),
        "later memories are predicted from the start": replace(base, memory_true_shares=(0.0, 0.0)),
        "later memories are true to the end": replace(base, memory_true_shares=(1.0, 1.0)),
        "half of the prompts lose their words after the first frame": replace(base, text_dropout=0.5),
        "clips of two frames, twice as many": replace(base, memory=frames(2)),
        "clips of six frames, fewer": replace(base, memory=frames(6)),
    }


def train(config: TrainConfig, model: str, folder: Path, device: str) -> bool:
    """Train one variation, or go on with it; the weights are in ``folder/weights``."""
    start = load_model(model, device)
    trainer = Trainer(config, start.config, folder, device, older=start, start=weights_sha256(model))
    trainer.run(Console(stderr=True))
    return True


def gains(folder: Path, count: int, device: str) -> list[float]:
    """Return the gain on each clip of twins."""
    model = load_model(folder, device)
    return [float(memory_use(model, batch).gain().nanmean()) for batch in twins(count, model.config, model.tokenizer)]


def pictures(folder: Path, count: int, device: str) -> list[float]:
    """Return the mean J of each batch of pictures, without a memory."""
    model = load_model(folder, device)
    data = SceneBatches(TrainConfig(), model.config, model.tokenizer, "image", 0, count, HELD_OUT_SEEDS)
    return [float(batch_scores(model, data[index])[0].mean()) for index in range(count)]


def row(name: str, found: dict[str, Any], base: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of a variation; ``base`` is what the recipe gave."""
    less = [own - theirs for own, theirs in zip(found["gains"], base["gains"])]
    change = map(number, mean_and_error(less)) if name != RECIPE else ("", "")
    return (
        name,
        *map(number, mean_and_error(found["gains"])),
        *change,
        *map(number, mean_and_error(found["pictures"])),
    )


def main() -> None:
    """Train what is not trained, score what is not scored, and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; kept, the same command goes on")
    parser.add_argument("--steps", type=at_least(1), default=300, help="batches of each run")
    parser.add_argument("--clips", type=at_least(1), default=4, help="clips of a batch")
    parser.add_argument("--twins", type=at_least(2), default=50, help="held-out clips of twins")
    parser.add_argument("--pictures", type=at_least(2), default=8, help="batches of held-out pictures")
    minutes(parser)
    options = parser.parse_args()
    stop_after(options.minutes)
    sizes = {name: getattr(options, name) for name in ("steps", "clips", "twins", "pictures")}
    found: dict[str, dict[str, Any]] = {}
    planned = variations(recipe(options.steps, options.clips))
    notes = Notes(options.out / "results.jsonl", network(options) | sizes | asdict(planned[RECIPE]))
    for position, (name, config) in enumerate(planned.items()):
        folder = options.out / f"{position:02d}"
        notes.of(f"{name}, trained", partial(train, config, options.model, folder, options.device))
        scores = (("gains", gains, options.twins), ("pictures", pictures, options.pictures))
        found[name] = {
            what: notes.of(f"{name}, {what}", partial(measure, folder / "weights", count, options.device))
            for what, measure, count in scores
        }
    with printed_into(options.into, "memory-ablations"):
        print(f"{options.model}: {hardware_line(options.device)}")
        title = f"The memory phase with one thing changed, {options.steps} batches"
        rows = [row(name, one, found[RECIPE]) for name, one in found.items()]
        print_table(title, HEADER, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

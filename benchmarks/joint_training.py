"""Compare joint training on images and clips with separate runs at the same number of samples.

Runs start from the same weights: a segmentor that was never trained between the shipped mask encoder and the shipped
language model, as in the published recipe, whose vision tower, language model and mask encoder were trained before.
The joint run sees the very batches of both separate runs. "Images, then clips" is the other way to one network for
both: the images' run, trained on by the clips. Held-out scenes are the same for all, so that differences have standard
errors of their own. Prompts of one scene share its luck: a scene counts once, with the mean of its prompts, and with
several seeds of training with the mean over these; the errors between seeds stand beside.

Stopped by --minutes or Ctrl-C, the same command goes on; without --minutes it ends with the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pieces import Notes, mean_and_error, minutes, network, stop_after
from rich.console import Console
from scene_cases import HELD_OUT_SEED, cases_of_clip, cases_of_image
from tables import arguments, at_least, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import build_model, load_model, save_model
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import Case, evaluate_case
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.feed import SceneSource, SceneSources
from x2sam_ros.training.initialise import initialise
from x2sam_ros.training.joint import JointTrainer
from x2sam_ros.training.ledger import Ledger
from x2sam_ros.training.lora import LoraSettings
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.objectives import JointLoss
from x2sam_ros.training.recipe import Recipe

IMAGE_PROMPTS = ("colour", "shape", "colour_shape", "point", "box")
CLIP_PROMPTS = ("text", "point")
PICTURES = PhaseConfig(steps=0, clips=8, prompts=4, learning_rate=0.0)
CLIPS = PhaseConfig(steps=0, clips=4, prompts=2, learning_rate=0.0, frames=4, max_stride=2)
"""A step's batch; how many there are, and at which rate, the runs say."""

RATE = 1.5e-3
RESULTS = "results.jsonl"
COST_HEADER = ("run", "steps", "pictures", "clips", "frames", "hours", "processor hours", "waiting", "saved")
SCORE_HEADER = ("run", *(f"{x}{e}" for x in ("J", "both - run") for e in ("", ", ± scenes", ", ± seeds")))
SEPARATE, CHAINED, JOINT, FEWER = "images and clips apart", "images, then clips", "both", "both, fewer"


@dataclass(frozen=True)
class Run:
    """A training run: its steps by phase, and the run that it goes on from, if any."""

    name: str
    steps: dict[str, int]
    after: str = ""

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "_").replace(" ", "_")


def runs(images: int, clips: int, fewer: float) -> list[Run]:
    """Return the runs; the last has the share ``fewer`` of the joint run's steps, 0 leaves it out."""
    both = {"image": images, "video": clips}
    found = [
        Run("images", {"image": images}),
        Run("clips", {"video": clips}),
        Run(JOINT, both),
        Run(CHAINED, {"video": clips}, after="images"),
    ]
    return [*found, Run(FEWER, {phase: round(fewer * steps) for phase, steps in both.items()})] if fewer else found


FRESH = ("segmentor.", "mlm_projector.")
KEPT = "segmentor.encoder."


def write_start(model: str, folder: Path, seed: int) -> None:
    """Write the weights that the runs start from, unless they are there: ``model`` with a fresh segmentor."""
    if folder.exists():
        return
    made = load_model(model)
    torch.manual_seed(seed)
    fresh = build_model(made.config, made.tokenizer)
    initialise(fresh.segmentor)
    drawn = fresh.state_dict()
    for name, tensor in made.state_dict().items():
        if name.startswith(KEPT) or not name.startswith(FRESH):
            drawn[name].copy_(tensor)
    partial_folder = folder.with_name(f"{folder.name}.partial")  # whoever stops it now finds no half of it later
    save_model(fresh, partial_folder)
    partial_folder.rename(folder)


def train(run: Run, origin: Path, folder: Path, scenes: TrainConfig, device: str, workers: int) -> dict[str, Any]:
    """Train a run to its end, so that the folder has weights; return the state of its ledger."""
    model = load_model(origin)
    steps = sum(run.steps.values())
    recipe = Recipe.joint(
        steps,
        lora=LoraSettings(rank=16, alpha=32.0, dropout=0.0),
        learning_rate=RATE,
        betas=scenes.betas,
        weight_decay=scenes.weight_decay,
        activation_checkpointing=False,
        checkpoint_every=10,
        keep_states=1,
        objective=scenes,
        loss=LossConfig(),
        seed=scenes.seed,
    )
    sources = SceneSources(
        scenes,
        model.config,
        model.tokenizer,
        tuple(SceneSource(phase, count) for phase, count in run.steps.items()),
        steps,
        workers,
    )
    trainer = JointTrainer(JointLoss(model, recipe), recipe, sources, folder, model.identity, cpu=device == "cpu")
    return trainer.run(Console(stderr=True)).state()


def scene_score(load: Callable[[], X2SAM], cases: Callable[[int], Iterable[Case]], seed: int) -> float | None:
    """Return the mean J of the prompts on the scene of a seed; None where there are none."""
    found = [float(evaluate_case(Session(load()), case).j.mean()) for case in cases(seed)]
    return float(np.mean(found)) if found else None


def scene_scores(
    notes: Notes, name: str, load: Callable[[], X2SAM], cases: Callable[[int], Iterable[Case]], wanted: int
) -> list[float]:
    """Return the mean J of each of ``wanted`` held-out scenes; ``name`` is what they are noted under."""
    found = (notes.of(f"{name}, {seed}", partial(scene_score, load, cases, seed)) for seed in count(HELD_OUT_SEED))
    return list(islice((value for value in found if value is not None), wanted))


def pictures(seed: int) -> Iterator[Case]:
    """Yield the cases of the picture of a seed."""
    return (case for case in cases_of_image(seed, IMAGE_PROMPTS) if case.kind in IMAGE_PROMPTS)


def worked(ledgers: Sequence[Ledger], device: str) -> float:
    """Return seconds of work: of processors on a CPU, which others may use too, of the device elsewhere."""
    kind = "processor_seconds" if device == "cpu" else "device_seconds"
    return sum(getattr(ledger.total, kind) for ledger in ledgers)


def cost_row(name: str, ledgers: Sequence[Ledger], seeds: int, saved: float) -> tuple[str, ...]:
    """Return what one network cost, trained in one run or in several.

    Args:
        name: of the row.
        ledgers: of its runs, of all seeds.
        seeds: how many seeds they are of; costs are those of one.
        saved: share of the work that it saves.
    """
    accounts = [(media, account) for ledger in ledgers for media, account in ledger.accounts.items()]
    samples = (sum(a.samples for media, a in accounts if media == wanted) for wanted in ("image", "video"))
    totals = [ledger.total for ledger in ledgers]
    seconds, processor, waited = (
        sum(getattr(total, f"{what}_seconds") for total in totals) for what in ("device", "processor", "waiting")
    )
    counts = (sum(t.steps for t in totals), *samples, sum(t.frames for t in totals))
    hours = (number(x / 3600 / seeds) for x in (seconds, processor))
    shares = (f"{waited / seconds:.0%}", f"{saved:.1%}")
    return (name, *(f"{n // seeds:,}" for n in counts), *hours, *shares)


def score_row(name: str, own: Sequence[Sequence[float]], joint: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Return a run's mean over scenes and seeds, and by how much the joint run's is better on the same ones.

    Args:
        name: of the run.
        own: J of each scene, for each seed of training.
        joint: the same of the joint run.
    """
    values = np.array(own)
    row = [name]
    for x in (values, np.array(joint) - values):
        row += [number(v) for v in (*mean_and_error(x.mean(axis=0)), mean_and_error(x.mean(axis=1))[1])]
    return tuple(row)


@dataclass(frozen=True)
class Comparison:
    """What is known of all runs.

    Args:
        ledgers: of each run, for each seed.
        scores: by media and run, J of each scene, for each seed.
    """

    ledgers: Mapping[str, Sequence[Ledger]]
    scores: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]

    def print(self, device: str, markdown: bool) -> None:
        """Print the tables."""
        parts = {SEPARATE: ("images", "clips"), CHAINED: ("images", CHAINED), JOINT: (JOINT,), FEWER: (FEWER,)}
        costs = {
            n: [x for run in r for x in self.ledgers[run]] for n, r in parts.items() if {*r} <= self.ledgers.keys()
        }
        apart, seeds = worked(costs[SEPARATE], device), len(self.ledgers[JOINT])
        rows = [cost_row(name, found, seeds, 1 - worked(found, device) / apart) for name, found in costs.items()]
        print_table("What one network for both, or one for each, cost", COST_HEADER, rows, markdown)
        for media, runs_of in self.scores.items():
            rows = [score_row(name, own, runs_of[JOINT]) for name, own in runs_of.items()]
            print_table(f"Held-out scenes: {media}", SCORE_HEADER, rows, markdown)


def compare(options: argparse.Namespace, notes: Notes) -> Comparison:
    """Train what is not trained, and score what is not scored."""
    cases: dict[str, tuple[Callable[[int], Iterable[Case]], int]] = {
        "images": (pictures, options.image_scenes),
        "clips": (
            partial(cases_of_clip, scene_kind="plain", prompt_kinds=CLIP_PROMPTS, num_frames=options.frames),
            options.clip_scenes,
        ),
    }
    planned = runs(options.images, options.clips, options.fewer)
    ledgers: dict[str, list[Ledger]] = {run.name: [] for run in planned}
    scores: dict[str, dict[str, list[list[float]]]] = {media: {run.name: [] for run in planned} for media in cases}
    for seed in options.seeds:
        scenes = TrainConfig(seed=seed, image=PICTURES, video=CLIPS, text_weight=1.0)
        home = options.out / f"seed-{seed}"
        write_start(options.model, home / "start", seed)
        for run in planned:
            name, folder = f"seed {seed}, {run.name}", home / run.folder
            origin = home / (f"{run.after}/weights" if run.after else "start")
            work = partial(train, run, origin, folder, scenes, options.device, options.workers)
            ledger = Ledger(options.device)
            ledger.restore(notes.of(f"{name}, cost", work))
            ledgers[run.name].append(ledger)
            load = lru_cache(partial(load_model, folder / "weights", options.device))
            for media, (make, wanted) in cases.items():
                scores[media][run.name].append(scene_scores(notes, f"{name}, {media}", load, make, wanted))
    return Comparison(ledgers, scores)


def main() -> None:
    """Train what is not trained, score what is not scored, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; kept, the same command goes on")
    parser.add_argument("--images", type=at_least(1), default=200, help="steps on pictures")
    parser.add_argument("--clips", type=at_least(1), default=80, help="steps on clips")
    parser.add_argument("--fewer", type=float, default=0.635, help="share of a shorter joint run's steps; 0: none")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0], help="of training; each repeats all runs")
    parser.add_argument("--image-scenes", type=at_least(1), default=100, help="held-out pictures")
    parser.add_argument("--clip-scenes", type=at_least(1), default=40, help="held-out clips")
    parser.add_argument("--frames", type=at_least(1), default=16, help="length of the held-out clips")
    parser.add_argument("--workers", type=at_least(0), default=1, help="processes that draw scenes ahead")
    minutes(parser)
    options = parser.parse_args()
    stop_after(options.minutes)
    same = {name: getattr(options, name) for name in ("images", "clips", "fewer", "frames")}
    compared = compare(options, Notes(options.out / RESULTS, {**network(options), **same}))
    with printed_into(options.into, "joint-training"):
        seeds = ", ".join(map(str, options.seeds))
        print(f"{options.model} with a fresh segmentor, seeds {seeds}: {hardware_line(options.device)}")
        compared.print(options.device, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

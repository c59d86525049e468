"""Compare joint training on images and clips with separate runs at the same number of samples.

Runs start from the same weights: a segmentor that was never trained between the shipped mask encoder and the shipped
language model, as in the published recipe, whose vision tower, language model and mask encoder were trained before.
The joint run sees the very batches of both separate runs. "Images, then clips" is the other way to one network for
both: the images' run, trained on by the clips. Held-out cases are the same for all, so that differences have standard
errors of their own.

Stopped by --minutes or Ctrl-C, the same command goes on; without --minutes it ends with the tables.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from rich.console import Console
from scene_cases import clip_cases, image_cases
from tables import arguments, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import build_model, load_model, save_model
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import Case, evaluate_case
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
LEDGER = "ledger.json"
COST_HEADER = ("run", "steps", "pictures", "clips", "frames", "hours", "processor hours", "waiting")
SCORE_HEADER = ("run", *(f"{x}" for media in ("images", "clips") for x in (f"J of {media}", "±", "both - run", "±")))
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
    save_model(fresh, folder)


def train(run: Run, origin: Path, folder: Path, scenes: TrainConfig, device: str, workers: int) -> None:
    """Train a run to its end; the folder then has weights."""
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
    ledger = trainer.run(Console(stderr=True))
    (folder / LEDGER).write_text(json.dumps(ledger.state()) + "\n", encoding="utf-8")


def score(folder: Path, cases: dict[str, Callable[[], Iterator[Case]]], device: str) -> dict[str, list[float]]:
    """Return J of each case by media, noted in the folder one by one."""
    file = folder / "scores.json"
    found: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    model = load_model(folder / "weights", device)
    for media, make in cases.items():
        values = found.setdefault(media, [])
        for case in islice(make(), len(values), None):
            values.append(float(evaluate_case(Session(model), case).j.mean()))
            file.write_text(json.dumps(found), encoding="utf-8")
    return found


def mean_and_error(values: np.ndarray) -> tuple[str, str]:
    """Return a mean and its standard error."""
    return number(float(values.mean())), number(float(values.std(ddof=1) / np.sqrt(len(values))))


def cost_row(name: str, ledgers: Sequence[Ledger]) -> tuple[str, ...]:
    """Return what one network cost, trained in one run or in several."""
    accounts = [(media, account) for ledger in ledgers for media, account in ledger.accounts.items()]
    samples = (sum(a.samples for media, a in accounts if media == wanted) for wanted in ("image", "video"))
    totals = [ledger.total for ledger in ledgers]
    seconds, worked, waited = (
        sum(getattr(total, f"{what}_seconds") for total in totals) for what in ("device", "processor", "waiting")
    )
    counts = (sum(t.steps for t in totals), *samples, sum(t.frames for t in totals))
    hours = (number(seconds / 3600), number(worked / 3600), f"{waited / seconds:.0%}")
    return (name, *(f"{count:,}" for count in counts), *hours)


def score_row(name: str, own: dict[str, list[float]], joint: dict[str, list[float]]) -> tuple[str, ...]:
    """Return a run's scores, and by how much the joint run's are better on the same cases."""
    row = [name]
    for media in joint:
        values = np.array(own[media])
        row += [*mean_and_error(values), *mean_and_error(np.array(joint[media]) - values)]
    return tuple(row)


def stop_after(minutes: float) -> None:
    """Have this process stop as Ctrl-C would."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit("time is up; the same command goes on")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def main() -> None:
    """Train what is not trained, score what is not scored, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=200, help="steps on pictures")
    parser.add_argument("--clips", type=int, default=80, help="steps on clips")
    parser.add_argument("--fewer", type=float, default=0.635, help="share of a shorter joint run's steps; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-cases", type=int, default=60, help="held-out images of each kind")
    parser.add_argument("--clip-cases", type=int, default=30, help="held-out clips of each kind")
    parser.add_argument("--frames", type=int, default=16, help="length of the held-out clips")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0 goes to the end")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes ahead")
    options = parser.parse_args()
    if options.minutes:
        stop_after(options.minutes)
    scenes = TrainConfig(seed=options.seed, image=PICTURES, video=CLIPS, text_weight=1.0)
    cases: dict[str, Callable[[], Iterator[Case]]] = {
        "images": lambda: image_cases(options.image_cases, IMAGE_PROMPTS),
        "clips": lambda: chain.from_iterable(
            clip_cases("plain", kind, options.clip_cases, options.frames) for kind in CLIP_PROMPTS
        ),
    }
    write_start(options.model, options.out / "start", options.seed)
    ledgers, scores = {}, {}
    for run in runs(options.images, options.clips, options.fewer):
        folder = options.out / run.folder
        if not (folder / LEDGER).exists():
            origin = options.out / (f"{run.after}/weights" if run.after else "start")
            train(run, origin, folder, scenes, options.device, options.workers)
        ledgers[run.name] = Ledger(options.device)
        ledgers[run.name].restore(json.loads((folder / LEDGER).read_text(encoding="utf-8")))
        scores[run.name] = score(folder, cases, options.device)
    markdown = options.markdown or bool(options.into)
    with printed_into(options.into, "joint-training"):
        print(f"{options.model} with a fresh segmentor, seed {options.seed}: {hardware_line(options.device)}")
        costs = {SEPARATE: ("images", "clips"), CHAINED: ("images", CHAINED), JOINT: (JOINT,), FEWER: (FEWER,)}
        rows = [
            cost_row(name, [ledgers[part] for part in parts])
            for name, parts in costs.items()
            if {*parts} <= ledgers.keys()
        ]
        print_table("What it cost", COST_HEADER, rows, markdown)
        rows = [score_row(name, own, scores[JOINT]) for name, own in scores.items()]
        print_table("Held-out scenes", SCORE_HEADER, rows, markdown)


if __name__ == "__main__":
    main()

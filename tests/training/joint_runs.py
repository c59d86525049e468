"""Tiny joint runs, and sources that misbehave."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.errors import TruthError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.feed import SceneSource, SceneSources, SourceBatch
from x2sam_ros.training.held_out import HeldOut
from x2sam_ros.training.joint import JointTrainer
from x2sam_ros.training.ledger import Ledger
from x2sam_ros.training.lora import LoraSettings
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.objectives import JointLoss
from x2sam_ros.training.recipe import Recipe
from x2sam_ros.training.samples import HELD_OUT_SEEDS

TINY = TrainConfig(
    image=PhaseConfig(steps=1, clips=1, prompts=2, learning_rate=1e-3, texts=1),
    video=PhaseConfig(steps=1, clips=1, prompts=1, learning_rate=1e-3, frames=2, texts=1),
)
RECIPE = Recipe.joint(
    4,
    lora=LoraSettings(rank=4, alpha=8.0, dropout=0.5),
    learning_rate=1e-3,
    bf16=False,
    activation_checkpointing=False,
    checkpoint_every=2,
    score_every=2,
    average=0.9,
    loss=LossConfig(points=64),
)
SOURCES = (SceneSource("image"), SceneSource("video", parts=2))


class Killed(Exception):
    """Stands for a power cut."""


class Faulty(SceneSources):
    """Scenes that go wrong at a batch: power fails, its file is gone, or its pictures are no numbers.

    From one batch on, all have had to leave a sample out.
    """

    dies: int | None = None
    loses: int | None = None
    spoils: int | None = None
    lacks: int | None = None
    problems = ("b.jpg is damaged",)

    def __iter__(self) -> Iterator[SourceBatch]:
        start = self.state()["position"]
        for number, item in enumerate(super().__iter__(), start):
            if number == self.dies:
                raise Killed
            if number == self.loses:
                raise TruthError("a.jpg is gone")
            if number == self.spoils:
                spoilt = replace(item.batch, pixel_values=item.batch.pixel_values * float("nan"))
                item = replace(item, batch=spoilt)
            if self.lacks is not None and number >= self.lacks:
                item = replace(item, problems=self.problems)
            yield item


def scenes(model: X2SAM, steps: int = RECIPE.steps, **faults: int) -> Faulty:
    made = Faulty(TINY, model.config, model.tokenizer, SOURCES, steps)
    for name, number in faults.items():
        setattr(made, name, number)
    return made


def trainer(
    folder: Path,
    recipe: Recipe = RECIPE,
    steps: int = RECIPE.steps,
    held_out: bool = True,
    dtype: str = "float32",
    unseen_is_gone: bool = False,
    **faults: int,
) -> JointTrainer:
    """Make a trainer of the shipped nano network, scored on a picture with two prompts and a clip with one."""
    model = load_model("nano", dtype=dtype)
    unseen = [
        Faulty(TINY, model.config, model.tokenizer, (SceneSource(phase),), 1, seeds=HELD_OUT_SEEDS)
        for phase in ("image", "video")
    ]
    if unseen_is_gone:
        unseen[-1].loses = 0
    scored = HeldOut(unseen, 1) if held_out else None
    return JointTrainer(
        JointLoss(model, recipe), recipe, scenes(model, steps, **faults), folder, cpu=True, held_out=scored
    )


def run(made: JointTrainer) -> Ledger:
    return made.run(Console(file=io.StringIO()))


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the log without times."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting")} for row in rows]

"""A joint run as a file: which stage, how long, from which sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import set_seed
from rich.console import Console

from x2sam_ros.checkpoint.load import load_model, weights_sha256
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.data.joint import JointSettings, JointSources, check_names
from x2sam_ros.training.data.sources import Source, SourceConfig
from x2sam_ros.training.finetune import BAG
from x2sam_ros.training.held_out import HeldOut
from x2sam_ros.training.joint import JointTrainer
from x2sam_ros.training.ledger import Ledger
from x2sam_ros.training.lora import LoraSettings
from x2sam_ros.training.objectives import AgnosticLoss, JointLoss
from x2sam_ros.training.recipe import STAGES, Recipe
from x2sam_ros.training.settings import filled, named
from x2sam_ros.truth.bags import bags_in
from x2sam_ros.truth.files import overlap
from x2sam_ros.truth.part import part_of
from x2sam_ros.types import Task

_SECTIONS = ("stage", "steps", "recipe", "data", "sources", "held_out")
_HELD_OUT_BATCHES = 8


@dataclass(frozen=True)
class Plan:
    """A joint run.

    Args:
        stage: see ``recipe.STAGES``.
        recipe: what learns, and how.
        settings: how the sources are joined.
        sources: what it learns from.
        held_out: what it is scored on meanwhile; none for ().
        held_out_batches: how many batches of each of those.
    """

    stage: str
    recipe: Recipe
    settings: JointSettings
    sources: tuple[SourceConfig, ...]
    held_out: tuple[SourceConfig, ...] = ()
    held_out_batches: int = _HELD_OUT_BATCHES


def read_plan(path: Path) -> Plan:
    """Read a YAML file with ``stage``, ``steps`` and ``sources``, and if wanted ``recipe``, ``data`` and ``held_out``.

    Paths of sources are relative to the file. Without ``epochs`` the sources come as often as the steps need.
    ``held_out`` has ``sources`` of its own and, if wanted, ``batches``, how many of each of them are scored.

    Raises:
        ConfigError: the file cannot be read, a section is missing, or a setting is unknown or makes no sense.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the plan {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not {"stage", "steps", "sources"} <= content.keys() <= {*_SECTIONS}:
        raise ConfigError(
            f"the plan {path} needs stage, steps and sources, may have recipe, data and held_out, and nothing else"
        )
    stage, steps = content["stage"], content["steps"]
    if not isinstance(stage, str) or stage not in STAGES:
        raise ConfigError(f"{path}: stage is {stage!r}, expected one of {', '.join(STAGES)}")
    held_out = named(content.get("held_out", {"sources": None}), f"{path}: held_out")
    if not {"sources"} <= held_out.keys() <= {"sources", "batches"}:
        raise ConfigError(f"{path}: held_out needs sources, may have batches, and nothing else")
    return Plan(
        stage,
        _recipe(STAGES[stage](_count(steps, f"{path}: steps")), content.get("recipe") or {}, f"{path}: recipe"),
        filled(JointSettings(epochs=steps), content.get("data") or {}, f"{path}: data"),
        _sources(content["sources"], f"{path}: ", path),
        _sources(held_out["sources"], f"{path}: held_out: ", path) if "held_out" in content else (),
        _count(held_out.get("batches", _HELD_OUT_BATCHES), f"{path}: held_out: batches"),
    )


def train_plan(plan: Plan, weights: str, folder: Path, console: Console, dtype: str, cpu: bool) -> Ledger:
    """Train by a plan, from where ``folder`` was left; see `JointTrainer`.

    Args:
        plan: the run.
        weights: checkpoint to start from.
        folder: for everything that is written.
        console: for progress.
        dtype: of the weights that rest.
        cpu: whether to leave a GPU alone.
    """
    processes = PartialState(cpu=cpu)
    model = load_model(weights, dtype=dtype)
    rank, world = processes.process_index, processes.num_processes
    sources = JointSources(plan.sources, model.config, model.tokenizer, plan.settings, rank, world)
    scored = held_out_sources(plan, model, rank, world)
    check_held_out(sources, scored)
    if plan.stage == "segmentor":
        everything = [source for joined in (sources, *scored) for source in joined.sources]
        AgnosticLoss.check([source.name for source in everything if source.task is Task.CHAT])
    held_out = HeldOut(scored, plan.held_out_batches) if scored else None
    if processes.is_main_process:
        for joined in (sources, *scored):
            joined.tell(console)
    set_seed(plan.recipe.seed)  # of the first stage's head
    loss = (AgnosticLoss if plan.stage == "segmentor" else JointLoss)(model, plan.recipe)
    return JointTrainer(loss, plan.recipe, sources, folder, weights_sha256(weights), cpu, held_out).run(console)


def held_out_sources(plan: Plan, model: X2SAM, rank: int = 0, world: int = 1) -> list[JointSources]:
    """Return what a plan is scored on, each source by itself.

    They are asked about in the task heads' own words, clips are shown whole, and the same batches come however those
    that are learnt from are joined.

    Args:
        plan: the run.
        model: the network the batches are for.
        rank, world: this process and how many there are.

    Raises:
        TruthError: a source cannot be used.
        ConfigError: two of them have the same name.
    """
    settings = JointSettings(
        parts={}, balance=0.0, canonical_share=1.0, clip_share=1.0, tries=plan.settings.tries, workers=0
    )
    scored = [
        JointSources([one], model.config, model.tokenizer, settings, rank, world, training=False)
        for one in plan.held_out
    ]
    check_names([source for joined in scored for source in joined.sources])
    return scored


def check_held_out(learnt: JointSources, scored: list[JointSources]) -> None:
    """Raise ConfigError where a held-out source shares samples with one that is learnt from.

    Bags count by themselves, so that one and the folder that it lies in share it.
    """
    for theirs in (source for joined in scored for source in joined.sources):
        for ours in learnt.sources:
            if _overlap(theirs.config.span, ours.config.span) and (what := _shared(theirs, ours)):
                raise ConfigError(
                    f"{theirs.name} is to be held out, but {ours.name} has {what} and is learnt from; take another "
                    "split, or give each a span or sequences of its own, such as [0.0, 0.9] and [0.9, 1.0]"
                )


def _shared(theirs: Source, ours: Source) -> str:
    """Return what two sources have in common, in words; '' for nothing."""
    is_same = theirs.fingerprint == ours.fingerprint
    if is_same and _overlap(theirs.config.sequences, ours.config.sequences):
        return "the same annotations"
    found = overlap(_recordings(ours), _recordings(theirs))
    return f"the same recording, {found[0]}," if found else ""


def _recordings(source: Source) -> tuple[Path, ...]:
    """Return the bags that a source is made of; () where it is made of something else."""
    config = source.config
    is_bag = config.layout in (None, BAG)
    return part_of(tuple(bags_in(Path(config.path))), config.sequences) if is_bag else ()


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _recipe(start: Recipe, changes: Any, where: str) -> Recipe:
    given = dict(named(changes, where))
    if "steps" in given:
        raise ConfigError(f"{where} has steps; they belong to the plan itself")
    if "rates" in given:
        given["rates"] = [*named(given["rates"], f"{where}: rates").items()]
    if given.get("lora") is not None and start.lora is None:
        start = replace(start, lora=LoraSettings())
    return filled(start, given, where)


def _sources(rows: Any, where: str, path: Path) -> tuple[SourceConfig, ...]:
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{where}sources is {rows!r}, expected a list of at least one")
    return tuple(_source(row, f"{where}source {number}", path) for number, row in enumerate(rows, 1))


def _source(row: Any, where: str, path: Path) -> SourceConfig:
    if "path" not in named(row, where):
        raise ConfigError(f"{where} has no path, expected that of a dataset")
    made = filled(SourceConfig(""), row, where)
    return replace(made, path=str(path.parent / made.path), media=str(path.parent / made.media) if made.media else "")


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{where} is {value!r}, expected a whole number of at least 1")
    return value

"""Fine-tuning on bags with label images: what is asked about them, and the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from x2sam_ros.bag.source import FrameSource, Problems
from x2sam_ros.checkpoint.load import config_of, load_model, weights_sha256
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.data.joint import JointSettings, JointSources
from x2sam_ros.training.data.sources import SourceConfig
from x2sam_ros.training.feed import Sources
from x2sam_ros.training.joint import JointTrainer
from x2sam_ros.training.ledger import Ledger
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.objectives import JointLoss
from x2sam_ros.training.recipe import Rates, Recipe
from x2sam_ros.training.rehearsal import (
    AS_BEFORE,
    REHEARSED,
    SCENE_PRESETS,
    Interleaved,
    KeepingLoss,
    Stream,
    generated_scenes,
)
from x2sam_ros.truth.chat import is_chat
from x2sam_ros.truth.dataset import Sequence, TrueFrame
from x2sam_ros.truth.files import overlap
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.part import held_out_part, places_within
from x2sam_ros.types import Task

BAG = "bag"
"""Layout of ground truth that is read."""

KEPT_HELD_OUT = 0.2
"""Share of ground truth that is rehearsed, its end, which is tested with instead."""

UNADAPTED_RATES: Rates = (("*", 1.0), ("language.visual.*", 0.0), ("segmentor.encoder.*", 0.1))
"""Without adapters: the language model learns too; what sees rests, but for the mask encoder."""

_LARGE = 10**9
"""Parameters from which activations are computed twice rather than kept, and masks compared at points."""

_PARTS = {"image": 1, "video": 1}
_CLIP_SHARE = 0.5  # a robot asks about one frame, a recording is shown as a clip
_TRIES = 100  # a bag may have long stretches that show nothing


@dataclass(frozen=True)
class FinetuneConfig:
    """How a network is fine-tuned.

    Args:
        steps: batches of the bags.
        learning_rate: its peak.
        batch: samples a batch of pictures; a batch of clips has a quarter of them.
        frames: frames of a clip; 1 trains on pictures alone.
        max_stride: annotated images between two frames of a clip, at most.
        held_out: share of each bag's annotated images, its last ones, that are not trained on.
        rehearsal: share of all batches that keep the network from forgetting, see `rehearsal_streams`; 0 for none. They
            come on top of ``steps``.
        lora: adapters on the language model, which rests otherwise; else it learns itself.
        bf16: multiply in bfloat16.
        seed: of everything that is drawn.
        workers: processes that read or draw ahead, for the bags and for each of what is rehearsed; 0 for none.

    Raises:
        ConfigError: a value that makes no sense.
    """

    steps: int = 400
    learning_rate: float = 3e-4
    batch: int = 8
    frames: int = 4
    max_stride: int = 4
    held_out: float = 0.2
    rehearsal: float = 0.5
    lora: bool = True
    bf16: bool = True
    seed: int = 0
    workers: int = JointSettings.workers

    @property
    def all_steps(self) -> int:
        """Batches of the bags and of what is rehearsed."""
        return round(self.steps / (1 - self.rehearsal))

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "frames": 1, "max_stride": 1, "seed": 0, "workers": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate}, expected a number above 0")
        for name in ("held_out", "rehearsal"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share from 0 to below 1")


def bag_sources(bags: Listed[Path], config: FinetuneConfig, problems: Problems, **topics: Any) -> list[SourceConfig]:
    """Return what is asked about bags with label images.

    Objects are pointed at, listed by their names, and asked for by a name that one of them has alone; each on pictures,
    and on clips where enough images are annotated. What a bag has no names for is not asked.

    Args:
        bags: bags, each with label images.
        config: how.
        problems: counts bags that end early, and images that cannot be used, up to the first that shows an object;
            training leaves them out.
        topics: ``topic`` and ``label_topic`` of all bags, where their names do not tell.

    Raises:
        TruthError: a bag has no ground truth, too few annotated images, or none that shows an object and can be used.
        ConfigError: a bag is given twice.
    """
    for number, bag in enumerate(bags):
        if twice := overlap([bag], bags[:number]):
            raise ConfigError(f"a bag is given twice: {twice[0]} and {twice[1]} share recordings; give each once")
    found: list[SourceConfig] = []
    span = (0.0, 1 - config.held_out)
    for number, bag in enumerate(bags):
        dataset = open_dataset(bag, BAG, **topics)
        places = [places_within(sequence, span) for sequence in dataset.sequences]
        if not any(places):
            raise TruthError(f"{bag} has too few annotated images to train on; annotate more, or hold out fewer")
        for sequence, own in zip(dataset.sequences, places):
            if own:
                _check_shows(sequence, own, problems)
        names = [
            [thing.category_id for thing in sequence.objects if thing.category_id is not None]
            for sequence in dataset.sequences
        ]
        tasks = [Task.OBJSEG]
        tasks += [Task.GENSEG] if any(names) else []
        tasks += [Task.REFSEG] if any(held.count(name) == 1 for held in names for name in held) else []
        shapes = [(1, config.batch)]
        if 1 < config.frames <= max(map(len, places)):
            shapes.append((config.frames, math.ceil(config.batch / 4)))
        for task in tasks:
            for frames, batch in shapes:
                kind = "pictures" if frames == 1 else "clips"
                about: dict[str, Any] = {"task": task.value, "batch": batch, "frames": frames, "span": span, **topics}
                about |= {"layout": BAG, "max_stride": config.max_stride}
                found.append(SourceConfig(str(bag), f"{number + 1} {bag.stem} {task.value} {kind}", **about))
    return found


def _check_shows(sequence: Sequence, places: Listed[int], problems: Problems) -> None:
    """Read images with their labels up to the first object, so that labels that do not fit are found early.

    Raises:
        TruthError: there is no object, or no image that can be used.
    """
    own = Problems()
    source = sequence.frames()
    if source.num_images is None:
        problems.add(f"{sequence.name} is damaged and ends early; what can be read of it is learnt from")
    found = any(truth.object_ids for truth in _truths(sequence, source, places, own))
    for line in own.lines():
        problems.add(f"{sequence.name}: {line}")
    if not found:
        reason = f", and {own.count} cannot be used: {own.messages[0]}" if own.messages else ""
        raise TruthError(
            f"{sequence.name}: no annotated image shows an object, of the {len(places)} that would be trained on"
            f"{reason}; label one"
        )


def _truths(sequence: Sequence, source: FrameSource, places: Listed[int], problems: Problems) -> Iterator[TrueFrame]:
    for frame in source.pick(set(places), problems):
        try:
            truth = sequence.truth(frame)
        except TruthError as error:
            problems.add(f"image {frame.frame_index} left out: {error}")
            continue
        if truth is not None:
            yield truth


def finetune_recipe(model: X2SAM, config: FinetuneConfig) -> Recipe:
    """Return the recipe for a network: large ones as published, small ones as nano was trained."""
    is_large = sum(parameter.numel() for parameter in model.parameters()) > _LARGE
    changes: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "bf16": config.bf16,
        "seed": config.seed,
        "activation_checkpointing": is_large,
    }
    if not is_large:
        changes["loss"] = LossConfig()
    if not config.lora:
        changes |= {"lora": None, "rates": UNADAPTED_RATES}
    return Recipe.finetune(config.all_steps, **changes)


def knows_scenes(checkpoint: str) -> bool:
    """Tell whether a checkpoint is of a network that was trained on generated scenes.

    Raises:
        ConfigError, CheckpointError: there is no such checkpoint.
    """
    return config_of(checkpoint).preset in SCENE_PRESETS


def rehearsal_sources(paths: Listed[Path], config: FinetuneConfig) -> list[SourceConfig]:
    """Return what is asked about other ground truth, or about chats: what its kind suggests, on pictures.

    The end of it is held out; see ``KEPT_HELD_OUT`` and ``held_out_part``.

    Raises:
        TruthError: one holds no ground truth, or too little to hold some of it out.
        ConfigError: one is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("what is rehearsed is given twice; give each once")
    found = []
    for number, path in enumerate(paths):
        part: dict[str, Any] = {}
        if not is_chat(path):
            dataset = open_dataset(path, training=True)
            held_out_part(dataset, KEPT_HELD_OUT, most=1)
            part["span" if len(dataset.sequences) == 1 else "sequences"] = (0.0, 1 - KEPT_HELD_OUT)
        found.append(SourceConfig(str(path), f"{number + 1} {path.stem}", batch=config.batch, **part))
    return found


def rehearsal_streams(
    model: X2SAM,
    rehearsed: Listed[SourceConfig],
    config: FinetuneConfig,
    console: Console,
    rank: int = 0,
    world: int = 1,
) -> list[Stream]:
    """Return what keeps a network from forgetting.

    Generated scenes for one that was trained on them; the ground truth that is given; and where there is neither,
    generated scenes whose answers are to stay what they were, for which no truth is needed.

    Args:
        model: the network.
        rehearsed: see ``rehearsal_sources``.
        config: how it is fine-tuned.
        console: is told what was left out.
        rank, world: this process and how many there are.
    """
    given: list[tuple[Sources, str]] = []
    if rehearsed:
        given.append((_joined(rehearsed, model, config, console, rank, world), REHEARSED))
    if not rehearsed or model.config.preset in SCENE_PRESETS:
        mark = REHEARSED if model.config.preset in SCENE_PRESETS else AS_BEFORE
        given.append((generated_scenes(model, config.seed, config.all_steps, config.workers, rank, world), mark))
    return [Stream(sources, config.rehearsal / len(given), mark) for sources, mark in given]


def _joined(
    configs: Listed[SourceConfig], model: X2SAM, config: FinetuneConfig, console: Console, rank: int, world: int
) -> JointSources:
    settings = JointSettings(
        seed=config.seed,
        epochs=config.all_steps,  # every epoch has a step at least
        parts=_PARTS,
        clip_share=_CLIP_SHARE,
        tries=_TRIES,
        workers=config.workers,
    )
    sources = JointSources(configs, model.config, model.tokenizer, settings, rank, world)
    if rank == 0:
        sources.tell(console)
    return sources


def finetune(
    checkpoint: str,
    bags: Listed[SourceConfig],
    folder: Path,
    config: FinetuneConfig,
    console: Console,
    cpu: bool = False,
    rehearsed: Listed[SourceConfig] = (),
) -> Ledger:
    """Fine-tune a checkpoint on bags; ``folder/weights`` is what the node loads, adapters worked in.

    An unfinished run in the folder goes on.

    Args:
        checkpoint: preset, folder or hub id.
        bags: what is asked about them, see ``bag_sources``.
        folder: for states, log, plot and weights.
        config: as for ``bag_sources``.
        console: shows progress.
        cpu: leave a GPU alone.
        rehearsed: other ground truth, which must not be forgotten, see ``rehearsal_sources``.

    Returns:
        What it cost, by source.

    Raises:
        TruthError, ConfigError, CheckpointError, TrainingError: as ``load_model``, `JointSources` and `JointTrainer`.
    """
    processes = PartialState(cpu=cpu)
    rank, world = processes.process_index, processes.num_processes
    model = load_model(checkpoint)
    recipe = finetune_recipe(model, config)
    sources: Sources = _joined(bags, model, config, console, rank, world)
    loss = JointLoss(model, recipe)
    if config.rehearsal:
        old = rehearsal_streams(model, rehearsed, config, console, rank, world)
        sources = Interleaved([Stream(sources, 1 - config.rehearsal), *old])
        if any(stream.mark == AS_BEFORE for stream in old):
            loss = KeepingLoss(model, recipe)
    return JointTrainer(loss, recipe, sources, folder, weights_sha256(checkpoint), cpu).run(console)

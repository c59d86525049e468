"""Teach a smaller network what a larger one sees and answers; no labels are needed, the teacher gives them.

Source: EdgeSAM (Zhou et al., 2023): the encoder's features first, then prompts in the loop, where points are added
where student and teacher differ. Its student keeps the teacher's prompt encoder, frozen, and starts from its decoder;
here the language side has the prompt encoder's place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from rich.console import Console
from torch import Tensor, nn

from x2sam_ros.checkpoint.load import build_model, read_config
from x2sam_ros.checkpoint.settings import CONFIG_FILE
from x2sam_ros.config import DistillConfig
from x2sam_ros.engine.region import NEGATIVE_RADIUS, POINT_RADIUS
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import PRESETS, X2SAMConfig, preset, to_dict
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.model.regions import draw_points
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.data.joint import JointSettings
from x2sam_ros.training.feed import SceneSource, SceneSources, SourceBatch
from x2sam_ros.training.initialise import initialise
from x2sam_ros.training.joint import JointTrainer
from x2sam_ros.training.objective import condition_error, frame_loss, frame_part, recall, relative_error, understand
from x2sam_ros.training.recipe import Rates, Recipe
from x2sam_ros.training.samples import Batch

_ENCODER = "segmentor.encoder."
_SEES: Rates = (("*", 0.0), (f"{_ENCODER}*", 1.0), ("extra_projector.*", 1.0), ("picture_projector.*", 1.0))
_ANSWERS: Rates = (*_SEES, ("segmentor.*", 1.0))
"""What learns in the two stages; the language side stays the teacher's."""


def read_student(name: str) -> X2SAMConfig:
    """Return the network of a preset, or of a folder with a config.json.

    Raises:
        CheckpointError: there is no such file, or it describes no network.
    """
    if name in PRESETS:
        return preset(name)
    if not (Path(name) / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"no student {name!r:.200}; expected {', '.join(PRESETS)}, or a folder whose {CONFIG_FILE} describes one"
        )
    return read_config(Path(name))


def distil(
    teacher: X2SAM,
    student: X2SAMConfig,
    config: DistillConfig,
    folder: Path,
    console: Console,
    bf16: bool = True,
    cpu: bool = False,
    workers: int = JointSettings.workers,
    start: str = "",
) -> None:
    """Teach a student on generated scenes and write its weights to ``folder/weights``; a stopped run goes on.

    Args:
        teacher: rests.
        student: the smaller network.
        config: the recipe.
        folder: has a folder for each stage, ``features`` and ``answers``, see `JointTrainer`.
        console: for progress.
        bf16: whether to multiply in bfloat16.
        cpu: whether to leave a GPU alone.
        workers: processes that draw scenes ahead; 0 draws them in this one.
        start: what the teacher was loaded from, for example the SHA-256 of its weights: another teacher, another run.

    Raises:
        ConfigError: see `start_student`, the folder holds another run, or clicks and prompts, which are learnt at once,
            have different learning rates.
        TrainingError: a loss is not finite; the state before is saved.
        CheckpointError: a state cannot be saved; the one before is still there.
    """
    rates = config.clicks.learning_rate, config.prompts.learning_rate
    if rates[0] != rates[1]:
        raise ConfigError(
            f"the learning rates of clicks and prompts are {rates}; they are learnt at once, give one rate"
        )
    processes = PartialState(cpu=cpu)
    rank, world = processes.process_index, processes.num_processes
    torch.manual_seed(config.seed)
    model = start_student(student, teacher)
    stages = (
        ("features", FeatureLoss(model, teacher), ("features",), _SEES),
        ("answers", PromptLoss(model, teacher, config.rounds), ("clicks", "prompts"), _ANSWERS),
    )
    for name, loss, phases, factors in stages:
        shapes = [config.phase(phase) for phase in phases]
        steps = sum(shape.steps for shape in shapes)
        recipe = Recipe(
            steps,
            factors,
            lora=None,
            learning_rate=shapes[0].learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            warmup=min(1.0, config.warmup_steps / steps),
            bf16=bf16,
            activation_checkpointing=False,
            seed=config.seed,
            checkpoint_every=config.checkpoint_every,
        )
        sources = tuple(SceneSource(phase, shape.steps) for phase, shape in zip(phases, shapes))
        scenes = SceneSources(config, student, teacher.tokenizer, sources, steps, workers, rank=rank, world=world)
        trainer = JointTrainer(loss, recipe, scenes, folder / name, start, cpu)
        trainer.run(console)
    trainer.export(folder / "weights")


def start_student(config: X2SAMConfig, teacher: X2SAM) -> X2SAM:
    """Build a student: its mask encoder and its memory have their own sizes, everything else is the teacher's.

    Weights of the teacher's size start as the teacher's; those of a mask encoder only if all of them do.

    Raises:
        ConfigError: the configuration differs elsewhere too, or the encoders' pyramids differ in width.
    """
    _check_student(config, teacher.config)
    student = build_model(config, teacher.tokenizer)
    initialise(student.segmentor)
    widths = student.segmentor.encoder.pyramid_channels, teacher.segmentor.encoder.pyramid_channels
    if widths[0] != widths[1]:
        raise ConfigError(
            f"the student's mask encoder gives maps of {widths[0]} channels, the teacher's of {widths[1]}, which the "
            "decoder reads; give the student a last layer of that width"
        )
    known = teacher.state_dict()
    fits = {name: name in known and known[name].shape == x.shape for name, x in student.state_dict().items()}
    same_encoder = all(fit for name, fit in fits.items() if name.startswith(_ENCODER))
    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            if fits[name] and (same_encoder or not name.startswith(_ENCODER)):
                tensor.copy_(known[name])
    return student


def _check_student(config: X2SAMConfig, teacher: X2SAMConfig) -> None:
    """Raise ConfigError with every setting that must be the teacher's and is not."""
    own = config.segmentor
    free = {name: getattr(own, name) for name in ("mask_encoder", "hiera", "resnet", "memory")}
    wanted = replace(teacher, segmentor=replace(teacher.segmentor, **free), preset=config.preset)
    there, here = _flat(to_dict(wanted)), _flat(to_dict(config))
    differing = [
        f"{name} is {here[name]!r}, the teacher's {there[name]!r}" for name in there if here[name] != there[name]
    ]
    if differing:
        raise ConfigError(
            f"a student differs from its teacher only in mask encoder and memory, but {'; '.join(differing)}"
        )


def _flat(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def features_read(model: X2SAM, images: ImageFeatures) -> tuple[Tensor, ...]:
    """Return all maps that the rest of a network reads of its mask encoder's features."""
    read = (*images.pyramid, model.region_maps(images.stages))
    return (*read, model.picture_maps(images.stages)) if model.config.region.picture_features else read


def feature_error(student: X2SAM, seen: ImageFeatures, teacher: X2SAM, images: ImageFeatures) -> Tensor:
    """Return the mean relative error of the maps that the rest of the network reads."""
    with torch.no_grad():
        wanted = features_read(teacher, images)
    found = features_read(student, seen)
    return torch.stack([relative_error(x, y) for x, y in zip(found, wanted)]).mean()


class FeatureLoss(nn.Module):
    """The first stage: the student's mask encoder is to see what the teacher's sees.

    Args:
        student: learns.
        teacher: rests; not registered, so that it is neither saved nor prepared with the student.
    """

    def __init__(self, student: X2SAM, teacher: X2SAM) -> None:
        super().__init__()
        self.model, self._teacher = student, [teacher]

    def forward(self, given: SourceBatch) -> dict[str, Tensor]:
        """Return the only term of a batch, whose pictures alone are read."""
        teacher = self._teacher[0].to(self.model.device)
        pixels = given.batch.pixel_values.flatten(0, 1).to(self.model.device)
        with torch.no_grad():
            images = teacher.segmentor.encode_image(pixels)
        return {"features": feature_error(self.model, self.model.segmentor.encode_image(pixels), teacher, images)}


class _Viewer:
    """A network on its way through a batch, as a session would lead it: asked on the first frame, then following."""

    def __init__(self, model: X2SAM, batch: Batch, learns: bool) -> None:
        self.model, self.batch, self.learns = model, batch, learns
        self.frames = len(batch.pixel_values)
        self.bank: list[MemoryEntry] = []
        with torch.set_grad_enabled(learns):
            self.images = model.segmentor.encode_image(batch.pixel_values.flatten(0, 1).to(model.device))
            self.pixels = model.segmentor.decode_pixels(frame_part(self.images, 0, self.frames), first=True)

    def ask(self, regions: Tensor, points: Tensor | None) -> StepOutput:
        """Answer all prompts on the first frame, with the regions and their points as given."""
        with torch.set_grad_enabled(self.learns):
            asked = replace(self.batch, regions=regions, texts=[])
            self.condition, _, _ = understand(self.model, asked, self.images, points)
            self.output = self.model.segmentor.step(self.pixels, self.condition)
            return self.output

    def follow(self, frame: int) -> StepOutput:
        """Answer on a later frame from the memory of what this network itself answered before."""
        segmentor = self.model.segmentor
        with torch.set_grad_enabled(self.learns):
            self.bank.append(segmentor.write_memory(self.pixels, self.output))
            self.pixels = segmentor.decode_pixels(frame_part(self.images, frame, self.frames), first=False)
            memory = recall(segmentor, self.bank, self.batch.strides.to(self.model.device))
            self.output = segmentor.step(self.pixels, self.condition, memory)
            return self.output

    def where(self) -> Tensor:
        """Return where anything that was asked for lies by the last answer, bool (N, h, w)."""
        output = self.output
        encoder = self.model.segmentor.memory_encoder
        soft: Tensor = encoder.fuse_masks(output.class_logits.detach().float(), output.mask_logits.detach().float())
        return soft[:, 0] > 0.5


class PromptLoss(nn.Module):
    """The second stage: the student is to answer what the teacher answers, and to remember what it remembers.

    A batch whose prompts all point at one region is asked several rounds: before each but the first, every region gets
    a point where the two masks differ (`corrected`). Any other batch is asked once and followed through its frames.

    Args:
        student: learns.
        teacher: rests; not registered.
        rounds: how often a click is asked.
    """

    def __init__(self, student: X2SAM, teacher: X2SAM, rounds: int = DistillConfig.rounds) -> None:
        super().__init__()
        self.model, self._teacher, self.rounds = student, [teacher], rounds

    def forward(self, given: SourceBatch) -> dict[str, Tensor]:
        """Return the terms of a batch; no truth of it is read."""
        batch = given.batch
        teacher = _Viewer(self._teacher[0].to(self.model.device), batch, False)
        student = _Viewer(self.model, batch, True)
        regions = batch.regions
        rounds = self.rounds if torch.equal(batch.region_rows, torch.arange(len(batch.conversations))) else 1
        masks, conditions, memories = [], [], []
        for turn in range(rounds):
            if turn:
                regions = corrected(regions, teacher.where().cpu(), student.where().cpu())
            points = draw_points(regions, self.model.config.region.num_sample_point) if len(regions) else None
            teacher.ask(regions, points)
            student.ask(regions, points)
            masks.append(_answer_error(student, teacher))
            conditions.append(condition_error(student.condition, teacher.condition))
        for frame in range(1, len(batch.pixel_values)):
            teacher.follow(frame)
            student.follow(frame)
            masks.append(_answer_error(student, teacher))
            pairs = zip(student.bank[-1].embeds, teacher.bank[-1].embeds)
            memories.append(torch.stack([relative_error(found, wanted) for found, wanted in pairs]).mean())
        terms = {
            "segmentation": torch.stack(masks).mean(),
            "condition": torch.stack(conditions).mean(),
            "features": feature_error(self.model, student.images, teacher.model, teacher.images),
        }
        return terms | ({"memory": torch.stack(memories).mean()} if memories else {})


def _answer_error(student: _Viewer, teacher: _Viewer) -> Tensor:
    """Return the loss of the student's last answer, with the teacher's as the truth."""
    labels, masks = lesson(teacher.output)
    return frame_loss(student.model, student.output, student.condition, labels, masks)


def lesson(output: StepOutput) -> tuple[Tensor, Tensor]:
    """Read an answer as if it were the truth: every query that is not background is an object.

    Returns:
        Labels int64 (N, M), -1 where a prompt has fewer objects than M, and masks float (N, M, H, W), 0 or 1.
    """
    probs, label = output.class_logits.float().softmax(-1).max(-1)
    label = label.masked_fill(label == output.class_logits.shape[-1] - 1, -1)
    probs = probs.masked_fill(label < 0, 0)
    most = max(1, int((label >= 0).sum(1).max()))
    chosen = probs.topk(most, dim=1).indices
    rows = torch.arange(len(label), device=label.device)[:, None]
    return label[rows, chosen], (output.mask_logits[rows, chosen] > 0).float()


def corrected(regions: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """Return regions after one more click each, drawn evenly from where the masks of student and teacher differ.

    It is read as a session reads it: a click that the student missed adds a disc to the region; one on what only the
    student took leaves the student's mask without a disc around it. Where the masks agree, or nothing would be left,
    the region stays.

    Args:
        regions: bool (N, H, W).
        teacher, student: bool (N, h, w), where the object lies by each.
    """
    differ = (teacher ^ student).flatten(1)
    rows = differ.any(1).nonzero().flatten()
    if not len(rows):
        return regions
    (height, width), (h, w) = regions.shape[-2:], teacher.shape[-2:]
    cell = torch.multinomial(differ[rows].float(), 1).flatten()  # on the host, whose generator the state holds
    missed = teacher.flatten(1)[rows, cell]
    y, x = (cell // w + 0.5) * (height / h), (cell % w + 0.5) * (width / w)
    far = (torch.arange(height)[None, :, None] + 0.5 - y[:, None, None]) ** 2
    far = far + (torch.arange(width)[None, None] + 0.5 - x[:, None, None]) ** 2
    own, taken = regions[rows], F.interpolate(student[rows, None].float(), (height, width))[:, 0] > 0.5
    longer = max(height, width)
    more = own | (far <= max(1.0, POINT_RADIUS * longer) ** 2)
    less = taken & (far > (NEGATIVE_RADIUS * longer) ** 2)
    less = torch.where(less.flatten(1).any(1)[:, None, None], less, own)
    clicked = regions.clone()
    clicked[rows] = torch.where(missed[:, None, None], more, less)
    return clicked

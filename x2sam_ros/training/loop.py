"""The training loop: phases one after another, resumable at any step, with a progress bar, a log and a loss plot."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from x2sam_ros.checkpoint.load import build_model, load_model, save_model, weights_sha256
from x2sam_ros.config import TrainConfig
from x2sam_ros.errors import ConfigError, plain
from x2sam_ros.model.config import X2SAMConfig, preset, to_dict
from x2sam_ros.model.tokenizer import Tokenizer, train_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.activations import attention_for
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.average import rising_average
from x2sam_ros.training.grow import grow
from x2sam_ros.training.initialise import initialise, look_in_place
from x2sam_ros.training.memory_phase import Recollection, look, memory_loss, memory_parts
from x2sam_ros.training.memory_use import memory_use, twins
from x2sam_ros.training.moment import Moment
from x2sam_ros.training.objective import batch_loss, batch_scores, words_loss
from x2sam_ros.training.prompts import task_templates
from x2sam_ros.training.run_folder import RunFolder
from x2sam_ros.training.samples import HELD_OUT_SEEDS, Batch, SceneBatches, ScenePlans, collate
from x2sam_ros.training.scenes import sample_corpus

RENDERERS = ("host", "device")
"""Where scenes are drawn: by OpenCV in the workers, or by torch where the network is."""

Item = TypeVar("Item")

_SLOTS = re.compile(r"\{\w+\}")
_SCORED_TWINS = 16
_WORKERS, _MOST_WORKERS = 2, 8  # processes that make batches: beside a network on the same cores, and beside a GPU
_AVERAGE = 0.98  # of the losses shown in the progress bar
_STATE = "state.pt"
_FREE = ("checkpoint_every",)  # settings that change no weight


class Trainer:
    """Train a network on generated scenes, from scratch or from the weights of an older one.

    Args:
        config: the recipe.
        model_config: the network.
        folder: where states, log, plot and weights go; training resumes when a state lies there.
        older: the network to start from; see `grow`.
        device: where to train.
        amp: whether to multiply in bfloat16.
        render: one of ``RENDERERS``. Both draw the same scenes with the same prompts, but for a few levels and the
            pixels on edges.
        start: what ``older`` was loaded from, for example the SHA-256 of its weights: another start, another run.

    Raises:
        ConfigError: there is no such renderer, or the folder holds a run of another configuration or of an older
            version.
        CheckpointError: the state in the folder cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        model_config: X2SAMConfig,
        folder: Path,
        device: str = "cpu",
        amp: bool = True,
        older: X2SAM | None = None,
        render: str = "host",
        start: str = "",
    ) -> None:
        if render not in RENDERERS:
            raise ConfigError(f"renderer is {render!r}, expected one of {', '.join(RENDERERS)}")
        self.folder = RunFolder(folder)
        self.folder.check(
            {
                "train": {name: value for name, value in asdict(config).items() if name not in _FREE},
                "network": to_dict(model_config),
                "start": start,
                "render": render,
                "bf16": amp,
            }
        )
        torch.manual_seed(config.seed)
        self.config, self.amp, self.render = config, amp, render
        self.device = torch.device(device)
        self.tokenizer = build_tokenizer(config, model_config)
        self.model = build_model(model_config, self.tokenizer)
        initialise(self.model.segmentor)
        if older is not None:
            grow(self.model, older)
        self.model.to(self.device)
        widths = model_config.segmentor.decoder.hidden, model_config.language.text.hidden_size
        self.heads = AuxiliaryHeads(*widths).to(self.device)
        self.average = AveragedModel(self.model, multi_avg_fn=rising_average(config.ema_decay))
        with torch.random.fork_rng(devices=[]):  # the other phases draw as if it were not there
            self.recollection = Recollection(model_config.segmentor.decoder.feature_channels).to(self.device)
        self.heads.add_module("recollection", self.recollection)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=1.0, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        self.phase, self.step = config.phases[0], 0
        self.teacher: X2SAM | None = None  # of the words phase
        if self.folder.states:
            self._resume(self.folder.states[-1])
        self.folder.cut_log(self.done)

    @property
    def done(self) -> int:
        """Steps that are done, of all phases."""
        phases = self.config.phases
        return sum(self.config.phase(name).steps for name in phases[: phases.index(self.phase)]) + self.step

    @property
    def averaged(self) -> X2SAM:
        """The network with averaged weights: what is scored and shipped."""
        module = self.average.module
        assert isinstance(module, X2SAM)
        return module

    def run(self, console: Console) -> None:
        """Train every phase that is not done, then write the averaged weights to ``folder/weights``.

        Raises:
            TrainingError: a loss is no number; the state before is saved.
            CheckpointError: a state cannot be written; the one before is still there.
        """
        for phase in self.config.phases[self.config.phases.index(self.phase) :]:
            if phase != self.phase:
                self.phase, self.step = phase, 0
            if phase == "words" and self.config.words.steps:
                self._rest_segmentor()
            if phase == "memory" and self.config.memory.steps:
                self._rest_but_memory()
            self._run_phase(console)
        self._export(self.folder.weights)
        console.print(f"weights: {plain(str(self.folder.weights))}", markup=False)

    def _rest_segmentor(self) -> None:
        """Prepare the words phase: from the averaged weights on, only the language model learns."""
        if self.step == 0:
            self._export(self._teacher_folder)
            self._start_from_average()
        with torch.random.fork_rng(devices=[]):  # a resumed run loads it once more, and draws on as if it had not
            self.teacher = load_model(self._teacher_folder, str(self.device))
        self.model.requires_grad_(False)
        for part in (self.model.language.text, self.model.language.final_norm):
            part.requires_grad_(True)

    def _rest_but_memory(self) -> None:
        """Prepare the memory phase: from the averaged weights on, only memory and mask decoder learn."""
        self.teacher = None
        if self.step == 0:
            if self.config.start_in_place:
                look_in_place(self.averaged.segmentor)
            self._start_from_average()
        self.model.requires_grad_(False)
        for part in memory_parts(self.model.segmentor):
            part.requires_grad_(True)

    def _start_from_average(self) -> None:
        """Go on from the averaged weights, and average anew."""
        self.model.load_state_dict(self.averaged.state_dict())
        self.average.n_averaged.zero_()

    @property
    def _teacher_folder(self) -> Path:
        """The network before the words phase, which a resumed run needs too."""
        return self.folder.path / "before_words"

    def _run_phase(self, console: Console) -> None:
        settings = self.config.phase(self.phase)
        progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        shown: float | None = None
        with progress:
            task = progress.add_task(self.phase, total=settings.steps, completed=self.step)
            for batch, waited in timed(self._batches()):
                started = time.monotonic()
                entry = self._train_step(batch, self._learning_rate(settings.learning_rate, settings.steps))
                self.step += 1
                entry |= {"phase": self.phase, "step": self.done}
                entry |= {"seconds": round(time.monotonic() - started, 3), "waiting": round(waited, 3)}
                if self.step % self.config.score_every == 0 and self.phase != "pixels":
                    entry |= self._score()
                self.folder.note(entry)
                shown = entry["loss"] if shown is None else _AVERAGE * shown + (1 - _AVERAGE) * entry["loss"]
                progress.update(task, completed=self.step, description=f"{self.phase} loss {shown:.3f}")
                if self.step % self.config.checkpoint_every == 0 or self.step == settings.steps:
                    self.save()
        self.folder.plot()
        if self.folder.log.exists():  # a phase may have no step
            self._tell_waiting(console)

    def _tell_waiting(self, console: Console) -> None:
        """Say which share of the phase's steps went by without a batch."""
        rows = [json.loads(line) for line in self.folder.log.read_text(encoding="utf-8").splitlines()]
        times = [(row["waiting"], row["seconds"]) for row in rows if row["phase"] == self.phase and "waiting" in row]
        if times:
            waited, trained = (sum(column) for column in zip(*times))
            console.print(f"{self.phase}: {waited / max(waited + trained, 1e-9):.1%} of the time waiting for batches")

    def _batches(self) -> Iterator[Batch]:
        data = self._scenes
        workers = _WORKERS if self.device.type == "cpu" else min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        # Workers choose, and on the host draw, while this process multiplies; batches depend on their number alone.
        # Without a generator of its own the loader would draw from the global one, and a resumed run would differ
        # from an uninterrupted one.
        made: Dataset[Any] = data if self.render == "host" else ScenePlans(data)
        loader = DataLoader(made, batch_size=None, num_workers=workers, prefetch_factor=4, generator=torch.Generator())
        for item in loader:
            yield item if self.render == "host" else collate(item.to(self.device), self.model.config)

    @property
    def _scenes(self) -> SceneBatches:
        """The batches of this phase that are still to come."""
        steps = self.config.phase(self.phase).steps
        return SceneBatches(self.config, self.model.config, self.tokenizer, self.phase, self.step, steps)

    def _learning_rate(self, peak: float, steps: int) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup_steps)
        return peak * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * self.step / steps)))

    def _train_step(self, batch: Batch, rate: float) -> dict[str, Any]:
        moment = Moment(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        if self.teacher is not None or self.phase == "memory":
            self.model.segmentor.eval()  # its running statistics rest too
        amp = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)
        with amp, attention_for(self.device):
            if self.phase == "memory":
                progress = self.step / self.config.memory.steps
                losses = memory_loss(self.model, look(self.model, batch), self.config, progress, self.recollection)
            elif self.teacher is None:
                losses = batch_loss(self.model, self.heads, batch, self.phase, self.config)
            else:
                progress = self.step / self.config.words.steps
                losses = words_loss(self.model, self.teacher, batch, self.config, progress)
        loss = torch.stack([term.float() for term in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        values = {name: term.item() for name, term in {"loss": loss, **losses, "norm": norm}.items()}
        self.folder.stop_if_not_finite(
            self.done + 1,
            values,
            self._name_of_batch,
            lambda: self._step_back(moment),
            self._export,
            "with another seed and without the phases that are done",
        )
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return {name: value if name == "norm" else round(value, 4) for name, value in values.items()}

    def _name_of_batch(self) -> str:
        """Return what the step at hand learns from, in words."""
        seeds = ", ".join(map(str, self._scenes.plan(0).seeds))
        return f"{self.phase} {self.step}, scenes of the seeds {seeds}"

    def _step_back(self, moment: Moment) -> Path:
        """Save the state before a step that was begun."""
        moment.restore()
        self.optimizer.zero_grad(set_to_none=True)
        return self.save()

    def _score(self) -> dict[str, float]:
        """Return the averaged weights' mean IoU and share of exact answers on held-out seeds."""
        config = TrainConfig(seed=self.config.seed + 1_000, image=self.config.image)
        data = SceneBatches(config, self.model.config, self.tokenizer, "image", 0, 4, HELD_OUT_SEEDS)
        model = self.averaged.eval()
        ious, exact = zip(*(batch_scores(model, data[i]) for i in range(4)))
        extra = {}
        if self.phase == "memory":
            pairs = twins(_SCORED_TWINS, model.config, self.tokenizer)
            gains = torch.cat([memory_use(model, batch).gain() for batch in pairs])
            extra = {"memory gain": gains.nanmean()}
        scores = extra | {"score": torch.cat(ious).mean(), "answers": torch.cat(exact).float().mean()}
        return {name: round(float(value), 4) for name, value in scores.items()}

    def save(self) -> Path:
        """Save the state, from which another trainer goes on to the bit."""
        return self.folder.save(self.done, self._write)

    def _write(self, folder: Path) -> None:
        state = {
            "phase": self.phase,
            "step": self.step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, folder / _STATE)

    def _export(self, folder: Path) -> None:
        """Write the network with averaged weights as a checkpoint folder."""
        with self.folder.writing(f"write {folder}"):
            save_model(self.averaged, folder)

    def _resume(self, folder: Path) -> None:
        with self.folder.resuming(folder):
            state = torch.load(folder / _STATE, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.phase, self.step = state["phase"], state["step"]
            torch.set_rng_state(state["rng"].cpu())


def timed(items: Iterable[Item]) -> Iterator[tuple[Item, float]]:
    """Yield items, each with the seconds that it was waited for."""
    started = time.monotonic()
    for item in items:
        yield item, time.monotonic() - started
        started = time.monotonic()


def build_tokenizer(config: TrainConfig, model_config: X2SAMConfig) -> Tokenizer:
    """Learn the small tokenizer from the generator's own sentences and the wording of the tasks."""
    templates = task_templates(model_config.language.templates).values()
    wording = sorted({_SLOTS.sub("", template.question) for template in templates} | {"<1.0 seconds>"})
    corpus = [*wording, "user\n", "assistant\n", *sample_corpus(config.tokenizer_sentences, config.seed)]
    return train_tokenizer(corpus, model_config.language.text.vocab_size)


def train_preset(
    name: str, config: TrainConfig, folder: Path, device: str, amp: bool, weights: str, render: str, console: Console
) -> None:
    """Train the network of a preset; ``weights`` names the checkpoint to start from, or is empty; see `Trainer`."""
    older, start = (load_model(weights), weights_sha256(weights)) if weights else (None, "")
    Trainer(config, preset(name), folder, device, amp, older, render, start).run(console)

"""The training loop: phases one after another, resumable at any step, with a progress bar, a log and a loss plot."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from x2sam_ros.checkpoint.load import build_model, load_model, save_model
from x2sam_ros.config import TrainConfig
from x2sam_ros.errors import CheckpointError
from x2sam_ros.model.config import X2SAMConfig, preset
from x2sam_ros.model.tokenizer import Tokenizer, train_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.grow import grow
from x2sam_ros.training.initialise import initialise
from x2sam_ros.training.objective import batch_loss, batch_scores, words_loss
from x2sam_ros.training.plot import plot_losses
from x2sam_ros.training.prompts import task_templates
from x2sam_ros.training.samples import HELD_OUT_SEEDS, Batch, SceneBatches
from x2sam_ros.training.scenes import sample_corpus

_SLOTS = re.compile(r"\{\w+\}")
_AVERAGE = 0.98  # of the losses shown in the progress bar


class Trainer:
    """Train a network on generated scenes, from scratch or from the weights of an older one.

    Args:
        config: the recipe.
        model_config: the network.
        folder: where state, log and plot go; training resumes when a state lies there.
        older: the network to start from; see `grow`.
        device: where to train.
        amp: whether to multiply in bfloat16.
    """

    def __init__(
        self,
        config: TrainConfig,
        model_config: X2SAMConfig,
        folder: Path,
        device: str = "cpu",
        amp: bool = True,
        older: X2SAM | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.amp = config, folder, amp
        self.device = torch.device(device)
        self.tokenizer = build_tokenizer(config, model_config)
        self.model = build_model(model_config, self.tokenizer)
        initialise(self.model.segmentor)
        if older is not None:
            grow(self.model, older)
        self.model.to(self.device)
        widths = model_config.segmentor.decoder.hidden, model_config.language.text.hidden_size
        self.heads = AuxiliaryHeads(*widths).to(self.device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=1.0, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        self.phase, self.step = config.phases[0], 0
        self.teacher: X2SAM | None = None  # of the last phase
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.state_path.exists():
            self._resume()

    @property
    def state_path(self) -> Path:
        """The file training resumes from."""
        return self.folder / "state.pt"

    @property
    def averaged(self) -> X2SAM:
        """The network with averaged weights: what is scored and shipped."""
        module = self.average.module
        assert isinstance(module, X2SAM)
        return module

    def run(self, console: Console) -> None:
        """Train every phase that is not done, then write the averaged weights to ``folder/weights``."""
        for phase in self.config.phases[self.config.phases.index(self.phase) :]:
            if phase != self.phase:
                self.phase, self.step = phase, 0
            if phase == "words" and self.config.words.steps:
                self._rest_segmentor()
            self._run_phase(console)
        save_model(self.averaged, self.folder / "weights")
        console.print(f"weights: {self.folder / 'weights'}")

    def _rest_segmentor(self) -> None:
        """Prepare the last phase: from the averaged weights on, only the language model learns."""
        if self.step == 0:
            save_model(self.averaged, self._teacher_folder)
            self.model.load_state_dict(self.averaged.state_dict())
        with torch.random.fork_rng(devices=[]):  # a resumed run loads it once more, and draws on as if it had not
            self.teacher = load_model(self._teacher_folder, str(self.device))
        self.model.requires_grad_(False)
        for part in (self.model.language.text, self.model.language.final_norm):
            part.requires_grad_(True)

    @property
    def _teacher_folder(self) -> Path:
        """The network before the last phase, which a resumed run needs too."""
        return self.folder / "before_words"

    def _run_phase(self, console: Console) -> None:
        settings = self.config.phase(self.phase)
        progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        shown: float | None = None
        with progress, (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            task = progress.add_task(self.phase, total=settings.steps, completed=self.step)
            for batch in self._batches():
                started = time.monotonic()
                entry = self._train_step(batch, self._learning_rate(settings.learning_rate, settings.steps))
                self.step += 1
                entry |= {"phase": self.phase, "step": self.step, "seconds": round(time.monotonic() - started, 3)}
                if self.step % self.config.score_every == 0 and self.phase != "pixels":
                    entry |= self._score()
                log.write(json.dumps(entry) + "\n")
                log.flush()
                shown = entry["loss"] if shown is None else _AVERAGE * shown + (1 - _AVERAGE) * entry["loss"]
                progress.update(task, completed=self.step, description=f"{self.phase} loss {shown:.3f}")
                if self.step % self.config.checkpoint_every == 0 or self.step == settings.steps:
                    self._save()
        if (self.folder / "log.jsonl").stat().st_size:  # a phase may have no step
            plot_losses(self.folder / "log.jsonl", self.folder / "loss.png")

    def _batches(self) -> Iterator[Batch]:
        steps = self.config.phase(self.phase).steps
        data = SceneBatches(self.config, self.model.config, self.tokenizer, self.phase, self.step, steps)
        # Workers render while this process multiplies; batches depend on their number alone. Without a generator of
        # its own the loader would draw from the global one, and a resumed run would differ from an uninterrupted one.
        yield from DataLoader(data, batch_size=None, num_workers=2, prefetch_factor=4, generator=torch.Generator())

    def _learning_rate(self, peak: float, steps: int) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup_steps)
        return peak * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * self.step / steps)))

    def _train_step(self, batch: Batch, rate: float) -> dict[str, Any]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        if self.teacher is not None:
            self.model.segmentor.eval()  # its running statistics rest too
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            if self.teacher is None:
                losses = batch_loss(self.model, self.heads, batch, self.phase, self.config)
            else:
                progress = self.step / self.config.words.steps
                losses = words_loss(self.model, self.teacher, batch, self.config, progress)
        loss = torch.stack([term.float() for term in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        if not torch.isfinite(norm):
            raise CheckpointError(
                f"loss is not finite at {self.phase} step {self.step} ({loss.item()}); "
                f"the last good state is {self.state_path}; resume with a lower learning rate"
            )
        self.optimizer.step()
        self.average.update_parameters(self.model)
        terms = {"loss": loss, **losses}
        return {**{name: round(term.item(), 4) for name, term in terms.items()}, "norm": float(norm)}

    def _score(self) -> dict[str, float]:
        """Return the averaged weights' mean IoU and share of exact answers on held-out seeds."""
        config = TrainConfig(seed=self.config.seed + 1_000, image=self.config.image)
        data = SceneBatches(config, self.model.config, self.tokenizer, "image", 0, 4, HELD_OUT_SEEDS)
        model = self.averaged.eval()
        ious, exact = zip(*(batch_scores(model, data[i]) for i in range(4)))
        scores = {"score": torch.cat(ious).mean(), "answers": torch.cat(exact).float().mean()}
        return {name: round(float(value), 4) for name, value in scores.items()}

    def _save(self) -> None:
        state = {
            "phase": self.phase,
            "step": self.step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)  # a full disk or a power cut leaves the last good state

    def _resume(self) -> None:
        try:
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # torch raises many kinds for a damaged file, or one of another network
            raise CheckpointError(
                f"cannot resume from {self.state_path}: {error}; delete the file to start anew"
            ) from error
        self.phase, self.step = state["phase"], state["step"]
        torch.set_rng_state(state["rng"].cpu())
        self._cut_log()

    def _cut_log(self) -> None:
        """Drop the log's lines of steps after the saved state: they are done again."""
        log = self.folder / "log.jsonl"
        if not log.exists():
            return
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]  # a killed run may leave half a line
        kept = [line for line, entry in zip(lines, entries) if not self._comes(entry["phase"], entry["step"])]
        log.write_text("".join(kept), encoding="utf-8")

    def _comes(self, phase: str, step: int) -> bool:
        """Return whether a step of the log is still ahead; a phase that the recipe does not have is past."""
        phases = self.config.phases
        return phase in phases and (phases.index(phase), step) > (phases.index(self.phase), self.step)


def build_tokenizer(config: TrainConfig, model_config: X2SAMConfig) -> Tokenizer:
    """Learn the small tokenizer from the generator's own sentences and the wording of the tasks."""
    templates = task_templates(model_config.language.templates).values()
    wording = sorted({_SLOTS.sub("", template.question) for template in templates} | {"<1.0 seconds>"})
    corpus = [*wording, "user\n", "assistant\n", *sample_corpus(config.tokenizer_sentences, config.seed)]
    return train_tokenizer(corpus, model_config.language.text.vocab_size)


def train_preset(
    name: str, config: TrainConfig, folder: Path, device: str, amp: bool, weights: str, console: Console
) -> None:
    """Train the network of a preset; ``weights`` names the checkpoint to start from, or is empty; see `Trainer`."""
    older = load_model(weights) if weights else None
    Trainer(config, preset(name), folder, device, amp, older).run(console)

"""Joint training on many sources: one run, one process or several, resumable to the bit.

Processes, devices, DDP and FSDP are accelerate's, by its own configuration: ``accelerate launch``, or one process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import RNG_STATE_NAME, DistributedType, gather_object, load, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from x2sam_ros.bag.source import Problems
from x2sam_ros.checkpoint.load import save_checkpoint
from x2sam_ros.errors import ConfigError, TrainingError, X2SamError, plain, told
from x2sam_ros.model.config import to_dict
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.activations import attention_for, checkpoint_activations
from x2sam_ros.training.average import WeightAverage
from x2sam_ros.training.feed import SourceBatch, Sources
from x2sam_ros.training.held_out import HeldOut
from x2sam_ros.training.ledger import HELD_OUT, Ledger
from x2sam_ros.training.lora import adapt, merged_state
from x2sam_ros.training.moment import Moment, batch_norms, generators
from x2sam_ros.training.recipe import Recipe
from x2sam_ros.training.run_folder import RunFolder

_MODEL = "model."
_PROGRESS = "progress.json"
_HALF = {"bfloat16", "float16"}


class JointTrainer:
    """Train a network by a recipe, from where its folder was left.

    What rests keeps its type and is not part of the saved states; what learns is kept in float32.

    Args:
        loss: a module with the network as ``model`` that turns a `SourceBatch` into the terms of its loss; the network
            is changed in place. See `objectives.JointLoss`.
        recipe: what learns, and how.
        sources: what it learns from.
        folder: for states, log, plot, TensorBoard files and weights.
        start: what the network was loaded from, for example the SHA-256 of its weights: another start, another run.
        cpu: whether to leave a GPU alone.
        held_out: what the network is scored on meanwhile; None: nothing.

    Raises:
        ConfigError: nothing learns, the types of what rests do not go with the recipe or the device, or the folder
            holds a run of another configuration or of an older version.
        CheckpointError: the state in the folder cannot be read.
    """

    def __init__(
        self,
        loss: nn.Module,
        recipe: Recipe,
        sources: Sources,
        folder: Path,
        start: str = "",
        cpu: bool = False,
        held_out: HeldOut | None = None,
    ) -> None:
        self.recipe, self.sources, self.held_out, self.step = recipe, sources, held_out, 0
        assert isinstance(loss.model, X2SAM)
        self.model = loss.model
        self.accelerator = Accelerator(
            cpu=cpu,
            log_with="tensorboard",
            project_dir=folder,
            # a picture has no use for the memory, a chat none for the segmentor
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        set_seed(recipe.seed)
        kind = type(loss).__name__  # sharding gives it another
        groups = prepare(loss, recipe)
        types = _resting_types(loss)
        _check_types(types, recipe.bf16, self.accelerator.device)
        if self.accelerator.distributed_type == DistributedType.FSDP:
            for parameter in loss.parameters():
                parameter.data = parameter.data.contiguous()  # kernels lie in another order, which cannot be sharded
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)
        self._learning = frozenset(name for name, p in loss.named_parameters() if p.requires_grad)
        self.module, self.optimizer = self.accelerator.prepare(loss, optimizer)
        self.average = WeightAverage(self.module.parameters(), recipe.average)
        self.accelerator.register_save_state_pre_hook(self._leave_out_what_rests)
        self.ledger = Ledger(self.accelerator.device.type)
        self.folder = RunFolder(folder, self.accelerator.is_main_process, self._all_well)
        self.folder.check(
            {
                "recipe": recipe.describe(),
                "network": to_dict(self.model.config),
                "loss": kind,
                "sources": sources.describe(),
                "held_out": None if held_out is None else held_out.describe(),
                "start": start,
                "dtype": types,
                "processes": self.accelerator.num_processes,
            }
        )
        set_seed(recipe.seed, device_specific=True)
        if self.folder.states:
            self._resume(self.folder.states[-1])
        with self._together():
            if self.accelerator.is_main_process:
                self.folder.cut_log(self.step)

    def run(self, console: Console) -> Ledger:
        """Train to the last step, then write the weights to ``weights`` in the folder.

        What follows stops all processes, whichever meets it. One that ends otherwise, because it is out of memory or
        cannot write the log, leaves the last saved state, and ending the others is up to what launched them.

        Returns:
            What it cost and saw.

        Raises:
            TrainingError: a loss is no number, or the sources end too early; the state before is saved.
            TruthError: samples cannot be read; the state before is saved, but where they are held out, before a step.
            CheckpointError: a state cannot be written; the one before is still there.
        """
        main = self.accelerator.is_main_process
        purge = {"tensorboard": {"purge_step": self.step + 1}}
        self.accelerator.init_trackers("tensorboard", init_kwargs=purge)
        name = TextColumn("{task.description}", markup=False)
        columns = name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        batches, left_out = iter(self.sources), Problems()
        with self._together():
            _tell(self.held_out.problems if self.held_out else (), left_out, console)
        with Progress(*columns, console=console, disable=not main) as progress:
            task = progress.add_task("training", total=self.recipe.steps, completed=self.step)
            while self.step < self.recipe.steps:
                row, problems = self._one_step(batches)
                if self.step % self.recipe.score_every == 0 or self.step == self.recipe.steps:
                    row |= self._scores()
                _tell(problems, left_out, progress.console)
                self._log(row)
                shown = f"{plain(row['source'])} {row['loss']:.3f}"
                progress.update(task, completed=self.step, description=shown)
                if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.steps:
                    self.save()
        self.export(self.folder.weights)
        if main:
            self.folder.plot()
        with self.folder.writing("end the log"):
            self.accelerator.end_training()
        for line in left_out.lines()[len(left_out.messages) :]:  # how many were only counted
            console.print(line)
        if main:
            console.print(self.ledger.table())
        return self.ledger

    def save(self) -> Path:
        """Save the state, from which another trainer goes on to the bit."""
        return self.folder.save(self.step, self._write, self.recipe.keep_states)

    def export(self, folder: Path) -> None:
        """Write the network, its averaged weights if there are, as a checkpoint folder, adapters worked in."""
        with self._together(), self.average.in_place(), self.folder.writing(f"write {folder}"):
            state = self.accelerator.get_state_dict(self.module)
            if self.accelerator.is_main_process:
                own = {name.removeprefix(_MODEL): x for name, x in state.items() if name.startswith(_MODEL)}
                scale = self.recipe.lora.scale if self.recipe.lora else 0.0
                save_checkpoint(self.model.config, merged_state(own, scale), self.model.tokenizer, folder)

    def _one_step(self, batches: Iterator[SourceBatch]) -> tuple[dict[str, Any], list[str]]:
        """Take one step of the optimiser; return its row of the log and what is to be said about its batches."""
        position, moment = self.sources.state(), Moment(self.module)
        started, processor = time.monotonic(), time.process_time()
        given = self._window(batches, moment, position)
        waited = time.monotonic() - started
        self._set_mode()
        found = [self._learn(item, len(given), last=item is given[-1]) for item in given]
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.clip_norm))
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()  # of all shards
        names = sorted({name for terms in found for name in terms})
        terms = [sum(terms.get(name, norm.new_zeros(())) for terms in found) / len(given) for name in names]
        local = torch.stack([*map(torch.as_tensor, terms), norm.float()])
        values = self.accelerator.reduce(local, "mean").tolist()  # of all processes, so that all stop or none does
        self.folder.stop_if_not_finite(
            self.step + 1,
            dict(zip([*names, "norm"], values)),
            lambda: "; ".join(gather_object([f"{item.source}: {', '.join(item.names)}" for item in given])),
            lambda: self._step_back(moment, position),
            self.export,
            "without these samples or with a lower learning rate",
        )
        rate = self.recipe.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.average.update()
        self.optimizer.zero_grad()
        self.step += 1
        source, seconds = given[0].source, time.monotonic() - started
        samples = sum(len(item.names) for item in given), sum(_frames(item) for item in given)
        self._count(source, *samples, seconds, waited, time.process_time() - processor)
        row = {name: round(value, 4) for name, value in zip([*names, "norm"], values)}
        row |= {"step": self.step, "source": source, "rate": rate}
        row |= {"seconds": round(seconds, 3), "waiting": round(waited, 3)}
        return row, [problem for item in given for problem in item.problems]

    def _window(self, batches: Iterator[SourceBatch], moment: Moment, position: Any) -> list[SourceBatch]:
        """Return the batches of one step; where a process has none, save the state before it and stop all."""
        given: list[SourceBatch] = []
        with self._together(lambda: self._step_back(moment, position)):
            while not given or len(given) < self.sources.parts_of(given[0].source):
                item = next(batches, None)
                if item is None:
                    raise TrainingError(
                        f"the sources end after {self.step} of {self.recipe.steps} steps; "
                        "give them more rounds, or the recipe fewer steps"
                    )
                if given and item.source != given[0].source:
                    parts = self.sources.parts_of(given[0].source)
                    raise TrainingError(
                        f"step {self.step + 1} needs {parts} batches of {given[0].source} in a row, "
                        f"number {len(given) + 1} is of {item.source}; the sampler must keep them together"
                    )
                given.append(item)
        return given

    @contextmanager
    def _together(self, first: Callable[[], object] | None = None) -> Iterator[None]:
        """Have what stops one process meanwhile stop all of them; ``first`` is called by all before they stop.

        What all processes do together must come first meanwhile, or fail in all.

        Raises:
            X2SamError: what stopped this process, or else what stopped another one.
        """
        failure: X2SamError | None = None
        try:
            yield
        except X2SamError as error:
            failure = error
        if not self._all_well(failure is None):
            said = "; ".join(filter(None, gather_object(["" if failure is None else str(failure)])))
            if first is not None:
                with self.folder.after(said):
                    first()
            raise failure or TrainingError(f"another process stopped: {said}")

    def _all_well(self, here: bool) -> bool:
        """Return whether all is well in all processes, once all have said whether it is."""
        failed = torch.tensor(float(not here), device=self.accelerator.device)
        return float(self.accelerator.reduce(failed, "sum")) == 0

    def _learn(self, item: SourceBatch, parts: int, last: bool) -> dict[str, Tensor]:
        """Add the gradient of a batch, one of ``parts`` of its step; return the terms of its loss, and the loss."""
        device = self.accelerator.device
        amp = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.recipe.bf16)
        # gradients are exchanged once a step; what is computed again in the backward pass must be computed alike
        with nullcontext() if last else self.accelerator.no_sync(self.module), attention_for(device):
            with amp:
                terms = {name: term.float() for name, term in self.module(item).items()}
            loss = torch.stack(list(terms.values())).sum()
            self.accelerator.backward(loss / parts)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _scores(self) -> dict[str, float]:
        """Score the network on what is held out; training draws on as if it had not been."""
        if self.held_out is None:
            return {}
        started, processor, device = time.monotonic(), time.process_time(), self.accelerator.device
        self.module.eval()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), self.average.in_place():
            torch.manual_seed(self.recipe.seed)
            found = self.held_out.score(self.module, self.accelerator, self.recipe.bf16)
        self._count(HELD_OUT, 0, 0, time.monotonic() - started, 0.0, time.process_time() - processor, steps=0)
        return found

    def _count(self, source: str, *counts: float, steps: int = 1) -> None:
        """Add to the ledger what all processes together saw and took."""
        local = torch.tensor(counts, dtype=torch.float64, device=self.accelerator.device)
        samples, frames, seconds, waiting, worked = self.accelerator.reduce(local, "sum").tolist()
        self.ledger.add(source, int(samples), int(frames), seconds, waiting, worked, steps)

    def _set_mode(self) -> None:
        self.module.train()
        for norm in batch_norms(self.module):
            if norm.weight is not None and not norm.weight.requires_grad:
                norm.eval()  # its running statistics rest too

    def _step_back(self, moment: Moment, position: Any) -> Path:
        """Save the state before a step that was begun."""
        moment.restore()
        self.optimizer.zero_grad()
        self.sources.restore(position)
        return self.save()

    def _log(self, row: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        numbers[f"loss/{row['source']}"] = row["loss"]
        self.folder.note(row)
        with self.folder.writing("write the log"):
            self.accelerator.log(numbers, step=self.step)

    def _write(self, folder: Path) -> None:
        self.accelerator.save_state(str(folder))
        self.average.save(self._average_in(folder))
        if self.accelerator.is_main_process:
            progress = {"step": self.step, "sources": self.sources.state(), "accounts": self.ledger.state()}
            (folder / _PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")

    def _average_in(self, folder: Path) -> Path:
        """Return this process's file of averages in a state."""
        return folder / f"average-{self.accelerator.process_index}.pt"

    def _leave_out_what_rests(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        """Keep what learns and all buffers; not called under FSDP, which saves shards."""
        kept = self._learning | {name for name, _ in self.accelerator.unwrap_model(self.module).named_buffers()}
        for state in weights:
            for name in [name for name in state if name.removeprefix("module.") not in kept]:
                del state[name]

    def _resume(self, state: Path) -> None:
        with self._together(), self.folder.resuming(state):
            progress = json.loads((state / _PROGRESS).read_text(encoding="utf-8"))
            drawn = _random_states(state / f"{RNG_STATE_NAME}_{self.accelerator.process_index}.pkl")
        with self._together(), self.folder.resuming(state):
            self.accelerator.load_state(str(state), strict=False)  # what rests is not in it
            if not all(map(torch.equal, generators(), drawn)):
                raise ValueError(f"the random states of process {self.accelerator.process_index} were not restored")
            self.average.load(self._average_in(state))
            self.step = int(progress["step"])
            self.sources.restore(progress["sources"])
            self.ledger.restore(progress["accounts"])


def prepare(loss: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Make the network of ``loss`` ready to learn by a recipe, in place.

    Returns:
        Groups of parameters for an optimiser, by ``factor`` of the learning rate.

    Raises:
        ConfigError: nothing learns.
    """
    model = loss.model
    assert isinstance(model, X2SAM)
    if recipe.lora is not None:
        adapt(model, recipe.lora)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in loss.named_parameters():
        factor = recipe.factor(name.removeprefix(_MODEL))
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            parameter.data = parameter.data.to(torch.float32, copy=True)  # it may be mapped from a file
            groups.setdefault(factor, []).append(parameter)
    if not groups:
        raise ConfigError(f"nothing learns: no parameter's name fits a pattern above 0 of {recipe.rates}")
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def _resting_types(loss: nn.Module) -> list[str]:
    """Return the types of the weights that do not learn, in words."""
    return sorted({str(p.dtype).removeprefix("torch.") for p in loss.parameters() if not p.requires_grad})


def _check_types(types: list[str], bf16: bool, device: torch.device) -> None:
    """Raise ConfigError where weights that rest cannot be multiplied with what learns."""
    if device.type == "cpu" and "float16" in types:
        raise ConfigError(
            "the weights that rest are float16, which a CPU cannot train with; load them with dtype bfloat16 or float32"
        )
    if not bf16 and _HALF & {*types}:
        raise ConfigError(
            f"the weights that rest are {' and '.join(types)}, but with bf16: false all is multiplied in float32; load "
            "them with dtype float32, or set bf16: true"
        )


def _random_states(file: Path) -> list[Tensor]:
    """Return the states of torch's random generators in a file; accelerate goes on without those that it cannot read.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        found = load(file)
        return [found["torch_manual_seed"], *found.get("torch_cuda_manual_seed", ())]
    except Exception as error:  # many kinds, for a damaged file
        raise ValueError(f"{file.name} cannot be read ({told(error)})") from error


def _tell(problems: Iterable[str], left_out: Problems, console: Console) -> None:
    """Print problems, each once, for a damaged sample is drawn again and again; after the first ones count them."""
    for problem in problems:
        if problem not in left_out.messages:
            kept = len(left_out.messages)
            left_out.add(problem)
            if len(left_out.messages) > kept:
                console.print(plain(problem), markup=False)


def _frames(item: SourceBatch) -> int:
    return len(item.names) * len(item.batch.pixel_values)

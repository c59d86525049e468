"""Run cells sequence by sequence, score each at once, and go on where an interrupted run stopped."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Listed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import x2sam_ros
from x2sam_ros.errors import ConfigError, TruthError, X2SamError, described
from x2sam_ros.evaluation.hardware import hardware
from x2sam_ros.evaluation.methods import Method
from x2sam_ros.evaluation.plan import CellPlan, Shelf, check_truth
from x2sam_ros.evaluation.predictions import SequencePredictions, read_predictions, write_predictions
from x2sam_ros.evaluation.results import CellResult, Results, SequenceResult
from x2sam_ros.evaluation.results_file import sequence_result_from_json, sequence_result_to_json, write_results
from x2sam_ros.evaluation.scoring import combine, score_sequence
from x2sam_ros.evaluation.whole_file import write_whole

RESULTS_FILE, SETTINGS_FILE, TRUTH_FILE = "results.json", "settings.json", "truth.json"
MAX_DIFFERENCES = 8
"""Settings that a refusal names."""


class Job(NamedTuple):
    """One sequence of one cell, and what was answered on it where that is known already."""

    plan: int
    sequence: str
    predictions: SequencePredictions | None = None


class Outcome(NamedTuple):
    """What became of a job.

    ``predictions`` are None where the method failed. ``result`` has an error where anything did; ``may_pass`` says that
    it was no fault of the data or the settings.
    """

    job: Job
    predictions: SequencePredictions | None
    result: SequenceResult
    may_pass: bool = False


@dataclass(frozen=True)
class Watch:
    """Who is told how a run gets on.

    Args:
        starts: a sequence begins; only where this process runs it.
        frame: a frame of it is answered.
        ends: a sequence is through; with True where an earlier run had done it.
    """

    starts: Callable[[CellPlan, str], None] = lambda plan, sequence: None
    frame: Callable[[], None] = lambda: None
    ends: Callable[[CellPlan, SequenceResult, bool], None] = lambda plan, result, resumed: None


class Pool(Protocol):
    """What carries jobs out in other processes (ray_pool.py)."""

    def run(self, plans: Listed[CellPlan], jobs: Listed[Job]) -> Iterator[Outcome]:
        """Yield the outcome of every job, in any order."""


class Worker:
    """What a process needs to carry jobs out: the plans, and the model and method that are open.

    Args:
        plans: the cells.
    """

    def __init__(self, plans: Listed[CellPlan]) -> None:
        self._plans, self._shelf = plans, Shelf()
        self._open = ExitStack()
        self._opened: tuple[int, Method] | None = None

    def __enter__(self) -> Worker:
        """Return itself; the method that is open is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the method that is open."""
        self._open.close()

    def run(self, job: Job, on_frame: Callable[[], None] = lambda: None) -> Outcome:
        """Answer a sequence, unless that was done, and score it; what goes wrong with it is its result's error.

        Raises:
            X2SamError: the method cannot be opened, for any sequence.
        """
        plan, predictions = self._plans[job.plan], job.predictions
        method = self._method(job.plan) if predictions is None else None
        try:
            dataset, sequence = plan.dataset, plan.dataset.sequence(job.sequence)
            if method is not None:
                predictions = method.run(sequence, plan.prompts(sequence), on_frame)
            if predictions is None:
                raise ConfigError("nothing was answered")
            result = score_sequence(sequence, dataset, predictions, official_quirks=plan.official_quirks)
            return Outcome(job, predictions, result)
        except Exception as error:  # one sequence never ends the run, whatever is wrong with it
            may_pass = not isinstance(error, X2SamError)
            return Outcome(job, predictions, SequenceResult(job.sequence, error=described(error)), may_pass)

    def _method(self, index: int) -> Method:
        if self._opened is None or self._opened[0] != index:
            self._opened = None
            self._open.close()
            plan = self._plans[index]
            self._opened = index, self._open.enter_context(plan.opener.open(plan.dataset, self._shelf))
        return self._opened[1]


def run_cells(
    plans: Listed[CellPlan],
    out: Path,
    *,
    overwrite: bool = False,
    pool: Pool | None = None,
    watch: Watch | None = None,
) -> Results:
    """Run cells and write ``results.json``.

    A sequence whose predictions and score are whole in ``out`` is not run again; one without a score is scored. The
    results of a folder belong to one configuration, one set of weights and one ground truth for each cell.

    Args:
        plans: the cells.
        out: folder for results; made where it is not there.
        overwrite: begin these cells anew.
        pool: carries the sequences out; None does so here, one after the other.
        watch: is told how the run gets on.

    Raises:
        ConfigError: a cell is in ``out`` with other settings, which are named.
        TruthError: the ground truth of a cell fits none of its sequences; nothing was run.
        X2SamError: a method cannot be opened.
    """
    watch = watch or Watch()
    for plan in plans:
        check_truth(plan)
    for plan in plans:
        _prepare(plan, out, overwrite)
    results: list[dict[str, SequenceResult]] = [{} for _ in plans]
    jobs: list[Job] = []
    for index, plan in enumerate(plans):
        for sequence in plan.dataset.sequences:
            done = _done(plan, out, Job(index, sequence.name))
            if done.result.error:
                jobs.append(Job(index, sequence.name, done.predictions))
            else:
                results[index][sequence.name] = done.result
                watch.ends(plan, done.result, True)
    for outcome in _here(plans, jobs, watch) if pool is None else pool.run(plans, jobs):
        plan = plans[outcome.job.plan]
        result = _store(plan, out, outcome)
        results[outcome.job.plan][outcome.job.sequence] = result
        watch.ends(plan, result, False)
    found = Results(
        tuple(_cell_result(plan, scored) for plan, scored in zip(plans, results)),
        _configuration(plans),
        _environment(),
    )
    write_results(found, out / RESULTS_FILE)
    return found


def failures(results: Results) -> list[tuple[CellResult, SequenceResult]]:
    """Return the sequences that have no numbers, with their cells."""
    return [(cell, sequence) for cell in results.cells for sequence in cell.sequences if sequence.error]


def _here(plans: Listed[CellPlan], jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
    with Worker(plans) as worker:
        for job in jobs:
            watch.starts(plans[job.plan], job.sequence)
            yield worker.run(job, watch.frame)


def _prepare(plan: CellPlan, out: Path, overwrite: bool) -> None:
    """Make the folder of a cell, or compare its settings."""
    folder, settings = out / plan.folder, plan.settings()
    noted = folder / SETTINGS_FILE
    if overwrite and folder.is_dir():
        shutil.rmtree(folder)
    if noted.is_file():
        try:
            before = json.loads(noted.read_text())
            names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{noted} is damaged ({error}); --overwrite begins anew") from error
        if names:
            told = [f"{name} was {before.get(name)!r:.80}, is {settings.get(name)!r:.80}" for name in names]
            more = f" and {len(told) - MAX_DIFFERENCES} more" if len(told) > MAX_DIFFERENCES else ""
            raise ConfigError(
                f"{folder} holds results of another configuration: {'; '.join(told[:MAX_DIFFERENCES])}{more}; "
                "give another --out, or --overwrite"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(noted, json.dumps(settings, indent=1).encode())
    write_whole(folder / TRUTH_FILE, json.dumps(plan.truth(), indent=1).encode())


def predictions_path(folder: Path, sequence: str) -> Path:
    """Return the file with the predictions of a sequence, in the folder of its cell.

    Raises:
        TruthError: its name would lead out of the folder.
    """
    return _path(folder / "predictions", sequence, ".json.gz")


def _path(folder: Path, sequence: str, suffix: str) -> Path:
    name = PurePosixPath(f"{sequence}{suffix}")
    if name.is_absolute() or ".." in name.parts or not sequence:
        raise TruthError(f"the sequence name {sequence!r:.80} is no name for a file; rename it in the ground truth")
    return folder / name


def _done(plan: CellPlan, out: Path, job: Job) -> Outcome:
    """Return what an earlier run left of a sequence; an error where that is not all."""
    predictions: SequencePredictions | None = None
    try:
        predictions = read_predictions(predictions_path(out / plan.folder, job.sequence))
        path = _path(out / plan.folder / "scores", job.sequence, ".json")
        return Outcome(job, predictions, sequence_result_from_json(path.read_text(), str(path)))
    except (X2SamError, OSError, UnicodeDecodeError) as error:
        return Outcome(job, predictions, SequenceResult(job.sequence, error=described(error)))


def _store(plan: CellPlan, out: Path, outcome: Outcome) -> SequenceResult:
    """Write what a sequence came to, the score last, and return its result."""
    result, name = outcome.result, outcome.job.sequence
    try:
        if outcome.predictions is not None and outcome.job.predictions is None:
            path = predictions_path(out / plan.folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(outcome.predictions, path)
        if not result.error:
            path = _path(out / plan.folder / "scores", name, ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, sequence_result_to_json(result).encode())
    except TruthError as error:
        return SequenceResult(name, error=str(error))
    return result


def _cell_result(plan: CellPlan, scored: dict[str, SequenceResult]) -> CellResult:
    sequences = tuple(scored[sequence.name] for sequence in plan.dataset.sequences)
    good = [sequence for sequence in sequences if not sequence.error]
    return CellResult(
        cell=plan.cell,
        folder=plan.folder,
        metrics=combine(plan.dataset.kind, good) if good else {},
        sequences=sequences,
        truth_path=os.pathsep.join(plan.truth_paths),
        truth_layout=plan.truth_layout,
        fingerprint=plan.dataset.fingerprint,
        weights_sha256=plan.opener.weights_sha256,
    )


def _configuration(plans: Listed[CellPlan]) -> dict[str, Any]:
    """Return the settings; those that are not alike everywhere have the folder of their cell in front."""
    settings = {plan.folder: plan.settings() for plan in plans}
    names = dict.fromkeys(name for each in settings.values() for name in each)
    found: dict[str, Any] = {}
    for name in names:
        values = [each.get(name) for each in settings.values()]
        if all(value == values[0] for value in values):
            found[name] = values[0]
        else:
            found.update({f"{folder}.{name}": each[name] for folder, each in settings.items() if name in each})
    return found


def _environment() -> dict[str, str]:
    import cv2
    import numpy as np
    import torch

    return {
        "hardware": str(hardware("cuda" if torch.cuda.is_available() else "cpu")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "x2sam_ros": x2sam_ros.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }

"""Sequences carried out by many processes, on this machine or on a Ray cluster; results equal those of one process.

Each worker loads a model once and keeps it for the sequences of its cells. Ray is an optional package.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from x2sam_ros.errors import ConfigError, X2SamError, told
from x2sam_ros.evaluation.plan import CellPlan
from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.runner import Job, Outcome, Worker

RETRIES = 2
"""How often a sequence is tried again whose worker died, or that failed for another reason than its data."""

_USAGE_STATS = "RAY_USAGE_STATS_ENABLED"
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""How Ray, on any system, is told whether a cluster may be of many machines; of one, all ports are of localhost."""

_OBJECT_STORE_BYTES = 256 * 2**20


@dataclass
class _Try:
    """A job, how often it failed, and why the last time."""

    job: Job
    failed: int = 0
    reason: str = ""


class RayPool:
    """Carry jobs out by Ray actors, one sequence at a time each.

    Args:
        workers: how many.
        address: of a cluster that runs, or "auto"; '' starts one on this machine that only this machine can reach, and
            ends it. The machines of a cluster need this package, and inputs and checkpoints under the same paths.

    Raises:
        ConfigError: fewer than one worker, or Ray is not installed.
    """

    def __init__(self, workers: int, address: str = "") -> None:
        if workers < 1:
            raise ConfigError(f"number of workers is {workers}, expected 1 or more")
        self._workers, self._address = workers, address
        os.environ[_USAGE_STATS] = "0"  # nothing is reported to anybody
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError("several workers need Ray; install it with: pip install 'ray>=2.9'") from error

    def run(self, plans: Listed[CellPlan], jobs: Listed[Job]) -> Iterator[Outcome]:
        """Yield the outcome of every job, as they come.

        A sequence that failed ``RETRIES`` times more is an outcome with its error; one that passed at last says so in
        its notes.

        Raises:
            X2SamError: a method cannot be opened.
            ConfigError: the cluster cannot be reached.
        """
        _check_devices(plans)
        if jobs:
            with self._cluster():
                yield from self._run(plans, deque(_Try(job) for job in jobs))

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        import logging

        import ray

        with (
            nullcontext() if self._address else _one_machine(),
            tempfile.TemporaryDirectory(prefix="x2sam-ray-", ignore_cleanup_errors=True) as folder,
        ):
            options: dict[str, Any] = {"address": self._address}
            if not self._address:
                options = {
                    "address": "local",
                    "num_cpus": self._workers,
                    "include_dashboard": False,
                    "object_store_memory": _OBJECT_STORE_BYTES,
                    "_node_ip_address": "127.0.0.1",
                    "_temp_dir": folder,
                }
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"the Ray cluster {self._address}" if self._address else "Ray"
                raise ConfigError(f"{where} cannot be reached: {told(error)}; is it running?") from error
            try:
                yield
            finally:
                ray.shutdown()

    def _run(self, plans: Listed[CellPlan], waiting: deque[_Try]) -> Iterator[Outcome]:
        import ray

        resources = ray.cluster_resources()
        count = max(1, min(self._workers, len(waiting), int(resources.get("CPU", 1))))
        actor = ray.remote(num_cpus=1, num_gpus=_gpus(plans, resources.get("GPU", 0), count))(_RemoteWorker)
        shared = ray.put(list(plans))
        idle: list[Any] = [None] * count
        running: dict[Any, tuple[_Try, Any]] = {}
        while waiting or running:
            while waiting and idle:
                worker: Any = idle.pop() or actor.remote(shared, _threads())
                attempt = waiting.popleft()
                running[worker.run.remote(attempt.job)] = (attempt, worker)
            done, _ = ray.wait(list(running))
            attempt, worker = running.pop(done[0])
            try:
                outcome = ray.get(done[0])
                if isinstance(outcome, X2SamError):
                    raise outcome
                reason = outcome.result.error if outcome.may_pass else ""
                idle.append(worker)
            except ray.exceptions.RayError as error:
                reason = f"its worker died ({told(error)})"
                outcome = Outcome(attempt.job, None, SequenceResult(attempt.job.sequence, error=reason))
                ray.kill(worker)
                idle.append(None)
            if reason and attempt.failed < RETRIES:
                waiting.append(_Try(attempt.job, attempt.failed + 1, reason))
                continue
            yield outcome._replace(result=_with_tries(outcome.result, attempt))


@contextmanager
def _one_machine() -> Iterator[None]:
    """Keep Ray on localhost: the processes it starts by the environment, this one by what was read from it."""
    from ray._private import ray_constants

    before, noted = os.environ.get(_MANY_MACHINES), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_MANY_MACHINES], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = noted
        os.environ.pop(_MANY_MACHINES)
        if before is not None:
            os.environ[_MANY_MACHINES] = before


class _RemoteWorker:
    """A ``Worker`` in a process of Ray's; what a user can mend is returned, as Ray would wrap what is raised."""

    def __init__(self, plans: Listed[CellPlan], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._worker = Worker(plans)  # ends with its process

    def run(self, job: Job) -> Outcome | X2SamError:
        """Carry a job out."""
        try:
            return self._worker.run(job)
        except X2SamError as error:
            return error


def _with_tries(result: SequenceResult, attempt: _Try) -> SequenceResult:
    """Say how often a sequence was tried, where that was more than once."""
    if not attempt.failed:
        return result
    if result.error:
        return replace(result, error=f"failed {attempt.failed + 1} times: {result.error}")
    return replace(result, notes=(*result.notes, f"run {attempt.failed + 1} times; before, {attempt.reason}"))


def _threads() -> int:
    """Return the threads of this process: sums depend on how they are cut up, and results must be equal."""
    import torch

    return int(torch.get_num_threads())


def _check_devices(plans: Listed[CellPlan]) -> None:
    for device in _devices(plans):
        if device.startswith("cuda:"):
            raise ConfigError(f"device is {device}; with Ray say cuda, and each worker gets a GPU of its own")


def _devices(plans: Listed[CellPlan]) -> set[str]:
    return {str(plan.opener.settings().get("device", "cpu")) for plan in plans}


def _gpus(plans: Listed[CellPlan], available: float, workers: int) -> float:
    """Return the share of a GPU that each worker gets: a whole one where there are enough."""
    return min(1.0, available / workers) if "cuda" in _devices(plans) else 0.0

"""The folder of a training run: its configuration, its saved states, its log."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from x2sam_ros.checkpoint.source import shorten
from x2sam_ros.errors import CheckpointError, ConfigError, TrainingError, told
from x2sam_ros.training.plot import plot_losses

KEPT_STATES = 2
"""Saved states that stay, so that one can be damaged."""

_DONE = "step-"
_PARTIAL = "partial-"
_ABOUT = "run.json"
_OLD_STATE = "state.pt"  # lay in the folder itself before there were folders of states

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNWRITTEN = re.compile(rf"PytorchStreamWriter failed|unexpected pos|os error ({_NO_ROOM[0]}|{_NO_ROOM[1]})\b")
"""What torch and safetensors say where a file could not be written to its end; torch does not say why."""


class RunFolder:
    """Where a run keeps what it must not lose.

    A state appears under its name when the disk holds all of it; whatever happens while the next one is written, it
    stays.

    Args:
        path: the folder, made where it does not exist.
        main: whether this process writes what all have in common.
        agree: called by all processes of the run with whether all is well here; returns whether it is everywhere, once
            all have called it.
    """

    def __init__(self, path: Path, main: bool = True, agree: Callable[[bool], bool] = bool) -> None:
        self.path, self._main, self._agree = path, main, agree
        with self.writing("make the folder"):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """One JSON object for each step, which is its ``step``, counted from 1."""
        return self.path / "log.jsonl"

    @property
    def weights(self) -> Path:
        """The checkpoint folder that the run ends with."""
        return self.path / "weights"

    @property
    def states(self) -> list[Path]:
        """The whole states, oldest first."""
        return sorted(self.path.glob(f"{_DONE}*"))

    def check(self, about: Mapping[str, Any]) -> None:
        """Compare a configuration with the one the states are of; note it where there is no state.

        Raises:
            ConfigError: they differ, with the differences; or the folder holds a run of an older version.
            CheckpointError: there are states, but what they are of cannot be read.
        """
        ours = json.loads(json.dumps(about))  # tuples become lists, as in the file
        file = self.path / _ABOUT
        if not self.states:
            if (self.path / _OLD_STATE).exists():
                raise ConfigError(
                    f"{self.path} holds the run of an older version ({_OLD_STATE}, expected folders {_DONE}NNNNNNNN), "
                    "which this one cannot resume: train in another folder (--out), or delete that one"
                )
            with self.writing("note the configuration"):
                if self._main:
                    file.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
            return
        try:
            theirs = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {file}: {error}; train in another folder") from error
        found = [f"{name}: {was} there, {now} here" for name, was, now in _differences(theirs, ours)]
        if found:
            raise ConfigError(
                f"{self.path} holds a run of another configuration, so it is not resumed: {shorten(found)}; "
                "use the same, or another folder"
            )

    def save(self, step: int, write: Callable[[Path], None], keep: int = KEPT_STATES) -> Path:
        """Save the state of a step, unless it is; all processes of the run call it.

        Args:
            step: steps that are done.
            write: writes the state into a folder.
            keep: states that stay, this one counted.

        Raises:
            CheckpointError: the state cannot be written, here or in another process; the one before is still there.
        """
        partial, done = self.path / f"{_PARTIAL}{step:08}", self.path / f"{_DONE}{step:08}"
        if done.exists():
            return done
        what = f"save the state of step {step}"
        try:
            with self._together(what):
                partial.mkdir(exist_ok=True)
                write(partial)
            with self._together(what):
                if self._main:
                    _flush(*partial.rglob("*"), partial)  # else a power cut could leave a name and nothing behind it
                    partial.rename(done)
                    _flush(self.path)
                    for old in (*self.states[:-keep], *self.path.glob(f"{_PARTIAL}*")):
                        shutil.rmtree(old, ignore_errors=True)
        except CheckpointError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return done

    def note(self, row: Mapping[str, Any]) -> None:
        """Add a row to the log.

        Raises:
            CheckpointError: it cannot be written.
        """
        with self.writing("write the log"), self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop the log's rows behind a step: they are done again.

        Raises:
            CheckpointError: what is kept cannot be written; the log is as it was.
        """
        if self.log.exists():
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = self.log.with_suffix(".partial")
            with self.writing("write the log"):
                kept.write_text("".join(line for line in lines if _step_of(line) <= step), encoding="utf-8")
                kept.replace(self.log)

    def plot(self) -> None:
        """Draw the log, if there is one, into ``loss.png``.

        Raises:
            CheckpointError: the picture cannot be written.
        """
        with self.writing("draw the plot"):
            if self.log.exists() and self.log.stat().st_size:
                plot_losses(self.log, self.path / "loss.png")

    def stop_if_not_finite(
        self,
        step: int,
        terms: Mapping[str, float],
        batch: Callable[[], str],
        save: Callable[[], Path],
        export: Callable[[Path], None],
        way_on: str,
    ) -> None:
        """Return where all terms of a loss are numbers; else save what was good, tell which batch was not, and stop.

        Args:
            step: its number, counted from 1.
            terms: by name; the same in all processes.
            batch: names what was learnt from.
            save: saves the state before the step.
            export: writes its weights into a checkpoint folder.
            way_on: how to start from these weights in another folder, in words.

        Raises:
            TrainingError: a term is no number; the state before is saved.
            CheckpointError: a term is no number, and the state before cannot be saved; both are told.
        """
        if all(map(math.isfinite, terms.values())):
            return
        found = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        what = f"the loss of step {step} is not finite ({found}) for the batch of {batch()}"
        with self.after(what):
            state = save()
            export(self.weights)
        raise TrainingError(
            f"{what}; the state before it is {state}. To go on, start from {self.weights} in another folder, {way_on}"
        )

    @contextmanager
    def after(self, what: str) -> Iterator[None]:
        """Have errors of saving tell what came first.

        Raises:
            CheckpointError: saving failed.
        """
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{what}; then, {error}") from error

    @contextmanager
    def resuming(self, state: Path) -> Iterator[None]:
        """Tell what to do where a state cannot be read meanwhile.

        Raises:
            CheckpointError: it cannot.
        """
        try:
            yield
        except (Exception, CheckpointException) as error:  # many kinds, for a damaged file
            raise CheckpointError(
                f"cannot resume from {state}: {told(_cause(error))}; delete that folder to go on from the state before "
                "it"
            ) from error

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Tell what could not be done where writing fails meanwhile.

        Args:
            what: in words, for example ``write the log``.

        Raises:
            CheckpointError: it could not; the states that were whole still are.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:  # torch and safetensors write
            cause = _cause(error)
            kept = f"the last good state is {self.states[-1]}" if self.states else "there is no state yet"
            way_on = "mend that"
            if getattr(cause, "errno", None) in _NO_ROOM or _UNWRITTEN.search(str(cause)):
                there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.is_dir())
                way_on = f"{shutil.disk_usage(there).free >> 20} MiB are free: make room"
            raise CheckpointError(
                f"cannot {what} in {self.path}: {told(cause)}; {kept}; {way_on} and run the same command again"
            ) from error

    @contextmanager
    def _together(self, what: str) -> Iterator[None]:
        """Do something in all processes; where it fails in one, all stop."""
        failure: CheckpointError | None = None
        try:
            with self.writing(what):
                yield
        except CheckpointError as error:
            failure = error
        if not self._agree(failure is None):
            raise failure or CheckpointError(f"another process could not {what} in {self.path}; its message says why")


def _cause(error: BaseException) -> BaseException:
    """Return what lies behind an error; that of a sharded state has the traceback of each process for a text."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def _flush(*paths: Path) -> None:
    """Have the disk hold files and folders as they are now."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _step_of(line: str) -> float:
    with suppress(ValueError, KeyError, TypeError):  # a killed run may leave half a line
        return int(json.loads(line)["step"])
    return float("inf")


def _differences(theirs: Any, ours: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of everything that differs in two trees of JSON values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            nested = f"{name}.{key}" if name else str(key)
            yield from _differences(theirs.get(key, "nothing"), ours.get(key, "nothing"), nested)
    elif theirs != ours:
        yield name, json.dumps(theirs), json.dumps(ours)

"""The folder of a training run: its configuration, its saved states, its log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from x2sam_ros.checkpoint.source import shorten
from x2sam_ros.errors import CheckpointError, ConfigError, told

_DONE = "step-"
_PARTIAL = "partial-"
_ABOUT = "run.json"


class RunFolder:
    """Where a run keeps what it must not lose.

    A state appears under its name when it is whole; whatever happens while the next one is written, it stays.

    Args:
        path: the folder, made where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.writing("make the folder"):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """One JSON object for each step."""
        return self.path / "log.jsonl"

    @property
    def states(self) -> list[Path]:
        """The whole states, oldest first."""
        return sorted(self.path.glob(f"{_DONE}*"))

    def check(self, about: Mapping[str, Any]) -> None:
        """Compare a configuration with the one the states are of; note it where there is no state.

        Raises:
            ConfigError: they differ, with the differences.
            CheckpointError: there are states, but what they are of cannot be read.
        """
        ours = json.loads(json.dumps(about))  # tuples become lists, as in the file
        file = self.path / _ABOUT
        if not self.states:
            with self.writing("note the configuration"):
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

    def save(self, step: int, write: Callable[[Path], None], keep: int, main: bool, wait: Callable[[], None]) -> Path:
        """Save the state of a step; all processes of the run call it.

        Args:
            step: steps that are done.
            write: writes the state into a folder.
            keep: states that stay, this one counted.
            main: whether this process tidies up.
            wait: returns when all processes have called it.

        Raises:
            CheckpointError: the state cannot be written; the one before is still there.
        """
        partial, done = self.path / f"{_PARTIAL}{step:08}", self.path / f"{_DONE}{step:08}"
        if done.exists():
            return done
        try:
            with self.writing(f"save the state of step {step}"):
                partial.mkdir(exist_ok=True)
                write(partial)
        except CheckpointError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        wait()
        if main:
            partial.rename(done)
            for old in (*self.states[:-keep], *self.path.glob(f"{_PARTIAL}*")):
                shutil.rmtree(old, ignore_errors=True)
        wait()
        return done

    def cut_log(self, step: int) -> None:
        """Drop the log's lines behind a step: they are done again.

        Raises:
            CheckpointError: what is kept cannot be written; the log is as it was.
        """
        if self.log.exists():
            lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = self.log.with_suffix(".partial")
            with self.writing("write the log"):
                kept.write_text("".join(line for line in lines if _step_of(line) <= step), encoding="utf-8")
                kept.replace(self.log)

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
        except (OSError, RuntimeError, SafetensorError) as error:  # the last two where torch and safetensors write
            there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.is_dir())
            kept = f"the last good state is {self.states[-1]}" if self.states else "there is no state yet"
            raise CheckpointError(
                f"cannot {what} in {self.path}: {told(error)}; {kept}; "
                f"{shutil.disk_usage(there).free >> 20} MiB are free: make room and run the same command again"
            ) from error


def _step_of(line: str) -> float:
    with suppress(ValueError):  # a killed run may leave half a line
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

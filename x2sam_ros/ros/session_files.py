"""Sessions in files, so that a node goes on after a restart: read at its start, written between two frames. No ROS.

A session's state is copied on the thread that it belongs to and written by another: frames wait for the copy alone.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from x2sam_ros.errors import ConfigError, described
from x2sam_ros.ros.cameras import Camera


class Copy(Protocol):
    """A session's state at one moment (engine/persistence.py)."""

    def write(self, path: str | Path) -> None:
        """Write it from any thread; a file that is there is replaced by a whole one or stays as it is."""


class LastingSession(Protocol):
    """What a session has to offer to outlive its process (engine/session.py)."""

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of its file could not be restored, a sentence each."""

    def restore(self, path: str | Path) -> None:
        """Go on with what a file has; the session has not begun yet."""

    def snapshot(self) -> Copy:
        """Copy the state."""

    def reset(self) -> None:
        """Forget every target and every waiting prompt."""


class _Taken(NamedTuple):
    """A copy that is to be written, and whether it has targets."""

    copy: Copy
    has_targets: bool


def session_paths(session_file: str, cameras: Sequence[Camera]) -> dict[str, Path]:
    """Return the file of each camera by its topic: ``<stem>.<camera name><suffix>`` where there are several.

    Args:
        session_file: as the parameter has it; '' for none.
        cameras: all of the node. A ``/`` in a name becomes a ``.``, which no topic has.

    Raises:
        ConfigError: there can be no such file.
    """
    if not session_file:
        return {}
    path = Path(session_file)
    names = {camera.topic: camera.name.replace("/", ".") for camera in cameras}
    paths = {topic: path.parent / f"{path.stem}.{name}{path.suffix}" if name else path for topic, name in names.items()}
    if not os.path.isdir(path.parent) or any(os.path.isdir(one) for one in (path, *paths.values())):
        raise ConfigError(f"session_file is {session_file!r}, expected a file in a folder that exists")
    return paths


class SessionFiles:
    """Keep the state of sessions in files. All methods belong to the sessions' thread.

    Args:
        paths: camera to its file; cameras without one are not saved.
        period_s: between two saves of what is followed.
        report: takes camera, cause (one of few fixed words) and message; may be called from any thread.
    """

    def __init__(self, paths: Mapping[str, Path], period_s: float, report: Callable[[str, str, str], None]) -> None:
        self._paths, self._period_s, self._report = dict(paths), period_s, report
        self._sessions: Mapping[str, LastingSession] = {}
        self._filled: set[str] = set()  # cameras whose file may have targets; the writer's while it runs
        self._due_s = math.inf  # until there are sessions
        self._is_pending = False
        self._writer: threading.Thread | None = None

    @property
    def wait_s(self) -> float | None:
        """How long there is nothing to save, in seconds; None for as long as nothing else happens."""
        return max(0.0, self._due_s - time.monotonic()) if self._is_pending else None

    def restore(self, sessions: Mapping[str, LastingSession]) -> None:
        """Let new sessions go on with what their files have.

        A file that cannot be used is reported and renamed to ``<file>.refused``, so that no save replaces it; where it
        cannot be renamed, its camera is not saved.

        Args:
            sessions: of each camera.
        """
        self._sessions = sessions
        for camera, path in list(self._paths.items()):
            if not os.path.exists(path):
                continue
            session = sessions[camera]
            try:
                session.restore(path)
            except Exception as error:  # whatever a file holds, the node starts
                session.reset()
                self._set_aside(camera, path, error)
                continue
            self._filled.add(camera)
            if session.left_out:
                self._report(camera, "saved target", "; ".join(session.left_out))
        self._due_s = time.monotonic() + self._period_s

    def save_due(self) -> None:
        """Begin a save if one is due; to be called after whatever may have changed a session.

        What is followed is saved, and once more when nothing is left of it, lest a restart brings it back. While the
        save before is still being written the next one waits for another period.
        """
        self._is_pending = bool(self._paths)
        if not self._is_pending or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + self._period_s
        if self._writer is not None and self._writer.is_alive():
            return
        self._is_pending = False
        taken = self._take(
            camera for camera in self._paths if camera in self._filled or self._sessions[camera].target_ids
        )
        if taken:
            self._writer = threading.Thread(target=self._write, args=(taken,), name="x2sam-saver", daemon=True)
            self._writer.start()

    def finish(self) -> None:
        """Save every session, and return when that is done; nothing is written afterwards."""
        if self._writer is not None:
            self._writer.join()
        self._write(self._take(self._paths))

    def _take(self, cameras: Iterable[str]) -> dict[str, _Taken]:
        """Copy sessions, all at one moment: no target id may be in two files."""
        taken = {}
        for camera in cameras:
            try:
                taken[camera] = _Taken(self._sessions[camera].snapshot(), bool(self._sessions[camera].target_ids))
            except Exception as error:
                self._report(camera, "session save", described(error))
        return taken

    def _write(self, taken: dict[str, _Taken]) -> None:
        while taken:
            camera, (copy, has_targets) = taken.popitem()
            try:
                copy.write(self._paths[camera])
            except Exception as error:  # the next save may succeed
                self._report(camera, "session save", described(error))
                continue
            if has_targets:
                self._filled.add(camera)
            else:
                self._filled.discard(camera)

    def _set_aside(self, camera: str, path: Path, error: Exception) -> None:
        names = itertools.chain([".refused"], (f".refused.{number}" for number in itertools.count(2)))
        kept = next(one for name in names if not os.path.lexists(one := path.with_name(path.name + name)))
        try:
            os.replace(path, kept)
            fate = f"it is kept as {kept}"
        except OSError as failure:
            del self._paths[camera]
            fate = f"it cannot be renamed ({failure}), so nothing is saved over it"
        self._report(camera, "saved session", f"{described(error)}; {fate}")

"""Sessions in files, so that a node goes on after a restart: read at its start, written between two frames. No ROS.

A session's state is copied on the thread that it belongs to and written by another: frames wait for the copy alone.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from x2sam_ros.errors import ConfigError, SavedSessionError, described
from x2sam_ros.ros.cameras import Camera
from x2sam_ros.ros.requests import Answer


class Copy(Protocol):
    """A session's state at one moment (engine/persistence.py)."""

    def write(self, path: str | Path) -> None:
        """Write it from any thread; a file that is there is replaced by a whole one or stays as it is."""


class State(Protocol):
    """What a file has of a session."""

    @property
    def target_ids(self) -> Set[int]:
        """Ids of all targets."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What could not be read, a sentence each."""


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

    def read(self, path: str | Path) -> Any:
        """Read a file, as a ``State``; nothing changes."""

    def resume(self, state: Any) -> None:
        """Forget everything and go on with what ``read`` returned."""

    def snapshot(self) -> Copy:
        """Copy the state."""

    def reset(self) -> None:
        """Forget every target and every waiting prompt."""


class _Taken(NamedTuple):
    """A copy that is to be written, and whether it has targets."""

    copy: Copy
    has_targets: bool


def asked_paths(path: str, session_file: str, cameras: Sequence[Camera]) -> dict[str, Path]:
    """Return the file of each camera for a request to save or to load.

    Args:
        path: as the request has it: absolute, ``~`` is the home folder of whoever runs the node; '' means
            ``session_file``. A relative one would depend on where the node was started.
        session_file: the parameter.
        cameras: all of the node.

    Raises:
        ConfigError: there can be no such file.
    """
    if not path and not session_file:
        raise ConfigError("no path is given, and the parameter session_file is empty; give one of them")
    if not path:
        return session_paths(session_file, cameras)
    expanded = os.path.expanduser(path)
    if not os.path.isabs(expanded):
        raise ConfigError(f"path is {path!r:.200}, expected an absolute one, which begins with / or ~/")
    return session_paths(expanded, cameras, "path")


def session_paths(session_file: str, cameras: Sequence[Camera], name: str = "session_file") -> dict[str, Path]:
    """Return the file of each camera by its topic: ``<stem>.<camera name><suffix>`` where there are several.

    Args:
        session_file: as the parameter has it; '' for none.
        cameras: all of the node. A ``/`` in a name becomes a ``.``, which no topic has.
        name: what errors call it.

    Raises:
        ConfigError: there can be no such file.
    """
    if not session_file:
        return {}
    path = Path(session_file)
    names = {camera.topic: camera.name.replace("/", ".") for camera in cameras}
    paths = {topic: path.parent / f"{path.stem}.{name}{path.suffix}" if name else path for topic, name in names.items()}
    if not os.path.isdir(path.parent) or any(os.path.isdir(one) for one in (path, *paths.values())):
        raise ConfigError(f"{name} is {session_file!r}, expected a file in a folder that exists")
    return paths


class SessionFiles:
    """Keep the state of sessions in files. All methods belong to the sessions' thread.

    Args:
        paths: camera to its file; cameras without one are not saved.
        period_s: between two saves of what is followed.
        report: takes camera, cause (one of few fixed words) and message; may be called from any thread.
    """

    def __init__(self, paths: Mapping[str, Path], period_s: float, report: Callable[[str, str, str], None]) -> None:
        self._paths, self.period_s, self._report = dict(paths), period_s, report
        self._sessions: Mapping[str, LastingSession] = {}
        self._filled: set[str] = set()  # cameras whose file may have targets; the writer's while it runs
        self._due_s = math.inf  # until there are sessions
        self._is_pending = False
        self._writer: threading.Thread | None = None
        self._asked: threading.Thread | None = None  # writes what somebody waits for

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
        self._due_s = time.monotonic() + self.period_s

    def save_due(self) -> None:
        """Begin a save if one is due; to be called after whatever may have changed a session.

        What is followed is saved, and once more when nothing is left of it, lest a restart brings it back. While the
        save before is still being written the next one waits for another period.
        """
        self._is_pending = bool(self._paths)
        if not self._is_pending or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + self.period_s
        if _is_running(self._writer) or _is_running(self._asked):
            return
        self._is_pending = False
        taken = self._take(
            camera for camera in self._paths if camera in self._filled or self._sessions[camera].target_ids
        )
        if taken:
            self._writer = threading.Thread(target=self._write, args=(taken,), name="x2sam-saver", daemon=True)
            self._writer.start()

    def save(self, paths: Mapping[str, Path], done: Callable[[Answer], object]) -> None:
        """Begin to write every session to a file of its own: all files are replaced, or none.

        Args:
            paths: camera to its file, for every camera.
            done: told what became of it, on the thread that writes.

        Raises:
            SavedSessionError: an earlier one is still being written.
        """
        if _is_running(self._asked):
            raise SavedSessionError("another save is still being written; ask again when it is done")
        copies = {paths[camera]: session.snapshot() for camera, session in self._sessions.items()}
        target_ids = sorted(target_id for session in self._sessions.values() for target_id in session.target_ids)
        self._filled |= {camera for camera, path in paths.items() if path == self._paths.get(camera)}
        before = self._writer

        def write() -> None:
            if before is not None:
                before.join()
            try:
                _write_all(copies)
            except Exception as error:
                done(Answer(False, described(error)))
            else:
                done(Answer(True, "", tuple(target_ids)))

        self._asked = threading.Thread(target=write, name="x2sam-saver", daemon=True)
        self._asked.start()

    def load(self, paths: Mapping[str, Path]) -> Answer:
        """Let every session go on with what its file has; those without a file begin anew.

        Args:
            paths: camera to its file, for every camera.

        Raises:
            SavedSessionError: there is none of the files, one cannot be used, or two have the same target. Every
                session is as it was before.
        """
        there = {camera: path for camera, path in paths.items() if os.path.exists(path)}
        if not there:
            raise SavedSessionError(f"there is no file {' or '.join(map(str, paths.values()))}; check the path")
        states: dict[str, State] = {camera: self._sessions[camera].read(path) for camera, path in there.items()}
        target_ids = sorted(target_id for state in states.values() for target_id in state.target_ids)
        if len(set(target_ids)) < len(target_ids):
            files = ", ".join(map(str, there.values()))
            raise SavedSessionError(f"two of {files} have the same target; load files that were saved together")
        for session in self._sessions.values():
            session.reset()
        for camera, state in states.items():
            self._sessions[camera].resume(state)
        remarks = [sentence for state in states.values() for sentence in state.left_out]
        remarks += [f"{camera} had no file and begins anew" for camera in paths if camera not in there]
        return Answer(True, "; ".join(remarks), tuple(target_ids))

    def finish(self) -> None:
        """Save every session, and return when that is done; nothing is written afterwards."""
        for writer in (self._writer, self._asked):
            if writer is not None:
                writer.join()
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


def _is_running(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _write_all(copies: Mapping[Path, Copy]) -> None:
    """Write every file beside its place first, so that none is replaced where one cannot be written."""
    parts = {path: path.with_name(f".{path.name}.new") for path in copies}
    try:
        for path, copy in copies.items():
            try:
                copy.write(parts[path])
            except SavedSessionError as error:
                raise SavedSessionError(str(error).replace(str(parts[path]), str(path))) from error
        for path, part in parts.items():
            os.replace(part, path)
        folder = os.open(next(iter(copies)).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SavedSessionError(f"the file cannot be put in its place: {error}; give another place") from error
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()

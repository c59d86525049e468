"""Sessions outlive the worker: saved in time and at the end, restored at the start, and no file is lost on the way."""

from __future__ import annotations

import itertools
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.threshold_session import SavedColours, ThresholdSession
from tests.unit.engine.sessions import click, run
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.fleet import Fleet
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import ConfigError, SavedSessionError
from x2sam_ros.ros.cameras import Camera, name_cameras
from x2sam_ros.ros.requests import Answer, Remove, Request, SaveSession, Submit
from x2sam_ros.ros.session_files import SessionFiles, asked_paths, session_paths
from x2sam_ros.ros.worker import Outputs, Worker
from x2sam_ros.types import Frame, Grounding, TextPrompt

FRONT, REAR = "/front/image_raw", "/rear/image_raw"
PATIENCE_S = 10.0
PICTURE = np.zeros((20, 30, 3), np.uint8)
PICTURE[5:10, 5:15] = (220, 30, 30)


def until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.002)


class Run:
    """One life of a worker: its sessions, and what it said."""

    def __init__(self, paths: Mapping[str, Path], period_s: float, sessions: Mapping[str, ThresholdSession]) -> None:
        self.sessions = sessions
        self.ids: dict[str, list[int]] = {}
        self.problems: list[tuple[str, str, str]] = []
        outputs = Outputs(
            begun=lambda camera, frame: None,
            result=lambda camera, answered: self.ids.update({camera: answered.result.target_ids.tolist()}),
            targets=lambda camera, targets: None,
            grounding=lambda outcome, frame_id: None,
            problem=lambda camera, cause, message: self.problems.append((camera, cause, message)),
            fault=lambda camera, message: None,
        )
        files = SessionFiles(paths, period_s, outputs.problem)
        self.worker = Worker(tuple(sessions), lambda cameras: sessions, outputs, 8, files)

    def show(self, camera: str = FRONT) -> list[int]:
        """Answer a frame; return the targets in it."""
        self.ids.pop(camera, None)
        self.worker.offer_frame(camera, lambda index: Frame(PICTURE, 1_000 + index, index, "camera"))
        until(lambda: camera in self.ids)
        return self.ids[camera]

    def add(self, prompt_id: str, camera: str = FRONT) -> list[int]:
        self.worker.post(lambda: Submit(TextPrompt(prompt_id, text="the red one"), camera))
        return self.show(camera)

    def ask(self, request: Request) -> Grounding:
        answers: list[Grounding] = []
        self.worker.post(lambda: request, answers.append)
        until(lambda: answers)
        return answers[0]


@contextmanager
def life(
    paths: Mapping[str, Path], period_s: float = 3600.0, cameras: Sequence[str] = (FRONT,), **sessions: Any
) -> Iterator[Run]:
    numbers = itertools.count(1)
    made = Run(paths, period_s, sessions or {camera: ThresholdSession(0.0, numbers) for camera in cameras})
    made.worker.start()
    assert made.worker.wait_ready(PATIENCE_S)
    yield made
    assert made.worker.stop(PATIENCE_S) and made.worker.failure is None


class Restored(ThresholdSession):
    """Remembers what was asked of it, and whose thread it was."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_by: list[str] = []

    def snapshot(self) -> SavedColours:
        self.taken_by.append(threading.current_thread().name)
        return super().snapshot()


# ---- when it is saved


def test_shutdown_saves_and_the_next_worker_goes_on_with_the_same_id(tmp_path: Path) -> None:
    paths = {FRONT: tmp_path / "session"}
    with life(paths) as first:
        assert [first.add("a"), first.add("b")] == [[1], [1, 2]]
        first.ask(Remove("away", 1))
        assert not paths[FRONT].exists(), "the period is not over"
    with life(paths) as second:
        assert second.show() == [2]
        assert second.worker.prompt_ids == {"a", "b"}
        second.ask(Remove("away too", 2))
    with life(paths) as third:
        assert third.show() == [], "what was removed does not come back"
    assert first.problems == second.problems == third.problems == []


def test_what_is_followed_is_saved_every_period_by_a_thread_of_its_own(tmp_path: Path) -> None:
    path, session = tmp_path / "session", Restored()
    written_by: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        write = SavedColours.write
        patch.setattr(
            SavedColours,
            "write",
            lambda copy, to: (write(copy, to), written_by.append(threading.current_thread().name)),
        )
        with life({FRONT: path}, 0.05, **{FRONT: session}) as made:
            made.show()
            time.sleep(0.2)
            assert not path.exists(), "nothing is followed"
            made.add("a")
            until(lambda: len(written_by) >= 1)  # though no frame comes any more
            count = len(written_by)
            time.sleep(0.3)
            assert len(written_by) <= count + 1, "nothing has happened since the last save"
            for _ in range(2):
                count = len(written_by)
                until(lambda count=count: made.show() and len(written_by) > count)
            assert set(session.taken_by) == {"x2sam-worker"} and set(written_by) == {"x2sam-saver"}
            made.ask(Remove("away", 1))
            until(lambda: '"targets": {}' in path.read_text())
            count = len(written_by)
            made.show()
            time.sleep(0.2)
            assert len(written_by) == count, "the file says already that there is none"


def test_two_writes_never_run_at_once_and_frames_do_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running: list[int] = []
    most: list[int] = []
    go_on = threading.Event()

    def slow_write(copy: SavedColours, path: str | Path) -> None:
        running.append(1)
        most.append(len(running))
        assert go_on.wait(PATIENCE_S)
        Path(path).write_text(copy.content)
        running.pop()

    monkeypatch.setattr(SavedColours, "write", slow_write)
    with life({FRONT: tmp_path / "session"}, 0.01) as made:
        made.add("a")
        until(lambda: running and made.show())
        for _ in range(20):
            assert made.show() == [1]
            time.sleep(0.005)
        assert len(most) == 1, "the next one waits until it is over"
        made.add("b")
        threading.Timer(0.1, go_on.set).start()
    assert max(most) == 1 and len(most) >= 2
    with life({FRONT: tmp_path / "session"}) as made:
        assert made.show() == [1, 2], "the last state is the last one written"


# ---- what goes wrong


def test_a_write_error_is_reported_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with life({FRONT: folder / "session"}, 0.02) as made:
        made.add("a")
        until((folder / "session").exists)
        (folder / "session").unlink()
        folder.rmdir()
        until(lambda: made.show() and made.problems)
        camera, cause, message = made.problems[0]
        assert (camera, cause) == (FRONT, "session save") and "session cannot be written" in message
        folder.mkdir()
        until(lambda: made.show() and (folder / "session").exists())
        assert made.show() == [1]


def test_a_snapshot_that_fails_is_reported_and_costs_no_other_camera(tmp_path: Path) -> None:
    class Poor(ThresholdSession):
        def snapshot(self) -> SavedColours:
            raise MemoryError("no room")

    paths = {FRONT: tmp_path / "front", REAR: tmp_path / "rear"}
    with life(paths, **{FRONT: Poor(), REAR: ThresholdSession(0.0, itertools.count(5))}) as made:
        made.add("a", FRONT)
        made.add("b", REAR)
    assert made.problems == [(FRONT, "session save", "MemoryError: no room")]
    assert not paths[FRONT].exists() and '"5"' in paths[REAR].read_text()


@pytest.mark.parametrize("error", [SavedSessionError("it is foreign"), RuntimeError("odd")])
def test_a_refused_file_is_kept_and_the_session_starts_empty(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "session"
    for number, kept in enumerate(("session.refused", "session.refused.2", "session.refused.3")):
        path.write_text(f"precious {number}")
        with monkeypatch.context() as patch:
            patch.setattr(ThresholdSession, "restore", lambda self, path: (_ for _ in ()).throw(error))
            with life({FRONT: path}) as made:
                assert made.add("a") == [1]
        ((camera, cause, message),) = made.problems
        assert (camera, cause) == (FRONT, "saved session")
        assert str(error) in message and message.endswith(f"; it is kept as {tmp_path / kept}")
        assert (tmp_path / kept).read_text() == f"precious {number}"
        with life({FRONT: path}) as made:
            assert made.show() == [1] and made.problems == []


def test_a_refused_file_that_cannot_be_renamed_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    path = tmp_path / "session"
    path.write_text("precious")
    monkeypatch.setattr("x2sam_ros.ros.session_files.os.replace", refuse)
    with life({FRONT: path}, 0.01) as made:
        made.add("a")
        time.sleep(0.05)
        made.show()
    ((_, _, message),) = made.problems
    assert message.endswith("it cannot be renamed (read-only), so nothing is saved over it")
    assert [one.name for one in tmp_path.iterdir()] == ["session"] and path.read_text() == "precious"


def test_a_worker_that_fails_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with life({FRONT: path}) as made:
        made.add("a")
    before = path.read_bytes()

    class Broken(ThresholdSession):
        def step(self, frame: Frame) -> Any:
            raise SystemExit

    made = Run({FRONT: path}, 3600.0, {FRONT: Broken()})
    made.worker.start()
    made.worker.post(lambda: Submit(TextPrompt("b", text="the red one"), FRONT))
    made.worker.offer_frame(FRONT, lambda index: Frame(PICTURE, 1, index))
    until(lambda: made.worker.failure is not None)
    assert made.worker.stop(PATIENCE_S) and path.read_bytes() == before


# ---- several cameras, with the network


def saved(paths: Mapping[str, Path], sessions: Mapping[str, Session]) -> list[tuple[str, str, str]]:
    """Restore sessions and save them at once; return the problems."""
    problems: list[tuple[str, str, str]] = []
    files = SessionFiles(paths, 3600.0, lambda *problem: problems.append(problem))
    files.restore(sessions)
    files.finish()
    return problems


def opened(cameras: Sequence[str] = (FRONT, REAR)) -> dict[str, Session]:
    fleet = Fleet()
    return {camera: Session(nano(), EngineConfig(score_threshold=0.0), fleet=fleet) for camera in cameras}


def test_each_camera_has_a_file_and_its_own_targets(tmp_path: Path) -> None:
    paths = session_paths(str(tmp_path / "robot.safetensors"), name_cameras((FRONT, REAR), "/"))
    before = opened()
    run(before[FRONT], frames(2), {0: [click("a")]})
    run(before[REAR], frames(2), {0: [click("b")], 1: [click("c")]})
    assert [session.target_ids for session in before.values()] == [(1,), (2, 3)]
    assert saved({}, before) == [] and not list(tmp_path.iterdir())
    files = SessionFiles(paths, 3600.0, lambda *problem: pytest.fail(str(problem)))
    files.restore(before)
    files.finish()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["robot.front.safetensors", "robot.rear.safetensors"]
    after = opened()
    assert saved(paths, after) == []
    assert [session.target_ids for session in after.values()] == [(1,), (2, 3)]
    results = run(after[FRONT], frames(2), {1: [click("d")]})
    assert results[-1].target_ids.tolist() == [1, 4], "no camera gives an id that another one restored"


def test_damage_costs_one_camera_and_two_cameras_never_have_one_id(tmp_path: Path) -> None:
    before = opened()
    for name, session in (("a", before[FRONT]), ("b", before[REAR])):
        run(session, frames(2), {0: [click(name)]})
    paths = {FRONT: tmp_path / "front", REAR: tmp_path / "rear"}
    for camera, session in before.items():
        session.save(paths[camera])
    paths[FRONT].write_bytes(paths[FRONT].read_bytes()[:100])
    after = opened()
    ((camera, cause, message),) = saved(paths, after)
    assert (camera, cause) == (FRONT, "saved session") and "front is damaged" in message
    assert [session.target_ids for session in after.values()] == [(), (2,)]
    (tmp_path / "front").write_bytes(paths[REAR].read_bytes())
    after = opened()
    ((camera, _, message),) = saved(paths, after)
    assert camera == REAR and "has target 2, as another camera has by now" in message
    assert [session.target_ids for session in after.values()] == [(2,), ()]


def test_what_was_left_out_is_reported_once(tmp_path: Path) -> None:
    session = opened()[FRONT]
    run(session, frames(2), {0: [click("a"), click("b")]})
    path = tmp_path / "session"
    session.save(path)
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 0xFF
    path.write_bytes(bytes(raw))
    after = opened((FRONT,))
    ((camera, cause, message),) = saved({FRONT: path}, after)
    assert (camera, cause) == (FRONT, "saved target") and "is left out" in message
    assert saved({FRONT: path}, opened((FRONT,))) == [], "the rest is what is saved now"


def test_a_session_that_has_begun_takes_no_file(tmp_path: Path) -> None:
    session = opened()[FRONT]
    run(session, frames(1), {0: [click("a")]})
    session.save(tmp_path / "session")
    with pytest.raises(SavedSessionError, match="has not begun; open a new one"):
        session.restore(tmp_path / "session")
    assert session.target_ids == (1,)


# ---- names


@pytest.mark.parametrize(
    ("file", "topics", "expected"),
    [
        ("robot.x2", ["/camera/image_raw"], ["robot.x2"]),
        ("robot.x2", ["/front/image", "/rear/image"], ["robot.front.x2", "robot.rear.x2"]),
        ("robot", ["/stereo/left", "/stereo/right"], ["robot.stereo.left", "robot.stereo.right"]),
        (".robot", ["/a/b", "/c/b"], [".robot.a", ".robot.c"]),
    ],
)
def test_files_are_called_by_the_cameras(file: str, topics: list[str], expected: list[str], tmp_path: Path) -> None:
    paths = session_paths(str(tmp_path / file), name_cameras(topics, "/"))
    assert paths == {topic: tmp_path / name for topic, name in zip(topics, expected, strict=True)}


def test_a_file_that_cannot_be_is_named_at_once(tmp_path: Path) -> None:
    cameras = (Camera(FRONT, "front"), Camera(REAR, "rear"))
    assert session_paths("", cameras) == {}
    (tmp_path / "robot.rear").mkdir()
    for file in (str(tmp_path), str(tmp_path / "nowhere" / "robot"), str(tmp_path / "robot"), "/"):
        with pytest.raises(ConfigError, match="expected a file in a folder that exists"):
            session_paths(file, cameras)


# ---- what somebody asks for


@contextmanager
def no_room(folder: Path, how: str) -> Iterator[None]:
    """Leave 64 kB of room in a folder for the duration of the block: a disk of that size, or a limit of the process."""
    if how == "disk":
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
        if mount.returncode:
            pytest.skip("no disk may be mounted here")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("how", ["disk", "limit"])
def test_a_disk_that_is_full_is_reported_and_every_old_file_stays(how: str, tmp_path: Path) -> None:
    paths = {FRONT: tmp_path / "front", REAR: tmp_path / "rear"}
    small, large = ThresholdSession(), Session(nano(), EngineConfig(score_threshold=0.0))
    files = SessionFiles({}, 1.0, lambda *problem: None)
    files.restore({FRONT: small, REAR: large})
    answers: list[Answer] = []
    with no_room(tmp_path, how):
        for prompt in (None, click()):
            if prompt is not None:
                old = {name: path.read_bytes() for name, path in paths.items()}
                run(large, frames(3), {0: [prompt]})
                small.submit(TextPrompt("text", text="the red square"))
                small.step(frames(1)[0])
            files.save(paths, answers.append)
            files.finish()
        assert {name: path.read_bytes() for name, path in paths.items()} == old
        assert sorted(path.name for path in tmp_path.iterdir()) == ["front", "rear"]
        assert [answer.success for answer in answers] == [True, False]
        assert re.search("rear.*cannot be written: .*(No space left|File too large)", answers[1].message)
    files.save({FRONT: tmp_path / "front", REAR: tmp_path / "rear"}, answers.append)
    files.finish()
    assert answers[2].success and answers[2].target_ids == (1, 1)


def test_one_save_is_written_at_a_time_and_the_last_one_is_waited_for(tmp_path: Path) -> None:
    go = threading.Event()

    class Slow(ThresholdSession):
        def snapshot(self) -> Any:
            return self

        def write(self, path: Path) -> None:
            assert go.wait(PATIENCE_S)
            path.write_text("written")

    files, answers = SessionFiles({}, 1.0, lambda *problem: None), []
    files.restore({FRONT: Slow()})
    files.save({FRONT: tmp_path / "a"}, answers.append)
    with pytest.raises(SavedSessionError, match="another save is still being written"):
        files.save({FRONT: tmp_path / "b"}, answers.append)
    go.set()
    files.finish()
    assert answers == [Answer(True)] and (tmp_path / "a").read_text() == "written"


def test_after_a_save_to_the_nodes_own_file_it_is_emptied_with_the_session(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with life({FRONT: path}, 0.05) as made:
        made.add("a")
        made.ask(SaveSession({FRONT: path}))
        assert '"1"' in path.read_text()
        made.ask(Remove("away", 1))
        until(lambda: made.show() == [] and '"1"' not in path.read_text())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "no path is given, and the parameter session_file is empty; give one of them"),
        ("robot", "path is 'robot', expected an absolute one, which begins with / or ~/"),
        ("~nobody-of-that-name/robot", "expected an absolute one"),
        ("/nowhere/robot", "path is '/nowhere/robot', expected a file in a folder that exists"),
    ],
)
def test_paths_that_are_refused(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        asked_paths(path, "", name_cameras([FRONT], "/"))


def test_a_path_is_that_of_the_parameter_or_begins_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cameras = name_cameras([FRONT, REAR], "/")
    assert asked_paths("~/robot.x2", "", cameras) == {
        FRONT: tmp_path / "robot.front.x2",
        REAR: tmp_path / "robot.rear.x2",
    }
    assert asked_paths("", str(tmp_path / "own"), cameras[:1]) == {FRONT: tmp_path / "own.front"}

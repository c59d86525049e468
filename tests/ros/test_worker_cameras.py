"""Several cameras on one worker: fair turns, counters and prompts of each, and no harm from one to another."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ros.threshold_session import ThresholdSession
from tests.unit.engine.sessions import click
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine import memory_policy
from x2sam_ros.engine.fleet import Fleet
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import FrameError, ModelError
from x2sam_ros.ros.requests import Remove, RemovePrompt, Request, Reset, Submit
from x2sam_ros.ros.worker import Outputs, StreamSession, Worker
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, PointPrompt, TextPrompt

PATIENCE_S = 60.0
FRONT, REAR, SIDE = "/front/image_raw", "/rear/image_raw", "/side/image_raw"
PICTURE = np.zeros((20, 30, 3), np.uint8)
PICTURE[5:10, 5:15] = (220, 30, 30)


def picture(index: int) -> Frame:
    return Frame(PICTURE, 1_000 + index, index, "camera")


def bad_picture(index: int) -> Frame:
    raise FrameError("no pixels")


class Party:
    """A worker with a session for each camera, and all that it said."""

    def __init__(self, cameras: Sequence[str], open_session: Callable[[], StreamSession]) -> None:
        self.sessions: dict[str, Any] = {}
        self.results: list[tuple[str, FrameResult]] = []
        self.groundings: list[Grounding] = []
        self.problems: list[tuple[str, str, str]] = []
        self.faults: list[tuple[str, str]] = []

        def open_sessions(named: Sequence[str]) -> dict[str, Any]:
            self.sessions = {camera: open_session() for camera in named}
            return self.sessions

        outputs = Outputs(
            begun=lambda camera, frame: None,
            result=lambda camera, answered: self.results.append((camera, answered.result)),
            targets=lambda camera, targets: None,
            grounding=lambda outcome, frame_id: self.groundings.append(outcome),
            problem=lambda camera, cause, message: self.problems.append((camera, cause, message)),
            fault=lambda camera, message: self.faults.append((camera, message)),
        )
        self.worker = Worker(cameras, open_sessions, outputs, max_commands=64)

    def wait(self, condition: Callable[[], Any]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.worker.failure is None, self.worker.failure
            assert time.monotonic() < end_s, "the worker did not answer in time"
            time.sleep(0.002)

    def ended(self, camera: str) -> bool:
        """Whether every frame of a camera has met its fate."""
        counters = self.worker.counters[camera]
        return counters.received == counters.answered + counters.dropped

    def show(self, camera: str, read: Callable[[int], Frame] = picture) -> FrameResult | None:
        """Offer a frame and wait for its fate; return its result, if it has one."""
        before = self.worker.counters[camera].answered
        self.worker.offer_frame(camera, read)
        self.wait(lambda: self.ended(camera))
        own = [result for name, result in self.results if name == camera]
        return own[-1] if self.worker.counters[camera].answered > before else None

    def ask(self, request: Request) -> Grounding:
        """Post a prompt that is answered at once, and return its answer."""
        answers: list[Grounding] = []
        self.worker.post(lambda: request, answers.append)
        self.wait(lambda: answers)
        return answers[0]

    def add(self, prompt_id: str, camera: str, words: str = "the red one") -> int:
        """Add a target on the next frame of a camera; return its id."""
        answers: list[Grounding] = []
        self.worker.post(lambda: Submit(TextPrompt(prompt_id, text=words), camera), answers.append)
        self.show(camera)
        self.wait(lambda: answers)
        assert answers[0].status is GroundingStatus.OK, answers[0].message
        return answers[0].target_ids[0]


@contextmanager
def party(cameras: Sequence[str] = (FRONT, REAR), step_s: float = 0.0) -> Iterator[Party]:
    numbers = itertools.count(1)
    with running(Party(cameras, lambda: ThresholdSession(step_s, numbers))) as made:
        yield made


@contextmanager
def running(made: Party) -> Iterator[Party]:
    made.worker.start()
    assert made.worker.wait_ready(PATIENCE_S)
    yield made
    assert made.worker.stop(timeout_s=10.0)
    assert made.worker.failure is None


def test_each_camera_has_its_own_frames_numbers_and_counters() -> None:
    with party() as made:
        for _ in range(3):
            made.show(FRONT)
        made.show(REAR, bad_picture)
        result = made.show(REAR)
    assert result is not None and result.frame_index == 0, "frames of each camera are counted by themselves"
    front, rear = made.worker.counters[FRONT], made.worker.counters[REAR]
    assert (front.received, front.answered, front.dropped) == (3, 3, 0)
    assert (rear.received, rear.answered, rear.bad) == (2, 1, 1)
    assert made.problems == [(REAR, "frame", "no pixels")]


def test_a_slow_camera_waits_for_one_frame_of_each_other_one() -> None:
    """Two cameras flood the worker; the third sends now and then."""
    step_s = 0.02
    with party((FRONT, REAR, SIDE), step_s) as made:
        stop = threading.Event()

        def flood(camera: str) -> None:
            while not stop.is_set():
                made.worker.offer_frame(camera, picture)
                time.sleep(0.002)

        threads = [threading.Thread(target=flood, args=(camera,)) for camera in (FRONT, REAR)]
        for thread in threads:
            thread.start()
        made.wait(lambda: len(made.results) > 4)
        waited = []
        for _ in range(15):
            time.sleep(random.Random(len(waited)).uniform(0.0, 0.08))
            before = len(made.results)
            made.worker.offer_frame(SIDE, picture)
            made.wait(lambda: made.ended(SIDE))
            order = [camera for camera, _ in made.results[before:]]
            waited.append(order.index(SIDE))
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        made.wait(lambda: all(map(made.ended, (FRONT, REAR, SIDE))))
    assert max(waited) <= 2, "the frame at hand, and one of the other camera"
    assert made.worker.counters[SIDE].replaced == 0 and made.worker.counters[SIDE].answered == 15
    answered = [made.worker.counters[camera].answered for camera in (FRONT, REAR)]
    assert abs(answered[0] - answered[1]) <= 2, "who floods alike gets alike"


@pytest.mark.parametrize("seed", range(8))
def test_every_frame_ends_up_answered_replaced_or_bad(seed: int) -> None:
    rng = random.Random(seed)
    cameras = [f"/camera{number}/image" for number in range(rng.randint(1, 5))]
    sent = dict.fromkeys(cameras, 0)
    with party(cameras, step_s=rng.choice((0.0, 0.001))) as made:

        def send(camera: str, random_: random.Random) -> None:
            for number in range(random_.randint(1, 60)):
                sent[camera] += 1
                kind = random_.random()
                made.worker.offer_frame(camera, bad_picture if kind < 0.2 else picture)
                if kind > 0.9:
                    prompt = TextPrompt(f"{camera} {number}", text="red")
                    request = Submit(prompt, random_.choice((camera, "", "/nowhere")))
                    made.worker.post(lambda request=request: request)
                time.sleep(random_.choice((0.0, 0.0, 0.001, 0.004)))

        threads = [
            threading.Thread(target=send, args=(camera, random.Random(f"{seed} {camera}"))) for camera in cameras
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        made.wait(lambda: all(map(made.ended, cameras)))
    for camera in cameras:
        counters = made.worker.counters[camera]
        assert counters.received == sent[camera] == counters.answered + counters.replaced + counters.bad
        own = [result for name, result in made.results if name == camera]
        assert [result.frame_index for result in own] == list(range(counters.answered))
        assert counters.bad == sum(name == camera for name, _, _ in made.problems)


def test_prompts_reach_the_camera_they_name_and_no_id_is_on_two() -> None:
    with party() as made:
        assert (made.add("a", FRONT), made.add("b", REAR), made.add("c", FRONT)) == (1, 2, 3)
        result = made.show(FRONT)
        assert result is not None and result.target_ids.tolist() == [1, 3]
        result = made.show(REAR)
        assert result is not None and result.target_ids.tolist() == [2]


def test_a_camera_that_is_unknown_or_left_open_is_rejected_with_the_names() -> None:
    prompt = TextPrompt("a", text="the red one")
    with party() as made:
        for camera, said in (("", "no camera is named"), ("/other", "there is no camera '/other'")):
            answer = made.ask(Submit(prompt, camera))
            assert answer.status is GroundingStatus.REJECTED
            assert said in answer.message and f"{FRONT}, {REAR}" in answer.message
        assert made.add("a", FRONT) == 1, "its id is still free"
        twice = made.ask(Submit(prompt, REAR))
        assert twice.status is GroundingStatus.REJECTED and f"taken on camera '{FRONT}'" in twice.message


def test_a_target_is_removed_by_its_id_alone_and_a_wrong_camera_is_named() -> None:
    with party() as made:
        made.add("a", FRONT)
        made.add("b", REAR)
        wrong = made.ask(Remove("x", 2, FRONT))
        assert wrong.status is GroundingStatus.REJECTED and f"is on camera '{REAR}'" in wrong.message
        assert made.ask(Remove("x", 9)).message == "there is no target 9; targets: 1, 2"
        assert made.ask(Remove("x", 2)).target_ids == (2,)
        assert (made.sessions[FRONT].target_ids, made.sessions[REAR].target_ids) == ((1,), ())


def test_a_prompt_is_removed_from_the_camera_that_has_it() -> None:
    told: list[Grounding] = []
    with party() as made:
        made.add("a", FRONT)
        made.worker.post(lambda: Submit(TextPrompt("b", text="red"), REAR), told.append)
        assert made.ask(RemovePrompt("b")).status is GroundingStatus.REMOVED
        assert told[0].status is GroundingStatus.REJECTED and "removed before" in told[0].message
        assert "'never'" in made.ask(RemovePrompt("never")).message
        assert made.ask(RemovePrompt("b", FRONT)).status is GroundingStatus.REJECTED


def test_a_reset_is_for_the_camera_it_names_or_for_all() -> None:
    waiting: dict[str, list[Grounding]] = {FRONT: [], REAR: []}
    with party() as made:
        made.add("a", FRONT)
        made.add("b", REAR)
        for camera, answers in waiting.items():
            prompt = TextPrompt(f"waits on {camera}", text="red")
            made.worker.post(lambda prompt=prompt, camera=camera: Submit(prompt, camera), answers.append)
        assert made.ask(Reset("x", REAR)).status is GroundingStatus.REMOVED
        assert made.sessions[FRONT].target_ids == (1,) and made.sessions[REAR].target_ids == ()
        assert not waiting[FRONT] and "a reset came" in waiting[REAR][0].message
        assert made.ask(Reset("y")).status is GroundingStatus.REMOVED
        assert made.sessions[FRONT].target_ids == () and "a reset came" in waiting[FRONT][0].message


def test_a_prompt_without_a_stamp_refers_to_what_its_own_camera_showed() -> None:
    with party() as made:
        made.show(FRONT, lambda index: replace(picture(index), stamp_ns=5_000_000_000))
        for camera in (FRONT, REAR):
            prompt = PointPrompt(f"on {camera}", points_px=np.array([[6.0, 6.0]]))
            made.worker.post(lambda prompt=prompt, camera=camera: Submit(prompt, camera))
        made.wait(lambda: made.sessions[FRONT]._pending and made.sessions[REAR]._pending)
        assert made.sessions[FRONT]._pending[0].stamp_ns == 5_000_000_000
        assert made.sessions[REAR]._pending[0].stamp_ns is None


def test_a_camera_that_fails_harms_no_other() -> None:
    answers: dict[str, list[Grounding]] = {FRONT: [], REAR: []}

    def fail(frame: Frame) -> FrameResult:
        raise ModelError("NaN")

    with party() as made:
        made.sessions[FRONT].step = fail
        for camera, told in answers.items():
            prompt = TextPrompt(f"on {camera}", text="red")
            made.worker.post(lambda prompt=prompt, camera=camera: Submit(prompt, camera), told.append)
        assert made.show(FRONT) is None
        assert answers[FRONT][0].status is GroundingStatus.REJECTED and "NaN" in answers[FRONT][0].message
        assert not answers[REAR]
        result = made.show(REAR)
        assert result is not None and result.masks.sum() == 50
        assert answers[REAR][0].status is GroundingStatus.OK


def test_sessions_are_all_closed_with_the_worker_even_if_one_cannot_be() -> None:
    closed: list[int] = []
    numbers = itertools.count()

    class Closing(ThresholdSession):
        def __init__(self) -> None:
            super().__init__()
            self.number = next(numbers)

        def close(self) -> None:
            closed.append(self.number)
            if self.number == 1:
                raise RuntimeError("stuck")

    made = Party((FRONT, REAR, SIDE), Closing)
    made.worker.start()
    assert made.worker.wait_ready(PATIENCE_S)
    assert made.worker.stop(timeout_s=10.0)
    assert sorted(closed) == [0, 1, 2] and str(made.worker.failure) == "stuck"


def test_prompts_that_never_end_do_not_starve_the_frames() -> None:
    with party() as made:
        stop = threading.Event()

        def again() -> Request:
            if not stop.is_set():
                made.worker.post(again)
            return Remove("x", 99)

        made.worker.post(again)
        assert made.show(FRONT) is not None
        stop.set()


class Faulty:
    """A memory policy that raises from its second frame on."""

    name, capacity = "faulty", 3

    def keep(self, stored: Sequence[Any], new: Any) -> Sequence[int]:
        if stored:
            raise KeyError("lost my notes")
        return (0,)


class Plugins:
    def memory_policy(self, name: str) -> Callable[[EngineConfig], Faulty]:
        return lambda config: Faulty()


def engine_party(**options: Any) -> Party:
    fleet = Fleet()
    config = EngineConfig(**{"score_threshold": 0.0, **options})
    return Party((FRONT, REAR), lambda: Session(nano(), config, fleet=fleet))


def test_a_plugins_fault_is_said_once_for_each_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_policy, "installed_plugins", Plugins)
    stream = frames(5)
    with running(engine_party()) as made:
        for camera in (FRONT, REAR):
            made.worker.post(lambda camera=camera: Submit(click(f"on {camera}"), camera))
        for frame in stream:
            assert made.show(FRONT, lambda index, frame=frame: frame) is not None
        assert [camera for camera, _ in made.faults] == [FRONT]
        assert "memory policy 'faulty' raised KeyError" in made.faults[0][1]
        assert made.worker.faults == {FRONT: (made.faults[0][1],), REAR: ()}
        for frame in stream:
            assert made.show(REAR, lambda index, frame=frame: frame) is not None
        assert [camera for camera, _ in made.faults] == [FRONT, REAR]
        assert made.sessions[FRONT].target_ids + made.sessions[REAR].target_ids == (1, 2)
    assert not made.problems


def test_another_size_goes_on_and_another_camera_on_one_topic_has_to_insist() -> None:
    """What a stream's timeline decides, seen from the worker: counted, named, and no matter of the other camera."""
    stream, large = frames(12), frames(12, size=(120, 160))
    with running(engine_party(late_frames=2)) as made:
        for camera in (FRONT, REAR):
            made.worker.post(lambda camera=camera: Submit(click(f"on {camera}"), camera))
            made.show(camera, lambda index: stream[0])
        result = made.show(FRONT, lambda index: large[1])
        assert result is not None and result.image_size == (120, 160) and result.target_ids.tolist() == [1]
        strange = [replace(frame, frame_id="other") for frame in stream]
        assert [made.show(FRONT, lambda index, n=n: strange[n]) for n in (2, 3)] == [None, None]
        assert made.worker.counters[FRONT].bad == 2
        assert all(camera == FRONT and "of 'other'" in message for camera, _, message in made.problems)
        result = made.show(FRONT, lambda index: strange[4])
        assert result is not None and result.frame_id == "other"
        result = made.show(REAR, lambda index: stream[5])
        assert result is not None and result.target_ids.tolist() == [2], "the other camera has lost nothing"
        assert made.worker.counters[REAR].dropped == 0

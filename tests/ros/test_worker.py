"""The worker's promises, without ROS: newest frame only, bounded commands, nothing kills it, everything is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.ros.threshold_session import ThresholdSession
from x2sam_ros.errors import FrameError, ModelError, PromptError, X2SamError
from x2sam_ros.ros.requests import Reject, Remove, RemovePrompt, Reset, Submit
from x2sam_ros.ros.worker import Outputs, Worker
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Prompt, TargetInfo, TextPrompt

CAMERA = "/camera/image_raw"


class Log:
    """Collects what the worker says."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []
        self.targets: list[tuple[TargetInfo, ...]] = []
        self.groundings: list[tuple[Grounding, str]] = []
        self.problems: list[tuple[str, str]] = []
        self.faults: list[tuple[str, str]] = []
        self.outputs = Outputs(
            begun=lambda camera, frame: None,
            result=lambda camera, answered: self.results.append(answered.result),
            targets=lambda camera, targets: self.targets.append(targets),
            grounding=lambda outcome, frame_id: self.groundings.append((outcome, frame_id)),
            problem=lambda camera, cause, message: self.problems.append((cause, message)),
            fault=lambda camera, message: self.faults.append((camera, message)),
        )

    def wait(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < end_s, "the worker did not answer in time"
            time.sleep(0.002)


def frame(index: int) -> Frame:
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:10, 5:15] = (220, 30, 30)
    return Frame(image, stamp_ns=1_000 + index, frame_index=index, frame_id="camera")


def bad_frame(index: int) -> Frame:
    raise FrameError("encoding 'foo' is not supported")


def text(prompt_id: str, words: str = "the red one") -> Submit:
    return Submit(TextPrompt(prompt_id, text=words))


class Runner:
    def __init__(self, step_s: float, max_commands: int = 8) -> None:
        self.log = Log()
        self.session = ThresholdSession(step_s)
        self.worker = Worker([CAMERA], lambda cameras: {CAMERA: self.session}, self.log.outputs, max_commands)

    def __enter__(self) -> Runner:
        self.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.worker.stop(timeout_s=2.0)


@pytest.fixture
def runner() -> Iterator[Runner]:
    with Runner(step_s=0.0) as made:
        yield made


def test_frames_come_back_with_their_own_stamps_and_running_numbers(runner: Runner) -> None:
    for count in range(1, 4):
        runner.worker.offer_frame(CAMERA, frame)
        runner.log.wait(lambda count=count: len(runner.log.results) == count)
    assert [result.stamp_ns for result in runner.log.results] == [1_000, 1_001, 1_002]
    assert [result.frame_index for result in runner.log.results] == [0, 1, 2]


def test_only_the_newest_waiting_frame_is_answered() -> None:
    with Runner(step_s=0.2) as runner:
        runner.worker.wait_ready(2)
        for stamp in range(10):
            runner.worker.offer_frame(CAMERA, lambda index, stamp=stamp: Frame(frame(index).image, stamp, index))
            time.sleep(0.01)
        runner.log.wait(lambda: runner.worker.counters[CAMERA].answered == 2)
    assert [result.stamp_ns for result in runner.log.results] == [0, 9]
    counters = runner.worker.counters[CAMERA]
    assert (counters.received, counters.answered, counters.dropped) == (10, 2, 8)


def test_a_bad_frame_is_counted_and_named_and_the_next_one_answered(runner: Runner) -> None:
    runner.worker.offer_frame(CAMERA, bad_frame)
    runner.log.wait(lambda: bool(runner.log.problems))
    runner.worker.offer_frame(CAMERA, frame)
    runner.log.wait(lambda: bool(runner.log.results))
    assert runner.log.problems == [("frame", "encoding 'foo' is not supported")]
    assert runner.worker.counters[CAMERA].bad == 1 == runner.worker.counters[CAMERA].dropped


def test_bad_frames_are_counted_by_cause(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = runner.worker.counters[CAMERA]
    for error in (None, FrameError("too late"), RuntimeError("out of memory")):

        def step(frame: Frame, error: Exception | None = error) -> FrameResult:
            assert error is not None
            raise error

        monkeypatch.setattr(runner.session, "step", step)
        count = counters.bad
        runner.worker.offer_frame(CAMERA, frame if error else bad_frame)
        runner.log.wait(lambda count=count: counters.bad == count + 1)
    assert counters.causes == {"unreadable": 1, "refused": 1, "failed": 1}
    assert "out of memory" in counters.last_bad and counters.dropped == counters.received == 3


def test_an_unexpected_error_is_named_with_its_place_and_survived(runner: Runner) -> None:
    runner.worker.offer_frame(CAMERA, lambda index: 1 // 0)
    runner.log.wait(lambda: bool(runner.log.problems))
    assert "ZeroDivisionError" in runner.log.problems[0][1] and "test_worker.py" in runner.log.problems[0][1]
    runner.worker.post(lambda: {}["x"])
    runner.worker.offer_frame(CAMERA, frame)
    runner.log.wait(lambda: bool(runner.log.results))
    assert runner.log.groundings[0][0].status == GroundingStatus.REJECTED


def test_a_prompt_is_answered_on_the_next_frame_with_its_header(runner: Runner) -> None:
    told: list[Grounding] = []
    runner.worker.post(lambda: text("a"), told.append)
    runner.worker.offer_frame(CAMERA, frame)
    runner.log.wait(lambda: bool(runner.log.results))
    outcome, frame_id = runner.log.groundings[0]
    assert (outcome.prompt_id, outcome.status, outcome.stamp_ns, frame_id) == ("a", GroundingStatus.OK, 1_000, "camera")
    assert told == [outcome]
    assert runner.log.results[0].masks.sum() == 50


def test_the_second_prompt_of_one_id_is_rejected_and_the_first_still_answered(runner: Runner) -> None:
    first: list[Grounding] = []
    second: list[Grounding] = []
    runner.worker.post(lambda: text("a"), first.append)
    runner.worker.post(lambda: text("a"), second.append)
    runner.log.wait(lambda: bool(second))
    runner.worker.offer_frame(CAMERA, frame)
    runner.log.wait(lambda: bool(first))
    assert second[0].status == GroundingStatus.REJECTED and "'a'" in second[0].message
    assert first[0].status == GroundingStatus.OK


def test_remove_and_reset_answer_at_once(runner: Runner) -> None:
    runner.worker.post(lambda: text("a"))
    runner.worker.offer_frame(CAMERA, frame)
    runner.log.wait(lambda: bool(runner.log.results))
    waiting: list[Grounding] = []
    runner.worker.post(lambda: Remove("b", 99))
    runner.worker.post(lambda: Remove("c", 1))
    runner.worker.post(lambda: text("d"), waiting.append)
    runner.worker.post(lambda: Reset("e"))
    runner.worker.post(lambda: Reject("f", "kind is 9"))
    runner.log.wait(lambda: len(runner.log.groundings) == 6)
    outcomes = {outcome.prompt_id: outcome for outcome, _ in runner.log.groundings}
    assert outcomes["b"].status == GroundingStatus.REJECTED and "99" in outcomes["b"].message
    assert outcomes["c"].status == GroundingStatus.REMOVED and outcomes["c"].target_ids == (1,)
    assert outcomes["e"].status == GroundingStatus.REMOVED
    assert outcomes["f"].message == "kind is 9"
    assert waiting[0].status == GroundingStatus.REJECTED and "reset" in waiting[0].message


def test_a_prompt_is_removed_with_whoever_waits_for_it(runner: Runner) -> None:
    waiting: list[Grounding] = []
    runner.worker.post(lambda: text("a"), waiting.append)
    runner.worker.post(lambda: RemovePrompt("a"))
    runner.worker.post(lambda: RemovePrompt("never"))
    runner.log.wait(lambda: len(runner.log.groundings) == 3)
    (told, _), (removed, _), (unknown, _) = runner.log.groundings
    assert waiting == [told] and told.status == GroundingStatus.REJECTED and "removed before" in told.message
    assert (removed.prompt_id, removed.status) == ("a", GroundingStatus.REMOVED)
    assert unknown.status == GroundingStatus.REJECTED and "never" in unknown.message


def test_who_waits_is_told_when_the_network_fails_and_not_when_the_frame_does(runner: Runner) -> None:
    waiting: list[Grounding] = []
    errors: list[X2SamError] = [FrameError("too elongated"), ModelError("NaN")]
    runner.worker.wait_ready(2)
    step = runner.session.step

    def fail(image: Frame) -> FrameResult:
        if errors:
            raise errors.pop(0)
        return step(image)

    runner.session.step = fail
    runner.worker.post(lambda: text("a"), waiting.append)
    for count in (1, 2):
        runner.worker.offer_frame(CAMERA, frame)
        runner.log.wait(lambda count=count: len(runner.log.problems) == count)
        assert len(waiting) == count - 1
    assert waiting[0].status == GroundingStatus.REJECTED and "NaN" in waiting[0].message


def test_too_many_waiting_prompts_are_refused() -> None:
    gate = threading.Event()
    log = Log()

    def open_slowly(cameras: Sequence[str]) -> dict[str, ThresholdSession]:
        gate.wait(5)
        return {CAMERA: ThresholdSession()}

    worker = Worker([CAMERA], open_slowly, log.outputs, max_commands=3)
    worker.start()
    for number in range(3):
        worker.post(lambda number=number: text(f"p{number}"))
    with pytest.raises(PromptError, match="3 prompts are waiting"):
        worker.post(lambda: text("one too many"))
    gate.set()
    worker.offer_frame(CAMERA, frame)
    log.wait(lambda: bool(log.results))
    assert [outcome.prompt_id for outcome, _ in log.groundings] == ["p0", "p1", "p2"]
    assert worker.stop(2.0)


def test_a_model_that_cannot_be_loaded_is_kept_as_the_failure() -> None:
    def fail(cameras: Sequence[str]) -> dict[str, ThresholdSession]:
        raise PromptError("no such model")

    worker = Worker([CAMERA], fail, Log().outputs, 1)
    worker.start()
    assert worker.stop(2.0)
    assert str(worker.failure) == "no such model"


def test_stopping_waits_for_the_frame_at_hand_and_no_longer() -> None:
    with Runner(step_s=0.3) as runner:
        runner.worker.wait_ready(2)
        runner.worker.offer_frame(CAMERA, frame)
        time.sleep(0.05)
        runner.worker.offer_frame(CAMERA, frame)
        started_s = time.monotonic()
        assert not runner.worker.stop(timeout_s=0.01)
        assert runner.worker.stop(timeout_s=2.0)
    assert time.monotonic() - started_s < 0.6
    assert runner.worker.counters[CAMERA].answered == 1


class RememberingSession(ThresholdSession):
    """Keeps the prompts it got, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[Prompt] = []
        self.closed = False

    def submit(self, prompt: Prompt, **options: Any) -> None:
        self.prompts.append(prompt)
        super().submit(prompt, **options)

    def close(self) -> None:
        self.closed = True


def test_a_prompt_without_a_stamp_refers_to_the_newest_answered_frame() -> None:
    session, log = RememberingSession(), Log()
    worker = Worker([CAMERA], lambda cameras: {CAMERA: session}, log.outputs, 8)
    worker.start()
    worker.post(lambda: text("before any"))
    log.wait(lambda: len(session.prompts) == 1)
    worker.offer_frame(CAMERA, frame)
    log.wait(lambda: len(log.results) == 1)
    worker.post(lambda: text("after one"))
    worker.post(lambda: Submit(TextPrompt("dated", stamp_ns=7, text="the red one")))
    log.wait(lambda: len(session.prompts) == 3)
    assert [prompt.stamp_ns for prompt in session.prompts] == [None, 1_000, 7]
    assert worker.stop(timeout_s=2.0) and session.closed, "what runs beside the frames ends with the worker"

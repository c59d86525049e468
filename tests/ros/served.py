"""A small node with the services, the actions and a worker, on a thread of its own; clients in other ROS contexts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from tests.ros.domains import enter_own_graph
from tests.ros.harness import picture
from tests.ros.threshold_session import ThresholdSession
from x2sam_ros.ros import convert
from x2sam_ros.ros.actions import Actions
from x2sam_ros.ros.asking import Asker, unjam
from x2sam_ros.ros.cameras import name_cameras
from x2sam_ros.ros.services import Services
from x2sam_ros.ros.session_files import SessionFiles, asked_paths
from x2sam_ros.ros.worker import Answered, Outputs, Worker
from x2sam_ros.types import Frame, FrameResult, Grounding

CAMERA = "/camera/image_raw"
INACTIVE = "served is inactive; activate it first"


class Served:
    """The node: ``refusal`` is why it does nothing at the moment, ``groundings`` what it would publish."""

    def __init__(self, sessions: Mapping[str, Any], session_file: str = "", **parameters: Any) -> None:
        self.refusal, self.session_file = "", session_file
        self.groundings: list[Grounding] = []
        self.problems: list[str] = []
        self.results: list[FrameResult] = []
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = Node("served", context=self.context, parameter_overrides=overrides)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.cameras = name_cameras(list(sessions), "/")
        outputs = Outputs(
            begun=lambda camera, frame: None,
            result=self._publish,
            targets=lambda camera, targets: None,
            grounding=lambda outcome, frame_id: self.groundings.append(outcome),
            problem=lambda camera, cause, message: self.problems.append(f"{cause}: {message}"),
            fault=lambda camera, fault: self.problems.append(fault),
        )
        files = SessionFiles({}, 1.0, outputs.problem)
        self.worker = Worker(list(sessions), lambda cameras: sessions, outputs, 16, files)
        self.asker = Asker(self.node, lambda: self.worker, lambda: self.refusal)
        numbers = itertools.count(1)
        self.services = Services(
            self.node,
            self.asker,
            lambda word: f"{word}-{next(numbers)}",
            lambda path: asked_paths(path, self.session_file, self.cameras),
        )
        self.actions = Actions(self.node, self.asker, lambda word: f"{word}-{next(numbers)}")
        self.sent = 0
        self._stop = threading.Event()
        self._calls: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self.worker.start()
        assert self.worker.wait_ready(60.0) and self.worker.failure is None
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            while self._calls:
                self._calls.pop()()
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except Exception as error:
                self.problems.append(f"spin: {type(error).__name__}: {error}")
                unjam(self.node)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the executor's thread, soon."""
        self._calls.append(function)

    def _publish(self, camera: str, answered: Answered) -> None:
        self.results.append(answered.result)
        self.actions.saw(camera, convert.from_result(answered.result, 0))

    def send(self, camera: str = CAMERA, image: np.ndarray | None = None) -> None:
        """Let a picture with the stamp (number of pictures so far) seconds come."""
        self.sent += 1
        number, pixels = self.sent, picture() if image is None else image
        self.worker.offer_frame(camera, lambda index: Frame(pixels, number * 1_000_000_000, index, "optical"))

    def end(self) -> None:
        self._stop.set()
        self._thread.join(5.0)
        assert not self._thread.is_alive()
        assert self.asker.finish(self.executor, "the node ends", 2.0)
        assert self.worker.stop(5.0) and self.worker.failure is None
        self.actions.destroy()
        self.node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


class Caller:
    """A client in a context of its own, which is what another process is."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("caller", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def wait(self, condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "nothing came") -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, what
            self.executor.spin_once(timeout_sec=0.02)

    def rest(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.02)

    def client(self, kind: Any, name: str) -> Any:
        made = self.node.create_client(kind, f"/served/{name}")
        assert made.wait_for_service(10.0)
        return made

    def ask(self, kind: Any, name: str, timeout_s: float = 10.0, **fields: Any) -> Any:
        """Call a service and return its response."""
        made = self.client(kind, name)
        answer = made.call_async(kind.Request(**fields))
        self.wait(answer.done, timeout_s, f"{name} did not answer")
        self.node.destroy_client(made)
        return answer.result()

    def action(self, kind: Any, name: str) -> ActionClient:
        made = ActionClient(self.node, kind, f"/served/{name}")
        assert made.wait_for_server(10.0)
        return made

    def end(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Sent:
    """A goal that was sent."""

    def __init__(self, caller: Caller, client: ActionClient, goal: Any) -> None:
        self._caller = caller
        self.told: list[tuple[int, str, float]] = []
        accepted = client.send_goal_async(goal, feedback_callback=self._hear)
        caller.wait(accepted.done)
        self.handle = accepted.result()
        assert self.handle.accepted
        self._result = self.handle.get_result_async()

    def _hear(self, message: Any) -> None:
        self.told.append((message.feedback.stage, message.feedback.response, time.monotonic()))

    @property
    def stages(self) -> list[int]:
        """What was told, without repetitions."""
        return [stage for stage, _ in itertools.groupby(stage for stage, _, _ in self.told)]

    @property
    def is_over(self) -> bool:
        return bool(self._result.done())

    def end(self, timeout_s: float = 10.0) -> tuple[int, Any]:
        """Wait for the end of it; return its status and result."""
        self._caller.wait(self._result.done, timeout_s, "the goal did not end")
        return self._result.result().status, self._result.result().result


@contextmanager
def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    enter_own_graph(monkeypatch)
    yield


@contextmanager
def served(
    monkeypatch: pytest.MonkeyPatch,
    sessions: Mapping[str, Any] | None = None,
    session_file: Path | str = "",
    **parameters: Any,
) -> Iterator[tuple[Served, Caller]]:
    """Run the node and a client of it."""
    with own_domain(monkeypatch):
        node, caller = Served(sessions or {CAMERA: ThresholdSession()}, str(session_file), **parameters), None
        try:
            caller = Caller()
            yield node, caller
        finally:
            node.end()
            if caller is not None:
                caller.end()


@contextmanager
def jammed_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[None]:
    """Let rclpy raise where it takes the next request, as it does for bytes that it cannot decode."""
    take, raised = getattr(owner, name), threading.Event()

    def broken(*args: Any) -> Any:
        if raised.is_set():
            return take(*args)
        raised.set()
        take(*args)
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, broken)
        yield
    assert raised.is_set()

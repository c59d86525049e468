"""The node as a managed one: its states, what each of them answers, and what is given back."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String

from tests.ros.domains import enter_own_graph
from tests.ros.harness import CAMERA, REAL_NODE, THRESHOLD_NODE, Client, own_graph, picture, running_node
from tests.ros.threshold_session import ThresholdSession
from tests.unit.model.networks import nano
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.process_memory import resident_mib
from x2sam_ros.engine.session import Session
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.msg import Grounding, Prompt
from x2sam_ros.ros.node import X2SamNode
from x2sam_ros.srv import SetPrompt
from x2sam_ros.types import Frame

BALLAST_MIB = 300


class Manager:
    """Changes the state of the node, as a lifecycle manager does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._change = client.create_client(ChangeState, "/x2sam_node/change_state")
        self._get = client.create_client(GetState, "/x2sam_node/get_state")
        self._prompt = client.create_client(SetPrompt, "/x2sam_node/set_prompt")
        for service in (self._change, self._get, self._prompt):
            assert service.wait_for_service(20.0)

    def change(self, transition: int) -> bool:
        answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.client.wait(answer.done, timeout_s=60)
        return bool(answer.result().success)

    @property
    def state(self) -> str:
        answer = self._get.call_async(GetState.Request())
        self.client.wait(answer.done)
        return str(answer.result().current_state.label)

    def refusal(self) -> str:
        answer = self._prompt.call_async(SetPrompt.Request(prompt=Prompt(text="the red square")))
        self.client.wait(answer.done)
        assert not answer.result().success
        return str(answer.result().message)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with own_graph(monkeypatch) as made:
        yield made


def test_a_manager_takes_it_through_all_states_and_targets_survive_a_pause(client: Client, tmp_path: Path) -> None:
    with running_node(THRESHOLD_NODE, "autostart:=false", log=tmp_path / "node.log"):
        manager = Manager(client)
        assert (
            manager.state == "unconfigured"
            and "is unconfigured; first run ros2 lifecycle set /x2sam_node configure and then" in manager.refusal()
        )
        assert not manager.change(Transition.TRANSITION_ACTIVATE), "there is no such transition"
        assert manager.change(Transition.TRANSITION_CONFIGURE) and manager.state == "inactive"
        assert (
            "is inactive; first run ros2 lifecycle set /x2sam_node activate" in manager.refusal()
            and not client.camera.get_subscription_count()
        )
        assert manager.change(Transition.TRANSITION_ACTIVATE) and manager.state == "active"
        client.wait(lambda: client.ready and client.ready[-1].data and client.camera.get_subscription_count())
        client.publisher(String, "/x2sam_node/text").publish(String(data="the red square"))
        assert client.outcome("text-1").status == Grounding.OK
        assert manager.change(Transition.TRANSITION_DEACTIVATE) and manager.state == "inactive"
        client.wait(lambda: not client.ready[-1].data and not client.camera.get_subscription_count())
        answered = len(client.masks)
        for _ in range(5):
            client.send_image()
            client.rest(0.05)
        assert len(client.masks) == answered
        assert manager.change(Transition.TRANSITION_ACTIVATE)
        client.wait(client.camera.get_subscription_count)
        client.rest(0.5)
        assert [mask.target_id for mask in client.answer().masks] == [1], "the target was kept"
        assert not manager.change(Transition.TRANSITION_CLEANUP), "an active node is deactivated first"
        assert manager.change(Transition.TRANSITION_DEACTIVATE) and manager.change(Transition.TRANSITION_CLEANUP)
        assert manager.state == "unconfigured"
        assert manager.change(Transition.TRANSITION_CONFIGURE) and manager.change(Transition.TRANSITION_ACTIVATE)
        client.wait(client.camera.get_subscription_count)
        client.rest(0.5)
        assert not client.answer().masks, "cleanup forgets the targets"


def test_a_configure_that_fails_leaves_it_unconfigured_with_the_reason(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    with running_node(REAL_NODE, "autostart:=false", "checkpoint:=/nowhere/checkpoint", log=log):
        manager = Manager(client)
        for _ in range(2):
            assert not manager.change(Transition.TRANSITION_CONFIGURE) and manager.state == "unconfigured"
        assert "configure failed: " in log.read_text() and "/nowhere/checkpoint" in log.read_text()


def test_a_configure_that_fails_leaves_no_publisher_and_can_be_mended(client: Client, tmp_path: Path) -> None:
    wrong = "qos_overrides./x2sam_node/b/timings.publisher.reliability:=never"
    cameras = "image_topics:=[/a/image, /b/image]"
    with running_node(THRESHOLD_NODE, "autostart:=false", cameras, wrong, log=tmp_path / "node.log"):
        manager, setter = Manager(client), client.create_client(SetParameters, "/x2sam_node/set_parameters")

        def published() -> set[str]:
            return {name for name, _ in client.get_publisher_names_and_types_by_node("x2sam_node", "/")}

        client.wait(lambda: ("x2sam_node", "/") in client.get_node_names_and_namespaces())
        client.wait(lambda: {"/diagnostics", "/x2sam_node/ready"} <= published())  # discovery takes its time
        for _ in range(2):
            assert not manager.change(Transition.TRANSITION_CONFIGURE)
        client.rest(0.5)
        assert not {name for name in published() if name.endswith(("/masks", "/targets", "/timings"))}
        topics = Parameter("image_topics", value=["/c/image"]).to_parameter_msg()
        changed = setter.call_async(SetParameters.Request(parameters=[topics]))
        client.wait(changed.done)
        assert manager.change(Transition.TRANSITION_CONFIGURE)
        client.wait(lambda: len(client.get_publishers_info_by_topic("/x2sam_node/timings")) == 1)


@contextmanager
def local_node(open_sessions: object, stop: threading.Event | None = None) -> Iterator[X2SamNode]:
    rclpy.init(args=["--ros-args", "-p", "autostart:=false"])
    node = X2SamNode(open_sessions, stop)  # type: ignore[arg-type]
    try:
        yield node
    finally:
        node.close(10.0)
        node.destroy_node()
        rclpy.shutdown()


class HeavySession(ThresholdSession):
    def __init__(self) -> None:
        super().__init__()
        self.ballast = np.ones((BALLAST_MIB, 2**20), np.uint8)


def test_cleanup_gives_the_memory_of_the_model_back(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_own_graph(monkeypatch)
    models: list[weakref.ref[X2SAM]] = []

    def heavy(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, HeavySession]:
        return {camera: HeavySession() for camera in cameras}

    def real(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, Session]:
        model = X2SAM.from_pretrained(str(config.preset))
        models.append(weakref.ref(model))
        return {camera: Session(model, config.engine) for camera in cameras}

    nano()  # so that torch is not what grows
    with local_node(heavy) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS  # takes what earlier tests left with it
        before = resident_mib()
        for _ in range(3):
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert resident_mib() - before > 0.9 * BALLAST_MIB
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
            assert resident_mib() - before < 0.1 * BALLAST_MIB
    with local_node(real) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        gc.collect()
        assert models and models[0]() is None


def test_cleanup_waits_for_the_frame_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_own_graph(monkeypatch)
    step_s = 2.0

    def slow(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, ThresholdSession]:
        return {camera: ThresholdSession(step_s) for camera in cameras}

    with local_node(slow) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        pipeline = node._pipeline
        assert pipeline is not None
        begun = threading.Event()

        def read(index: int) -> Frame:
            begun.set()
            return Frame(picture(), 1, index, "")

        pipeline.worker.offer_frame(CAMERA, read)
        assert begun.wait(5.0)
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS and node.state == "unconfigured"
        assert pipeline.worker.counters[CAMERA].answered == 1
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_a_model_that_loads_is_not_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_own_graph(monkeypatch)
    stop, loaded = threading.Event(), threading.Event()

    def slow(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, ThresholdSession]:
        stop.set()
        loaded.wait(20.0)
        return {camera: ThresholdSession() for camera in cameras}

    with local_node(slow, stop) as node:
        began_s = time.monotonic()
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert time.monotonic() - began_s < 3.0
        loaded.set()

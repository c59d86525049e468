"""Levels mean something, messages name the cause, and both come once a second whatever the clock does."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.duration import Duration
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String

from tests.ros.graph import Graph, graph_of_its_own
from x2sam_ros.config import DiagnosticsConfig
from x2sam_ros.ros.diagnostics import (
    Depth,
    Diagnostics,
    Held,
    Report,
    camera_status,
    held_by,
    model_status,
    qos_status,
)
from x2sam_ros.ros.frame_slots import Counters
from x2sam_ros.ros.frame_statistics import Window
from x2sam_ros.ros.qos import create_raw_subscription

CAMERA = "/camera/image_raw"
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
REPORT = Report("active", "nano", "cpu", "float32", limits=DiagnosticsConfig(2.0, 500.0, 0.4))
MISFITS = {(CAMERA, "subscription"): ("RELIABILITY", "DEADLINE"), ("/x2sam_node/masks", "publisher"): ("DURABILITY",)}


def window(silent_s: float = 0.1, p95_ms: float = 80.0, **recent: Any) -> Window:
    counters = Counters(**{"received": 100, "answered": 100, **recent})
    total = replace(counters, received=counters.received + 900)
    return Window(total, counters, 5.0, silent_s, 40.0, p95_ms)


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def of_camera(seen: Window, misfits: Any = None, state: str = "active") -> DiagnosticStatus:
    report = replace(REPORT, state=state, cameras={CAMERA: seen})
    return camera_status("x2sam_node", CAMERA, report, misfits or {})


@pytest.mark.parametrize(
    ("seen", "level", "said"),
    [
        (window(), OK, "answers 20.0 images a second"),
        (window(answered=60, replaced=40), OK, "answers 12.0 images a second"),
        (window(answered=59, replaced=41), WARN, "slower than the camera and answers 11.8 of 20.0 images a second"),
        (window(p95_ms=501.0), WARN, "5 of 100 answers take at least 501 ms, more than 500 ms"),
        (window(p95_ms=math.nan, received=0, answered=0), OK, "answers 0.0"),
        (
            window(answered=98, causes=Counter(unreadable=1, refused=1), last_bad="no pixels"),
            WARN,
            "2 of 100 images could not be used (1 refused, 1 unreadable): no pixels",
        ),
        (
            window(answered=0, causes=Counter(failed=100), last_bad="out of memory"),
            ERROR,
            "none was answered, and 100 of 100 images could not be used (100 failed): out of memory",
        ),
        (window(silent_s=2.0, received=0, answered=0), STALE, "no image for 2 s; is the camera running"),
        (window(silent_s=9.0, received=-900, answered=0), STALE, "no image for 9 s, nor ever before"),
    ],
)
def test_a_camera_says_what_is_wrong_with_it(seen: Window, level: bytes, said: str) -> None:
    status = of_camera(seen)
    assert (status.level, status.name, status.hardware_id) == (level, f"x2sam_node: {CAMERA}", CAMERA)
    assert said in status.message and "\n" not in status.message


def test_a_camera_tells_all_its_numbers_and_all_that_is_wrong() -> None:
    seen = window(p95_ms=900.0, answered=50, replaced=49, causes=Counter(unreadable=1), last_bad="\udcff?")
    status = of_camera(seen, MISFITS)
    assert status.level == WARN and status.message.count("; ") == 3
    assert "a publisher of /camera/image_raw is not heard, it offers another RELIABILITY, DEADLINE" in status.message
    assert "/x2sam_node/masks" not in status.message
    assert values(status) == {
        "received": "1000",
        "answered": "50",
        "replaced": "49",
        "bad": "1",
        "bad.unreadable": "1",
        "last_bad": "??",
        "received_hz": "20.00",
        "answered_hz": "10.00",
        "latency_p50_ms": "40.0",
        "latency_p95_ms": "900.0",
        "silent_s": "0.1",
    }


def test_a_disabled_node_is_not_slow() -> None:
    seen = {CAMERA: window(answered=0, replaced=100)}
    status = camera_status("x2sam_node", CAMERA, replace(REPORT, enabled=False, cameras=seen), {})
    assert status.level == OK and "the node is disabled" in status.message


def test_depth_is_told_with_its_camera() -> None:
    depth = {CAMERA: Depth({"joined": 3, "without_depth": 97}, "no usable depth came on /depth")}
    status = camera_status("x2sam_node", CAMERA, replace(REPORT, cameras={CAMERA: window()}, depth=depth), {})
    assert (status.level, status.message) == (WARN, "no usable depth came on /depth")
    assert values(status)["depth.without_depth"] == "97"


def test_a_camera_that_nobody_listens_to_is_not_stale() -> None:
    status = of_camera(window(silent_s=60.0), MISFITS, "inactive")
    assert (status.level, status.message) == (OK, "not listened to: the node is inactive")


def test_the_model_says_what_it_holds_and_why_it_failed() -> None:
    held = Held(2, 4096, 1, (), "75ab")
    status = model_status("x2sam_node", replace(REPORT, held=held, problems={"frame": 3}))
    told = values(status)
    assert (status.level, status.name, status.hardware_id) == (OK, "x2sam_node: model", "cpu")
    assert status.message == "active, 2 targets"
    assert float(told.pop("resident_mib")) > 10
    assert told == {
        "state": "active",
        "model": "nano",
        "weights_sha256": "75ab",
        "device": "cpu",
        "dtype": "float32",
        "targets": "2",
        "memory_bytes": "4096",
        "waiting_prompts": "1",
        "problem.frame": "3",
    }
    faulty = replace(REPORT, held=replace(held, faults=("memory policy 'x' failed",)))
    assert (model_status("n", faulty).level, model_status("n", faulty).message) == (WARN, "memory policy 'x' failed")
    failed = model_status("n", replace(faulty, failure="checkpoint /a is missing"))
    assert (failed.level, failed.message) == (ERROR, "checkpoint /a is missing; memory policy 'x' failed")


def test_sessions_are_summed_up() -> None:
    front = SimpleNamespace(target_ids=(1, 2), nbytes=10, waiting_prompts=1, faults=("a",), weights_sha256="75ab")
    rear = SimpleNamespace(target_ids=(3,), faults=("a", "b"))  # the least that a session has
    assert held_by([front, rear]) == Held(3, 10, 1, ("a", "b"), "75ab")
    assert held_by([]) == Held()


def test_quality_of_service_is_told_by_topic_and_policy() -> None:
    status = qos_status("x2sam_node", MISFITS)
    assert (status.level, qos_status("x2sam_node", {}).level) == (WARN, OK)
    assert values(status) == {
        f"{CAMERA} (subscription)": "RELIABILITY, DEADLINE",
        "/x2sam_node/masks (publisher)": "DURABILITY",
    }
    assert "a subscription to /x2sam_node/masks gets nothing, it asks for another DURABILITY" in status.message


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    with graph_of_its_own(monkeypatch) as made:
        yield made


def test_all_is_published_every_second_also_while_the_clock_stands(graph: Graph) -> None:
    node = graph.node("x2sam_node", "/robot", use_sim_time=True)
    state = ["inactive"]
    diagnostics = Diagnostics(node, graph.monitor, lambda: replace(REPORT, state=state[0], cameras={CAMERA: window()}))
    create_raw_subscription(node, graph.monitor, String, CAMERA, lambda data: None, "reliable")
    watcher = graph.node("watcher")
    arrays: list[DiagnosticArray] = []
    beats: list[tuple[float, Header]] = []
    watcher.create_subscription(DiagnosticArray, "/diagnostics", arrays.append, 10)
    three = Duration(seconds=3)
    strict = QoSProfile(depth=5, deadline=three, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=three)
    watcher.create_subscription(
        Header, "/robot/x2sam_node/heartbeat", lambda beat: beats.append((time.monotonic(), beat)), strict
    )
    watcher.create_publisher(String, CAMERA, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    graph.wait(lambda: len(beats) >= 2 and len(arrays) >= 2)
    state[0] = "active"
    count = len(beats)
    graph.wait(lambda: len(beats) >= count + 2)
    times = [at_s for at_s, _ in beats]
    assert all(0.5 < later - earlier < 2.5 for earlier, later in itertools.pairwise(times))
    assert (beats[0][1].frame_id, beats[-1][1].frame_id, beats[-1][1].stamp.sec) == ("inactive", "active", 0)
    assert [status.name for status in arrays[-1].status] == [
        "robot/x2sam_node: model",
        f"robot/x2sam_node: {CAMERA}",
        "robot/x2sam_node: qos",
    ]
    assert [status.level for status in arrays[-1].status] == [OK, WARN, WARN]
    count = len(beats)
    for _ in range(200):  # the executor is kept busy by something
        diagnostics.publish_due()
        time.sleep(0.01)
    graph.wait(lambda: len(beats) >= count + 2)
    diagnostics.close()
    graph.rest(0.3)
    count = len(beats)
    graph.rest(1.2)
    assert len(beats) == count

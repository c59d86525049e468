"""What the node says of itself once a second: /diagnostics and a heartbeat.

The statuses are pure functions of plain values. ``Diagnostics`` publishes them, on a clock that a paused /clock does
not stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Header

from x2sam_ros.config import HEARTBEAT_PERIOD_S, DiagnosticsConfig
from x2sam_ros.engine.process_memory import gpu_mib, resident_mib
from x2sam_ros.ros.frame_statistics import Window
from x2sam_ros.ros.qos import Direction, QosMonitor, create_publisher

if TYPE_CHECKING:
    from rclpy.node import Node

ACTIVE = "active"
"""Label of the lifecycle state in which cameras are listened to."""

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE

Misfits = Mapping[tuple[str, Direction], tuple[str, ...]]
"""Policies that do not fit, by topic and direction; see ``QosMonitor.misfits``."""

_Findings = list[tuple[bytes, str]]


@dataclass(frozen=True)
class Held:
    """What the sessions hold at one moment, of all cameras together."""

    targets: int = 0
    memory_bytes: int = 0
    waiting_prompts: int = 0
    faults: tuple[str, ...] = ()
    weights_sha256: str = ""


@dataclass(frozen=True)
class Depth:
    """What became of a camera's depth: counters by name, and what is wrong with it, '' for nothing."""

    counters: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class Report:
    """All that the diagnostics are made of.

    Args:
        state: label of the lifecycle state: ``active``, ``inactive``, ``unconfigured`` or one between them.
        model: preset or folder of the checkpoint.
        device: where it runs.
        dtype: its arithmetic.
        failure: why configuring failed, or the worker ended; '' for neither.
        enabled: whether images are answered; see ``~/enable``.
        held: what the sessions hold.
        cameras: what became of the images of each image topic; none while unconfigured.
        depth: of those of them that have any.
        problems: how often each cause came.
        limits: from when on things are not OK.
    """

    state: str
    model: str
    device: str
    dtype: str
    failure: str = ""
    enabled: bool = True
    held: Held = Held()
    cameras: Mapping[str, Window] = field(default_factory=dict)
    depth: Mapping[str, Depth] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    limits: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)


def held_by(sessions: Iterable[Any]) -> Held:
    """Ask the sessions what they hold; to be called on the thread that owns them, and quick."""
    sessions = tuple(sessions)
    return Held(
        sum(len(session.target_ids) for session in sessions),
        sum(getattr(session, "nbytes", 0) for session in sessions),
        sum(getattr(session, "waiting_prompts", 0) for session in sessions),
        tuple(dict.fromkeys(fault for session in sessions for fault in session.faults)),
        next((getattr(session, "weights_sha256", "") for session in sessions), ""),
    )


def model_status(node_name: str, report: Report) -> DiagnosticStatus:
    """Say how the node and its model are."""
    held = report.held
    findings = [(ERROR, report.failure)] if report.failure else []
    findings += [(WARN, fault) for fault in held.faults]
    values: dict[str, object] = {
        "state": report.state,
        "model": report.model,
        "weights_sha256": held.weights_sha256,
        "device": report.device,
        "dtype": report.dtype,
        "targets": held.targets,
        "memory_bytes": held.memory_bytes,
        "waiting_prompts": held.waiting_prompts,
        "resident_mib": f"{resident_mib():.0f}",
    }
    if (gpu := gpu_mib(report.device)) is not None:
        values |= {"gpu_allocated_mib": f"{gpu[0]:.0f}", "gpu_reserved_mib": f"{gpu[1]:.0f}"}
    values |= {f"problem.{cause}": times for cause, times in report.problems.items()}
    healthy = f"{report.state}, {held.targets} target{'' if held.targets == 1 else 's'}"
    return _status(f"{node_name}: model", report.device, findings, healthy, values)


def camera_status(node_name: str, topic: str, report: Report, misfits: Misfits) -> DiagnosticStatus:
    """Say how one camera is."""
    window, depth = report.cameras[topic], report.depth.get(topic, Depth())
    total = window.total
    values = {
        "received": total.received,
        "answered": total.answered,
        "replaced": total.replaced,
        "bad": total.bad,
        **{f"bad.{cause}": times for cause, times in sorted(total.causes.items())},
        "last_bad": total.last_bad,
        "received_hz": f"{window.received_hz:.2f}",
        "answered_hz": f"{window.answered_hz:.2f}",
        "latency_p50_ms": f"{window.latency_p50_ms:.1f}",
        "latency_p95_ms": f"{window.latency_p95_ms:.1f}",
        "silent_s": f"{window.silent_s:.1f}",
        **{f"depth.{what}": times for what, times in depth.counters.items()},
    }
    if report.state != ACTIVE:
        return _status(f"{node_name}: {topic}", topic, [], f"not listened to: the node is {report.state}", values)
    healthy = f"answers {window.answered_hz:.1f} images a second"
    if not report.enabled:
        healthy = "answers no image: the node is disabled, call its service enable to go on"
    findings = _camera_findings(window, report.limits, report.enabled)
    findings += [(WARN, depth.warning)] if depth.warning else []
    findings += [
        (WARN, _misfit(name, direction, policies))
        for (name, direction), policies in misfits.items()
        if direction == "subscription" and name in (topic, f"{topic}/compressed")
    ]
    return _status(f"{node_name}: {topic}", topic, findings, healthy, values)


def qos_status(node_name: str, misfits: Misfits) -> DiagnosticStatus:
    """Say which topics have a peer that does not fit."""
    values = {f"{topic} ({direction})": ", ".join(policies) for (topic, direction), policies in misfits.items()}
    findings = [(WARN, _misfit(topic, direction, policies)) for (topic, direction), policies in misfits.items()]
    return _status(f"{node_name}: qos", node_name, findings, "fits everywhere", values)


class Diagnostics:
    """Publishes /diagnostics and ~/heartbeat once a second, from when it is made, in every state of the node.

    Args:
        node: has the topics.
        monitor: knows what does not fit.
        collect: gives the report; called on the executor's thread, and quick.
    """

    def __init__(self, node: Node, monitor: QosMonitor, collect: Callable[[], Report]) -> None:
        self._node, self._monitor, self._collect = node, monitor, collect
        # An aggregator tells nodes apart by this, also those of one name in several namespaces.
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._statuses = create_publisher(node, monitor, DiagnosticArray, "/diagnostics", "diagnostics")
        self._heartbeat = create_publisher(node, monitor, Header, "~/heartbeat", "heartbeat")
        self._published_s = -math.inf
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup()
        self._timer = node.create_timer(HEARTBEAT_PERIOD_S, self.publish_due, callback_group=group, clock=steady)

    def publish_due(self) -> None:
        """Publish both if it is time; to be called also by work that keeps the executor's thread from its timers."""
        if time.monotonic() - self._published_s > 0.9 * HEARTBEAT_PERIOD_S:  # timers are not that exact
            self.publish()

    def publish(self) -> None:
        """Publish both now."""
        self._published_s = time.monotonic()
        report, misfits = self._collect(), self._monitor.misfits(self._node)
        stamp = self._node.get_clock().now().to_msg()
        self._heartbeat.publish(Header(stamp=stamp, frame_id=report.state))
        cameras = [camera_status(self._name, topic, report, misfits) for topic in report.cameras]
        statuses = [model_status(self._name, report), *cameras, qos_status(self._name, misfits)]
        self._statuses.publish(DiagnosticArray(header=Header(stamp=stamp), status=statuses))

    def close(self) -> None:
        """Fall silent."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._statuses)
        self._node.destroy_publisher(self._heartbeat)


def _camera_findings(window: Window, limits: DiagnosticsConfig, enabled: bool) -> _Findings:
    recent = window.recent
    findings: _Findings = []
    if window.silent_s >= limits.stale_s:
        yet = "" if window.total.received else ", nor ever before"
        findings.append((STALE, f"no image for {window.silent_s:.0f} s{yet}; is the camera running, on this topic?"))
    if recent.bad:
        causes = ", ".join(f"{times} {cause}" for cause, times in sorted(recent.causes.items()))
        hopeless = "" if recent.answered else "none was answered, and "
        bad = f"{hopeless}{recent.bad} of {recent.received} images could not be used ({causes}): {recent.last_bad}"
        findings.append((ERROR if hopeless else WARN, bad))
    if enabled and recent.replaced > limits.max_dropped_share * recent.received:
        rates = f"{window.answered_hz:.1f} of {window.received_hz:.1f} images a second"
        findings.append((WARN, f"the model is slower than the camera and answers {rates}"))
    if window.latency_p95_ms > limits.max_latency_ms:
        slow = f"{window.latency_p95_ms:.0f} ms, more than {limits.max_latency_ms:.0f} ms"
        findings.append((WARN, f"5 of 100 answers take at least {slow}"))
    return findings


def _misfit(topic: str, direction: Direction, policies: Sequence[str]) -> str:
    if direction == "publisher":
        return f"a subscription to {topic} gets nothing, it asks for another {', '.join(policies)}"
    return f"a publisher of {topic} is not heard, it offers another {', '.join(policies)}"


def _status(
    name: str, hardware_id: str, findings: _Findings, healthy: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    def text(value: object) -> str:  # what another's exception says need not be UTF-8
        return str(value).encode("utf-8", "replace").decode()

    return DiagnosticStatus(
        level=max((level for level, _ in findings), default=OK),
        name=name,
        message=text("; ".join(found for _, found in findings) or healthy),
        hardware_id=hardware_id,
        values=[KeyValue(key=text(key), value=text(value)) for key, value in values.items()],
    )

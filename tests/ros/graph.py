"""Plain nodes of one process, spun together in a ROS graph that nobody else is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from tests.ros.domains import enter_own_graph
from x2sam_ros.ros.qos import QosMonitor


class Graph:
    """Nodes and a monitor of their quality of service, whose log is ``lines``."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.monitor = QosMonitor(self.lines.append)
        self._executor = SingleThreadedExecutor()
        self._nodes: list[Node] = []

    def node(self, name: str, namespace: str = "", *, automatic: bool = False, **overrides: Any) -> Node:
        """Make a node; ``automatic`` lets rclpy declare what is overridden, as ours does."""
        parameters = [Parameter(name, value=value) for name, value in overrides.items()]
        node = Node(
            name,
            namespace=namespace,
            parameter_overrides=parameters,
            automatically_declare_parameters_from_overrides=automatic,
        )
        self._executor.add_node(node)
        self._nodes.append(node)
        return node

    def wait(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, "it did not come about in time"
            self._executor.spin_once(timeout_sec=0.02)

    def rest(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()


@contextmanager
def graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    enter_own_graph(monkeypatch)
    rclpy.init()
    graph = Graph()
    try:
        yield graph
    finally:
        graph.close()
        rclpy.shutdown()

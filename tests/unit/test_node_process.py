"""The child node gets a ROS domain that nobody on this machine is in."""

from __future__ import annotations

import os
import socket

import pytest

from x2sam_ros.cli import node_process
from x2sam_ros.cli.node_process import FIRST_DOMAIN, NUM_DOMAINS, choose_graph


def test_a_domain_that_another_process_is_in_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_process, "check_rclpy", lambda: None)
    for name in ("ROS_DOMAIN_ID", "ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, "")
    choose_graph()
    first = int(os.environ["ROS_DOMAIN_ID"])
    assert FIRST_DOMAIN <= first < FIRST_DOMAIN + NUM_DOMAINS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7410 + 250 * first + 2))  # as its second process
        choose_graph()
    assert int(os.environ["ROS_DOMAIN_ID"]) != first

"""ROS graphs that no other test is in."""

from __future__ import annotations

import itertools
import os

import pytest

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_NUM_DOMAINS = 28
"""Below the domains that commands choose for themselves."""

_NUMBERS = itertools.count(os.getpid())


def enter_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment to a graph that nobody else is in, nor was lately: a killed node stays for its lease."""
    number = next(_NUMBERS) % (_NUM_DOMAINS // _PROCESSES)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + _PROCESS + _PROCESSES * number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

"""ROS graphs that no other test is in."""

from __future__ import annotations

import itertools
import os

import pytest

from x2sam_ros.cli.node_process import is_free

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_NUM_DOMAINS = 28
"""Below the domains that commands choose for themselves."""

_NUMBERS = itertools.count(os.getpid())


def enter_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment to a graph that nobody else is in, nor was lately: a killed node stays for its lease."""
    mine = range(1 + _PROCESS, 1 + _NUM_DOMAINS, _PROCESSES)
    domain = next(filter(is_free, (mine[next(_NUMBERS) % len(mine)] for _ in mine)))  # nodes of a module live on
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

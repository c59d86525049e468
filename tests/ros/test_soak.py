"""A short run of the soak that benchmarks/node_soak.py does for half an hour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from tests.ros.harness import ROOT


def test_a_looping_recording_with_services_and_goals(tmp_path: Path) -> None:
    options = ("--minutes", "0.25", "--loop-s", "2", "--tolerance", "0.1", "--plot", str(tmp_path / "soak.png"))
    run = subprocess.run(
        [sys.executable, "benchmarks/node_soak.py", *options],
        cwd=ROOT,
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "cancel" in run.stdout or "goal" in run.stdout
    assert (tmp_path / "soak.png").stat().st_size > 1000

"""The example plugin, built and installed as its own distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "x2sam_pinned_memory"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a copy of its source and an environment in which the distribution is installed."""
    source = tmp_path_factory.mktemp("source") / "pinned_memory"
    shutil.copytree(ROOT / "plugins" / "pinned_memory", source, ignore=shutil.ignore_patterns("__pycache__", "build"))
    site = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return source, {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


def test_it_is_found_and_listed(installed: tuple[Path, dict[str, str]]) -> None:
    _, environment = installed
    code = "from x2sam_ros.cli.plugins import plugins; plugins()"
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    line = next(line for line in run.stdout.splitlines() if NAME in line)
    assert all(part in line for part in ("pinned_memory", "0.1.0", "x2sam_memory_policies", "pinned_best"))


def test_its_own_tests_pass(installed: tuple[Path, dict[str, str]]) -> None:
    source, environment = installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(source)]
    run = subprocess.run(command, env=environment, cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout

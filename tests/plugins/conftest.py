"""Third parties' distributions, really there: a module and its metadata in a folder on the path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def make_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that installs a distribution of one module, whose entry point is called like it."""

    def make(name: str, source: str, *, version: str = "1.0", plugin: str | None = None) -> Path:
        site = tmp_path / f"site_{name}"
        metadata = site / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{name}.py").write_text(textwrap.dedent(source))
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[x2sam_ros]\n{plugin or name} = {name}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return site

    return make

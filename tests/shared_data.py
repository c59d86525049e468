"""Where the tests find parity fixtures and real data, which are no part of the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

_SHARED = Path(__file__).resolve().parents[2] / "shared"
PARITY = Path(os.environ.get("X2SAM_PARITY", _SHARED / "parity"))
DATA = Path(os.environ.get("X2SAM_DATA", _SHARED / "data"))


def parity_folder(name: str) -> Path:
    """Return a fixture folder, or skip the test saying what is missing."""
    return _folder(PARITY / name, "X2SAM_PARITY")


def data_folder(name: str) -> Path:
    """Return a folder of real data, or skip the test saying what is missing."""
    return _folder(DATA / name, "X2SAM_DATA")


def _folder(path: Path, variable: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is not there; set {variable} to the folder that holds {path.name}")
    return path


def each_fixture(pattern: str) -> pytest.MarkDecorator:
    """Run a test once for every fixture folder that matches, as its argument ``folder``; skip it where none does."""
    folders = [pytest.param(path, id=path.name) for path in sorted(PARITY.glob(pattern)) if path.is_dir()]
    reason = f"no {pattern} in {PARITY}; set X2SAM_PARITY to the folder that holds it"
    return pytest.mark.parametrize("folder", folders or [pytest.param(PARITY, marks=pytest.mark.skip(reason=reason))])


def read_fixture(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors and the expected numbers of a metric's fixture."""
    return load_file(folder / "data.safetensors"), json.loads((folder / "result.json").read_text())

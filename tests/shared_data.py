"""Where the tests find parity fixtures and real data, which are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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

"""What tests of training runs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.labels import write_published, write_recording


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs compare to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A bag with images of two squares."""
    return write_recording(tmp_path / "clip.mcap")


@pytest.fixture
def published(tmp_path: Path, recording: Path) -> Path:
    """What a replay of the recording published."""
    return write_published(tmp_path / "results.mcap", recording)

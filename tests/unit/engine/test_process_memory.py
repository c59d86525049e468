"""Memory of the process is what the system says."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from x2sam_ros.engine.process_memory import gpu_mib, resident_mib


def test_resident_memory_grows_with_what_is_written() -> None:
    before = resident_mib()
    held = np.ones(64 << 20, np.uint8)
    assert resident_mib() - before == pytest.approx(64, abs=16)
    assert held.any()


def test_a_process_without_a_gpu_says_none_and_does_not_import_torch() -> None:
    assert gpu_mib("cpu") is None
    program = (
        "import sys; from x2sam_ros.engine.process_memory import gpu_mib, resident_mib;"
        "assert resident_mib() > 1 and gpu_mib('cuda:0') is None and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "torch", [SimpleNamespace(), SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False))]
)
def test_torch_that_another_thread_imports_is_no_error(torch: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert gpu_mib("cuda:0") is None

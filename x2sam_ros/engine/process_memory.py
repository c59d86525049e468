"""How much memory this process holds. Importing it does not import torch."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    """Return this process's resident size in MiB; where the system does not tell, the most it ever was."""
    if _STATM.is_file():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def gpu_mib(device: str) -> tuple[float, float] | None:
    """Return MiB of a GPU that tensors take, and that torch keeps for them; None where this process uses no GPU.

    Args:
        device: for example ``cuda:0``.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # another thread may be importing torch
    if cuda is None or not device.startswith("cuda") or not cuda.is_initialized():
        return None
    try:
        return cuda.memory_allocated(device) / 2**20, cuda.memory_reserved(device) / 2**20
    except RuntimeError:  # there is no such device
        return None

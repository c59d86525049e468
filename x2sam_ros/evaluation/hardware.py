"""What a measurement was taken on, and how much memory it took."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hardware:
    """A machine as a process sees it.

    Args:
        cpu: the processor's name.
        cores: how many of its cores the process may use.
        threads: how many torch uses.
        torch: its version.
        gpu: the device's name; "" on a CPU.
    """

    cpu: str
    cores: int
    threads: int
    torch: str
    gpu: str = ""

    def __str__(self) -> str:
        line = f"{self.cpu}, {self.cores} cores, {self.threads} threads, torch {self.torch}"
        return f"{line}, {self.gpu}" if self.gpu else line


def hardware(device: str | torch.device) -> Hardware:
    """Return what this process runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else ""
    return Hardware(cpu, cores, torch.get_num_threads(), str(torch.__version__), gpu)


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be had on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.is_file() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free.append(max(int(text) - int(used.read_text()), 0))
    return min(free, default=None)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

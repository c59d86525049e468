"""A machine names itself, and memory is what the system says."""

from __future__ import annotations

import torch

from x2sam_ros.evaluation.hardware import Hardware, available_bytes, hardware, wait_for


def test_a_machine_names_itself() -> None:
    found = hardware("cpu")
    assert found.cpu and found.cores >= 1 and found.gpu == "" and found.threads == torch.get_num_threads()
    assert str(found) == f"{found.cpu}, {found.cores} cores, {found.threads} threads, torch {torch.__version__}"
    assert str(Hardware("a", 1, 2, "3", "big")) == "a, 1 cores, 2 threads, torch 3, big"
    wait_for(torch.device("cpu"))


def test_some_memory_is_free() -> None:
    free = available_bytes(torch.device("cpu"))
    assert free is None or free > 0

"""What a run is scored on while it learns: the same few batches every time, that nothing is learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from x2sam_ros.training.feed import SourceBatch, Sources


class HeldOut:
    """The first batches of each of several sources.

    Args:
        sources: held-out samples, those of one source in each; in several processes each has its own.
        batches: how many of each, in each process; they stay in memory.
    """

    def __init__(self, sources: Sequence[Sources], batches: int) -> None:
        self._sources, self._count = tuple(sources), batches

    @cached_property
    def batches(self) -> list[SourceBatch]:
        """Read the batches, once."""
        return [batch for one in self._sources for batch in islice(iter(one), self._count)]

    @property
    def problems(self) -> list[str]:
        """What was left out when the batches were read, in words."""
        return [problem for batch in self.batches for problem in batch.problems]

    def describe(self) -> dict[str, Any]:
        """Return what the batches are made from, in values that JSON knows."""
        return {"batches": self._count, "sources": [one.describe() for one in self._sources]}

    @torch.no_grad()
    def score(self, module: nn.Module, accelerator: Accelerator, bf16: bool) -> dict[str, float]:
        """Return the means of what the loss ``module`` scores: of all batches, and of each source.

        Args:
            module: its ``forward(item, scored=True)`` gives values by name; see `objectives.JointLoss`.
            accelerator: all processes of it call this.
            bf16: whether to multiply in bfloat16.
        """
        sums: dict[str, Tensor] = {}
        for item in self.batches:
            with torch.autocast(accelerator.device.type, dtype=torch.bfloat16, enabled=bf16):
                found = module(item, scored=True)
            for name, values in found.items():
                counted = torch.stack([values.sum(), values.new_tensor(len(values))]).double()
                for key in (name, f"{name}/{item.source}"):
                    sums[key] = sums.get(key, torch.zeros_like(counted)) + counted
        names = sorted(sums)  # the same everywhere: a batch has one source in all processes
        totals = accelerator.reduce(torch.stack([sums[name] for name in names]), "sum")
        return {name: round(total / count, 4) for name, (total, count) in zip(names, totals.tolist()) if count}

"""What a step of training changes before its outcome is known, so that it can be taken back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Moment:
    """The random generators and a network's running statistics, as they are now.

    Args:
        module: the network.
    """

    def __init__(self, module: nn.Module) -> None:
        self._cpu, *self._cuda = generators()
        self._buffers = [(buffer, buffer.clone()) for norm in batch_norms(module) for buffer in norm.buffers()]

    def restore(self) -> None:
        """Bring it back."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        for buffer, value in self._buffers:
            buffer.copy_(value)


def generators() -> list[torch.Tensor]:
    """Return the states of torch's random generators: the host's, then those of all GPUs."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Yield the parts of a network that keep running statistics."""
    return (part for part in module.modules() if isinstance(part, _BatchNorm))

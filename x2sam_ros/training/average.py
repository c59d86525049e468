"""An exponential average of the weights that learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

_FIRST = 10.0


def rising_average(decay: float) -> Callable[..., None]:
    """Return the ``multi_avg_fn`` of an `AveragedModel` whose decay rises to its value: (1 + steps) / (10 + steps).

    So a short run's average is of what it learnt, not of where it started.

    Source: the rise is that of TensorFlow's ExponentialMovingAverage.
    """

    def update(averages: list[Tensor], weights: list[Tensor], steps: Tensor | int) -> None:
        now = min(decay, (1 + int(steps)) / (_FIRST + int(steps)))
        get_ema_multi_avg_fn(now)(averages, weights, steps)

    return update


class WeightAverage:
    """What ``torch.optim.swa_utils.AveragedModel`` keeps, of the weights that learn alone, whole or sharded.

    Args:
        parameters: those that learn, as this process holds them.
        decay: of the average, see `rising_average`; 0 keeps none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._learning = [parameter for parameter in parameters if parameter.requires_grad] if decay else []
        self._values = [parameter.detach().clone() for parameter in self._learning]
        self._average, self._steps = rising_average(decay), 0

    def update(self) -> None:
        """Count the weights as they are now."""
        if self._learning:
            self._average(self._values, [parameter.detach() for parameter in self._learning], self._steps)
        self._steps += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the network use the averages meanwhile."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, value in zip(self._learning, self._values):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def save(self, file: Path) -> None:
        """Write this process's averages."""
        if self._learning:
            torch.save({"steps": self._steps, "values": [_own(value) for value in self._values]}, file)

    def load(self, file: Path) -> None:
        """Go on from averages that a process wrote that held the same weights."""
        if self._learning:
            state = torch.load(file, map_location="cpu", weights_only=True)
            self._steps = int(state["steps"])
            for value, saved in zip(self._values, state["values"], strict=True):
                _own(value).copy_(saved)


def _own(value: Tensor) -> Tensor:
    """Return the part of a weight that this process holds."""
    return value.to_local() if isinstance(value, DTensor) else value

"""In which order samples come: batches of one source, of samples of like length, several in a row for one step.

Source: X2SAM's source-grouped sampler: samples of a source sorted by length, cut into batches, the last one filled up,
and batches shuffled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from x2sam_ros.errors import ConfigError


class Place(NamedTuple):
    """A sample of an epoch: its number in its source, and how often it came before, where it comes more than once."""

    sample: int
    copy: int


class Planned(NamedTuple):
    """A batch of one process: the number of its source, and its samples."""

    source: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Share:
    """What the sampler knows of a source.

    Args:
        lengths: of its samples, in tokens.
        batch: samples a batch, in each process.
        parts: batches that make one step of the optimiser; they follow one another.
        weight: how often each sample comes in an epoch.

    Raises:
        ConfigError: it has no sample, or a number is below its least.
    """

    lengths: Sequence[int]
    batch: int = 1
    parts: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.lengths) or self.batch < 1 or self.parts < 1 or not self.weight > 0:
            raise ConfigError(
                f"a source needs samples, and batch, parts and weight above 0; got {len(self.lengths)} samples, "
                f"{self.batch}, {self.parts}, {self.weight}"
            )


class JointSampler:
    """The batches of each epoch, made from seed, epoch and process alone.

    Args:
        shares: the sources, in order.
        seed: of the order.
        rank, world: this process and how many there are; batch k of all processes is of one source.
    """

    def __init__(self, shares: Sequence[Share], seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if not shares or not 0 <= rank < world:
            raise ConfigError(f"expected a source, and a process below {world}; got {len(shares)} and {rank}")
        self._shares, self._seed, self._rank, self._world = tuple(shares), seed, rank, world

    def batches_per_epoch(self) -> int:
        """Return how many batches each process gets in an epoch."""
        return sum(self._steps(share) * share.parts for share in self._shares)

    def _steps(self, share: Share) -> int:
        total = max(1, round(len(share.lengths) * share.weight))
        return math.ceil(total / (share.batch * share.parts * self._world))

    def epoch(self, number: int) -> list[Planned]:
        """Return the batches of an epoch for this process, those of one step side by side."""
        steps: list[list[Planned]] = []
        for source, share in enumerate(self._shares):
            draw = np.random.Generator(np.random.PCG64([self._seed, number, source]))
            steps += self._cut(source, share, self._listed(share, draw))
        order = np.random.Generator(np.random.PCG64([self._seed, number, len(self._shares)])).permutation(len(steps))
        return [batch for index in order for batch in steps[int(index)]]

    @staticmethod
    def _listed(share: Share, draw: np.random.Generator) -> list[int]:
        """Return the samples of an epoch by length, those of the same length in random order."""
        count = len(share.lengths)
        total = max(1, round(count * share.weight))
        whole, rest = divmod(total, count)
        every = [*range(count)] * whole + draw.permutation(count)[:rest].tolist()
        shuffled: list[int] = draw.permutation(every).tolist()
        return sorted(shuffled, key=lambda sample: share.lengths[sample])

    def _cut(self, source: int, share: Share, listed: list[int]) -> list[list[Planned]]:
        """Cut samples into steps of all processes, and return this process's batches of each."""
        width = share.batch * self._world
        missing = self._steps(share) * share.parts * width - len(listed)
        # filled up with others of like length, as far as there are any
        spare = [listed[-1 - index % len(listed)] for index in range(missing)]
        came = Counter[int]()
        filled = []
        for sample in (*listed, *spare):
            filled.append(Place(sample, came[sample]))
            came[sample] += 1
        batches = [filled[start : start + width] for start in range(0, len(filled), width)]
        mine = [Planned(source, tuple(batch[self._rank :: self._world])) for batch in batches]
        return [mine[start : start + share.parts] for start in range(0, len(mine), share.parts)]


def balanced_weights(counts: Sequence[int], ratio: float) -> list[float]:
    """Return how often the samples of each source come, so that small ones are not drowned.

    A source with less than ``ratio`` of all samples comes sqrt(ratio / share) times, others once.

    Source: the repeat factor of LVIS (Gupta et al. 2019), by source as X2SAM uses it with a ratio of 0.1.
    """
    total = sum(counts)
    return [max(1.0, math.sqrt(ratio * total / count)) if count else 1.0 for count in counts]

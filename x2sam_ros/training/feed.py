"""What the joint trainer is fed: batches that name their source, and can go on where they were left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from x2sam_ros.config import TrainConfig
from x2sam_ros.errors import ConfigError, X2SamError
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.training.samples import TRAINING_SEEDS, Batch, SceneBatches

_PREFETCHED = 4
"""Batches that each worker is ahead."""


@dataclass(frozen=True)
class SourceBatch:
    """A batch, and where it is from.

    Args:
        source: name of its source.
        batch: what is learnt from; its samples are all of one kind.
        names: of its samples, for messages and for counting.
        share_phrases: whether the phrases of all prompts are choices of each; see `LossConfig`.
        problems: what was left out when the samples were read, in words.
    """

    source: str
    batch: Batch
    names: tuple[str, ...]
    share_phrases: bool = False
    problems: tuple[str, ...] = ()


class Sources(Protocol):
    """Batches of one or several sources.

    Iterating goes on where ``state`` is, and draws nothing from torch's global generator. In several processes, batch
    k of each process is of the same source.
    """

    def __iter__(self) -> Iterator[SourceBatch]:
        """Yield batches, those of one step side by side."""

    def parts_of(self, source: str) -> int:
        """Return how many batches of a source make one step of the optimiser; they follow one another."""

    def state(self) -> dict[str, Any]:
        """Return the position behind the last batch that was yielded, in values that JSON knows."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on at a position."""

    def describe(self) -> dict[str, Any]:
        """Return what makes the batches what they are, in values that JSON knows; another description, another run."""


class NumberedSources:
    """Batches that are made from their number alone, as `Sources`: any worker and any interruption give the same.

    Args:
        batches: by number.
        workers: processes that make them ahead; 0 makes them in this one.
    """

    def __init__(self, batches: Dataset[SourceBatch], workers: int) -> None:
        self._batches, self._workers, self._position = batches, workers, 0

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # those that have a length, as torch says

    def __iter__(self) -> Iterator[SourceBatch]:
        loader = DataLoader(
            _Told(Subset(self._batches, range(self._position, len(self)))),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=_PREFETCHED if self._workers else None,
            generator=torch.Generator(),  # the global one, which the training state holds, is not drawn from
        )
        for batch in loader:
            if isinstance(batch, X2SamError):
                raise batch
            self._position += 1
            yield batch

    def state(self) -> dict[str, Any]:
        """Return the number of batches yielded."""
        return {"position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind that many batches."""
        self._position = int(state["position"])


class _Told(Dataset[SourceBatch | X2SamError]):
    """Batches, or why there is none: what a worker raises comes with its traceback in the message."""

    def __init__(self, batches: Subset[SourceBatch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> SourceBatch | X2SamError:
        try:
            return self._batches[index]
        except X2SamError as error:
            return error


@dataclass(frozen=True)
class SceneSource:
    """Generated scenes of one phase of the nano recipe as a source.

    Args:
        phase: whose shapes of batches, for example ``image`` or ``video``.
        share: of the steps, relative to the other sources.
        parts: batches for one step.
    """

    phase: str
    share: float = 1.0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf or self.parts < 1:
            raise ConfigError(f"source {self.phase} has share {self.share} and parts {self.parts}, expected above 0")


class SceneSources(NumberedSources):
    """Generated scenes as `Sources`: what comes when depends on the seed and the number of steps alone.

    Each source has its share of the steps, to the step; batch k of a phase is the same whatever comes between. Several
    processes share the batches of each phase among them.

    Args:
        config: the seed, and what the phases draw.
        model: the network they are made for.
        tokenizer: its tokenizer.
        sources: the phases, each once.
        steps: steps of the optimiser that there are batches for.
        workers: processes that draw ahead; 0 draws in this one.
        seeds: scene seeds to draw from, the last left out.
        rank, world: this process and how many there are; each draws every so many batches of a phase.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: X2SAMConfig,
        tokenizer: Tokenizer,
        sources: tuple[SceneSource, ...],
        steps: int,
        workers: int = 0,
        seeds: tuple[int, int] = TRAINING_SEEDS,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        about = [asdict(source) for source in sources]
        self._about = {"train": asdict(config), "sources": about, "steps": steps, "seeds": list(seeds)}
        self._parts = {source.phase: source.parts for source in sources}
        edges = np.cumsum([0.0, *(source.share for source in sources)])
        counts = np.diff(np.round(edges / edges[-1] * steps).astype(int))
        rng = np.random.Generator(np.random.PCG64([config.seed, len(sources)]))
        drawn = rng.permutation(np.repeat(np.arange(len(sources)), counts)).tolist()
        numbers = dict.fromkeys(self._parts, 0)
        plan = list[tuple[str, int]]()
        for source in (sources[index] for index in drawn):
            for _ in range(source.parts):
                plan.append((source.phase, numbers[source.phase] * world + rank))
                numbers[source.phase] += 1
        batches = {
            phase: SceneBatches(config, model, tokenizer, phase, 0, count * world, seeds)
            for phase, count in numbers.items()
        }
        self.plan = plan
        """Phase of each batch, and its number in it."""
        super().__init__(_Planned(plan, batches), workers)

    def parts_of(self, source: str) -> int:
        """Return how many batches of a source make one step."""
        return self._parts[source]

    def describe(self) -> dict[str, Any]:
        """Return the settings that the batches are made from."""
        return self._about


class _Planned(Dataset[SourceBatch]):
    """The batches of a plan, (phase, number in it) each."""

    def __init__(self, plan: list[tuple[str, int]], batches: dict[str, SceneBatches]) -> None:
        self.plan, self.batches = plan, batches

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> SourceBatch:
        phase, number = self.plan[index]
        batch = self.batches[phase][number]
        names = tuple(f"{phase} {number}, clip {clip}" for clip in range(batch.pixel_values.shape[1]))
        return SourceBatch(phase, batch, names)

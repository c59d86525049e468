"""What a network is not to forget while it learns something new: other matter, and what it said about it before."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.distill import PromptLoss
from x2sam_ros.training.feed import SceneSource, SceneSources, SourceBatch, Sources
from x2sam_ros.training.objectives import JointLoss
from x2sam_ros.training.recipe import Recipe

SCENE_PRESETS = ("nano", "nano-half")
"""Networks that were trained on generated scenes."""

REHEARSED, AS_BEFORE = "rehearsed: ", "as before: "
"""What names of sources begin with: their truth is learnt again, or what the network said about them is kept."""

_SCENES = TrainConfig(
    image=PhaseConfig(steps=1, clips=4, prompts=4, learning_rate=1.0, texts=2),
    video=PhaseConfig(steps=1, clips=2, prompts=2, learning_rate=1.0, frames=4, max_stride=2, texts=2),
)
"""Shapes of batches; about as much work as a batch of a bag."""


def generated_scenes(model: X2SAM, seed: int, steps: int, workers: int, rank: int = 0, world: int = 1) -> SceneSources:
    """Return generated pictures and clips with prompts and questions of every kind, as many of each.

    Args:
        model: the network they are for.
        seed: of what is drawn.
        steps: batches.
        workers: processes that draw ahead.
        rank, world: this process and how many there are.
    """
    config, phases = replace(_SCENES, seed=seed), (SceneSource("image"), SceneSource("video"))
    return SceneSources(config, model.config, model.tokenizer, phases, steps, workers, rank=rank, world=world)


@dataclass(frozen=True)
class Stream:
    """Batches, each of which makes a step.

    Args:
        sources: where they come from.
        share: of all steps, above 0.
        mark: what the names of its sources get in front.
    """

    sources: Sources
    share: float
    mark: str = ""


class Interleaved:
    """Several streams of batches as one, evenly spread; see ``feed.Sources``.

    Args:
        streams: their shares add up to 1.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams, self._taken = tuple(streams), [0] * len(streams)

    def __iter__(self) -> Iterator[SourceBatch]:
        batches = [iter(stream.sources) for stream in self._streams]
        while True:
            step = sum(self._taken) + 1
            lacking = [stream.share * step - taken for stream, taken in zip(self._streams, self._taken)]
            chosen = lacking.index(max(lacking))
            item = next(batches[chosen], None)
            if item is None:
                return
            self._taken[chosen] += 1
            yield replace(item, source=f"{self._streams[chosen].mark}{item.source}")

    def parts_of(self, source: str) -> int:
        """Return 1: each batch makes a step."""
        return 1

    def state(self) -> dict[str, Any]:
        """Return the position of each stream."""
        return {"taken": list(self._taken), "streams": [stream.sources.state() for stream in self._streams]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on at the position of each stream."""
        self._taken = list(state["taken"])
        for stream, position in zip(self._streams, state["streams"]):
            stream.sources.restore(position)

    def describe(self) -> dict[str, Any]:
        """Return what each stream is made from, by number."""
        return {
            f"stream {number}": {"share": stream.share, "mark": stream.mark, "sources": stream.sources.describe()}
            for number, stream in enumerate(self._streams)
        }


def earlier_self(model: X2SAM, recipe: Recipe) -> X2SAM:
    """Return the network as it is before a recipe trains it; what rests is not held twice."""
    resting = {id(parameter): parameter for name, parameter in model.named_parameters() if not recipe.factor(name)}
    return copy.deepcopy(model, resting).eval().requires_grad_(False)


class KeepingLoss(JointLoss):
    """As `JointLoss`, but for batches that are marked ``AS_BEFORE``: there the network is to answer as it did before.

    Args:
        model: the network, not yet trained.
        recipe: how it is trained.

    Source: learning without forgetting, Li and Hoiem, 2016.
    """

    def __init__(self, model: X2SAM, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self._before = [PromptLoss(model, earlier_self(model, recipe), rounds=1)]  # not registered

    def forward(self, item: SourceBatch, scored: bool = False) -> dict[str, Tensor]:
        """Return the terms of the loss of a batch."""
        if scored or not item.source.startswith(AS_BEFORE):
            return super().forward(item, scored)
        return self._before[0](item)

"""How a network is trained jointly: what learns how fast, for how long, from which weights of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from x2sam_ros.config import TrainConfig
from x2sam_ros.errors import ConfigError
from x2sam_ros.training.lora import LoraSettings
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.run_folder import KEPT_STATES

Rates = tuple[tuple[str, float], ...]

SEGMENTOR_RATES: Rates = (
    ("*", 0.0),
    ("segmentor.*", 1.0),
    ("segmentor.encoder.*", 0.0),
    ("segmentor.memory_*", 0.0),
    ("segmentor.class_predictor.*", 0.0),
    ("segmentor.*text_cross_attn*", 0.0),
    ("head.*", 1.0),
)
"""First published stage: pixel decoder and mask decoder alone."""

JOINT_RATES: Rates = (
    ("*", 1.0),
    ("language.*", 0.0),
    ("language.text.embed_tokens.*", 1.0),
    ("language.visual.merger.*", 1.0),
    ("language.visual.deepstack_merger_list.*", 1.0),
    ("*.lora_*", 1.0),
    ("segmentor.encoder.*", 0.1),
)
"""Last published stage: all but the vision encoder, the language linears by adapters. The head is the embedding's."""

FINETUNE_RATES: Rates = (("*", 1.0), ("language.*", 0.0), ("*.lora_*", 1.0), ("segmentor.encoder.*", 0.0))
"""For few samples: what sees and what knows words rests, but for adapters."""

WHOLE_RATES: Rates = (("*", 1.0),)

PUBLISHED_LORA, PUBLISHED_LOSS = LoraSettings(), LossConfig.published()

PUBLISHED_OBJECTIVE = TrainConfig(true_memory_share=0.0, text_weight=1.0)
"""The network remembers what it found itself, as on the robot; words and masks weigh the same."""

_START_FACTOR = 1e-5  # of the warm-up, as published
_AVERAGE = 0.998  # as the built-in recipe's

_FREE = ("checkpoint_every", "keep_states", "score_every")


@dataclass(frozen=True)
class Recipe:
    """One stage of joint training; the defaults are the published joint stage.

    Args:
        steps: steps of the optimiser.
        rates: (pattern, factor) pairs: a parameter learns at the factor of the last pattern that its name fits, times
            ``learning_rate``; 0 lets it rest. Names are those of the checkpoint.
        lora: adapters on the language linears, or None.
        learning_rate, betas, weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        warmup: share of the steps in which the rate rises; then it falls to 0 along a cosine.
        bf16: whether to multiply in bfloat16. What learns is kept in float32, what rests as it was loaded.
        activation_checkpointing: whether to compute activations twice rather than keep them.
        seed: of adapters, dropout and what losses draw.
        checkpoint_every: steps from one saved state to the next.
        keep_states: how many of them stay.
        score_every: steps from one look at held-out samples to the next, where there are any.
        average: decay of the weights' exponential average, which is then what is scored and written; 0 keeps none,
            as published.
        objective: what is written to memory while training, and how much words weigh.
        loss: how the terms of the loss are weighed.
    """

    steps: int
    rates: Rates = JOINT_RATES
    lora: LoraSettings | None = PUBLISHED_LORA
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    warmup: float = 0.03
    bf16: bool = True
    activation_checkpointing: bool = True
    seed: int = 0
    checkpoint_every: int = 2000
    keep_states: int = KEPT_STATES
    score_every: int = 500
    average: float = 0.0
    objective: TrainConfig = PUBLISHED_OBJECTIVE
    loss: LossConfig = PUBLISHED_LOSS

    def __post_init__(self) -> None:
        """Raise ConfigError where a value makes no sense."""
        for name in ("steps", "checkpoint_every", "keep_states", "score_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is {self.warmup}, expected a share of the steps from 0 to 1")
        if not (self.seed >= 0 and 0 <= self.weight_decay < math.inf and all(0 <= beta < 1 for beta in self.betas)):
            raise ConfigError(
                f"seed is {self.seed}, weight_decay {self.weight_decay} and betas {self.betas}; expected at least 0, "
                "at least 0, and two from 0 to below 1"
            )
        if not all(0 <= factor < math.inf for _, factor in self.rates):
            raise ConfigError(f"rates are {dict(self.rates)}, expected factors of at least 0")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average}, expected a decay from 0, for none, to below 1")

    @classmethod
    def joint(cls, steps: int, **changes: Any) -> Recipe:
        """Return the published joint stage: adapters, mask encoder at a tenth of the rate, vision encoder at rest."""
        return replace(cls(steps), **changes)

    @classmethod
    def segmentor(cls, steps: int, **changes: Any) -> Recipe:
        """Return the published first stage, for `AgnosticLoss`: masks without classes, decoders alone."""
        return replace(cls(steps, SEGMENTOR_RATES, lora=None, clip_norm=0.01), **changes)

    @classmethod
    def finetune(cls, steps: int, **changes: Any) -> Recipe:
        """Return a recipe for few samples: small adapters, both encoders at rest."""
        start = cls(steps, FINETUNE_RATES, LoraSettings(rank=16, alpha=32.0), checkpoint_every=100)
        return replace(start, **changes)

    @classmethod
    def whole(cls, steps: int, **changes: Any) -> Recipe:
        """Return a recipe by which everything learns, for networks as small as nano."""
        start = cls(steps, WHOLE_RATES, lora=None, activation_checkpointing=False, average=_AVERAGE)
        return replace(start, **changes)

    def factor(self, name: str) -> float:
        """Return the factor of the learning rate for a parameter; 0 where no pattern fits."""
        return next((factor for pattern, factor in reversed(self.rates) if fnmatchcase(name, pattern)), 0.0)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: a linear rise, then a cosine to 0."""
        rise = round(self.warmup * self.steps)
        if step < rise:
            return self.learning_rate * (_START_FACTOR + (1 - _START_FACTOR) * step / rise)
        progress = (step - rise) / max(self.steps - rise, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def describe(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the one it goes on with."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


STAGES: dict[str, Callable[..., Recipe]] = {
    "segmentor": Recipe.segmentor,
    "joint": Recipe.joint,
    "finetune": Recipe.finetune,
    "whole": Recipe.whole,
}
"""Recipes by name."""

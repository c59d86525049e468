"""Low-rank adapters on the language linears: put in for training, worked into the weights on export.

Source: LoRA, Hu et al., 2022; adapters are those of peft, whose names the published checkpoints have too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from x2sam_ros.checkpoint.names import LORA_A, LORA_B, bare_name, is_adapted
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.x2sam import X2SAM

_TARGETS = r".*_proj"
"""Within the language tower: each projection of each layer; what ``checkpoint.names.takes_lora`` says, too."""


@dataclass(frozen=True)
class LoraSettings:
    """Size of the adapters; by default as published.

    Args:
        rank: of each product.
        alpha: the product counts alpha / rank times.
        dropout: share of an adapter's inputs that are left out while training.
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"adapters have rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}; "
                "expected at least 1, above 0, and 0 to below 1"
            )

    @property
    def scale(self) -> float:
        """What the product is multiplied with."""
        return self.alpha / self.rank


def adapt(model: X2SAM, settings: LoraSettings) -> None:
    """Put adapters on the language linears of ``model``, in place; they change nothing before they are trained.

    The adapters are drawn from torch's global generator. All other weights of the language tower rest from then on.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=_TARGETS,
    )
    inject_adapter_in_model(config, model.language.text)


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the state of the network without adapters that says the same.

    Args:
        state: of a network with adapters, or without.
        scale: see ``LoraSettings.scale``.
    """
    merged = {}
    for name, tensor in state.items():
        if name.endswith((LORA_A, LORA_B)):
            continue
        plain = bare_name(name)
        if is_adapted(name) and name.endswith(".weight"):
            stem = plain.removesuffix(".weight")
            lora_a, lora_b = state[stem + LORA_A].float(), state[stem + LORA_B].float()
            tensor = (lora_b @ lora_a).mul_(scale).add_(tensor).to(tensor.dtype)
        merged[plain] = tensor
    return merged

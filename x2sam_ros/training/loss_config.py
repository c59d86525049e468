"""How losses are weighed and counted: the built-in recipe's way, and the published one."""

from __future__ import annotations

from dataclasses import dataclass

from x2sam_ros.errors import ConfigError

LAYERS = ("mean", "sum")
OVER = ("frame", "clip")
TEXT = ("answer", "token")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms and what they are averaged over; the defaults are those of the built-in recipe.

    Args:
        classes, bce, dice: weights of the terms, in the cost of matching too.
        background: weight of a query that means nothing, beside one that means an object.
        points: points at which a mask is compared; 0 compares every cell.
        oversample: how many times as many points are drawn to choose the uncertain ones from.
        importance: share of the points that are the uncertain ones, 0 to 1; the others are drawn anywhere.
        layers: whether the decoder layers' losses are averaged or added.
        over: whether terms are averaged in each frame and then over frames, or over all frames of the batch at once.
        text: whether each answer weighs the same, or each token.
        share_phrases: whether the phrases of all prompts of the batch are choices of each one.
    """

    classes: float = 4.0
    bce: float = 5.0
    dice: float = 5.0
    background: float = 0.1
    points: int = 0
    oversample: float = 3.0
    importance: float = 0.75
    layers: str = "mean"
    over: str = "frame"
    text: str = "answer"
    share_phrases: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError where a value makes no sense."""
        for name, accepted in (("layers", LAYERS), ("over", OVER), ("text", TEXT)):
            if getattr(self, name) not in accepted:
                raise ConfigError(f"{name} is '{getattr(self, name)}', expected one of {', '.join(accepted)}")
        for name in ("classes", "bce", "dice", "background", "points"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number of at least 0")
        if not (1 <= self.oversample < float("inf") and 0 <= self.importance <= 1):
            raise ConfigError(
                f"oversample is {self.oversample} and importance {self.importance}, expected at least 1 and 0 to 1"
            )

    @classmethod
    def published(cls, share_phrases: bool = False) -> LossConfig:
        """Return what X2SAM was trained with; ``share_phrases`` is on for its referring and reasoning batches.

        Source: wanghao9610/X2SAM, the defaults of its Mask2Former configuration.
        """
        return cls(classes=2.0, points=12544, layers="sum", over="clip", text="token", share_phrases=share_phrases)

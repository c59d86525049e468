"""What every metric can do."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

Self = TypeVar("Self", bound="Metric")

Scores = dict[str, float]
"""Numbers by name, 0 to 1 unless the metric says otherwise; NaN where nothing could be measured."""


class Metric(Protocol):
    """Counts kept over any number of samples; ``update`` has the arguments that suit the metric.

    A metric holds counts, not images, so that it can be sent, stored and merged. What two metrics counted,
    merged in either order, equals what one of them would have counted alone.
    """

    def compute(self) -> Scores:
        """Return the numbers over all samples so far."""

    def reset(self) -> None:
        """Forget all samples."""

    def merge(self: Self, other: Self) -> None:
        """Add all samples of another metric of the same kind and settings."""

    def state(self) -> dict[str, Any]:
        """Return the counts as plain values that JSON can hold, exactly."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the counts that ``state`` returned, in place of the own ones."""

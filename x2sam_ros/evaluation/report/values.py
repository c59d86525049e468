"""How numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from x2sam_ros.evaluation.metrics.names import about

NOTHING = "\N{EN DASH}"
"""Stands for a number that could not be measured."""


def number(name: str, value: float | None) -> str:
    """Write a metric's value: three decimals for scores, seconds with two, what is counted whole."""
    if value is None or not math.isfinite(value):
        return NOTHING
    unit = about(name).unit
    if unit == "times":
        return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
    return f"{value:.2f}" if unit else f"{value:.3f}"


def milliseconds(value: float | None) -> str:
    """Write a latency."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0.1:
        return "<0.1"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def heading(name: str) -> str:
    """Write a metric's name with its unit."""
    unit = about(name).unit
    return f"{name}, {unit}" if unit and not name.endswith(f"_{unit}") else name


def best_of(name: str, values: Sequence[float | None]) -> str:
    """Return the best value as it is written, so that what reads alike is marked alike; '' where all do."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    if len({number(name, value) for value in there}) < 2:
        return ""
    return number(name, max(there) if about(name).higher_is_better else min(there))

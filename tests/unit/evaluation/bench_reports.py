"""A report of `x2sam bench` with numbers that can be checked by hand."""

from __future__ import annotations

from typing import Any

from x2sam_ros.evaluation.bench_report import BenchReport, Cost, LengthPoint, ModelFacts, StageTime
from x2sam_ros.evaluation.hardware import Hardware


def cost(variant: str, targets: int, frame_ms: float, language_ms: float = 0.0) -> Cost:
    own = frame_ms - language_ms
    return Cost(variant, targets, frame_ms, own, own + 1, language_ms, float(targets), 0.5 * targets, 0.0)


def report(**changes: Any) -> BenchReport:
    values: dict[str, Any] = {
        "hardware": Hardware("a processor", 2, 1, "2.0"),
        "model": ModelFacts("nano", "nano", "ab", 5_000_000, "float32", 128, ("Say so.",)),
        "image_size": (96, 128),
        "timed_frames": 8,
        "stream_targets": 1,
        "stages": (
            StageTime(1, "encode", 3.0, 4.0),
            StageTime(4, "encode", 5.0, 6.0),
            StageTime(4, "search", 1.0, 2.0),
        ),
        "costs": (
            cost("separate", 1, 10.0),
            cost("separate", 4, 20.0),
            cost("merged", 1, 10.0),
            cost("merged", 4, 12.5),
            cost("per clip", 1, 12.0, 2.0),
            cost("per clip", 4, 50.0, 10.0),
        ),
        "length": (
            LengthPoint("separate", 50, 10.0, 0.5, 600.0, 0.0),
            LengthPoint("separate", 100, 10.5, 0.5, 601.0, 0.0),
        ),
        "resident_mib": 601.0,
        "gpu_mib": 0.0,
    }
    return BenchReport(**{**values, **changes})

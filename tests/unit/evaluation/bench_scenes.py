"""A small scene to measure on, and the nano weights opened once."""

from __future__ import annotations

from functools import lru_cache

from x2sam_ros.cli.bench_scene import draw_bench_scene
from x2sam_ros.evaluation.bench_model import BenchModel, open_bench_model
from x2sam_ros.evaluation.bench_scene import BenchScene


@lru_cache(maxsize=1)
def opened() -> BenchModel:
    return open_bench_model("nano", "cpu", "float32", 4)


@lru_cache(maxsize=1)
def scene() -> BenchScene:
    return draw_bench_scene(160, 120)

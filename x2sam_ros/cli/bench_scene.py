"""The scene of `x2sam bench`: eight generated objects, no two alike, that stay in view."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from x2sam_ros.evaluation.bench_scene import BenchScene

SEED = 920_181
NUM_OBJECTS = 8
NUM_FRAMES = 24
MAX_SPEED = 0.012
ASPECT = 4 / 3
"""The scene is laid out for this shape; pictures of another one show it stretched."""


def draw_bench_scene(width: int, height: int) -> BenchScene:
    """Draw the scene; another size shows the same objects.

    Each object has two phrases, "the red square" and "red square", so that sixteen targets differ in words.
    """
    import numpy as np

    from x2sam_ros.config import SceneConfig
    from x2sam_ros.evaluation.bench_scene import BenchScene
    from x2sam_ros.training.scenes import generate_clip

    config = SceneConfig(min_objects=NUM_OBJECTS, max_objects=NUM_OBJECTS, max_speed=MAX_SPEED)
    clip = generate_clip(SEED, NUM_FRAMES, height, width, config=config, aspect=ASPECT)
    names = tuple(f"{item.colour} {item.shape}" for item in clip.objects)
    scale = np.array([width, height])
    clicks = np.array([item.centre[0] * scale for item in clip.objects], np.float64)
    return BenchScene(clip.frames, (*(f"the {name}" for name in names), *names), clicks)

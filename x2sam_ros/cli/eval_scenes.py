"""The held-out generated suite as a data set for `x2sam eval generated`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from x2sam_ros.training.scenes import Clip
    from x2sam_ros.truth.dataset import Dataset
    from x2sam_ros.truth.drawn import Drawing

NAME = "generated"
HELD_OUT_SEED = 500_000
"""First seed of evaluations, counted up by one; training draws none below training.samples.FIRST_TRAINING_SEED."""

CLIPS, NUM_FRAMES = 10, 40
"""Clips of each kind of scene, and the length of each."""

HEIGHT, WIDTH = 480, 640
MIN_VISIBLE, MIN_AREA = 0.5, 0.003
"""What makes an object fit to be prompted: its visible share, and its share of the image."""

_SKETCH = 10
"""How much smaller a clip is drawn when only its objects are needed; the layout does not depend on the size."""


def first_visible(clip: Clip, index: int) -> int | None:
    """Return the first frame on which an object is fit to be prompted."""
    import numpy as np

    area = (clip.labels == index + 1).mean(axis=(1, 2))
    frames = np.flatnonzero((clip.visible[:, index] >= MIN_VISIBLE) & (area >= MIN_AREA))
    return int(frames[0]) if len(frames) else None


def draw_scene(seed: int, kind: str, num_frames: int) -> Drawing:
    """Draw a clip and its labels; object k is k + 1, from the first frame on that shows it well."""
    from x2sam_ros.training.scenes import generate_clip

    clip = generate_clip(seed, num_frames, HEIGHT, WIDTH, kind=kind)
    labels = clip.labels.copy()
    for index in range(len(clip.objects)):
        before = labels[: first_visible(clip, index)]
        before[before == index + 1] = 0
    return clip.frames, labels


def generated_dataset(clips: int = CLIPS, num_frames: int = NUM_FRAMES, stride: int = 1) -> Dataset:
    """Return clips of every kind of scene, the kinds taking turns.

    Every object counts. One that no other shares its colour and shape with has words, "the red square".

    Args:
        clips: clips of each kind.
        num_frames: length of each.
        stride: keep every n-th frame.
    """
    import hashlib
    from functools import partial

    from x2sam_ros.training.scenes import KINDS, distinct, generate_clip
    from x2sam_ros.truth.dataset import Dataset, Expression, Kind, TrueObject
    from x2sam_ros.truth.drawn import DrawnSequence

    digest, sequences = hashlib.sha256(), []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + clips):
        for kind in KINDS:
            sketch = generate_clip(seed, num_frames, HEIGHT // _SKETCH, WIDTH // _SKETCH, kind=kind)
            digest.update(sketch.frames.tobytes())
            expressions = tuple(
                Expression(f"{k + 1}-0", f"the {item.colour} {item.shape}", (k + 1,))
                for k, item in enumerate(sketch.objects)
                if distinct(sketch, k)
            )
            objects = tuple(TrueObject(k + 1) for k in range(len(sketch.objects)))
            draw = partial(draw_scene, seed, kind, num_frames)
            sequences.append(DrawnSequence(f"{kind}-{seed}", draw, objects, expressions, stride))
    return Dataset(NAME, Kind.OBJECTS, tuple(sequences), fingerprint=digest.hexdigest())

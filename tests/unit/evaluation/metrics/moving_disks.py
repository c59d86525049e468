"""Clips of disks that wander, and answers that come near them: the same for the same seed."""

from __future__ import annotations

import numpy as np

from x2sam_ros.evaluation.metrics.track_ap import Track, TrueTrack
from x2sam_ros.evaluation.predictions import rle_of

HEIGHT, WIDTH = 288, 384
CATEGORIES = (2, 3, 7)


def disk(x: float, y: float, radius: float) -> np.ndarray:
    """Return a disk, bool (H, W)."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    mask: np.ndarray = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask


def random_clip(seed: int, num_frames: int = 4) -> tuple[list[Track], list[TrueTrack]]:
    """Return up to 5 true tracks, one of them a crowd now and then, and answers to some of them and to nothing.

    Radii reach from 10 to 170 pixels, so that all sizes occur; scores have one decimal, so that some are equal.
    """
    rng = np.random.default_rng(seed)
    tracks, truths = [], []
    for _ in range(rng.integers(1, 6)):
        category, radius = int(rng.choice(CATEGORIES)), float(rng.choice([12, 40, 90, 160]))
        start, speed = rng.uniform((40, 40), (WIDTH - 40, HEIGHT - 40)), rng.uniform(-15, 15, 2)
        places = [start + speed * index for index in range(num_frames)]
        seen = rng.random(num_frames) < 0.85
        rles = tuple(rle_of(disk(*at, radius)) if is_seen else None for at, is_seen in zip(places, seen))
        truths.append(TrueTrack(category, (HEIGHT, WIDTH), rles, is_crowd=bool(rng.random() < 0.1)))
        for _ in range(rng.integers(0, 3)):
            own = int(rng.choice(CATEGORIES)) if rng.random() < 0.15 else category
            off, grown = rng.normal(0, radius * 0.12, 2), radius * rng.uniform(0.8, 1.15)
            found = rng.random(num_frames) < 0.9
            masks = tuple(rle_of(disk(*(at + off), grown)) if is_found else None for at, is_found in zip(places, found))
            scores = tuple(np.round(rng.uniform(0.2, 1, num_frames), 1).tolist())
            tracks.append(Track(own, (HEIGHT, WIDTH), masks, scores))
    return tracks, truths

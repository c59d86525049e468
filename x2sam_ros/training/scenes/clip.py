"""The values a generated clip consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SceneObject:
    """One object of a clip, with what is true of it over the whole clip.

    Attributes:
        shape: One of ``vocabulary.SHAPES``.
        colour: One of ``vocabulary.COLOURS``.
        size_name: "small", "medium" or "large".
        texture: "plain", "stripes", "dots" or "noise".
        motion: One of ``vocabulary.MOTIONS``, or "mixed" when no single word is true (diagonal, bouncing, returning).
        centre: float32 (T, 2), x and y relative to the image's width and height; outside [0, 1] when out of view.
        radius: float32 (T,), radius of the disc of equal area, in units of the image's short side.
    """

    shape: str
    colour: str
    size_name: str
    texture: str
    motion: str
    centre: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """A rendered clip with its ground truth.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB; none of a sketch, which has the truth of its first frame alone.
        labels: uint8 (T, H, W); 0 is background or an occluder, k + 1 is the visible part of object k.
        visible: float32 (T, K) in [0, 1]: visible pixels over all pixels of the object, hidden and outside ones too.
        objects: The K objects from the farthest to the nearest.
        kind: The kind of scene asked for.
        target: Index of the object the kind is about (hidden, returning, one of the twins ...).
    """

    frames: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    visible: npt.NDArray[np.float32]
    objects: tuple[SceneObject, ...]
    kind: str
    target: int


def distinct(clip: Clip, k: int) -> bool:
    """Return whether no other object of the clip has both the shape and the colour of object ``k``."""
    me = clip.objects[k]
    return not any(o.shape == me.shape and o.colour == me.colour for i, o in enumerate(clip.objects) if i != k)

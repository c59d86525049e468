"""Lists of class names, as semantic and panoptic prompts give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.clip import Clip

_MAX_NAMES = 6  # of things


@dataclass(frozen=True)
class ClassList:
    """Class names and what of the clip belongs to them.

    Attributes:
        names: The names.
        object_classes: For every object, the index of its class or -1.
        stuff: Indices of the names that mean the background: every pixel whose label is 0.
    """

    names: tuple[str, ...]
    object_classes: tuple[int, ...]
    stuff: tuple[int, ...] = ()


def class_list(clip: Clip, rng: np.random.Generator, background_share: float = 0.0) -> ClassList:
    """Return 2 to 6 class names by shape, by colour or by both, present and absent ones mixed.

    Objects of a class that is not in the list have class -1.

    Args:
        clip: The clip.
        rng: Chooses the names and their order.
        background_share: Probability of one name more, that of the background.
    """
    own, pool = _own_and_possible(clip, rng)
    present = sorted(set(own))
    present = [present[int(i)] for i in rng.permutation(len(present))][: int(rng.integers(1, len(present) + 1))]
    room = max(2 - len(present), min(_MAX_NAMES - len(present), int(rng.integers(0, 4))))
    listed = _mixed(own, present, _absent(own, pool, room, rng), rng)
    return _with_background(listed, rng) if background_share and rng.random() < background_share else listed


def panoptic_list(clip: Clip, rng: np.random.Generator) -> ClassList:
    """Return the classes of all objects, up to three absent ones and the background, in any order.

    By shape, by colour or by both, as `class_list`; no object has class -1.
    """
    own, pool = _own_and_possible(clip, rng)
    present = sorted(set(own))
    room = max(0, min(_MAX_NAMES - len(present), int(rng.integers(0, 4))))
    return _with_background(_mixed(own, present, _absent(own, pool, room, rng), rng), rng)


def _own_and_possible(clip: Clip, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Choose what the classes go by; return the class name of every object, and all names there could be."""
    style = int(rng.integers(3))
    if style == 0:
        return [o.shape for o in clip.objects], list(words.SHAPES)
    if style == 1:
        noun = words.pick(rng, words.NOUNS)
        return [f"{o.colour} {noun}" for o in clip.objects], [f"{colour} {noun}" for colour in words.COLOURS]
    pairs = [f"{colour} {shape}" for colour in words.COLOURS for shape in words.SHAPES]
    return [f"{o.colour} {o.shape}" for o in clip.objects], pairs


def _absent(own: list[str], pool: list[str], count: int, rng: np.random.Generator) -> list[str]:
    absent = [name for name in pool if name not in own]
    return [absent[int(i)] for i in rng.permutation(len(absent))][:count]


def _mixed(own: list[str], present: list[str], absent: list[str], rng: np.random.Generator) -> ClassList:
    mixed = present + absent
    names = tuple(mixed[int(i)] for i in rng.permutation(len(mixed)))
    return ClassList(names, tuple(names.index(name) if name in names else -1 for name in own))


def _with_background(listed: ClassList, rng: np.random.Generator) -> ClassList:
    """Insert the background's name at a random place."""
    place = int(rng.integers(len(listed.names) + 1))
    names = (*listed.names[:place], words.BACKGROUND, *listed.names[place:])
    return ClassList(names, tuple(c + 1 if c >= place else c for c in listed.object_classes), (place,))

"""Lay out clips that measure a memory: an object is hidden as a whole, and comes out again among others of its colour.

Nothing is trained on them. In the occlusions of generate.py how much is hidden, and for how long, is left to chance.
Here a board is as wide as the object's size and speed demand, and the others stay in sight beside it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from x2sam_ros.config import SceneConfig
from x2sam_ros.training.scenes.generate import Bar, Doubles, Draft, Scene, compose, metric_extent
from x2sam_ros.training.scenes.layout import Layout
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, pick

NUM_FRAMES = 70
HIDDEN = 10
"""Frames in a row, at least, that show nothing of the target."""

_FREE = 6  # frames, at least, in which all of it is in sight, before and after
_FASTEST = 0.03  # per frame, in units of the picture's short side, as all lengths here
_STRAY = 0.01
_GAP = 3 * _STRAY
_TRIES = 60


def lay_out_hidden(seed: int, height: int, width: int, alike: bool) -> Layout:
    """Choose a clip in which a board hides the target for ``HIDDEN`` frames in a row or a few more.

    The target passes behind the board, or the board in front of the target. Three or four others are never hidden.

    Args:
        seed: Chooses the scene; another resolution shows the same one.
        height: Pixels.
        width: Pixels, a third more than the height or still more.
        alike: Whether the others are copies of the target, which only place and motion tell apart. Else they have its
            colour and other shapes.
    """
    rng, extent = np.random.Generator(np.random.PCG64(seed)), metric_extent(width / height)
    while True:
        scene = Scene(rng, NUM_FRAMES, extent, SceneConfig())
        target = scene.add(pick(rng, SHAPES), pick(rng, COLOURS), "small")
        swept = _pass_behind(scene, target) if rng.random() < 0.5 else _pass_in_front(scene, target)
        if _place_others(scene, target, swept, alike):  # else there was no room for them
            break
    layout = compose(scene, scene.drafts, target, (height, width), "hidden")
    return _copied(layout) if alike else layout


def _passage(scene: Scene, reach: float, room: float = np.inf) -> tuple[float, Doubles]:
    """Choose a passage.

    Args:
        scene: Gives the clip's length.
        reach: Of the target.
        room: What the target's way may take.

    Returns:
        The board's width, and how far target and board are from each other's middle, (T,), from one side to the other.
    """
    frames = float(scene.rng.uniform(HIDDEN + 1, HIDDEN + 3))
    slowest = 4 * reach / (scene.num_frames - 1 - 2 * _FREE - frames)
    fastest = min(_FASTEST, (room - 6 * reach) / (2 * _FREE + frames))
    speed = float(scene.rng.uniform(slowest, max(slowest, fastest)))
    width = 2 * reach + speed * frames
    return width, np.asarray(speed * (scene.time - _FREE) - width / 2 - reach, np.float64)


def _pass_behind(scene: Scene, target: Draft) -> tuple[Doubles, Doubles]:
    """Let the target pass behind a board that rests; return the corners of all that both of them ever cover."""
    rng, reach, extent = scene.rng, target.reach, scene.extent
    width, away = _passage(scene, reach, float(extent[0]))
    end, length = -away[0], 2 * reach + _GAP
    sides = np.array([end + reach, length / 2])
    place = rng.uniform(sides, extent - sides)
    scene.bar = Bar(np.tile(place, (scene.num_frames, 1)), width, 0.0, length)
    target.path = np.tile(place, (scene.num_frames, 1))
    target.path[:, 0] += float(rng.choice([-1.0, 1.0])) * np.minimum(away, end)
    return place - sides, place + sides


def _pass_in_front(scene: Scene, target: Draft) -> tuple[Doubles, Doubles]:
    """Let a board pass in front of a target that rests; return the corners of all that both of them ever cover."""
    rng, reach = scene.rng, target.reach
    axis, (width, away) = int(rng.integers(2)), _passage(scene, reach)
    place = rng.uniform(reach, scene.extent - reach)
    target.path = np.tile(place, (scene.num_frames, 1))
    path = target.path.copy()
    path[:, axis] += float(rng.choice([-1.0, 1.0])) * away
    sides = np.full(2, reach + _GAP / 2)
    scene.bar = Bar(path, width, axis * np.pi / 2, 2 * float(sides[0]))
    sides[axis] = width / 2
    return path.min(axis=0) - sides, path.max(axis=0) + sides


def _place_others(scene: Scene, target: Draft, swept: tuple[Doubles, Doubles], alike: bool) -> bool:
    """Add the others outside of what is swept, apart from each other; return whether there was room."""
    rng, (low, high) = scene.rng, swept
    shapes = (target.shape,) if alike else tuple(shape for shape in SHAPES if shape != target.shape)
    for count in range(int(rng.integers(3, 5))):
        other = scene.add(pick(rng, shapes), target.colour, pick(rng, ("small", "small", "medium")))
        if alike:
            other.radius, other.size = target.radius, target.size
        margin = other.reach + _GAP
        points = rng.uniform(margin, scene.extent - margin, (_TRIES, 2))
        free = ((points < low - margin) | (points > high + margin)).any(axis=1)
        for placed in scene.drafts[1 : 1 + count]:
            free &= np.linalg.norm(points - placed.path[0], axis=1) > margin + placed.reach
        if not free.any():
            return False
        other.path = points[int(free.argmax())] + scene.wobble(_STRAY)
    return True


def _copied(layout: Layout) -> Layout:
    """Return a layout in which every object looks as the first does, in every frame."""
    first, count = layout.layers[0], len(layout.objects)
    copies = tuple(
        replace(
            first,
            outline=first.outline + (layer.centre - first.centre)[:, None],
            centre=layer.centre,
            label=layer.label,
        )
        for layer in layout.layers[:count]
    )
    objects = tuple(replace(own, texture=layout.objects[0].texture, radius=first.radius) for own in layout.objects)
    return replace(layout, layers=(*copies, *layout.layers[count:]), objects=objects)

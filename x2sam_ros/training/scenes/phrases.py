"""Sentences about a clip that are known to be true of exactly one object, or of none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.clip import Clip, SceneObject
from x2sam_ros.training.scenes.view import PLACE_MARGIN, View


@dataclass(frozen=True)
class ReferringPhrase:
    """A sentence and the objects it names (none for an absent one)."""

    kind: str
    text: str
    object_indices: tuple[int, ...]


def _superlatives(view: View, k: int, group: list[int], rng: np.random.Generator) -> list[str]:
    """Return "largest" or "leftmost" style words true of ``k`` among a group of two or more clear objects."""
    others = [i for i in group if i != k]
    if not others or not view.clear.issuperset(group):
        return []
    rank = view.size_rank(k, group)
    found = [words.pick(rng, words.SUPERLATIVES[rank])] if rank else []
    for side, options in words.EXTREMES.items():
        if all(view.offset(k, i, side) > PLACE_MARGIN for i in others):
            found.append(words.pick(rng, options))
    return found


def _places(view: View, k: int, group: list[int], rng: np.random.Generator) -> list[str]:
    """Return "on the left" and "in the top left corner" style words true of ``k`` alone among a group."""
    near = {side: _near(view, k, side) for side in words.SIDES}
    others = [i for i in group if i != k]
    if not view.clear.issuperset(group):
        return []
    found = [
        words.pick(rng, options)
        for side, options in words.SIDES.items()
        if near[side] < 0.42 and all(_near(view, i, side) > max(0.52, near[side] + 0.15) for i in others)
    ]
    for corner in words.CORNERS:
        rows, columns = corner.split()
        alone = all(max(_near(view, i, rows), _near(view, i, columns)) > 0.52 for i in others)
        if alone and max(near[rows], near[columns]) < 0.38:
            found.append(words.corner_words(rng, corner))
    return found


def _near(view: View, k: int, side: str) -> float:
    x, y = view.places[k]
    along = x if side in ("left", "right") else y
    return along if side in ("left", "top") else 1 - along


def _motions(view: View, k: int, match: Callable[[SceneObject], bool], rng: np.random.Generator) -> list[str]:
    """Return motion words true of ``k`` and of no other object of the whole clip that the noun fits."""
    objects = view.clip.objects
    others = [o.motion for i, o in enumerate(objects) if i != k and match(o)]
    mine = objects[k].motion
    if mine == "mixed" or mine in others or "mixed" in others or len(objects[k].centre) < 2:
        return []
    return [words.pick(rng, words.MOTION_WORDS[mine])]


def _relations(view: View, k: int, group: list[int], rng: np.random.Generator) -> list[str]:
    """Return "left of the red circle" style words true of ``k`` alone among a group."""
    objects, found = view.clip.objects, []
    if not view.clear.issuperset(group):
        return []
    for anchor in sorted(view.clear - {k}):
        other = objects[anchor]
        if sum(objects[i].shape == other.shape and objects[i].colour == other.colour for i in view.seen) > 1:
            continue
        beyond = {side: view.offset(k, anchor, side) for side in words.SIDES}
        rivals = [i for i in group if i not in (k, anchor)]
        for side, options in words.RELATIONS.items():
            ahead, across = beyond[side], max(value for s, value in beyond.items() if s != side)
            if ahead > PLACE_MARGIN and ahead > across and all(view.offset(i, anchor, side) < 0.0 for i in rivals):
                found.append(f"{words.pick(rng, options)} the {other.colour} {other.shape}")
    return found


def _phrases_of(view: View, k: int, by_colour: bool, by_shape: bool, rng: np.random.Generator) -> list[ReferringPhrase]:
    """Return the true sentences about ``k`` whose noun tells its colour, its shape, both or neither."""
    me = view.clip.objects[k]

    def match(o: SceneObject) -> bool:
        return (not by_colour or o.colour == me.colour) and (not by_shape or o.shape == me.shape)

    group = [i for i in view.seen if match(view.clip.objects[i])]
    colour, shape = me.colour if by_colour else None, me.shape if by_shape else None
    both = by_colour and by_shape
    found: list[tuple[str, str, str]] = []
    if len(group) == 1 and (by_colour or by_shape):
        found.append(("colour_shape" if both else "colour" if by_colour else "shape", "", ""))
    alike = [i for i in group if view.clip.objects[i].size_name == me.size_name]
    size = words.pick(rng, words.SIZE_WORDS[me.size_name])
    if alike == [k]:
        found.append(("size", size, ""))
    for word in _superlatives(view, k, group, rng):
        found.append(("size" if word in ("largest", "biggest", "smallest") else "position", word, ""))
    found += [("position", "", text) for text in _places(view, k, group, rng)]
    found += [("position", "", text) for text in _relations(view, k, group, rng)]
    found += [("motion", "", text) for text in _motions(view, k, match, rng)]
    if by_colour or by_shape:
        found += [("combo", size, text) for text in _places(view, k, alike, rng)]
    phrases = []
    for kind, before, after in found:
        text = words.phrase(words.core(rng, colour, shape), before, after)
        if kind == "colour" and rng.random() < 0.25:
            text = f"something {colour}"
        if kind == "size" and before in words.SUPERLATIVES and not (colour or shape) and rng.random() < 0.3:
            text = f"the {before} one"
        phrases.append(ReferringPhrase("combo" if both and (before or after) else kind, text, (k,)))
    return phrases


def referring_phrases(clip: Clip, rng: np.random.Generator, frame_index: int = 0) -> list[ReferringPhrase]:
    """Return sentences that each name exactly one clearly visible object of a frame.

    Uniqueness counts every object with a visible pixel; motion words count every object of the clip.

    Args:
        clip: The clip.
        rng: Chooses among paraphrases.
        frame_index: The frame the sentences are about.
    """
    view = View.of(clip, frame_index)
    nouns = ((True, False), (False, True), (True, True), (False, False))
    return [p for k in sorted(view.clear) for by in nouns for p in _phrases_of(view, k, by[0], by[1], rng)]


def absent_phrases(clip: Clip, rng: np.random.Generator, count: int) -> list[ReferringPhrase]:
    """Return up to ``count`` sentences true of no object in any frame, the hard ones first.

    Kinds: "absent_combination" (colour and shape occur, not together), "absent_size", "absent_colour",
    "absent_shape". Each sentence occurs once; fewer come back when the scene leaves fewer.
    """
    pairs = {(o.colour, o.shape) for o in clip.objects}
    colours, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
    found: list[tuple[str, str]] = []
    for colour in words.COLOURS:
        if colour not in colours:
            noun = words.core(rng, colour, words.pick(rng, words.SHAPES) if rng.random() < 0.6 else None)
            found.append(("absent_colour", words.phrase(noun)))
    for shape in words.SHAPES:
        if shape not in shapes:
            noun = words.core(rng, words.pick(rng, words.COLOURS) if rng.random() < 0.6 else None, shape)
            found.append(("absent_shape", words.phrase(noun)))
    hard = [
        ("absent_combination", words.phrase(words.core(rng, colour, shape)))
        for colour in sorted(colours)
        for shape in sorted(shapes)
        if (colour, shape) not in pairs
    ]
    for colour, shape in sorted(pairs):
        sizes = {o.size_name for o in clip.objects if (o.colour, o.shape) == (colour, shape)}
        for wrong, right in (("small", "large"), ("large", "small")):
            if sizes == {right}:
                before = words.pick(rng, words.SIZE_WORDS[wrong])
                hard.append(("absent_size", words.phrase(words.core(rng, colour, shape), before)))
    chosen = [hard[int(i)] for i in rng.permutation(len(hard))[: max(1, (2 * count + 2) // 3)]]
    chosen += [found[int(i)] for i in rng.permutation(len(found))]
    return [ReferringPhrase(kind, text, ()) for kind, text in dict.fromkeys(chosen[:count])]

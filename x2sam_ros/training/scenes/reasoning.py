"""Sentences that name one object by what follows from its shape, colour or size, without telling them."""

from __future__ import annotations

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.clip import Clip
from x2sam_ros.training.scenes.phrases import ReferringPhrase
from x2sam_ros.training.scenes.view import View

_WITH = "with "
_THAT = "that "


def reasoning_sentence(clauses: tuple[str, ...], rng: np.random.Generator) -> str:
    """Join one or two clauses, each "with ..." or "that ...", to a sentence such as "the one with three corners"."""
    first, *rest = sorted(clauses, key=lambda clause: not clause.startswith(_WITH))
    if not rest and first.startswith(_THAT) and rng.random() < 0.3:
        return f"what {first.removeprefix(_THAT)}"
    head = f"the {words.pick(rng, ('one', *words.NOUNS))} {first}"
    joint = " and " if rest and rest[0].split()[0] == first.split()[0] else " "
    return joint.join([head, *rest])


def reasoning_phrases(clip: Clip, rng: np.random.Generator, frame_index: int = 0) -> list[ReferringPhrase]:
    """Return sentences that each name exactly one clearly visible object without naming its colour or shape.

    All are of the kind "reason". Up to six for each object: its shape, its colour, its size, and any two of them
    together. Uniqueness counts every object with a visible pixel.

    Args:
        clip: The clip.
        rng: Chooses among paraphrases.
        frame_index: The frame the sentences are about.
    """
    view = View.of(clip, frame_index)
    return [
        ReferringPhrase("reason", reasoning_sentence(clauses, rng), (k,))
        for k in sorted(view.clear)
        for clauses in _true_clauses(view, k, rng)
    ]


def _true_clauses(view: View, k: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Return the clauses, alone or in pairs, that are true of ``k`` only."""
    me = view.clip.objects[k]
    thing = words.pick(rng, words.THINGS[me.colour])
    colours = {me.colour, *words.MISTAKABLE.get(thing, ())}
    by_shape = words.pick(rng, words.SHAPE_CLAUSES[me.shape])
    by_colour = words.pick(rng, words.THING_PATTERNS).format(thing)
    alike = [
        (by_shape, view.matching(shapes={me.shape})),
        (by_colour, view.matching(colours=colours)),
    ]
    found: list[tuple[str, ...]] = [(clause,) for clause, group in alike if group == [k]]
    if view.matching(colours=colours, shapes={me.shape}) == [k]:
        found.append((by_shape, by_colour))
    for clause, group in [("", list(view.seen)), *alike]:
        rank = _size_rank(view, k, group)
        if rank:
            by_size = words.pick(rng, words.SIZE_CLAUSES[rank])
            found.append((clause, by_size) if clause else (by_size,))
    return found


def _size_rank(view: View, k: int, group: list[int]) -> str | None:
    """Return the size rank if what is visible of the objects says the same as their true sizes."""
    rank = view.size_rank(k, group)
    extreme = (max if rank == "largest" else min)(group, key=view.pixels.__getitem__)
    return rank if extreme == k else None

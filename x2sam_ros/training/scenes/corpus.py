"""Sentences like those of the generated scenes, without the scenes: what a tokenizer learns its words from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.captions import joined_caption, noun_phrase
from x2sam_ros.training.scenes.questions import ANSWERS, QUESTION_KINDS, question_text
from x2sam_ros.training.scenes.reasoning import reasoning_sentence
from x2sam_ros.training.scenes.vocabulary import pick


def sample_corpus(count: int, seed: int) -> Iterator[str]:
    """Yield ``count`` sentences over the whole vocabulary, true of no picture in particular.

    Referring phrases and class names, reasoning sentences, captions, and questions with the answer on a second line.

    Args:
        count: How many sentences.
        seed: Seed of the choice; the same seed gives the same sentences.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    kinds = (_referring, _reasoning, _caption, _question)
    for _ in range(count):
        yield kinds[int(rng.choice(len(kinds), p=(0.55, 0.15, 0.12, 0.18)))](rng)


def _referring(rng: np.random.Generator) -> str:
    groups = (words.SIZE_WORDS, words.SUPERLATIVES, words.EXTREMES)
    adjectives = tuple(word for group in groups for options in group.values() for word in options)
    colour = pick(rng, words.COLOURS) if rng.random() < 0.6 else None
    shape = pick(rng, words.SHAPES) if rng.random() < 0.6 else None
    noun_group = words.core(rng, colour, shape)
    draw = rng.random()
    if draw < 0.15:
        return noun_group
    if draw < 0.2:
        return f"something {pick(rng, words.COLOURS)}"
    if draw < 0.25:
        return f"the {pick(rng, tuple(words.SUPERLATIVES))} one"
    if draw < 0.28:
        return words.BACKGROUND
    before = pick(rng, adjectives) if rng.random() < 0.4 else ""
    return words.phrase(noun_group, before, _after(rng) if rng.random() < 0.5 else "")


def _after(rng: np.random.Generator) -> str:
    choice = int(rng.integers(4))
    if choice == 0:
        return pick(rng, words.SIDES[pick(rng, tuple(words.SIDES))])
    if choice == 1:
        return words.corner_words(rng, pick(rng, words.CORNERS))
    if choice == 2:
        return pick(rng, words.MOTION_WORDS[pick(rng, words.MOTIONS)])
    relation = pick(rng, words.RELATIONS[pick(rng, tuple(words.RELATIONS))])
    return f"{relation} the {words.core(rng, pick(rng, words.COLOURS), pick(rng, words.SHAPES))}"


def _reasoning(rng: np.random.Generator) -> str:
    clauses = (
        pick(rng, words.SHAPE_CLAUSES[pick(rng, words.SHAPES)]),
        pick(rng, words.THING_PATTERNS).format(pick(rng, words.THINGS[pick(rng, words.COLOURS)])),
        pick(rng, words.SIZE_CLAUSES[pick(rng, tuple(words.SIZE_CLAUSES))]),
    )
    chosen = rng.permutation(len(clauses))[: int(rng.integers(1, 3))]
    return reasoning_sentence(tuple(clauses[int(i)] for i in chosen), rng)


def _caption(rng: np.random.Generator) -> str:
    counts = rng.choice((1, 1, 1, 2, 3, 4, 5), int(rng.integers(1, 4)))
    parts = [noun_phrase(pick(rng, words.COLOURS), pick(rng, words.SHAPES), int(n)) for n in counts]
    return joined_caption(parts, words.RELATIONS[pick(rng, tuple(words.RELATIONS))][0])[0]


def _question(rng: np.random.Generator) -> str:
    kind = pick(rng, QUESTION_KINDS)
    colour = None if kind == "colour" else pick(rng, words.COLOURS)
    shape = None if kind == "shape" else pick(rng, words.SHAPES)
    if kind in ("count", "exists"):
        draw = rng.random()
        colour, shape = (None, shape) if draw < 0.35 else (colour, None) if draw < 0.7 else (colour, shape)
    if kind == "count" and rng.random() < 0.3:
        colour = shape = None
    return f"{question_text(kind, colour, shape, rng)}\n{pick(rng, ANSWERS[kind])}"

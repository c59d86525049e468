"""Every word and every sentence pattern of the generated scenes, so that a tokenizer can be trained on all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross")
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SIZES: tuple[str, ...] = ("small", "medium", "large")
MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "still")
NOUNS: tuple[str, ...] = ("object", "thing", "shape")

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big"),
}
SUPERLATIVES: dict[str, tuple[str, ...]] = {"largest": ("largest", "biggest"), "smallest": ("smallest",)}
SIDES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
}
EXTREMES: dict[str, tuple[str, ...]] = {
    "left": ("leftmost",),
    "right": ("rightmost",),
    "top": ("topmost", "top"),
    "bottom": ("bottom",),
}
CORNERS: tuple[str, ...] = ("top left", "top right", "bottom left", "bottom right")
CORNER_PATTERNS: tuple[str, ...] = ("in the {} corner", "at the {}")
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above",),
    "bottom": ("below", "under"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "that moves left", "going to the left"),
    "right": ("moving right", "that moves right", "going to the right"),
    "up": ("moving up", "that moves up", "going up"),
    "down": ("moving down", "that moves down", "going down"),
    "still": ("that stays still", "that is not moving", "that does not move"),
}


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Return one of ``options`` at random."""
    return options[int(rng.integers(len(options)))]


def core(rng: np.random.Generator, colour: str | None, shape: str | None) -> str:
    """Return the noun group, such as "red circle", "red thing", "circle" or "object"."""
    noun = shape if shape is not None else pick(rng, NOUNS)
    return noun if colour is None else f"{colour} {noun}"


def phrase(noun_group: str, before: str = "", after: str = "") -> str:
    """Return "the <before> <noun group> <after>" without the parts that are empty."""
    return " ".join(part for part in ("the", before, noun_group, after) if part)


def corner_words(rng: np.random.Generator, corner: str) -> str:
    """Return a paraphrase of being in a corner ("top left", ...)."""
    return pick(rng, CORNER_PATTERNS).format(corner)


def _random_after(rng: np.random.Generator) -> str:
    choice = int(rng.integers(4))
    if choice == 0:
        return pick(rng, SIDES[pick(rng, tuple(SIDES))])
    if choice == 1:
        return corner_words(rng, pick(rng, CORNERS))
    if choice == 2:
        return pick(rng, MOTION_WORDS[pick(rng, MOTIONS)])
    relation = pick(rng, RELATIONS[pick(rng, tuple(RELATIONS))])
    return f"{relation} the {core(rng, pick(rng, COLOURS), pick(rng, SHAPES))}"


def sample_corpus(count: int, seed: int) -> Iterator[str]:
    """Yield ``count`` sentences like the prompts: referring phrases and class names over the whole vocabulary.

    Args:
        count: How many sentences.
        seed: Seed of the choice; the same seed gives the same sentences.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    adjectives = tuple(w for group in (SIZE_WORDS, SUPERLATIVES, EXTREMES) for words in group.values() for w in words)
    for _ in range(count):
        colour = pick(rng, COLOURS) if rng.random() < 0.6 else None
        shape = pick(rng, SHAPES) if rng.random() < 0.6 else None
        noun_group = core(rng, colour, shape)
        draw = rng.random()
        if draw < 0.15:
            yield noun_group
        elif draw < 0.2:
            yield f"something {pick(rng, COLOURS)}"
        elif draw < 0.25:
            yield f"the {pick(rng, tuple(SUPERLATIVES))} one"
        else:
            before = pick(rng, adjectives) if rng.random() < 0.4 else ""
            yield phrase(noun_group, before, _random_after(rng) if rng.random() < 0.5 else "")

"""Every word and every sentence pattern of the generated scenes, so that a tokenizer can be trained on all of them."""

from __future__ import annotations

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

BACKGROUND = "background"

SHAPE_CLAUSES: dict[str, tuple[str, ...]] = {
    "circle": ("that would roll away", "that could roll", "with no corners", "that looks like a ball"),
    "square": ("with four equal sides", "with four corners", "that looks like a tile"),
    "triangle": ("with three corners", "with three sides", "that looks like a slice of pizza"),
    "star": ("with five points", "with five tips", "that looks like a sheriff badge"),
    "cross": ("with four arms", "that looks like a plus sign", "that stands for adding"),
}
THINGS: dict[str, tuple[str, ...]] = {
    "red": ("a ripe tomato", "a strawberry", "a fire engine"),
    "orange": ("a carrot", "a pumpkin"),
    "yellow": ("a lemon", "a banana"),
    "green": ("grass", "a frog", "a cucumber"),
    "cyan": ("turquoise", "ice water"),
    "blue": ("the sky", "the deep sea", "denim"),
    "purple": ("a plum", "lavender"),
    "white": ("snow", "milk"),
}
"""Well known things by their colour."""

MISTAKABLE: dict[str, tuple[str, ...]] = {"the sky": ("cyan",), "ice water": ("blue", "white")}
"""Things that some would see in another colour too: they name an object only where no such colour is seen."""

THING_PATTERNS: tuple[str, ...] = ("with the colour of {}", "that has the colour of {}", "that is coloured like {}")
SIZE_CLAUSES: dict[str, tuple[str, ...]] = {
    "largest": ("that takes up the most room", "that covers the most of the picture", "that needs the biggest box"),
    "smallest": ("that takes up the least room", "that would fit into the smallest box", "that is easiest to miss"),
}

DIGITS: tuple[str, ...] = ("0", "1", "2", "3", "4", "5")
NUMBER_WORDS: tuple[str, ...] = ("one", "two", "three", "four", "five")
YES_NO: tuple[str, ...] = ("yes", "no")
PLURALS: dict[str, str] = {noun: f"{noun}es" if noun.endswith("s") else f"{noun}s" for noun in (*SHAPES, *NOUNS)}
QUESTION_PATTERNS: dict[str, tuple[str, ...]] = {
    "count": ("how many {} are there?", "how many {} do you see?", "what is the number of {}?"),
    "colour": ("what colour is the {}?", "which colour does the {} have?", "what color is the {}?"),
    "shape": ("what shape is the {}?", "which shape does the {} have?", "what kind of shape is the {}?"),
    "exists": ("is there {}?", "do you see {}?", "can you see {} in the picture?"),
}


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Return one of ``options`` at random."""
    return options[int(rng.integers(len(options)))]


def core(rng: np.random.Generator, colour: str | None, shape: str | None) -> str:
    """Return the noun group, such as "red circle", "red thing", "circle" or "object"."""
    noun = shape if shape is not None else pick(rng, NOUNS)
    return noun if colour is None else f"{colour} {noun}"


def number_word(count: int) -> str:
    """Return "one" to "five", and "many" above."""
    return NUMBER_WORDS[count - 1] if count <= len(NUMBER_WORDS) else "many"


def phrase(noun_group: str, before: str = "", after: str = "") -> str:
    """Return "the <before> <noun group> <after>" without the parts that are empty."""
    return " ".join(part for part in ("the", before, noun_group, after) if part)


def corner_words(rng: np.random.Generator, corner: str) -> str:
    """Return a paraphrase of being in a corner ("top left", ...)."""
    return pick(rng, CORNER_PATTERNS).format(corner)


def all_of(rng: np.random.Generator, colour: str | None, shape: str | None) -> str:
    """Return words for every object of a colour, a shape or both: "all red things", "every circle"."""
    noun = core(rng, colour, shape)
    if rng.random() < 0.4:
        return f"every {noun}"
    head, _, last = noun.rpartition(" ")
    return " ".join(part for part in ("all", head, PLURALS[last]) if part)

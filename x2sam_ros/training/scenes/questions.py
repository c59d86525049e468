"""Questions about a picture, each with the one answer that the picture decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.captions import noun_phrase
from x2sam_ros.training.scenes.clip import Clip
from x2sam_ros.training.scenes.view import View

ANSWERS: dict[str, tuple[str, ...]] = {
    "count": words.DIGITS,
    "colour": words.COLOURS,
    "shape": words.SHAPES,
    "exists": words.YES_NO,
}
QUESTION_KINDS: tuple[str, ...] = tuple(ANSWERS)
_HARD_SHARE = 0.7  # of what is asked for and absent: colour and shape occur, not together
_NONE_SHARE = 0.3  # of the forms of counting: one more question whose answer is 0

_Pair = tuple[str | None, str | None]  # colour and shape; None: any


@dataclass(frozen=True)
class Question:
    """A question, its answer, and all answers that questions of its kind can have."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


def question_text(kind: str, colour: str | None, shape: str | None, rng: np.random.Generator) -> str:
    """Return a paraphrase of the question of a kind about the objects of a colour, a shape, both or neither."""
    if kind == "exists":
        subject = f"something {colour}" if shape is None else f"a {shape}"
        subject = noun_phrase(colour, shape, 1) if colour and shape else subject
    elif kind == "count":
        noun = words.PLURALS[shape or words.pick(rng, words.NOUNS)]
        subject = f"{colour} {noun}" if colour else noun
    else:
        subject = words.core(rng, colour, shape)
    return words.pick(rng, words.QUESTION_PATTERNS[kind]).format(subject)


def questions(clip: Clip, rng: np.random.Generator, frame_index: int = 0) -> list[Question]:
    """Return questions about a frame, in a fixed order of the kinds; draw from them.

    Nothing is asked whose answer hangs on an object that is hardly visible. "exists" comes in pairs of a yes and a
    no of the same form, so that neither the list nor the form tells the answer.

    Args:
        clip: The clip.
        rng: Chooses among paraphrases and among what is absent.
        frame_index: The frame the questions are about.
    """
    view = View.of(clip, frame_index)
    asked = [*_counts(view, rng), *_attributes(view), *_existences(view, rng)]
    return [Question(kind, question_text(kind, *about, rng), answer, ANSWERS[kind]) for kind, about, answer in asked]


def _group(view: View, about: _Pair) -> list[int]:
    colour, shape = about
    return view.matching(None if colour is None else {colour}, None if shape is None else {shape})


def _decided(view: View, about: _Pair) -> bool:
    """Return whether every seen object that the words fit is clearly visible."""
    return view.clear.issuperset(_group(view, about))


def _forms(view: View) -> list[tuple[list[_Pair], list[_Pair]]]:
    """Return what is seen and what is not, by shape, by colour and by both."""
    forms: tuple[list[_Pair], ...] = (
        [(None, shape) for shape in words.SHAPES],
        [(colour, None) for colour in words.COLOURS],
        [(colour, shape) for colour in words.COLOURS for shape in words.SHAPES],
    )
    return [([p for p in form if _group(view, p)], [p for p in form if not _group(view, p)]) for form in forms]


def _one(options: list[_Pair], rng: np.random.Generator) -> list[_Pair]:
    return [options[int(rng.integers(len(options)))]] if options else []


def _counts(view: View, rng: np.random.Generator) -> Iterator[tuple[str, _Pair, str]]:
    """Ask how many there are of all objects and, by each form, of one class for every number that occurs, or of none.

    One class for a number, since most classes have one object: the answers would be "1" far too often.
    """
    about: list[_Pair] = [(None, None)]
    for present, absent in _forms(view):
        by_number: dict[int, list[_Pair]] = {}
        for pair in present:
            by_number.setdefault(len(_group(view, pair)), []).append(pair)
        for number in sorted(by_number):
            about += _one(by_number[number], rng)
        about += _one(absent, rng) if rng.random() < _NONE_SHARE else []
    for pair in about:
        number = len(_group(view, pair))
        if _decided(view, pair) and number < len(words.DIGITS):
            yield "count", pair, words.DIGITS[number]


def _attributes(view: View) -> Iterator[tuple[str, _Pair, str]]:
    """Ask for the colour of the only object of a shape, and for the shape of the only one of a colour."""
    for k in sorted(view.clear):
        me = view.clip.objects[k]
        if _group(view, (None, me.shape)) == [k]:
            yield "colour", (None, me.shape), me.colour
        if _group(view, (me.colour, None)) == [k]:
            yield "shape", (me.colour, None), me.shape


def _existences(view: View, rng: np.random.Generator) -> Iterator[tuple[str, _Pair, str]]:
    """Ask, for each form, for one thing that is there and one that is not, often a pair of words that occur apart."""
    for present, absent in _forms(view):
        clear = [pair for pair in present if view.clear.intersection(_group(view, pair))]
        hard = [p for p in absent if None not in p and _group(view, (p[0], None)) and _group(view, (None, p[1]))]
        wrong = _one(hard if hard and rng.random() < _HARD_SHARE else absent, rng)
        for there, gone in zip(_one(clear, rng), wrong):
            yield "exists", there, words.YES_NO[0]
            yield "exists", gone, words.YES_NO[1]

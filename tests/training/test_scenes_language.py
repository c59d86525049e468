"""What the generated scenes say and ask beyond referring phrases is what their labels show."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from x2sam_ros.training.scenes import (
    KINDS,
    QUESTION_KINDS,
    Clip,
    Question,
    caption,
    class_list,
    generate_clip,
    panoptic_list,
    questions,
    reasoning_phrases,
    sample_corpus,
)

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")

# What a reader takes the clauses to mean, apart from the generator's own tables.
SHAPE_HINTS = {
    "roll": "circle",
    "no corners": "circle",
    "ball": "circle",
    "equal sides": "square",
    "four corners": "square",
    "tile": "square",
    "three": "triangle",
    "pizza": "triangle",
    "five": "star",
    "sheriff": "star",
    "four arms": "cross",
    "plus": "cross",
    "adding": "cross",
}
COLOUR_HINTS = {
    "tomato": ("red",),
    "strawberry": ("red",),
    "fire engine": ("red",),
    "carrot": ("orange",),
    "pumpkin": ("orange",),
    "lemon": ("yellow",),
    "banana": ("yellow",),
    "grass": ("green",),
    "frog": ("green",),
    "cucumber": ("green",),
    "turquoise": ("cyan",),
    "ice water": ("cyan", "blue", "white"),
    "the sky": ("blue", "cyan"),
    "sea": ("blue",),
    "denim": ("blue",),
    "plum": ("purple",),
    "lavender": ("purple",),
    "snow": ("white",),
    "milk": ("white",),
}
SIZE_HINTS = {"most": 1, "biggest": 1, "least": -1, "smallest": -1, "easiest": -1}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@cache
def _clips() -> tuple[tuple[Clip, int], ...]:
    """Clips of every kind and a frame of each; later frames of "occlusion" and "reentry" show parts of objects."""
    pairs = []
    for seed in range(300):
        kind = KINDS[seed % len(KINDS)]
        frames = 6 if kind in ("occlusion", "reentry") else 1
        pairs.append((generate_clip(seed, frames, 128, 128, kind=kind, aspect=(1.0, 4 / 3)[seed % 2]), seed % frames))
    return tuple(pairs)


def _areas(clip: Clip, frame: int) -> list[int]:
    return [int((clip.labels[frame] == k + 1).sum()) for k in range(len(clip.objects))]


def _clear(clip: Clip, frame: int) -> list[int]:
    areas, visible = _areas(clip, frame), clip.visible[frame]
    return [k for k, area in enumerate(areas) if area >= 0.003 * clip.labels[0].size and visible[k] >= 0.5]


def _word(options: tuple[str, ...], text: str) -> str | None:
    """Find one of the words in a text, in the singular or the plural."""
    found = [w for w in options if re.search(rf"\b{w}(e?s)?\b", text)]
    assert len(found) <= 1
    return found[0] if found else None


def _matching(clip: Clip, frame: int, text: str) -> list[int]:
    colour, shape = _word(COLOURS, text), _word(SHAPES, text)
    return [
        k
        for k, area in enumerate(_areas(clip, frame))
        if area and colour in (None, clip.objects[k].colour) and shape in (None, clip.objects[k].shape)
    ]


def test_reasoning_names_exactly_one_object_without_its_words() -> None:
    hints: set[str] = set()
    pairs = 0
    for seed, (clip, frame) in enumerate(_clips()):
        areas = _areas(clip, frame)
        for phrase in reasoning_phrases(clip, _rng(seed), frame):
            text, (k,) = phrase.text, phrase.object_indices
            assert phrase.kind == "reason" and not re.search(rf"\b({'|'.join(COLOURS + SHAPES)})s?\b", text)
            shapes = [hint for hint in SHAPE_HINTS if hint in text]
            colours = [hint for hint in COLOUR_HINTS if hint in text]
            sizes = [hint for hint in SIZE_HINTS if hint in text.split()]
            assert 1 <= len(shapes) + len(colours) + len(sizes) <= 2
            pairs += len(shapes) + len(colours) + len(sizes) == 2
            hints.update(shapes, colours, sizes)
            fits = [i for i, area in enumerate(areas) if area]
            fits = [i for i in fits if all(clip.objects[i].shape == SHAPE_HINTS[hint] for hint in shapes)]
            fits = [i for i in fits if all(clip.objects[i].colour in COLOUR_HINTS[hint] for hint in colours)]
            for hint in sizes:
                assert len(fits) > 1 and set(fits) <= set(_clear(clip, frame))
                ranked = sorted(fits, key=lambda i: SIZE_HINTS[hint] * areas[i])
                radii = sorted(float(clip.objects[i].radius[frame]) * SIZE_HINTS[hint] for i in fits)
                assert max(radii[-1] / radii[-2], radii[-2] / radii[-1]) > 1.25
                fits = ranked[-1:]
            assert fits == [k] and k in _clear(clip, frame)
    assert hints == {*SHAPE_HINTS, *COLOUR_HINTS, *SIZE_HINTS} and pairs > 100


def test_every_caption_says_what_its_phrases_mean() -> None:
    relations, counts = set(), Counter[int]()
    for clip, frame in _clips():
        found = caption(clip, _rng(), frame)
        clear = _clear(clip, frame)
        if found is None:
            assert not clear
            continue
        places: list[tuple[int, float]] = []
        for phrase in found.phrases:
            text = found.text[phrase.start : phrase.end]
            first, colour, noun = text.split()
            number = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}[first]
            assert (first == "an") == (number == 1 and colour == "orange")
            assert noun in ({s if number == 1 else f"{s}es" if s == "cross" else f"{s}s" for s in SHAPES})
            assert sorted(phrase.object_indices) == [k for k in _matching(clip, frame, text) if k in clear]
            assert len(phrase.object_indices) == number
            places.append(min(_place(clip, frame, k) for k in phrase.object_indices))
            counts[number] += 1
        classes = {(clip.objects[k].colour, clip.objects[k].shape) for k in clear}
        assert len(found.phrases) == min(3, len(classes)) and places == sorted(places)
        unnamed = set(clear) - {k for phrase in found.phrases for k in phrase.object_indices}
        assert all(_place(clip, frame, k) > places[-1] for k in unnamed)
        if len(found.phrases) > 1:
            one, two = found.phrases[:2]
            relations.add(relation := found.text[one.end + 1 : two.start - 1])
            assert relation == _relation(clip, frame, one.object_indices, two.object_indices)
        if len(found.phrases) == 3:
            assert found.text[found.phrases[1].end : found.phrases[2].start] == " and "
        assert found.phrases[0].start == 0 and found.phrases[-1].end == len(found.text)
    assert relations == {"left of", "right of", "above", "below"} and counts[2] > 20


def _place(clip: Clip, frame: int, k: int) -> tuple[int, float]:
    """Where an object comes in a caption: by size, then from the left."""
    column = float(np.argwhere(clip.labels[frame] == k + 1)[:, 1].mean())
    return ("large", "medium", "small").index(clip.objects[k].size_name), column


def _relation(clip: Clip, frame: int, one: tuple[int, ...], two: tuple[int, ...]) -> str:
    first = [min(ks, key=lambda k: _place(clip, frame, k)) for ks in (one, two)]
    centres = [np.argwhere(clip.labels[frame] == k + 1).mean(axis=0) / clip.labels[frame].shape for k in first]
    down, right = centres[0] - centres[1]
    if abs(right) >= abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def test_a_caption_depends_on_the_picture_alone() -> None:
    for clip, frame in _clips()[:40]:
        used, unused = _rng(1), _rng(1)
        assert caption(clip, used, frame) == caption(clip, _rng(2), frame)
        assert used.random() == unused.random()


def _check(clip: Clip, frame: int, asked: Question) -> None:
    text, fits, clear = asked.text, _matching(clip, frame, asked.text), _clear(clip, frame)
    if asked.kind == "count":
        assert asked.answer == str(len(fits)) and set(fits) <= set(clear)
        assert _word(SHAPES, text) or re.search("objects|things|shapes", text)
    elif asked.kind == "exists":
        assert asked.answer == ("yes" if fits else "no")
        assert not fits or set(fits) & set(clear)
    else:
        (k,) = fits
        assert asked.answer == getattr(clip.objects[k], asked.kind) and k in clear
        assert (_word(SHAPES, text) is None) == (asked.kind == "shape")


def test_every_answer_is_what_the_labels_show() -> None:
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in QUESTION_KINDS}
    for seed, (clip, frame) in enumerate(_clips()):
        for asked in questions(clip, _rng(seed), frame):
            _check(clip, frame, asked)
            assert asked.answer in asked.choices and asked.text.endswith("?")
            answers[asked.kind][asked.answer] += 1
            assert set(asked.choices) >= set(answers[asked.kind])
    assert set(answers["count"]) == set("012345")
    assert answers["count"]["1"] < 0.5 * answers["count"].total()
    assert set(answers["colour"]) == set(COLOURS) and set(answers["shape"]) == set(SHAPES)
    assert answers["exists"]["yes"] == answers["exists"]["no"] > 300


def test_yes_and_no_are_balanced_for_every_form_and_the_pairs_are_hard() -> None:
    forms, hard, pairs = Counter[tuple[bool, bool, str]](), 0, 0
    for seed, (clip, frame) in enumerate(_clips()):
        for asked in questions(clip, _rng(seed), frame):
            if asked.kind != "exists":
                continue
            colour, shape = _word(COLOURS, asked.text), _word(SHAPES, asked.text)
            forms[colour is None, shape is None, asked.answer] += 1
            if colour and shape and asked.answer == "no":
                pairs += 1
                hard += bool(_matching(clip, frame, colour) and _matching(clip, frame, shape))
    assert len(forms) == 6 and all(forms[c, s, "yes"] == forms[c, s, "no"] > 50 for c, s, _ in forms)
    assert hard > 0.5 * pairs


def test_nothing_is_asked_that_a_hardly_visible_object_would_decide() -> None:
    skipped = 0
    for seed, (clip, frame) in enumerate(_clips()):
        hidden = [k for k, area in enumerate(_areas(clip, frame)) if area and k not in _clear(clip, frame)]
        counted = [q.text for q in questions(clip, _rng(seed), frame) if q.kind == "count"]
        if hidden:
            skipped += 1
            assert not any(_word(COLOURS, text) is _word(SHAPES, text) is None for text in counted)
    assert skipped > 5


def test_panoptic_list_covers_every_object_and_the_background() -> None:
    places, absent = set(), 0
    for seed, (clip, _) in enumerate(_clips()):
        listed = panoptic_list(clip, _rng(seed))
        assert len(set(listed.names)) == len(listed.names)
        assert [listed.names[i] for i in listed.stuff] == ["background"]
        places.add(listed.stuff[0])
        for o, index in zip(clip.objects, listed.object_classes):
            assert set(listed.names[index].split()) <= {o.colour, o.shape, "object", "thing", "shape"}
        absent += len(listed.names) - 1 - len(set(listed.object_classes))
    assert places >= {0, 1, 2, 3} and absent > 100


def test_class_list_with_background_keeps_the_classes_of_the_objects() -> None:
    with_background = 0
    for seed, (clip, _) in enumerate(_clips()):
        plain, listed = class_list(clip, _rng(seed)), class_list(clip, _rng(seed), background_share=0.25)
        assert plain.stuff == () and "background" not in plain.names
        assert tuple(name for name in listed.names if name != "background") == plain.names
        assert [listed.names[i] for i in listed.stuff] == [name for name in listed.names if name == "background"]
        named = [[x.names[i] if i >= 0 else None for i in x.object_classes] for x in (plain, listed)]
        assert named[0] == named[1]
        with_background += len(listed.stuff)
    assert 0.15 < with_background / len(_clips()) < 0.35


def _texts(clip: Clip, seed: int, frame: int) -> list[str]:
    found = caption(clip, _rng(seed), frame)
    texts = [found.text] if found else []
    texts += [word for q in questions(clip, _rng(seed), frame) for word in (q.text, q.answer, *q.choices)]
    texts += [phrase.text for phrase in reasoning_phrases(clip, _rng(seed), frame)]
    return [*texts, *panoptic_list(clip, _rng(seed)).names]


def test_the_same_draw_gives_the_same_plain_lower_case_text_known_to_the_corpus() -> None:
    corpus = list(sample_corpus(6000, 0))
    assert corpus[:200] == list(sample_corpus(200, 0)) != list(sample_corpus(200, 1))
    vocabulary = {word for text in corpus for word in text.split()}
    for seed, (clip, frame) in enumerate(_clips()):
        texts = _texts(clip, seed, frame)
        assert texts == _texts(clip, seed, frame)
        assert all(text.isascii() and text == text.lower() for text in texts)
        assert {word for text in texts for word in text.split()} <= vocabulary


@pytest.mark.parametrize("start", ["background", "what ", "an orange ", "is there ", "how many ", "which colour "])
def test_corpus_has_every_kind_of_sentence(start: str) -> None:
    assert any(text.startswith(start) for text in sample_corpus(2000, 0))


def test_corpus_questions_carry_an_answer_of_their_kind() -> None:
    asked = [text.split("\n") for text in sample_corpus(3000, 3) if "?" in text]
    assert len(asked) > 300
    for text, answer in asked:
        counting = "many" in text or "number" in text
        expected = set("012345") if counting else set(COLOURS + SHAPES) | {"yes", "no"}
        assert text.endswith("?") and answer in expected

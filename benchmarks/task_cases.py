"""Held-out cases of the tasks that reason, list, describe and talk, beside those of scene_cases.py.

What guessing would get (`Case.chance`): for a phrase or a region, J of a perfect mask of any object seen; for a list of
names, J of true masks with names of the list drawn at random; for a caption, J of as many true masks as it has phrases,
of any looks seen, and where the phrase must be right too, of true masks with a colour and a shape drawn at random; for
a question, one over the answers its kind can have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np
from scene_cases import (
    CLIP_SHOWN,
    HEIGHT,
    HELD_OUT_SEED,
    WIDTH,
    apart,
    as_prompt,
    first_frame,
    naming_chance,
    object_chance,
    object_truth,
    of_every_kind,
)

from x2sam_ros.cli.eval_scenes import MIN_AREA, MIN_VISIBLE
from x2sam_ros.evaluation.generated import Case, Truth
from x2sam_ros.evaluation.metrics.panoptic import Segments
from x2sam_ros.training.scenes import (
    Clip,
    ReferringPhrase,
    absent_phrases,
    caption,
    generate_clip,
    panoptic_list,
    questions,
    reasoning_phrases,
    referring_phrases,
    region_prompt,
)
from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.types import BoolArray, CaptionPrompt, ClassListPrompt, RegionsPrompt, Task, TextPrompt

MAX_TOGETHER = 3
"""Most phrases or regions of one prompt."""

PLURAL = 2
"""Objects that a phrase for several must mean at least."""

CAPTION_NAMED = "caption, masks named right"
"""The kind of case in which a mask counts only under the phrase's own words; in "caption" it counts under any."""

Maker = Callable[[str, Clip, np.random.Generator], Case | None]


def _of(image: Clip, indices: tuple[int, ...]) -> BoolArray:
    mask: BoolArray = np.isin(image.labels, [k + 1 for k in indices])
    return mask


def _num_seen(image: Clip) -> int:
    return len(np.setdiff1d(np.unique(image.labels), [0]))


def _reason(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    options = reasoning_phrases(image, rng)
    if not options:
        return None
    phrase = options[int(rng.integers(len(options)))]
    index = phrase.object_indices[0]
    prompt = TextPrompt("reason", text=phrase.text, task=Task.REASEG)
    return Case(kind, image.frames, prompt, (object_truth(image, index),), chance=object_chance(image, index))


def _phrase_for_each(image: Clip, rng: np.random.Generator) -> list[ReferringPhrase]:
    """Return a phrase for each of two or three objects, or for as many as have one; its kind is drawn first."""
    by_object: dict[int, dict[str, list[ReferringPhrase]]] = {}
    for phrase in referring_phrases(image, rng):
        by_object.setdefault(phrase.object_indices[0], {}).setdefault(phrase.kind, []).append(phrase)
    chosen = []
    for position in rng.permutation(len(by_object))[: int(rng.integers(2, MAX_TOGETHER + 1))]:
        kinds = list(by_object.values())[int(position)]
        options = kinds[words.pick(rng, tuple(kinds))]
        chosen.append(options[int(rng.integers(len(options)))])
    return chosen


def _phrases(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    """Ask for two or three things in one prompt, or for two or three and one that is not there."""
    asked = _phrase_for_each(image, rng)
    absent = absent_phrases(image, rng, 1) if kind.endswith("absent") else []
    if len(asked) < 2 or (kind.endswith("absent") and not absent):
        return None
    asked += absent
    asked = [asked[int(i)] for i in rng.permutation(len(asked))]
    truths = tuple(Truth(phrase.text, _of(image, phrase.object_indices)) for phrase in asked)
    prompt = ClassListPrompt("phrases", classes=tuple(phrase.text for phrase in asked), task=Task.REFSEG)
    return Case(kind, image.frames, prompt, truths, chance=1 / _num_seen(image))


def _several(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    """Ask for all objects of a colour or of a shape, of which there are at least two, or none."""
    by_shape = rng.random() < 0.5
    own = [o.shape if by_shape else o.colour for o in image.objects]
    names = words.SHAPES if by_shape else words.COLOURS
    wanted = [name for name in names if (own.count(name) == 0 if kind.endswith("none") else own.count(name) >= PLURAL)]
    if not wanted:
        return None
    name = words.pick(rng, tuple(wanted))
    text = words.all_of(rng, None if by_shape else name, name if by_shape else None)
    mask = _of(image, tuple(k for k, value in enumerate(own) if value == name))
    chance = 1 / _num_seen(image) if mask.any() else float("nan")
    return Case(
        kind, image.frames, TextPrompt("several", text=text, task=Task.GREFSEG), (Truth("", mask),), chance=chance
    )


def _panoptic(kind: str, image: Clip, rng: np.random.Generator) -> Case:
    listed = panoptic_list(image, rng)
    (stuff,) = listed.stuff
    classes = [stuff, *listed.object_classes]  # of each label of the picture
    picture = image.labels[0]
    areas = np.bincount(picture.ravel(), minlength=len(classes))
    truths = tuple(
        Truth(name, np.isin(image.labels, [v for v, own in enumerate(classes) if own == index]))
        for index, name in enumerate(listed.names)
    )

    def segments(naming: list[int]) -> Segments:
        """Return the picture with a name for each of its labels; all that is called stuff is one segment."""
        shown = [(picture == value, naming[value]) for value in np.flatnonzero(areas)]
        things = [(listed.names[name], mask) for mask, name in shown if name != stuff]
        rest = [mask for mask, name in shown if name == stuff]
        background = [(listed.names[stuff], np.any(rest, axis=0))] if rest else []
        return Segments.of_masks(things + background, picture.shape)

    guess = [int(name) for name in rng.integers(len(listed.names), size=len(classes))]
    return Case(
        kind,
        image.frames,
        ClassListPrompt("panoptic", classes=listed.names, stuff=(listed.names[stuff],)),
        truths,
        chance=naming_chance(areas.tolist(), classes, len(listed.names)),
        segments=segments(classes),
        guess=segments(guess),
    )


def _caption(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    described = caption(image, rng)
    if described is None:
        return None
    truths = tuple(
        Truth(described.text[phrase.start : phrase.end], _of(image, phrase.object_indices))
        for phrase in described.phrases
    )
    named = kind == CAPTION_NAMED
    looks = {(o.colour, o.shape) for k, o in enumerate(image.objects) if _of(image, (k,)).any()}
    chance = 1 / (len(words.COLOURS) * len(words.SHAPES)) if named else len(truths) / len(looks)
    return Case(
        kind,
        image.frames,
        CaptionPrompt("caption"),
        truths,
        answer="" if named else described.text,
        chance=chance,
        by_mask=not named,
    )


def _chat(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    """Ask a question of the kind that the case is named after."""
    options = [question for question in questions(image, rng) if question.kind == kind.removeprefix("chat: ")]
    if not options:
        return None
    question = options[int(rng.integers(len(options)))]
    prompt = TextPrompt("chat", text=question.text, task=Task.CHAT)
    return Case(kind, image.frames, prompt, answer=question.answer, chance=1 / len(question.choices))


def _chat_about_clip(kind: str, clip: Clip, rng: np.random.Generator) -> Case | None:
    """Ask any question about a clip whose objects all stay in plain view, so that every frame has one answer."""
    pixels = np.stack([(clip.labels == k + 1).mean(axis=(1, 2)) for k in range(len(clip.objects))], axis=1)
    if (clip.visible < MIN_VISIBLE).any() or (pixels < MIN_AREA).any():
        return None
    kinds = sorted({question.kind for question in questions(clip, rng)})
    case = _chat(f"chat: {words.pick(rng, tuple(kinds))}", clip, rng)
    if case is None:
        return None
    return replace(case, kind=kind, frames=clip.frames[:1], clip=clip.frames[CLIP_SHOWN])


def _pointed(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    """Point at one object that looks like no other."""
    options = apart(image)
    if not options:
        return None
    index = options[int(rng.integers(len(options)))]
    region = as_prompt(region_prompt(image, index, 0, rng, kind.removeprefix("vgdseg ")))
    prompt = replace(region, task=Task.VGDSEG)
    return Case(kind, image.frames, prompt, (object_truth(image, index),), chance=object_chance(image, index))


def _pointed_together(kind: str, image: Clip, rng: np.random.Generator) -> Case | None:
    """Point at two or three objects that look like no other."""
    chosen = [int(k) for k in rng.permutation(apart(image))[: int(rng.integers(2, MAX_TOGETHER + 1))]]
    if len(chosen) < 2:
        return None
    region_kind = {"vgdseg, points": "point", "vgdseg, boxes": "box"}[kind]
    regions = tuple(as_prompt(region_prompt(image, k, 0, rng, region_kind)) for k in chosen)
    labels = tuple(f"region {number}" for number in range(1, len(chosen) + 1))
    truths = tuple(Truth(label, _of(image, (k,))) for label, k in zip(labels, chosen))
    prompt = RegionsPrompt("regions", regions=regions, labels=labels)
    return Case(kind, image.frames, prompt, truths, chance=1 / _num_seen(image))


_MAKERS: dict[str, Maker] = {
    "reason": _reason,
    "phrases": _phrases,
    "phrases, one absent": _phrases,
    "several": _several,
    "several, none": _several,
    "panoptic": _panoptic,
    "vgdseg point": _pointed,
    "vgdseg box": _pointed,
    "vgdseg, points": _pointed_together,
    "vgdseg, boxes": _pointed_together,
    "caption": _caption,
    CAPTION_NAMED: _caption,
    "chat: count": _chat,
    "chat: colour": _chat,
    "chat: shape": _chat,
    "chat: exists": _chat,
    "chat, clip shown": _chat_about_clip,
}
TASK_KINDS = tuple(_MAKERS)
CLIP_KINDS = ("chat, clip shown",)


def _cases_of_scene(seed: int, wanted: set[str]) -> Iterator[Case]:
    """Yield at most one case of each wanted kind; each draws from a generator of its own."""
    clip = generate_clip(seed, CLIP_SHOWN.stop if wanted.intersection(CLIP_KINDS) else 1, HEIGHT, WIDTH)
    image = first_frame(clip)
    for number, (kind, make) in enumerate(_MAKERS.items(), start=1):
        if kind not in wanted:
            continue
        case = make(kind, clip if kind in CLIP_KINDS else image, np.random.default_rng([seed, number]))
        if case is not None:
            yield case


def task_cases(count: int, kinds: Collection[str] = TASK_KINDS, first_seed: int = HELD_OUT_SEED) -> Iterator[Case]:
    """Yield ``count`` images of every kind, from scenes of ascending seeds."""
    return of_every_kind(kinds, count, _cases_of_scene, first_seed)

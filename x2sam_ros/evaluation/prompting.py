"""Prompts made from ground truth: what a person would type or draw who knew the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass

import numpy as np

from x2sam_ros.errors import ConfigError, PromptError, TruthError
from x2sam_ros.evaluation.predictions import GivenPrompt
from x2sam_ros.truth.dataset import Category, Expression, Kind, Sequence
from x2sam_ros.truth.shown_regions import REGION_KINDS, deepest_point, draw_region
from x2sam_ros.truth.spoken import spoken
from x2sam_ros.truth.visual import VisualSequence
from x2sam_ros.types import (
    MAX_CLASSES,
    BoolArray,
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    MaskPrompt,
    PointPrompt,
    Prompt,
    RegionPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)

PROMPTS: Mapping[Kind, tuple[str, ...]] = {
    Kind.OBJECTS: ("mask", "point", "scribble", "box", "text"),
    Kind.REFERRING: ("text",),
    Kind.INSTANCES: ("classes",),
    Kind.PANOPTIC: ("classes",),
    Kind.SEMANTIC: ("classes",),
    Kind.VISUAL: REGION_KINDS,
    Kind.CAPTIONS: ("caption",),
}
"""How each kind of dataset can be asked; the first is what is used where nothing is said."""


@dataclass(frozen=True)
class PlannedPrompt:
    """A prompt with its meaning; ``prompt.prompt_id == given.prompt_id``."""

    given: GivenPrompt
    prompt: Prompt


def make_prompts(
    sequence: Sequence,
    kind: Kind,
    prompt: str,
    categories: Listed[Category],
    *,
    seed: int = 0,
    official_quirks: bool = False,
) -> tuple[PlannedPrompt, ...]:
    """Make the prompts of a sequence, the same for the same seed on every machine.

    Objects are prompted one by one, on the first annotated frame that shows them: with their mask; with a click on the
    pixel farthest from the mask's edge; with a scribble as V-VGD draws it (``draw_region``); with the tight box; or
    with words, see ``own_words``; without any, an object is not asked for in words. Nor are crowds and what is never
    seen, however they are prompted.

    Everything else is asked on the first frame: each expression by itself (task grefseg where it means several objects
    or none, reaseg where it is a question, else refseg); all classes in one list, cut into several of at most
    ``MAX_CLASSES`` names unless the dataset is panoptic; one description. Classes are named as they are learnt
    (``spoken``). Those of semantic datasets are stuff, one target each. Regions of V-VGD are given together, on the
    frame they were drawn on.

    Args:
        sequence: what to ask about; for ``Kind.VISUAL`` one that truth/visual.py read.
        kind: of its dataset.
        prompt: one of ``PROMPTS[kind]``.
        categories: of its dataset.
        seed: of everything that is drawn at random.
        official_quirks: name classes of lists as the published evaluation does.

    Raises:
        ConfigError: the kind cannot be asked in that way.
        TruthError: nothing can be asked, or not in words that a prompt can hold; the sequence is named.
    """
    if prompt not in PROMPTS[kind]:
        raise ConfigError(f"{kind.value} cannot be prompted by {prompt!r}; expected {', '.join(PROMPTS[kind])}")
    try:
        if kind is Kind.OBJECTS:
            planned = _objects(sequence, prompt, categories, seed)
        elif kind is Kind.REFERRING:
            planned = [_expression(expression) for expression in sequence.expressions]
        elif kind is Kind.VISUAL:
            planned = [_regions(sequence, prompt, categories)]
        elif kind is Kind.CAPTIONS:
            ids = tuple(thing.object_id for thing in sequence.objects)
            planned = [PlannedPrompt(GivenPrompt("caption", prompt, 0, ids), CaptionPrompt("caption"))]
        else:
            planned = _class_lists(sequence, kind, categories, spoken(categories, official_quirks))
    except PromptError as error:
        raise TruthError(f"{sequence.name} cannot be asked about by {prompt}: {error}") from error
    if not planned:
        raise TruthError(f"{sequence.name} has nothing that can be prompted by {prompt}; choose another prompt")
    return tuple(planned)


def _objects(sequence: Sequence, kind: str, categories: Listed[Category], seed: int) -> list[PlannedPrompt]:
    words = own_words(sequence, categories) if kind == "text" else {}
    order = [
        thing.object_id
        for thing in sequence.objects
        if not thing.is_crowd and (kind != "text" or thing.object_id in words)
    ]
    planned: dict[int, PlannedPrompt] = {}
    images = sequence.frames()  # says what is wrong with them, which is why there may be no object
    for frame in images if order else ():
        truth = sequence.truth(frame)
        if truth is None:
            continue
        for object_id in truth.object_ids:
            if object_id not in order or object_id in planned or not (mask := truth.mask_of(object_id)).any():
                continue
            prompt_id, text = f"object-{object_id}", words.get(object_id, "")
            made: Prompt
            if kind == "text":
                made = TextPrompt(prompt_id, text=text)
            else:
                made = _pointing(kind, mask, prompt_id, f"{seed}/{sequence.name}/{object_id}/{kind}")
            given = GivenPrompt(prompt_id, kind, frame.frame_index, (object_id,), text)
            planned[object_id] = PlannedPrompt(given, made)
        if len(planned) == len(order):
            break
    return [planned[object_id] for object_id in order if object_id in planned]


def own_words(sequence: Sequence, categories: Listed[Category]) -> dict[int, str]:
    """Return words for objects: the first expression that means exactly it, else its class, if it alone is of that.

    Raises:
        TruthError: the objects had to be looked for, and an annotation is damaged.
    """
    names = spoken(categories)
    own = [thing for thing in sequence.objects if thing.category_id in names and not thing.is_crowd]
    called = {thing.object_id: names[thing.category_id] for thing in own if thing.category_id is not None}
    count = Counter(called.values())
    words = {object_id: name for object_id, name in called.items() if count[name] == 1}
    exact = {said.object_ids[0]: said.text for said in reversed(sequence.expressions) if len(said.object_ids) == 1}
    return words | exact


def _pointing(kind: str, mask: BoolArray, prompt_id: str, seed: str) -> RegionPrompt:
    """Point at an object without chance, or scribble."""
    if kind == "point":
        return PointPrompt(prompt_id, points_px=np.array([deepest_point(mask)], np.float64))
    if kind == "box":
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return BoxPrompt(prompt_id, box_px=np.array(box, np.float64))
    return MaskPrompt(prompt_id, mask=draw_region(mask, kind, seed) if kind == "scribble" else mask)


def _expression(expression: Expression) -> PlannedPrompt:
    prompt_id = f"expression-{expression.expression_id}"
    if len(expression.object_ids) != 1:
        task = Task.GREFSEG
    else:
        task = Task.REASEG if expression.text.rstrip().endswith("?") else Task.REFSEG
    made = TextPrompt(prompt_id, text=expression.text, task=task)
    given = GivenPrompt(prompt_id, "text", 0, expression.object_ids, made.text, expression.expression_id)
    return PlannedPrompt(given, made)


def _class_lists(
    sequence: Sequence, kind: Kind, categories: Listed[Category], names: Mapping[int, str]
) -> list[PlannedPrompt]:
    if kind is Kind.PANOPTIC and len(categories) > MAX_CLASSES:
        raise TruthError(
            f"{sequence.name}: {len(categories)} classes cannot share a picture: one list holds {MAX_CLASSES}; "
            "evaluate fewer classes"
        )
    count = -(-len(categories) // MAX_CLASSES)
    planned = []
    for number in range(count):
        chosen = categories[number * len(categories) // count : (number + 1) * len(categories) // count]
        prompt_id = "classes" if count == 1 else f"classes-{number + 1}"
        made = ClassListPrompt(
            prompt_id,
            classes=tuple(names[one.category_id] for one in chosen),
            stuff=tuple(names[one.category_id] for one in chosen if one.is_stuff or kind is Kind.SEMANTIC),
        )
        numbers = {category.category_id for category in chosen}
        ids = tuple(
            thing.object_id for thing in sequence.objects if thing.category_id in numbers and not thing.is_crowd
        )
        planned.append(PlannedPrompt(GivenPrompt(prompt_id, "classes", 0, ids, ", ".join(made.classes)), made))
    return planned


def _regions(sequence: Sequence, kind: str, categories: Listed[Category]) -> PlannedPrompt:
    if not isinstance(sequence, VisualSequence):
        raise TruthError(f"{sequence.name} has no regions to show; make them with `x2sam vgd`")
    names = {str(category.category_id): category.name for category in categories}
    made = RegionsPrompt(
        "regions",
        regions=tuple(MaskPrompt(mask=sequence.region(said, kind)) for said in sequence.expressions),
        labels=tuple(names[said.expression_id] for said in sequence.expressions),
    )
    ids = tuple(thing.object_id for thing in sequence.objects)
    return PlannedPrompt(GivenPrompt("regions", kind, sequence.prompt_index(), ids), made)

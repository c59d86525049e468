"""What each kind of ground truth is asked: from a sequence to the items of a source, and from an item to prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from x2sam_ros.errors import TruthError
from x2sam_ros.rle import Counts, encode_rle
from x2sam_ros.training.data.sample import Asked, Draw, Wanted
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.truth import dataset as truth
from x2sam_ros.truth.dataset import Expression, Kind, TrueFrame
from x2sam_ros.truth.shown_regions import draw_region
from x2sam_ros.truth.spoken import spoken
from x2sam_ros.truth.visual import VisualSequence
from x2sam_ros.types import BoolArray, Task

THING = "object"
"""The only class where a dataset has none: everything is one."""

_DRAWN = (Kind.REFERRING, Kind.INSTANCES, Kind.PANOPTIC, Kind.CAPTIONS)
"""Kinds whose pictures list only what is drawn on them; the others also list names of what may be absent."""

_WHOLE_LISTS = 0.5
"""How often all classes are asked for of a clip. Source: X2SAM's lists of classes of videos."""


@dataclass(frozen=True)
class AskingRules:
    """How a source asks.

    Args:
        task: what is asked; None for what the kind of ground truth suggests.
        prompts: prompts a sample, of those kinds whose sequences have several.
        phrases: classes or regions a prompt, at most.
        regions: how objects are pointed at.
    """

    task: Task | None
    prompts: int
    phrases: int
    regions: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """The chosen frames of a sequence: size (H, W), the truth of each, and whether the sequence is a single picture."""

    sequence: truth.Sequence
    truths: tuple[TrueFrame, ...]
    is_picture: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames, pixels."""
        return self.truths[0].size

    def runs(self, object_ids: Iterable[int]) -> tuple[Counts, ...]:
        """Return the union of some objects, one run for each frame."""
        ids = tuple(object_ids)
        return tuple(encode_rle(_union(frame, ids)) for frame in self.truths)

    def ignored(self, object_ids: Iterable[int]) -> tuple[Counts | None, ...]:
        """Return what nobody annotated, some objects included, one run for each frame or None."""
        ids = tuple(object_ids)
        areas = [_ignored(frame, ids) for frame in self.truths]
        return tuple(None if area is None else encode_rle(area) for area in areas)

    def shown(self) -> set[int]:
        """Return the objects that have a pixel in one of the frames."""
        return {key for frame in self.truths for key, mask in zip(frame.object_ids, frame.masks) if mask.any()}

    def present(self) -> dict[int, int | None]:
        """Return the category of each object that has a pixel in one of the frames, crowds left out."""
        shown = self.shown()
        return {
            thing.object_id: thing.category_id
            for thing in self.sequence.objects
            if thing.object_id in shown and not thing.is_crowd
        }


def _union(frame: TrueFrame, object_ids: tuple[int, ...]) -> BoolArray:
    chosen = [index for index, key in enumerate(frame.object_ids) if key in object_ids]
    united: BoolArray = np.asarray(frame.masks[chosen].any(axis=0))
    return united


def _ignored(frame: TrueFrame, object_ids: tuple[int, ...]) -> BoolArray | None:
    united = _union(frame, object_ids)
    area = united if frame.ignore is None else np.logical_or(frame.ignore, united)
    return area if area.any() else None


class Asking(ABC):
    """Asks about the sequences of one dataset.

    Args:
        dataset: where they come from.
        rules: how.
        wording: in which words.
    """

    def __init__(self, dataset: truth.Dataset, rules: AskingRules, wording: Wording) -> None:
        self.rules, self.wording = rules, wording
        self.names = spoken(dataset.categories)
        self._is_drawn = dataset.kind in _DRAWN

    def items(self, sequence: truth.Sequence) -> Sequence[tuple[Expression, ...]]:
        """Return what can be asked about a sequence, one entry for each sample of each of its clips."""
        return [()]

    def first(self, sequence: truth.Sequence) -> int | None:
        """Return the place of the image that a clip must begin with, None where any will do."""
        return None

    @abstractmethod
    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Return the prompts about what was seen.

        Raises:
            TruthError: nothing can be asked about it, or all that could be asked has empty masks; see `lost`.
        """

    def ignored(self, seen: Seen) -> tuple[Counts | None, ...]:
        """Return where nothing is to be learnt, crowds included, one run for each frame or None."""
        return seen.ignored(thing.object_id for thing in seen.sequence.objects if thing.is_crowd)

    def lost(self, seen: Seen) -> tuple[int, ...]:
        """Return the objects without a pixel that must have some: on the only picture that lists them.

        They are asked for by nobody, so that they are not learnt as absent. In a clip they are out of sight, which is
        to be learnt.
        """
        if not self._is_drawn or not seen.is_picture:
            return ()
        shown = seen.shown()
        listed = [thing.object_id for thing in seen.sequence.objects if not thing.is_crowd]
        meant = [key for said in seen.sequence.expressions for key in said.object_ids]
        return tuple(key for key in dict.fromkeys([*listed, *meant]) if key not in shown)

    @property
    @abstractmethod
    def task(self) -> Task:
        """What is asked."""

    def words(self, item: tuple[Expression, ...]) -> int:
        """Return about how many letters the prompts of an item have."""
        return sum(len(said.text) for said in item)


class AskClasses(Asking):
    """Every object of some classes: those that are there, and others that are not, in any order."""

    @property
    def task(self) -> Task:
        """The task of class lists."""
        return self.rules.task or Task.GENSEG

    def words(self, item: tuple[Expression, ...]) -> int:
        """Return about how many letters a list of classes has."""
        chosen = min(self.rules.phrases, max(len(self.names), 1))
        return chosen * sum(map(len, self.names.values())) // max(len(self.names), 1)

    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Ask for classes; a category that the dataset does not list is an error.

        A class of which every mask is empty is no choice.
        """
        present = {key: kind for key, kind in seen.present().items() if not self._is_unnamed(kind)}
        if strange := [kind for kind in present.values() if kind is not None and kind not in self.names]:
            raise TruthError(f"an object has the category {strange[0]}, which its dataset does not list")
        lost = self._lost_classes(seen).difference(present.values())
        there = sorted({kind for kind in present.values() if kind is not None})
        away = sorted(set(self.names).difference(there, lost))
        chosen = [there[i] for i in draw.permutation(len(there))][: self.rules.phrases]
        spare = [away[i] for i in draw.permutation(len(away))][: self.rules.phrases - len(chosen)]
        chosen += spare[: _absent(len(chosen), len(spare), len(seen.truths) > 1, draw)]
        listed = [chosen[i] for i in draw.permutation(len(chosen))]
        wanted = tuple(
            Wanted(listed.index(kind) if kind is not None else 0, seen.runs([object_id]))
            for object_id, kind in present.items()
            if kind is None or kind in listed
        )
        if lost and not listed:
            raise _all_empty(self.lost(seen))
        phrases = tuple(self.names[key] for key in listed) or (THING,)
        return (Asked(self.wording.draw(self.task, draw), phrases, wanted=wanted),)

    def ignored(self, seen: Seen) -> tuple[Counts | None, ...]:
        """Return where nothing is to be learnt: crowds, and objects of which nobody said what they are."""
        objects = seen.sequence.objects
        return seen.ignored(one.object_id for one in objects if one.is_crowd or self._is_unnamed(one.category_id))

    def _is_unnamed(self, category_id: int | None) -> bool:
        return category_id is None and bool(self.names)

    def _lost_classes(self, seen: Seen) -> set[int | None]:
        lost = self.lost(seen)
        return {one.category_id for one in seen.sequence.objects if one.object_id in lost}


def _absent(there: int, spare: int, is_clip: bool, draw: Draw) -> int:
    """Draw how many classes that are absent are listed beside those that are there: any number, at least one in all.

    Of clips all are listed in some of the cases, as a user's list would have them.

    Source: wanghao9610/X2SAM, class lists of pictures and of videos.
    """
    if is_clip and draw.random() < _WHOLE_LISTS:
        return spare
    least = 0 if there else min(1, spare)
    return int(draw.integers(least, spare + 1))


class AskWords(Asking):
    """Expressions, each a prompt of its own; all that one means is one mask, as published.

    Where a sequence has none, they are the names of the classes that one object has alone.
    """

    @property
    def task(self) -> Task:
        """The task of words."""
        return self.rules.task or Task.REFSEG

    def items(self, sequence: truth.Sequence) -> Sequence[tuple[Expression, ...]]:
        """Return as many expressions at a time as a sample has prompts; the last ones are filled up from the first.

        What is said first of each object comes before what else is said of it, so that samples ask for different ones.

        Source: wanghao9610/X2SAM, which takes a sentence of each object.
        """
        found = sequence.expressions or self._named(sequence)
        said, count = _in_turns(one for one in found if one.text.strip()), self.rules.prompts
        return [tuple(said[(start + k) % len(said)] for k in range(count)) for start in range(0, len(said), count)]

    def _named(self, sequence: truth.Sequence) -> tuple[Expression, ...]:
        named: dict[str, list[int]] = {}
        for thing in sequence.objects:
            if thing.category_id is not None and thing.category_id in self.names and not thing.is_crowd:
                named.setdefault(self.names[thing.category_id], []).append(thing.object_id)
        return tuple(Expression(name, name, tuple(ids)) for name, ids in named.items() if len(ids) == 1)

    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Ask for each expression; in place of one whose masks are all empty another one of them once more."""
        lost = set(self.lost(seen))
        kept = [said for said in item if not said.object_ids or not lost.issuperset(said.object_ids)]
        if not kept:
            raise _all_empty([key for said in item for key in said.object_ids])
        return tuple(self._ask(seen, kept[turn % len(kept)], draw) for turn in range(len(item)))

    def _ask(self, seen: Seen, said: Expression, draw: Draw) -> Asked:
        wanted = tuple(filter(_is_seen, [Wanted(0, seen.runs(said.object_ids))]))
        return Asked(self.wording.draw(self._task_of(said), draw), (said.text.strip(),), wanted=wanted)

    def _task_of(self, said: Expression) -> Task:
        """Return the task of one expression, as evaluation has it."""
        if self.rules.task is not None:
            return self.rules.task
        if len(said.object_ids) != 1:
            return Task.GREFSEG
        return Task.REASEG if said.text.rstrip().endswith("?") else Task.REFSEG


def _in_turns(expressions: Iterable[Expression]) -> list[Expression]:
    """Sort expressions: the first of everything that is meant, then the second, in the order given."""
    turns: Counter[frozenset[int]] = Counter()
    dealt = []
    for said in expressions:
        meant = frozenset(said.object_ids)
        dealt.append((turns[meant], said))
        turns[meant] += 1
    return [said for _, said in sorted(dealt, key=lambda one: one[0])]


class AskObjects(Asking):
    """Objects that are pointed at on the first frame, each itself."""

    @property
    def task(self) -> Task:
        """The task of following objects."""
        return self.rules.task or Task.OBJSEG

    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Point at some of the objects on the first frame."""
        crowds = {thing.object_id for thing in seen.sequence.objects if thing.is_crowd}
        first = seen.truths[0]
        shown = [key for key, mask in zip(first.object_ids, first.masks) if mask.any() and key not in crowds]
        if not shown:
            raise TruthError("its first frame shows no object to point at")
        chosen = [shown[i] for i in draw.permutation(len(shown))][: self.rules.phrases]
        kinds = [self.rules.regions[int(draw.integers(len(self.rules.regions)))] for _ in chosen]
        regions = [draw_region(first.mask_of(key), kind, _seed(draw)) for key, kind in zip(chosen, kinds)]
        wanted = tuple(Wanted(place, seen.runs([key])) for place, key in enumerate(chosen))
        template = self.wording.draw(self.task, draw)
        return (Asked(template, regions=tuple(map(encode_rle, regions)), wanted=wanted),)


class AskLookalikes(Asking):
    """Regions that are shown on one frame, and everything of their look (V-VGD)."""

    @property
    def task(self) -> Task:
        """The task of regions that stand for their kind."""
        return self.rules.task or Task.VGDSEG

    def first(self, sequence: truth.Sequence) -> int | None:
        """Return the place of the image that the regions lie on."""
        return _visual(sequence).prompt_place

    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Show some of the regions."""
        sequence = _visual(seen.sequence)
        order = draw.permutation(len(sequence.expressions))[: self.rules.phrases]
        said = [sequence.expressions[int(i)] for i in order]
        kinds = [self.rules.regions[int(draw.integers(len(self.rules.regions)))] for _ in said]
        regions = tuple(encode_rle(sequence.region(one, kind)) for one, kind in zip(said, kinds))
        pairs = [(place, key) for place, one in enumerate(said) for key in one.object_ids]
        wanted = tuple(Wanted(place, seen.runs([key])) for place, key in pairs)
        template = self.wording.draw(self.task, draw)
        return (Asked(template, regions=regions, wanted=tuple(filter(_is_seen, wanted))),)


def _visual(sequence: truth.Sequence) -> VisualSequence:
    if not isinstance(sequence, VisualSequence):
        raise TruthError(f"{sequence.name} has no regions to show; make them with `x2sam vgd`")
    return sequence


class AskCaption(Asking):
    """Descriptions whose phrases have masks."""

    @property
    def task(self) -> Task:
        """The task of descriptions."""
        return self.rules.task or Task.GCGSEG

    def words(self, item: tuple[Expression, ...]) -> int:
        """Return about how many letters a description has; that of the sequence is not at hand."""
        return 100

    def ask(self, seen: Seen, item: tuple[Expression, ...], draw: Draw) -> tuple[Asked, ...]:
        """Ask for a description; phrases that it lacks, that overlap an earlier one or have no mask are words."""
        sequence = seen.sequence
        if not sequence.captions:
            raise TruthError("it has no description")
        caption = sequence.captions[int(draw.integers(len(sequence.captions)))]
        end, spans, wanted = 0, list[tuple[int, int]](), list[Wanted]()
        for said in sequence.expressions:
            one = Wanted(len(wanted), seen.runs(said.object_ids))
            start = caption.lower().find(said.text.strip().lower(), end) if said.text.strip() else -1
            if start >= 0 and start + len(said.text.strip()) <= len(caption) and _is_seen(one):
                end = start + len(said.text.strip())
                spans.append((start, end))
                wanted.append(one)
        if not wanted:
            raise TruthError("no phrase of its description has a mask")
        return (
            Asked(
                self.wording.draw(self.task, draw),
                tuple(caption[slice(*span)] for span in spans),
                wanted=tuple(wanted),
                caption=caption,
                spans=tuple(spans),
            ),
        )


def _is_seen(one: Wanted) -> bool:
    return any(len(runs) > 1 for runs in one.runs)


def _all_empty(object_ids: Sequence[int]) -> TruthError:
    return TruthError(
        f"all that could be asked about it has an empty mask (object {object_ids[0]}), which would be learnt as "
        "absence; correct the mask or take it out of the annotations"
    )


def _seed(draw: Draw) -> str:
    return str(int(draw.integers(2**63)))


_OF_KIND: Mapping[Kind, type[Asking]] = {
    Kind.OBJECTS: AskObjects,
    Kind.REFERRING: AskWords,
    Kind.INSTANCES: AskClasses,
    Kind.PANOPTIC: AskClasses,
    Kind.SEMANTIC: AskClasses,
    Kind.VISUAL: AskLookalikes,
    Kind.CAPTIONS: AskCaption,
}
_OF_TASK: Mapping[Task, tuple[type[Asking], tuple[Kind, ...]]] = {
    Task.GENSEG: (AskClasses, (Kind.OBJECTS, Kind.INSTANCES, Kind.PANOPTIC, Kind.SEMANTIC)),
    Task.OBJSEG: (AskObjects, (Kind.OBJECTS, Kind.INSTANCES, Kind.PANOPTIC)),
    Task.INTSEG: (AskObjects, (Kind.OBJECTS, Kind.INSTANCES, Kind.PANOPTIC)),
    Task.REFSEG: (AskWords, (Kind.REFERRING, Kind.OBJECTS)),
    Task.GREFSEG: (AskWords, (Kind.REFERRING, Kind.OBJECTS)),
    Task.REASEG: (AskWords, (Kind.REFERRING,)),
    Task.VGDSEG: (AskLookalikes, (Kind.VISUAL,)),
    Task.GCGSEG: (AskCaption, (Kind.CAPTIONS,)),
}


def asking_of(dataset: truth.Dataset, rules: AskingRules, wording: Wording) -> Asking:
    """Return what asks about a dataset.

    Raises:
        TruthError: the task cannot be asked of this kind of ground truth.
    """
    if rules.task is None:
        return _OF_KIND[dataset.kind](dataset, rules, wording)
    known = {task.value for task, (_, kinds) in _OF_TASK.items() if dataset.kind in kinds}
    if rules.task.value not in known:
        raise TruthError(
            f"{dataset.name} is of kind {dataset.kind.value}, of which {rules.task.value} cannot be asked; "
            f"take one of {', '.join(sorted(known))}"
        )
    return _OF_TASK[rules.task][0](dataset, rules, wording)

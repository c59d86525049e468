"""What ground truth is, wherever it comes from: datasets of sequences of frames with segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from x2sam_ros.bag.source import FrameSource
from x2sam_ros.errors import TruthError
from x2sam_ros.types import BoolArray, Frame


class Kind(str, Enum):
    """What a dataset asks for, which decides the prompts that can be given and the metrics that count."""

    OBJECTS = "objects"
    """Objects with identities, each prompted by itself: DAVIS, YouTube-VOS, bags with label images."""
    REFERRING = "referring"
    """Phrases that mean one object, several or none: Ref-YouTube-VOS, MeViS, ReasonSeg, RefCOCO."""
    INSTANCES = "instances"
    """Every instance of listed classes: COCO instances, YouTube-VIS."""
    PANOPTIC = "panoptic"
    """Every pixel to a thing or to stuff: COCO panoptic, VIPSeg."""
    SEMANTIC = "semantic"
    """Every pixel to a class: CamVid, ADE20K."""
    VISUAL = "visual"
    """Everything that looks like a region shown on one frame: V-VGD."""
    CAPTIONS = "captions"
    """A description whose phrases have masks: GCG."""


@dataclass(frozen=True)
class Category:
    """A class of a dataset; ``category_id`` is the dataset's own number, which need not be consecutive.

    Raises:
        TruthError: its name is no text.
    """

    category_id: int
    name: str
    is_stuff: bool = False

    def __post_init__(self) -> None:
        _check_text(f"the name of category {self.category_id}", self.name)


@dataclass(frozen=True)
class TrueObject:
    """One thing, or one stuff region, of a sequence.

    Args:
        object_id: above 0, the same in every frame of the sequence.
        category_id: of ``Dataset.categories``; None where the dataset has no classes.
        is_crowd: a group nobody took apart: neither to be found nor wrong.
    """

    object_id: int
    category_id: int | None = None
    is_crowd: bool = False


@dataclass(frozen=True)
class Expression:
    """Words, or a region shown, and what they mean.

    Args:
        expression_id: unique in the sequence.
        text: the words; '' for a region.
        object_ids: what is meant; () where nothing in the sequence is.

    Raises:
        TruthError: the words are no text.
    """

    expression_id: str
    text: str
    object_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_text(f"expression {self.expression_id}", self.text)


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise TruthError(f"{what} is {text!r:.40}, expected text")


@dataclass(frozen=True)
class TrueFrame:
    """The segments of one image.

    Args:
        object_ids: the N objects that are annotated on it, each once; those that are not listed are absent.
        masks: bool (N, H, W). They may overlap where the dataset's do.
        ignore: bool (H, W), pixels that nobody annotated, or None; what is predicted there is neither right nor wrong.

    Raises:
        TruthError: shapes that do not fit, or an id that is listed twice or below 1.
    """

    object_ids: tuple[int, ...]
    masks: BoolArray
    ignore: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or len(self.masks) != len(self.object_ids) or self.masks.dtype != np.bool_:
            raise TruthError(
                f"{len(self.object_ids)} objects need masks bool (N, H, W), got {self.masks.dtype} {self.masks.shape}"
            )
        if self.ignore is not None and (self.ignore.shape != self.masks.shape[1:] or self.ignore.dtype != np.bool_):
            raise TruthError(f"ignore must be bool {self.masks.shape[1:]}, got {self.ignore.dtype} {self.ignore.shape}")
        if len(set(self.object_ids)) != len(self.object_ids) or min(self.object_ids, default=1) < 1:
            raise TruthError(f"object ids must be above 0 and listed once, got {self.object_ids}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.masks.shape[1]), int(self.masks.shape[2])

    def mask_of(self, object_id: int) -> BoolArray:
        """Return the mask of one object, bool (H, W), empty where it is absent."""
        if object_id in self.object_ids:
            mask: BoolArray = self.masks[self.object_ids.index(object_id)]
            return mask
        return np.zeros(self.size, np.bool_)


class Sequence(ABC):
    """One clip, bag or image with ground truth. Opening one is cheap: pixels are read when they are asked for.

    Args:
        name: unique in its dataset; may hold ``/``.
        objects: everything that is annotated anywhere in the sequence; a function that finds out where only the
            annotations themselves say it.
        expressions: phrases of it.
        captions: reference descriptions, for ``Kind.CAPTIONS``.
    """

    def __init__(
        self,
        name: str,
        objects: tuple[TrueObject, ...] | Callable[[], tuple[TrueObject, ...]] = (),
        expressions: tuple[Expression, ...] = (),
        captions: tuple[str, ...] = (),
    ) -> None:
        self.name, self.expressions, self.captions = name, expressions, captions
        self._objects = objects

    @property
    def objects(self) -> tuple[TrueObject, ...]:
        """Everything that is annotated anywhere in the sequence.

        Raises:
            TruthError: they had to be looked for, and an annotation is damaged.
        """
        if callable(self._objects):
            self._objects = self._objects()
        return self._objects

    @abstractmethod
    def frames(self) -> FrameSource:
        """Open the images; ``frame_index`` counts those that can be read."""

    def annotated(self) -> Iterable[int]:
        """Return the places among the images of ``frames()`` of those that have an annotation, ascending.

        Raises:
            TruthError: nobody can say, since the images are not counted, or the annotation is damaged.
        """
        count = self.frames().num_images
        if count is None:
            raise TruthError(f"{self.name} does not say how many images it has; export its images to a folder")
        return range(count)

    @abstractmethod
    def truth(self, frame: Frame) -> TrueFrame | None:
        """Return the segments of an image of ``frames()``, at the image's size; None where it has no annotation.

        Raises:
            TruthError: the annotation is damaged, or has another size than the image; file and frame are named.
        """


@dataclass(frozen=True)
class Dataset:
    """Sequences of one kind.

    Args:
        name: what reports call it.
        kind: what is asked.
        sequences: in the dataset's own order.
        categories: by the dataset's own number; empty where it has no classes.
        fingerprint: SHA-256 of what identifies the ground truth (annotation files, or names and sizes of mask files),
            hexadecimal, so that a resumed run notices another one.

    """

    name: str
    kind: Kind
    sequences: tuple[Sequence, ...]
    categories: tuple[Category, ...] = ()
    fingerprint: str = ""

    def sequence(self, name: str) -> Sequence:
        """Return a sequence by name.

        Raises:
            TruthError: there is none of that name.
        """
        for sequence in self.sequences:
            if sequence.name == name:
                return sequence
        known = ", ".join(sequence.name for sequence in self.sequences[:10])
        raise TruthError(f"{self.name} has no sequence {name!r}; it has {len(self.sequences)}: {known}")

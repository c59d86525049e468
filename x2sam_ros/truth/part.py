"""A part of a sequence or of a dataset, as if the rest of it were not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Dataset, Sequence, TrueFrame
from x2sam_ros.types import Frame

_Item = TypeVar("_Item")


def places_within(sequence: Sequence, span: tuple[float, float]) -> tuple[int, ...]:
    """Return the places of the annotated images of a sequence from one share of them to another, 0 to 1."""
    return part_of(tuple(sequence.annotated()), span)


def some_sequences(dataset: Dataset, span: tuple[float, float]) -> tuple[Sequence, ...]:
    """Return the sequences of a dataset from one share of them to another, 0 to 1."""
    return part_of(dataset.sequences, span)


def part_of(listed: tuple[_Item, ...], span: tuple[float, float]) -> tuple[_Item, ...]:
    """Return what is listed from one share of it to another, 0 to 1."""
    first, last = (round(share * len(listed)) for share in span)
    return listed[first:last]


def held_out_part(dataset: Dataset, share: float, most: int) -> Dataset:
    """Return the end of a dataset: its last sequences or, of a single one, the last images.

    Args:
        dataset: what is annotated.
        share: of the sequences, or of the annotated images of a single one, above 0 and below 1.
        most: sequences that are returned.

    Raises:
        TruthError: there is too little to leave something on both sides.
    """
    if len(dataset.sequences) == 1:
        return later_part(dataset, share)
    held = some_sequences(dataset, (1 - share, 1.0))
    if not 0 < len(held) < len(dataset.sequences):
        raise TruthError(
            f"{dataset.name} has {len(dataset.sequences)} sequences, too few to hold out {share:.0%} of them; "
            "give more, or another share"
        )
    digest = hashlib.sha256(f"{dataset.fingerprint} {[one.name for one in held[:most]]}".encode())
    return replace(dataset, sequences=held[:most], fingerprint=digest.hexdigest())


def later_part(dataset: Dataset, share: float) -> Dataset:
    """Return a dataset without the images of each sequence before the last annotated ones.

    Args:
        dataset: what is annotated.
        share: of the annotated images of each sequence that stay, above 0 and below 1.

    Raises:
        TruthError: a sequence has no annotated image in that part.
    """
    parts = []
    for sequence in dataset.sequences:
        places = places_within(sequence, (1 - share, 1.0))
        if not places:
            raise TruthError(
                f"{sequence.name} has too few annotated images to hold out {share:.0%} of them; annotate more, or give "
                "other ground truth to test with"
            )
        parts.append(LaterPart(sequence, places[0]))
    digest = hashlib.sha256(f"{dataset.fingerprint} {[part.place for part in parts]}".encode())
    return replace(dataset, sequences=tuple(parts), fingerprint=digest.hexdigest())


class LaterPart(Sequence):
    """A sequence from an image on.

    Args:
        whole: the sequence.
        place: of its first image among those of ``whole``.
    """

    def __init__(self, whole: Sequence, place: int) -> None:
        super().__init__(whole.name, lambda: whole.objects, whole.expressions, whole.captions)
        self.whole, self.place = whole, place

    def frames(self) -> FrameSource:
        """Open the images; the first of the part has ``frame_index`` 0."""
        return _LaterFrames(self.whole.frames(), self.place)

    def annotated(self) -> list[int]:
        """Return the places of the annotated images in the part."""
        return [place - self.place for place in self.whole.annotated() if place >= self.place]

    def truth(self, frame: Frame) -> TrueFrame | None:
        """Return the segments of an image; see ``Sequence.truth``."""
        return self.whole.truth(frame)


class _LaterFrames(FrameSource):
    def __init__(self, whole: FrameSource, place: int) -> None:
        super().__init__(whole.name, whole.topic, whole.stride)
        self._whole, self._skipped = whole, place * whole.stride

    @property
    def num_images(self) -> int | None:
        """Number of images of the part before striding, where it is known."""
        count = self._whole.num_images
        return None if count is None else max(0, count - self._skipped)

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        self._whole.problems = self.problems
        return islice(self._whole._images(), self._skipped, None)

"""Sequences made of image files, whose truth is in mask files or in JSON."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Sequence as Rows
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import NOMINAL_FPS, ImageSource
from x2sam_ros.bag.source import FrameSource
from x2sam_ros.errors import TruthError, told
from x2sam_ros.truth.dataset import Expression, Sequence, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, images_in
from x2sam_ros.truth.label_maps import frame_of_labels, frame_of_segmentations, read_labels, values_in
from x2sam_ros.types import Frame

MALFORMED = (KeyError, TypeError, AttributeError, ValueError, IndexError)
"""What JSON of another structure makes a reader raise."""

VOID = 255
"""Pixel value that DAVIS and others give to what nobody annotated."""

Objects = tuple[TrueObject, ...] | Callable[[], tuple[TrueObject, ...]]


class FileSequence(Sequence):
    """Image files with truth. Images that are missing or damaged are left out and counted by the source.

    Args:
        files: the images in order, or a function that lists them when they are needed.
        rate: images per second of the recording, where the options have none.
        number: its id in the annotation file, where it has one; exports use it.
        other arguments: as those of ``Sequence``.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        files: Rows[Path] | Callable[[], Rows[Path]],
        objects: Objects = (),
        expressions: tuple[Expression, ...] = (),
        captions: tuple[str, ...] = (),
        rate: float = NOMINAL_FPS,
        number: int | None = None,
    ) -> None:
        super().__init__(name, objects, expressions, captions)
        self.number = number
        self._options, self._files, self._rate = options, files, rate

    @cached_property
    def images(self) -> Rows[Path]:
        """The image files in order."""
        return self._files() if callable(self._files) else self._files

    @abstractmethod
    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame | None:
        """Read the truth of one of the images, whose size is (height, width)."""

    def frames(self) -> FrameSource:
        """Open the images.

        Raises:
            TruthError: there are none.
        """
        if not self.images:
            raise TruthError(f"{self.name}: it has no frames; check that its folder of images was copied")
        options = self._options
        fps = self._rate if options.fps is None else options.fps
        return ImageSource(self.name, list(self.images), options.stride, fps)

    def truth(self, frame: Frame) -> TrueFrame | None:
        """Return the segments of an image; see ``Sequence.truth``."""
        where = f"{self.name}, frame {frame.frame_index}"
        try:
            true_frame = self.read(Path(frame.source), frame.size)
        except TruthError as error:
            raise TruthError(f"{where}: {error}") from error
        return fitting(true_frame, frame, f"{where} ({frame.source})")


def fitting(true_frame: TrueFrame | None, frame: Frame, where: str) -> TrueFrame | None:
    """Return what was read if it has the size of the image.

    Raises:
        TruthError: it has another.
    """
    if true_frame is not None and true_frame.size != frame.size:
        (height, width), (image_height, image_width) = true_frame.size, frame.size
        raise TruthError(
            f"{where}: its mask is {width}x{height}, the image {image_width}x{image_height}; export both in one size"
        )
    return true_frame


class MaskFiles(FileSequence):
    """Images with label images.

    Images without a mask are not annotated. A mask without an image is an error: the masks are of other images.

    Args:
        find_pairs: finds the mask file of each image; called once, when the files are needed.
        values: object id of each pixel value; None takes the values that are found in the masks as ids: 255 is void
            then, unless it is the only one.
        ignored: pixel values that nobody annotated.
        nothing: pixel values of no object.
        to_labels: reads a mask file, integers (H, W).
        shares_folder: whether masks of other sequences lie beside its own.
        other arguments: as those of ``FileSequence``.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        find_pairs: Callable[[], Mapping[Path, Path]],
        values: Mapping[int, int] | None,
        ignored: tuple[int, ...] = (),
        nothing: tuple[int, ...] = (0,),
        to_labels: Callable[[Path], Any] = read_labels,
        shares_folder: bool = False,
        objects: Objects = (),
        **rest: Any,
    ) -> None:
        super().__init__(name, options, self._listed, self._found_objects if values is None else objects, **rest)
        self._find_pairs, self._values, self._ignored, self._nothing = find_pairs, values, ignored, nothing
        self._to_labels, self._shares_folder = to_labels, shares_folder

    @cached_property
    def _pairs(self) -> Mapping[Path, Path]:
        return self._find_pairs()

    def _listed(self) -> Rows[Path]:
        return tuple(self._pairs)

    def frames(self) -> FrameSource:
        """Open the images.

        Raises:
            TruthError: there are none, none of them has a mask, or there is a mask of no image.
        """
        source = super().frames()
        expected = set(self._pairs.values())
        if not any(mask.is_file() for mask in expected):
            raise TruthError(
                f"{self.name}: none of its {len(self.images)} images has a mask; {min(expected)} is missing"
            )
        if self._shares_folder:
            return source
        present = {mask for folder in {mask.parent for mask in expected} for mask in images_in(folder)}
        if extra := present - expected:
            raise TruthError(f"{self.name}: {len(extra)} masks belong to no image, the first is {min(extra)}")
        return source

    def annotated(self) -> Rows[int]:
        """Return the places of the images whose mask file exists; see ``Sequence.annotated``."""
        self.frames()
        kept = self.images[:: self._options.stride]
        return [place for place, image in enumerate(kept) if self._pairs[image].is_file()]

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame | None:
        """Read the mask of an image, None where there is none."""
        mask = self._pairs.get(image)
        if mask is None or not mask.is_file():
            return None
        values, ignored = self._meaning
        return frame_of_labels(self._to_labels(mask), values, str(mask), self._nothing, ignored)

    @cached_property
    def _meaning(self) -> tuple[Mapping[int, int], tuple[int, ...]]:
        """Object id of each pixel value, and the values that are ignored."""
        if self._values is not None:
            return self._values, self._ignored
        found: set[int] = set()
        for mask in self._pairs.values():
            found.update(values_in(self._to_labels(mask)) if mask.is_file() else ())
        return meaning_of(found.difference(self._nothing))

    def _found_objects(self) -> tuple[TrueObject, ...]:
        meant = {object_id for expression in self.expressions for object_id in expression.object_ids}
        return tuple(TrueObject(object_id) for object_id in sorted(meant.union(self._meaning[0].values())))


def meaning_of(found: Collection[int]) -> tuple[dict[int, int], tuple[int, ...]]:
    """Tell what values mean that no list explains: object id of each, and the values of what nobody annotated.

    Each value is an object. 255 is void where it is the highest of several, and object 1 where it is the only one.
    """
    if set(found) == {VOID}:
        return {VOID: 1}, ()
    void = (VOID,) if max(found, default=0) == VOID else ()
    return {value: value for value in sorted(found) if value not in void}, void


def pairs_of_folders(images: Path, masks: Path) -> Mapping[Path, Path]:
    """Pair images and masks of the same name."""
    return {image: masks / f"{image.stem}.png" for image in images_in(images)}


def mask_folder(
    name: str, options: Options, images: Path, masks: Path, values: Mapping[int, int] | None, **rest: Any
) -> MaskFiles:
    """Make a sequence of a folder of images and a folder of masks with the same names."""
    return MaskFiles(name, options, partial(pairs_of_folders, images, masks), values, **rest)


class Segmentations(FileSequence):
    """Images whose masks are in JSON; every image of the list is annotated.

    Args:
        files: the images.
        tracks: (object id, one ``segmentation`` or None for each image).
        size: (height, width) that polygons are drawn at; None for that of the image.
        other arguments: as those of ``FileSequence``.

    Raises:
        TruthError: a track has more or fewer masks than there are images.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        files: Rows[Path],
        tracks: Rows[tuple[int, Rows[Any]]],
        size: tuple[int, int] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(name, options, files, **rest)
        for object_id, masks in tracks:
            if len(masks) != len(files):
                raise TruthError(f"{name}: object {object_id} has {len(masks)} masks for {len(files)} images")
        self._tracks, self._size = tracks, size

    @cached_property
    def _indices(self) -> Mapping[Path, int]:
        return {image: index for index, image in enumerate(self.images)}

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame | None:
        """Decode the masks of an image."""
        index = self._indices.get(image)
        if index is None:
            return None
        return frame_of_segmentations([(key, masks[index]) for key, masks in self._tracks], self._size or size)


class FailedSequence(Sequence):
    """A sequence whose annotation is wrong: whatever is asked of it says so, and the others can still be used."""

    def __init__(self, name: str, error: TruthError) -> None:
        super().__init__(name, self._fail)
        self.error = error

    def _fail(self) -> Any:
        raise TruthError(str(self.error))

    def frames(self) -> FrameSource:
        """Raise what is wrong."""
        source: FrameSource = self._fail()
        return source

    def truth(self, frame: Frame) -> TrueFrame | None:
        """Raise what is wrong."""
        true_frame: TrueFrame | None = self._fail()
        return true_frame


def attempt(name: str, make: Callable[[], Sequence]) -> Sequence:
    """Make a sequence; one whose annotation is wrong becomes a ``FailedSequence``."""
    try:
        return make()
    except TruthError as error:
        return FailedSequence(name, error if name in str(error) else TruthError(f"{name}: {error}"))
    except MALFORMED as error:
        return FailedSequence(name, TruthError(f"{name}: its annotation has another structure ({told(error)})"))


def usable(sequences: Iterable[Sequence], what: str) -> tuple[Sequence, ...]:
    """Return the sequences.

    Raises:
        TruthError: there are none, two have the same name, or not one of them can be used; the first reason is given.
    """
    listed = tuple(sequences)
    if not listed:
        raise TruthError(f"{what} holds no sequence")
    name, count = Counter(sequence.name for sequence in listed).most_common(1)[0]
    if count > 1:
        raise TruthError(f"{what}: {count} sequences are called {name}; give each a name of its own")
    failed = [sequence for sequence in listed if isinstance(sequence, FailedSequence)]
    if len(failed) == len(listed) == 1:
        raise failed[0].error
    if len(failed) == len(listed):
        raise TruthError(f"{what}: none of its {len(listed)} sequences can be used: {failed[0].error}")
    return listed

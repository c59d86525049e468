"""Masks that a person corrected: what is marked on images, whose each mask is, and a bag with ground truth of it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import header_fields
from x2sam_ros.bag.source import FrameSource
from x2sam_ros.bag.storage import COMPRESSED_TYPE, IMAGE_TYPE
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import Counts, decode_rle, encode_rle
from x2sam_ros.truth.bags import LABEL_INFO_TYPE
from x2sam_ros.types import MAX_IMAGE_PIXELS, BoolArray, Frame, Uint8Array

CAMERA_TOPIC = "/camera/image_raw/compressed"
LABEL_TOPIC, INFO_TOPIC = "/ground_truth/label_image", "/ground_truth/label_info"
"""Topics of the bag with ground truth, which truth/bags.py finds by their names."""

IMAGES_FOLDER = "images"
"""Folder of the pictures that masks are corrected on, beside the file with the masks."""

MAX_OBJECT_ID = 65535
"""Highest value that a pixel of a label image can have."""

MAX_LABEL_CHARS = 64
"""Longest name that CVAT lets a label have. Source: cvat/apps/engine/models.py."""

WHOLE_TEXT = "text"
"""Attribute that says what a shortened label is short for."""

_CUT = "\N{HORIZONTAL ELLIPSIS} "
_DIGEST_CHARS = 8
_SHORTENED = re.compile(rf"(?s).{{{MAX_LABEL_CHARS - _DIGEST_CHARS - len(_CUT)}}}{_CUT}[0-9a-f]{{{_DIGEST_CHARS}}}")

_NAME = re.compile(r"(?:.*[/\\])?(?:\d+)_(-?\d+)\.\w+")
_TWIN = "image {} left out: an earlier one, which is annotated, has its stamp, {} ns, and shows something else"
_PNG_LEVEL = (cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True)
class Mark:
    """What one object covers on one image.

    Args:
        label: what it is called.
        runs: uint32 (R,), its mask as ``encode_rle`` writes it, of the whole image.
        object_id: number of the object, the same on every image; 0 where nobody said.
        track: what holds marks without a number together; '' where nothing does.
    """

    label: str
    runs: Counts
    object_id: int = 0
    track: str = ""


@dataclass(frozen=True)
class MarkedImage:
    """An image and everything that is marked on it; one without a mark shows nothing.

    Args:
        name: of its file, which ends in the image's stamp; see ``image_name``.
        size: (height, width), pixels.
        marks: at most one mark of each object, once ``settled``.
    """

    name: str
    size: tuple[int, int]
    marks: tuple[Mark, ...] = ()

    @property
    def stamp_ns(self) -> int:
        """Stamp of the image, nanoseconds.

        Raises:
            TruthError: the name does not say it.
        """
        found = _NAME.fullmatch(self.name)
        if found is None:
            raise TruthError(
                f"{self.name!r:.200} is no name that x2sam label gave an image, such as 000012_1700000000123456.jpg; "
                "correct the images of an export, and keep their names"
            )
        return int(found[1])


def image_name(number: int, stamp_ns: int) -> str:
    """Return the name of an image's file, which all tools keep: its place in the export, and its stamp."""
    return f"{number:06d}_{stamp_ns}.jpg"


def check_size(size: tuple[int, int], frame: Frame, where: str) -> None:
    """Raise TruthError where masks of a ``size`` (height, width) cannot be of an image."""
    if size != frame.size:
        raise TruthError(
            f"{where}: image {frame.frame_index} is {frame.size[1]}x{frame.size[0]}, its masks {size[1]}x{size[0]}; "
            "give masks and images of one camera in one size"
        )


def is_another_picture(frame: Frame, seen: dict[int, bytes]) -> bool:
    """Tell whether an earlier image had the stamp of this one and showed something else.

    Args:
        frame: an image.
        seen: digests of the first picture of each stamp; this one's is noted.
    """
    digest = hashlib.sha256(frame.image.tobytes()).digest()
    return seen.setdefault(frame.stamp_ns, digest) != digest


def short_label(label: str) -> str:
    """Return a label that CVAT can hold, another one for every label; one that it can hold stays."""
    if len(label) <= MAX_LABEL_CHARS:
        return label
    end = _CUT + hashlib.sha256(label.encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]
    return label[: MAX_LABEL_CHARS - len(end)] + end


def whole_label(label: str, text: str | None) -> str:
    """Return the text beside a label if that is what the label is short for, else the label."""
    return text if text is not None and short_label(text) == label else label


def _with_whole_labels(images: Iterable[MarkedImage]) -> tuple[MarkedImage, ...]:
    """Give marks that were drawn anew, and have a shortened label alone, the text that others have.

    Raises:
        TruthError: no mark has it.
    """
    images = tuple(images)
    whole = {short_label(label): label for label in label_names(images) if len(label) > MAX_LABEL_CHARS}
    for image in images:
        for mark in image.marks:
            if mark.label not in whole and _SHORTENED.fullmatch(mark.label):
                raise TruthError(
                    f"{image.name}: the label {mark.label!r} is short for a longer text, which no mask of it says; "
                    f"write the whole text into the attribute {WHOLE_TEXT} of one, or give it another label"
                )
    return tuple(
        replace(image, marks=tuple(replace(mark, label=whole.get(mark.label, mark.label)) for mark in image.marks))
        for image in images
    )


class Labelled(NamedTuple):
    """Images whose marks all have a number, and the name of each object.

    ``by_label`` counts the marks whose label alone said the object: those without a number or track whose label an
    object of other marks has. ``empty`` has the name of the image for each mark without a pixel, which is left out.
    """

    images: tuple[MarkedImage, ...]
    names: dict[int, str]
    by_label: int
    empty: tuple[str, ...]


_Key = int | tuple[str, str]
"""What tells an object from others: its number, or else its track or its label."""


def settled(images: Iterable[MarkedImage]) -> Labelled:
    """Give every mark the number of its object, and its whole label.

    Marks with a number keep it. Of the others those of one track are one object. What has neither, as a mask that was
    drawn anew, is of the object that has its label, on an image where nothing else has it. Several marks of one object
    on one image are one mark. A mark without a pixel, as of a mask that was wiped out, is none.

    Raises:
        TruthError: nothing tells which object a mark is of, an object of two names, a number that no pixel can have, or
            a shortened label whose text is lost.
    """
    listed = tuple(images)
    empty = tuple(image.name for image in listed for mark in image.marks if not _has_pixel(mark))
    images = _with_whole_labels(replace(image, marks=tuple(filter(_has_pixel, image.marks))) for image in listed)
    free = _free_numbers(images)
    owners = _owners(images)
    new: dict[_Key, int] = {}
    names: dict[int, str] = {}
    found, by_label = [], 0
    for image in images:
        _check_loose(image)
        joined: dict[int, BoolArray] = {}
        for mark in image.marks:
            key = _key(mark, owners.get(mark.label, []), image.name)
            by_label += not mark.object_id and not mark.track and mark.label in owners
            number = key if isinstance(key, int) else new.get(key) or next(free, 0)
            if not number:
                raise TruthError(f"{image.name}: more than {MAX_OBJECT_ID} objects; a label image holds no more")
            new[key] = number
            name = names.setdefault(number, mark.label)
            if name != mark.label:
                raise TruthError(
                    f"{image.name}: object {number} is called {mark.label!r} here and {name!r} on an earlier image; "
                    "give it one name, or another object_id"
                )
            mask = decode_rle(mark.runs, *image.size)
            joined[number] = joined[number] | mask if number in joined else mask
        marks = tuple(Mark(names[number], encode_rle(mask), number) for number, mask in sorted(joined.items()))
        found.append(replace(image, marks=marks))
    return Labelled(tuple(found), dict(sorted(names.items())), by_label, empty)


def _has_pixel(mark: Mark) -> bool:
    return len(mark.runs) > 1


def _free_numbers(images: Sequence[MarkedImage]) -> Iterator[int]:
    """Return the numbers that no mark has, from 1 on."""
    for image in images:
        for mark in image.marks:
            if not 0 <= mark.object_id <= MAX_OBJECT_ID:
                raise TruthError(f"{image.name}: object {mark.object_id} is none; numbers go from 1 to {MAX_OBJECT_ID}")
    used = {mark.object_id for image in images for mark in image.marks}
    return (number for number in range(1, MAX_OBJECT_ID + 1) if number not in used)


def _owners(images: Sequence[MarkedImage]) -> dict[str, list[_Key]]:
    """Return the objects that have each label, of marks that say their object."""
    found: dict[str, dict[_Key, None]] = {}
    for mark in (mark for image in images for mark in image.marks):
        if mark.object_id or mark.track:
            found.setdefault(mark.label, {})[mark.object_id or ("track", mark.track)] = None
    return {label: list(keys) for label, keys in found.items()}


def _key(mark: Mark, owners: Sequence[_Key], where: str) -> _Key:
    """Return which object a mark is of; ``owners`` are those that have its label."""
    if mark.object_id:
        return mark.object_id
    numbers = [key for key in owners if isinstance(key, int)]
    is_unclear = bool(numbers) if mark.track else len(owners) > 1
    if is_unclear:
        known = ", ".join(map(str, numbers)) or f"one of {len(owners)} tracks"
        raise TruthError(
            f"{where}: a {'track' if mark.track else 'mask'} is called {mark.label!r} and does not say which object it "
            f"is of, {known} or a new one; give it an object_id, the same on every image"
        )
    if mark.track:
        return "track", mark.track
    return owners[0] if owners else ("label", mark.label)


def _check_loose(image: MarkedImage) -> None:
    loose = {mark.label for mark in image.marks if not mark.object_id and not mark.track}
    for label, count in Counter(mark.label for mark in image.marks).items():
        if count > 1 and label in loose:
            raise TruthError(
                f"{image.name}: {count} masks are called {label!r} and do not say which object they are of; give each "
                "an object_id, the same on every image"
            )


class Written(NamedTuple):
    """What a bag with ground truth holds: images, those that are annotated, and those on which objects overlap."""

    images: int
    annotated: int
    overlapping: int


def write_truth(
    labelled: Labelled, source: FrameSource, out: Path, on_frame: Callable[[], None] = lambda: None
) -> Written:
    """Write a recording with its corrected masks as a bag that training and evaluation read.

    ``CAMERA_TOPIC`` has every image, without loss; ``LABEL_TOPIC`` a label image of the same stamp for each one that is
    annotated; ``INFO_TOPIC`` what the values are called. Where objects overlap the smaller one is on top. An image with
    the stamp of an annotated one that shows something else would get its labels; it is a problem of the source, and
    left out.

    Args:
        labelled: what was corrected.
        source: the recording that it was exported from.
        out: a file name that ends in .mcap.
        on_frame: called after each image.

    Raises:
        TruthError: nothing is marked, an annotated image is not in the recording, or has another size there.
        BagError, ConfigError: the recording cannot be read, or the file cannot be written.
    """
    if not labelled.names:
        raise TruthError(f"no mask is marked, and {len(labelled.images)} images are listed; correct at least one mask")
    waiting, seen = _by_stamp(labelled.images), dict[int, bytes]()
    annotated = frozenset(waiting)
    topics = {CAMERA_TOPIC: COMPRESSED_TYPE, LABEL_TOPIC: IMAGE_TYPE, INFO_TOPIC: LABEL_INFO_TYPE}
    count = overlapping = 0
    with McapFile(out, topics) as bag, _all_or_nothing(out):
        for frame in source:
            if frame.stamp_ns in annotated and is_another_picture(frame, seen):
                source.problems.add(_TWIN.format(frame.frame_index, frame.stamp_ns))
                continue
            header = header_fields(frame.stamp_ns, frame.frame_id)
            if count == 0:
                values = np.array(list(labelled.names), np.uint32)
                info = {"header": header, "values": values, "labels": list(labelled.names.values())}
                bag.add(INFO_TOPIC, frame.stamp_ns, info)
            picture = {"header": header, "format": "png", "data": _png(frame.image)}
            bag.add(CAMERA_TOPIC, frame.stamp_ns, picture)
            image = waiting.pop(frame.stamp_ns, None)
            if image is not None:
                check_size(image.size, frame, source.name)
                labels, overlaps = _painted(image, max(labelled.names))
                encoding = "mono8" if labels.dtype == np.uint8 else "16UC1"
                bag.add(LABEL_TOPIC, frame.stamp_ns, image_fields(frame.stamp_ns, frame.frame_id, encoding, labels))
                overlapping += overlaps
            count += 1
            on_frame()
        if waiting:
            missing = next(iter(waiting.values())).name
            raise TruthError(
                f"{source.name}: {len(waiting)} of {len(labelled.images)} annotated images are not in it, the first is "
                f"{missing}; give the recording that they were exported from"
            )
    return Written(count, len(labelled.images), overlapping)


def _by_stamp(images: Iterable[MarkedImage]) -> dict[int, MarkedImage]:
    found: dict[int, MarkedImage] = {}
    for image in images:
        other = found.setdefault(image.stamp_ns, image)
        if other is not image:
            raise TruthError(f"{other.name} and {image.name} have one stamp; keep each image of an export once")
    return found


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """Turn an interruption, after which a bag is kept as far as it got, into an error: half the truth looks whole."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise TruthError(f"stopped; {out} was not written") from error


def _painted(image: MarkedImage, highest: int) -> tuple[npt.NDArray[Any], bool]:
    """Return the label image, uint8 or uint16 (H, W), and whether masks overlap."""
    masks = {mark.object_id: decode_rle(mark.runs, *image.size) for mark in image.marks}
    labels: npt.NDArray[Any] = np.zeros(image.size, np.uint8 if highest < 256 else np.uint16)
    for object_id in sorted(masks, key=lambda number: -int(masks[number].sum())):
        labels[masks[object_id]] = object_id
    return labels, bool(np.count_nonzero(labels) < sum(int(mask.sum()) for mask in masks.values()))


def _png(image: Uint8Array) -> Uint8Array:
    packed: Uint8Array = np.asarray(cv2.imencode(".png", image[:, :, ::-1], _PNG_LEVEL)[1], np.uint8).reshape(-1)
    return packed


def label_names(images: Sequence[MarkedImage]) -> tuple[str, ...]:
    """Return what is marked on images, each name once, in the order of appearance."""
    return tuple(dict.fromkeys(mark.label for image in images for mark in image.marks))


def checked_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Return the (height, width) that a file says an image has.

    Raises:
        TruthError: no image has it.
        ValueError, TypeError: they are no numbers.
    """
    size = int(height), int(width)
    if min(size) < 1 or size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise TruthError(f"{where}: an image of {size[1]}x{size[0]} pixels is none; export the annotations again")
    return size


def runs_of(mask: BoolArray, size: tuple[int, int], where: str) -> Counts:
    """Return a mask that a file holds as runs of its image.

    Raises:
        TruthError: it has another size; the annotation is named.
    """
    if mask.shape != size:
        raise TruthError(f"{where}: its mask is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}")
    return encode_rle(mask)

"""Bags whose label images lie on a topic beside the camera's, matched by the stamps of their headers."""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.source import FrameSource, Problems
from x2sam_ros.bag.storage import (
    COMPRESSED_TYPE,
    IMAGE_TYPE,
    BagSource,
    Storage,
    Topic,
    choose_topic,
    is_bag,
    natural_key,
    open_storage,
)
from x2sam_ros.errors import BagError, FrameError, TruthError, told
from x2sam_ros.image_codec import read_samples, unpack_picture
from x2sam_ros.truth.dataset import Category, Dataset, Kind, Sequence, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, fingerprint
from x2sam_ros.truth.label_maps import Labels, frame_of_labels, values_in
from x2sam_ros.truth.sequences import FailedSequence, fitting, meaning_of, usable
from x2sam_ros.types import Frame

LABEL_INFO_TYPE = "x2sam_ros/msg/LabelInfo"

_LABEL_WORDS = ("ground_truth", "label", "mask")
"""What names of topics with label images speak of, the surest word first."""

_OTHER_WORDS = ("overlay", "depth", "x2sam")
"""Parts of names of topics that show something else, or what was predicted."""

_ENCODINGS = ("mono8", "8UC1", "mono16", "16UC1")

_PART_NUMBER = re.compile(r"_\d+$")

KEPT_BYTES = 256 << 20
"""Bytes of compressed label images that are kept of the bags asked for last; training asks for bags in any order."""

_KEPT = 64
"""Bags of which the stamps of the images are kept, and what their values mean."""


def find_bags(path: Path, options: Options) -> Path | None:
    """Return a bag, or a folder of bags, which may be bare files."""
    return path if bags_in(path) else None


def bags_in(path: Path) -> list[Path]:
    """Return the bags that a path means, a sequence each: a bag itself, or those of a folder; none of another path."""
    inside = sorted(filter(is_bag, path.iterdir()), key=natural_key) if path.is_dir() else []
    if not is_bag(path):
        return inside
    # the files of one recording are called NAME_0, NAME_1, ...
    names = {_PART_NUMBER.sub("", bag.stem) for bag in inside}
    return [path] if len(names) < 2 or (path / "metadata.yaml").exists() else inside


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def open_bags(path: Path, options: Options) -> Dataset:
    """Open a bag or a folder of bags, each a sequence: pixels of its label images are object ids, 0 is none.

    Names and categories of the objects are those of a LabelInfo topic, where there is one.
    """
    bags = bags_in(path)
    meanings: dict[Path, dict[int, str] | TruthError] = {bag: _meaning(bag, options, _files(bag)) for bag in bags}
    found = [labels for labels in meanings.values() if isinstance(labels, dict)]
    names = sorted({name for labels in found for name in labels.values()})
    numbers = {name: number for number, name in enumerate(names, 1)}

    def make(bag: Path) -> Sequence:
        labels = meanings[bag]
        if isinstance(labels, TruthError):
            return FailedSequence(_name(bag), labels)
        return _BagSequence(bag, options, {value: numbers[name] for value, name in labels.items()})

    return Dataset(
        _name(path),
        Kind.OBJECTS,
        usable(map(make, bags), str(path)),
        tuple(Category(number, name) for name, number in numbers.items()),
        fingerprint(masks=bags),
    )


class _BagSequence(Sequence):
    """A bag with label images; an image without a label image of its stamp is not annotated."""

    def __init__(self, path: Path, options: Options, categories: dict[int, int]) -> None:
        super().__init__(_name(path), self._found_objects)
        self._path, self._options, self._categories = path, options, categories

    @property
    def _labels(self) -> _StoredLabels:
        return _kept.of(self._path, self._options)

    def _found_objects(self) -> tuple[TrueObject, ...]:
        ids = self._categories or self._labels.objects.values()
        return tuple(TrueObject(value, self._categories.get(value)) for value in sorted(ids))

    def frames(self) -> FrameSource:
        """Open the images.

        Raises:
            TruthError: no label image has the stamp of an image, or their stamps cannot tell them apart.
        """
        assert self._labels.images  # they were compared with the images when they were read
        _, camera, _ = _topics(self._path, self._options)
        return BagSource(self._path, camera.name, self._options.stride)

    def annotated(self) -> list[int]:
        """Return the places of the images with a label image of their stamp; see ``Sequence.annotated``."""
        stored, options = self._labels.images, self._options
        stamps = _stored_stamps(self._path, options.topic, options.label_topic, _files(self._path))
        return [place for place, stamp in enumerate(stamps[:: options.stride]) if stamp in stored]

    def truth(self, frame: Frame) -> TrueFrame | None:
        """Return the segments of the image's stamp."""
        stored = self._labels
        packed = stored.images.get(frame.stamp_ns)
        if packed is None:
            return None
        where = f"{self.name}, frame {frame.frame_index}, stamp {frame.stamp_ns / 1e9:.9f} s of {self._path}"
        objects = {value: value for value in self._categories} or stored.objects
        return fitting(frame_of_labels(packed.labels, objects, where, ignored=stored.void), frame, where)


class _Packed(NamedTuple):
    """A label image, compressed."""

    shape: tuple[int, ...]
    sample: str
    data: bytes

    @property
    def labels(self) -> Labels:
        return np.frombuffer(zlib.decompress(self.data), self.sample).reshape(self.shape)


class _StoredLabels(NamedTuple):
    """The label images of a bag by stamp, the object id of each value, and the values of what nobody annotated."""

    images: dict[int, _Packed]
    objects: dict[int, int]
    void: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(len(packed.data) for packed in self.images.values())


class _Kept:
    """The label images of the bags asked for last, `KEPT_BYTES` of them, and of the newest whatever it takes."""

    def __init__(self) -> None:
        self._labels: dict[tuple[object, ...], _StoredLabels] = {}
        self._lock = threading.Lock()

    def of(self, path: Path, options: Options) -> _StoredLabels:
        """Return those of a bag, read where they are not kept or its files have changed."""
        key = path, options.topic, options.label_topic, _files(path)
        with self._lock:
            found = self._labels.pop(key, None) or _stored_labels(path, options)
            self._labels[key] = found
            while len(self._labels) > 1 and sum(stored.nbytes for stored in self._labels.values()) > KEPT_BYTES:
                self._labels.pop(next(iter(self._labels)))
        return found


_kept = _Kept()


def _files(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of the files of a bag, by which one that has changed is told."""
    files = [file for file in sorted(path.iterdir()) if file.is_file()] if path.is_dir() else [path]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _topics(path: Path, options: Options) -> tuple[Storage, Topic, Topic]:
    """Open a bag and choose the topics of images and of label images."""
    storage = open_storage(path)
    images = [topic for topic in storage.topics if topic.msgtype in (IMAGE_TYPE, COMPRESSED_TYPE)]
    label = (
        choose_topic(str(path), storage.topics, options.label_topic) if options.label_topic else _labelled(path, images)
    )
    others = tuple(topic for topic in storage.topics if topic != label)
    return storage, choose_topic(str(path), others, options.topic), label


def _labelled(path: Path, images: list[Topic]) -> Topic:
    usual = [topic for topic in images if not any(word in topic.name.lower() for word in _OTHER_WORDS)]
    for word in _LABEL_WORDS:
        found = [topic for topic in usual if word in topic.name.lower() and topic.num_messages != 0]
        if len(found) > 1:
            listed = ", ".join(sorted(topic.name for topic in found))
            raise TruthError(f"{path}: which topic has the label images? Choose one with label_topic: {listed}")
        if found:
            return found[0]
    listed = ", ".join(sorted(topic.name for topic in images)) or "none"
    raise TruthError(f"{path} has no topic with label images; image topics found: {listed}; give label_topic")


@lru_cache(maxsize=_KEPT)
def _meaning(path: Path, options: Options, files: Hashable) -> dict[int, str] | TruthError:
    """Check the topics of a bag, and read what its LabelInfo says of the values; nothing where it has none.

    Both are those of its ``files`` as they are now.
    """
    try:
        storage, _, label = _topics(path, options)
        space = label.name.rpartition("/")[0]  # that of another space says what another label image means
        infos = [topic for topic in storage.topics if topic.msgtype == LABEL_INFO_TYPE and topic.name.startswith(space)]
        names: dict[int, str] = {}
        for data in storage.messages(infos[0], Problems()) if infos else ():
            message: Any = message_types().deserialize_cdr(data, LABEL_INFO_TYPE)
            names.update({int(value): name or "object" for value, name in zip(message.values, message.labels)})
        return names
    except TruthError as error:
        return error
    except BagError as error:
        return TruthError(str(error))
    except Exception as error:  # generated code over damaged bytes fails in any way
        return TruthError(f"{path}: its {LABEL_INFO_TYPE} is damaged ({told(error)})")


def _stored_labels(path: Path, options: Options) -> _StoredLabels:
    """Read all label images of a bag, and check that there is one of the stamp of an image."""
    storage, image_topic, labelled = _topics(path, options)
    stored: dict[int, _Packed] = {}
    values: set[int] = set()
    for number, (stamp_ns, labels) in enumerate(_decoded(storage, labelled, path)):
        if stamp_ns in stored:
            raise TruthError(
                f"{path}: label image {number} of {labelled.name} has the stamp of an earlier one, {stamp_ns} ns, "
                "so that nobody can tell which image it belongs to; record them with the stamps of their images"
            )
        stored[stamp_ns] = _Packed(labels.shape, labels.dtype.str, zlib.compress(labels.tobytes(), 1))
        values.update(values_in(labels))
    stamps = (_stamp_ns(data) for data in storage.messages(image_topic, Problems()))
    first = next(stamps, None)
    if first is None or (first not in stored and not any(stamp in stored for stamp in stamps)):
        raise TruthError(
            f"{path}: no label image of {labelled.name} has the stamp of an image of {image_topic.name}; the first "
            f"stamps are {next(iter(stored), None)} and {first} ns; record label images with the stamps of their images"
        )
    return _StoredLabels(stored, *meaning_of(values - {0}))


@lru_cache(maxsize=_KEPT)
def _stored_stamps(path: Path, topic: str | None, label_topic: str | None, files: Hashable) -> tuple[int, ...]:
    """Read the stamps of all images of a bag, as its ``files`` are now, for which the whole of it is gone through."""
    storage, camera, _ = _topics(path, Options(topic=topic, label_topic=label_topic))
    return tuple(map(_stamp_ns, storage.messages(camera, Problems())))


def _decoded(storage: Storage, topic: Topic, path: Path) -> Iterator[tuple[int, Labels]]:
    typestore = message_types()
    for number, data in enumerate(storage.messages(topic, Problems())):
        try:
            message: Any = typestore.deserialize_cdr(data, topic.msgtype)
            labels = _pixels(message, topic.msgtype)
        except FrameError as error:
            raise TruthError(f"{path}: label image {number} of {topic.name}: {error}") from error
        except Exception as error:  # generated code over damaged bytes fails in any way
            raise TruthError(f"{path}: label image {number} of {topic.name} is damaged ({told(error)})") from error
        yield _stamp_ns(data), labels


def _pixels(message: Any, msgtype: str) -> Labels:
    if msgtype == COMPRESSED_TYPE:
        labels = np.asarray(unpack_picture(message.format, message.data, cv2.IMREAD_UNCHANGED))
        if labels.ndim != 2 or "jp" in message.format.lower():
            raise FrameError(f"its format is {message.format!r} {labels.shape}; expected a grey PNG")
        return labels
    if message.encoding not in _ENCODINGS:
        raise FrameError(f"its encoding is {message.encoding!r}; expected one of {', '.join(_ENCODINGS)}")
    return read_samples(
        message.encoding, message.height, message.width, message.step, bool(message.is_bigendian), message.data
    )


def _stamp_ns(data: bytes) -> int:
    """Read the stamp of a message that begins with a header, from its CDR bytes: all else may be large."""
    if len(data) < 12:
        return -1
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds * 1_000_000_000 + nanoseconds)

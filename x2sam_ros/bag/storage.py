"""Read rosbag2 recordings: MCAP record by record, so that damage costs a chunk; SQLite through rosbags."""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import zstandard
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from x2sam_ros.bag.source import FrameSource, Problems, RawFrame
from x2sam_ros.errors import BagError, FrameError
from x2sam_ros.image_codec import decode_compressed, decode_image

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"

_NO_CAMERA_WORDS = ("label", "mask", "ground_truth", "overlay", "depth", "disparity", "x2sam")
"""Parts of the names of image topics that show something else than what a colour camera saw."""

_DAMAGE = (McapError, ValueError, struct.error, zstandard.ZstdError, RuntimeError, EOFError)
"""What the MCAP parser and its decompressors raise on damaged bytes (lz4 raises RuntimeError)."""

_OPEN_ERRORS = (ReaderError, sqlite3.Error, OSError, ValueError, KeyError, AssertionError, zstandard.ZstdError)
"""What rosbags raises on a folder or an SQLite file it cannot read."""


@dataclass(frozen=True)
class Topic:
    """A topic of a bag; ``num_messages`` is None where the index that counts them is missing."""

    name: str
    msgtype: str
    num_messages: int | None


class Storage(Protocol):
    """A recording: its topics, and the CDR bytes of one topic's messages."""

    topics: tuple[Topic, ...]

    def messages(self, topic: Topic, problems: Problems) -> Iterator[bytes]:
        """Yield the messages of a topic in recorded order; damage is counted, never raised."""


def is_bag(path: Path) -> bool:
    """Tell whether a path is a rosbag2 folder or a bag file."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or any(_files(path, ".mcap")) or any(_files(path, ".db3"))
    return path.suffix in (".mcap", ".db3")


def open_storage(path: Path) -> Storage:
    """Open a rosbag2 folder (with or without metadata.yaml), an .mcap or a .db3 file.

    Raises:
        BagError: unreadable from the start.
    """
    if path.suffix == ".mcap" and path.is_file():
        return McapStorage([path])
    files = _files(path, ".mcap") if path.is_dir() else []
    if files and not _is_compressed_by_rosbag2(path):
        return McapStorage(files)
    has_metadata = (path / "metadata.yaml").exists()
    return RosbagsStorage([path] if path.is_file() or has_metadata else _files(path, ".db3"))


def choose_topic(name: str, topics: tuple[Topic, ...], wanted: str | None) -> Topic:
    """Choose the image topic to read.

    Without a wanted topic it is the only image topic; else the only one whose name does not speak of labels,
    masks, ground truth, overlays or depth; of a raw topic and its own compressed copy, the raw one. Topics
    without messages do not count. What is still ambiguous is an error: a guess could be the wrong camera.

    Raises:
        BagError: the wanted topic is not an image topic of the bag, there is none, or several can be meant.
    """
    images = [topic for topic in topics if topic.msgtype in (IMAGE_TYPE, COMPRESSED_TYPE)]
    listed = ", ".join(sorted(topic.name for topic in images))
    if not images:
        others = ", ".join(sorted(topic.name for topic in topics)) or "nothing"
        raise BagError(f"{name}: no image topic in it; found {others}")
    if wanted is not None:
        for topic in images:
            if topic.name.lstrip("/") == wanted.lstrip("/"):
                return topic
        raise BagError(f"{name}: no image topic {wanted!r}; image topics found: {listed}")
    choice = [topic for topic in images if topic.num_messages != 0] or images
    if len(choice) > 1:
        choice = [topic for topic in choice if not any(word in topic.name.lower() for word in _NO_CAMERA_WORDS)]
    names = {topic.name for topic in choice}
    choice = [
        topic
        for topic in choice
        if topic.name.removesuffix("/compressed") == topic.name or topic.name.removesuffix("/compressed") not in names
    ]
    if len(choice) != 1:
        raise BagError(f"{name}: which image topic? Choose one with --topic: {listed}")
    return choice[0]


class McapStorage:
    """MCAP files of one recording, in order; read forward, without the index, so that truncated files work.

    Raises:
        BagError: not one channel could be found in any of the files.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        counts: dict[tuple[str, str], int | None] = {}
        for file in files:
            for topic in self._summary_topics(file) or self._scanned_topics(file):
                key = (topic.name, topic.msgtype)
                known = counts.get(key, 0)
                counts[key] = None if known is None or topic.num_messages is None else known + topic.num_messages
        if not counts:
            raise BagError(f"{files[0]} is empty or damaged from its start: no topic can be read; record it again")
        self.topics = tuple(Topic(*key, count) for key, count in counts.items())

    def messages(self, topic: Topic, problems: Problems) -> Iterator[bytes]:
        """Yield the CDR bytes of a topic; a damaged chunk and a missing end are counted as problems."""
        for file in self._files:
            channels: set[int] = set()
            schemas: dict[int, str] = {}
            for record in _records(file, problems):
                if isinstance(record, Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, Channel):
                    if (record.topic, schemas.get(record.schema_id)) == (topic.name, topic.msgtype):
                        channels.add(record.id)
                elif isinstance(record, Message) and record.channel_id in channels:
                    yield record.data

    @staticmethod
    def _summary_topics(file: Path) -> list[Topic]:
        """Read the topics from the index at the file's end; none where it is missing or damaged."""
        with file.open("rb") as stream:
            try:
                summary = SeekingReader(stream, record_size_limit=file.stat().st_size).get_summary()
            except (*_DAMAGE, OSError):
                return []
        if summary is None or summary.statistics is None:
            return []
        counts = summary.statistics.channel_message_counts
        return [
            Topic(channel.topic, summary.schemas[channel.schema_id].name, counts.get(channel.id, 0))
            for channel in summary.channels.values()
            if channel.message_encoding == "cdr" and channel.schema_id in summary.schemas
        ]

    @staticmethod
    def _scanned_topics(file: Path) -> list[Topic]:
        """Collect the topics by reading the whole file; messages are not counted, since the end is missing."""
        schemas: dict[int, str] = {}
        found: dict[Topic, None] = {}
        for record in _records(file, Problems()):
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel) and record.message_encoding == "cdr" and record.schema_id in schemas:
                found[Topic(record.topic, schemas[record.schema_id], None)] = None
        return list(found)


class RosbagsStorage:
    """SQLite recordings, and recordings that rosbag2 itself compressed, through rosbags.

    Raises:
        BagError: metadata or database cannot be read.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        counts: dict[tuple[str, str], int] = {}
        for path in paths:
            try:
                with Reader(path) as reader:
                    for connection in reader.connections:
                        key = (connection.topic, connection.msgtype)
                        counts[key] = counts.get(key, 0) + connection.msgcount
            except _OPEN_ERRORS as error:
                raise BagError(f"{path} cannot be read as a bag: {_one_line(error)}") from error
        self.topics = tuple(Topic(*key, count) for key, count in counts.items())

    def messages(self, topic: Topic, problems: Problems) -> Iterator[bytes]:
        """Yield the CDR bytes of a topic; damage ends a file and is counted."""
        for path in self._paths:
            try:
                with Reader(path) as reader:
                    wanted = [c for c in reader.connections if (c.topic, c.msgtype) == (topic.name, topic.msgtype)]
                    if wanted:
                        yield from (bytes(data) for _, _, data in reader.messages(wanted))
            except _OPEN_ERRORS as error:
                problems.add_damage(f"{path} is damaged, the rest of it is left out: {_one_line(error)}")


class BagSource(FrameSource):
    """Frames of one image topic of a bag; stamps and frame ids are the headers'."""

    def __init__(self, path: Path, topic: str | None, stride: int) -> None:
        self._storage = open_storage(path)
        self._topic = choose_topic(str(path), self._storage.topics, topic)
        super().__init__(str(path), self._topic.name, stride)
        # The two messages are the same in every ROS 2 distribution.
        self._typestore = get_typestore(Stores.LATEST)

    @property
    def num_images(self) -> int | None:
        """Number of messages on the topic; None where a damaged bag has lost its index."""
        return self._topic.num_messages

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for data in self._storage.messages(self._topic, self.problems):
            yield partial(_decode, self._typestore, self._topic.msgtype, data)


def _decode(typestore: Typestore, msgtype: str, data: bytes) -> RawFrame:
    """Decode the CDR bytes of an Image or CompressedImage."""
    try:
        message: Any = typestore.deserialize_cdr(data, msgtype)
    except Exception as error:
        # Generated code over damaged bytes: it fails in whatever way the bytes make it fail.
        raise FrameError(f"{msgtype} of {len(data)} bytes is corrupt: {_one_line(error)}") from error
    stamp = message.header.stamp
    if msgtype == COMPRESSED_TYPE:
        image = decode_compressed(message.format, message.data)
    else:
        image = decode_image(
            message.encoding, message.height, message.width, message.step, bool(message.is_bigendian), message.data
        )
    return RawFrame(image, stamp.sec * 1_000_000_000 + stamp.nanosec, message.header.frame_id)


def _records(file: Path, problems: Problems) -> Iterator[McapRecord]:
    """Yield the records of an MCAP file, those inside chunks too; stop where the file cannot be followed."""
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=file.stat().st_size).records:
                if isinstance(record, Chunk):
                    yield from _chunk_records(file, record, problems)
                else:
                    yield record
        except _DAMAGE as error:
            problems.add_damage(f"{file} ends early or is damaged, the rest of it is left out: {_one_line(error)}")


def _chunk_records(file: Path, chunk: Chunk, problems: Problems) -> list[McapRecord]:
    """Unpack a chunk; a damaged one has no records and is counted."""
    try:
        return breakup_chunk(chunk, validate_crc=True)
    except _DAMAGE as error:
        problems.add_damage(f"{file} has a damaged chunk, which is left out: {_one_line(error)}")
        return []


def _is_compressed_by_rosbag2(folder: Path) -> bool:
    """Tell whether rosbag2 compressed whole files or messages, which MCAP's own chunks know nothing of."""
    metadata = folder / "metadata.yaml"
    if not metadata.is_file():
        return False
    text = metadata.read_text(encoding="utf-8", errors="replace")
    return re.search(r"compression_mode:\s*['\"]?(file|message)", text, re.IGNORECASE) is not None


def natural_key(path: Path) -> list[int | str]:
    """Sort key that puts image_10 after image_9."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", path.name))]


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.suffix == suffix and path.is_file()), key=natural_key)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""What can be replayed: one iterable of frames, whatever the frames come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from x2sam_ros.errors import BagError, ConfigError, FrameError
from x2sam_ros.types import Frame, Uint8Array

MAX_KEPT_PROBLEMS = 20
"""Problems whose text is kept; later ones are only counted."""


@dataclass
class Problems:
    """What went wrong while reading and did not end the reading: all counted, the first ones in words.

    Args:
        count: problems so far.
        messages: the first ``MAX_KEPT_PROBLEMS`` of them.
        is_damaged: whether a part of the recording itself could not be read.
    """

    count: int = 0
    messages: list[str] = field(default_factory=list)
    is_damaged: bool = False

    def add(self, message: str) -> None:
        """Count a problem."""
        self.count += 1
        if len(self.messages) < MAX_KEPT_PROBLEMS:
            self.messages.append(message)

    def lines(self, before: str = "", after: str = " more like these") -> tuple[str, ...]:
        """Return the messages and, where some were only counted, a last line with their number between these words."""
        more = self.count - len(self.messages)
        return (*self.messages, f"{before}{more}{after}") if more else tuple(self.messages)

    def add_damage(self, message: str) -> None:
        """Count a part of the recording that is lost."""
        self.add(message)
        self.is_damaged = True


class RawFrame(NamedTuple):
    """An image with the header's stamp in nanoseconds and TF frame, before it has a place in the stream.

    ``source`` is the file of its own that it came from, where it has one.
    """

    image: Uint8Array
    stamp_ns: int
    frame_id: str = ""
    source: str = ""


class FrameSource(ABC):
    """Frames in the order they were recorded; iterate as often as needed.

    An image that cannot be used is counted in ``problems`` and left out; ``frame_index`` numbers what remains.

    Args:
        name: file or folder, for messages.
        topic: topic or file that becomes ``Frame.source`` of images without a file of their own.
        stride: keep every n-th image; the others are not decoded.

    Raises:
        ConfigError: stride below 1.
    """

    def __init__(self, name: str, topic: str, stride: int) -> None:
        if stride < 1:
            raise ConfigError(f"stride is {stride}, expected 1 (every image) or more")
        self.name, self.topic, self.stride = name, topic, stride
        self.problems = Problems()

    @property
    @abstractmethod
    def num_images(self) -> int | None:
        """Number of images before striding, where it is known."""

    @abstractmethod
    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        """Yield one decoder per image; calling it may raise FrameError."""

    @property
    def num_frames(self) -> int | None:
        """Number of frames to come at most, where it is known."""
        return None if self.num_images is None else -(-self.num_images // self.stride)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames.

        Raises:
            BagError: not one image could be read.
        """
        self.problems = Problems()
        frame_index = 0
        for number, decode in enumerate(self._images()):
            if number % self.stride:
                continue
            try:
                frame = self._frame(decode, frame_index)
            except FrameError as error:
                self.problems.add(f"image {number} left out: {error}")
                continue
            frame_index += 1
            yield frame
        if frame_index == 0:
            reason = self.problems.messages[0] if self.problems.messages else "it holds none"
            raise BagError(f"{self.name}: no usable image on {self.topic or 'any topic'}: {reason}")

    def pick(self, indices: Collection[int], problems: Problems | None = None) -> Iterator[Frame]:
        """Yield some frames and decode no others; where one before them cannot be used, their indices are too high.

        Args:
            indices: of the frames.
            problems: counts those that cannot be used, which are left out; None raises what is wrong.

        Raises:
            FrameError: one of them cannot be used.
        """
        for number, decode in enumerate(self._images()):
            frame_index, rest = divmod(number, self.stride)
            if frame_index > max(indices, default=-1):
                return
            if rest or frame_index not in indices:
                continue
            try:
                frame = self._frame(decode, frame_index)
            except FrameError as error:
                if problems is None:
                    raise
                problems.add(f"image {number} left out: {error}")
                continue
            yield frame

    def _frame(self, decode: Callable[[], RawFrame], frame_index: int) -> Frame:
        raw = decode()
        return Frame(raw.image, raw.stamp_ns, frame_index, raw.frame_id, raw.source or self.topic)


def open_source(path: str | Path, topic: str | None = None, stride: int = 1, fps: float | None = None) -> FrameSource:
    """Open anything that holds images.

    Args:
        path: a rosbag2 folder, an .mcap or .db3 file, a video, a folder of images or one image.
        topic: image topic of a bag; None takes the only one that can be meant (see ``storage.choose_topic``).
        stride: keep every n-th image.
        fps: rate that gives the images of a folder their stamps; None is ``media.NOMINAL_FPS``.

    Raises:
        BagError: nothing there, nothing in it, or not a kind of file that can be read.
        ConfigError: an option is out of range, or given for an input that has no use for it.
    """
    from x2sam_ros.bag import media, storage

    path = Path(path)
    if not path.exists():
        raise BagError(f"{path} does not exist; give a bag, a video, a folder of images or an image")
    if storage.is_bag(path):
        return storage.BagSource(path, topic, stride)
    if topic is not None:
        raise ConfigError(f"{path} is not a bag and has no topic {topic!r}; leave the topic away")
    return media.open_media(path, stride, fps)


def read_sample(path: str | Path, count: int, topic: str | None = None) -> tuple[Frame, ...]:
    """Read frames spread evenly over a recording, numbered 0, 1, 2, ...

    Args:
        path, topic: see ``open_source``.
        count: most frames to return.

    Raises:
        ConfigError: ``count`` is less than 1.
        BagError: as ``open_source``, or not one image could be read.
    """
    if count < 1:
        raise ConfigError(f"number of frames is {count}, expected at least 1")
    total = open_source(path, topic).num_frames
    kept: list[Frame] = []
    step = 1  # doubled as needed where nobody knows how many frames there are
    for number, frame in enumerate(open_source(path, topic, max(1, -(-(total or 1) // count)))):
        if number % step == 0:
            kept.append(frame)
        if len(kept) > count:
            kept, step = kept[::2], 2 * step
    return tuple(replace(frame, frame_index=index) for index, frame in enumerate(kept))

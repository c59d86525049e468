"""Videos and images as frame sources, and the overlay video; all through OpenCV, whose FFmpeg is LGPL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from x2sam_ros.bag.output import PendingFile
from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.bag.storage import natural_key
from x2sam_ros.errors import BagError, ConfigError, FrameError
from x2sam_ros.image_codec import decode_compressed
from x2sam_ros.types import MAX_IMAGE_PIXELS, Frame, FrameResult, Uint8Array
from x2sam_ros.visualise import draw_overlay

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mjpeg")

NOMINAL_FPS = 10.0
"""Rate at which the images of a folder are taken to have been recorded, since nothing in them says it."""

_VIDEO_SIDES = (2, 8190)
"""Shortest and longest side of an overlay video that MPEG-4 takes, pixels; other frames are scaled."""

_RATE_FRAMES = 8
"""Frames held back to find out the rate of the overlay video."""

# FFmpeg prints what it thinks of a file; the one-line error says the same. Read by OpenCV at its first capture.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def open_media(path: Path, stride: int, fps: float | None) -> FrameSource:
    """Open a video, a folder of images or one image.

    Raises:
        BagError: neither of these.
        ConfigError: a rate for a video, which has its own, or a rate that is not positive.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix in VIDEO_SUFFIXES:
        if fps is not None:
            raise ConfigError(f"{path} has time stamps of its own; leave the frame rate away")
        return VideoSource(path, stride)
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        if not files:
            raise BagError(f"folder {path} holds neither a bag (metadata.yaml, .mcap, .db3) nor images")
        return ImageSource(str(path), files, stride, NOMINAL_FPS if fps is None else fps)
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(str(path), [path], stride, NOMINAL_FPS if fps is None else fps)
    known = ", ".join((".mcap", ".db3", *VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
    raise BagError(f"{path} is not a kind of file that can be read; expected a folder or one of {known}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from printing what is raised anyway."""
    log_level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(log_level)


def read_image(path: Path) -> Uint8Array:
    """Read an image file: 8 or 16 bits, grey, colour, CMYK or with a palette.

    16 bits are scaled by 1 / 257 and rounded. The picture is turned as its EXIF orientation says. Alpha is ignored, as
    the published code does; the exception is a TIFF whose alpha is marked as unassociated, which libtiff lays over
    black.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        FrameError: the file cannot be read or is empty, damaged, too large or no such image; the message names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if not data:
        raise FrameError(f"{path} is an empty file; copy it again")
    try:
        with _quiet():
            image = decode_compressed(path.suffix.lstrip("."), data)
    except FrameError as error:
        raise FrameError(f"{path}: {error}") from error
    height, width = image.shape[:2]
    if height * width > MAX_IMAGE_PIXELS:
        raise FrameError(f"{path} has {width}x{height} pixels, more than {MAX_IMAGE_PIXELS}; scale it down")
    return image


class VideoSource(FrameSource):
    """Frames of a video file; stamps are the file's presentation times, from 0.

    Raises:
        BagError: not a video that FFmpeg opens.
    """

    def __init__(self, path: Path, stride: int) -> None:
        super().__init__(str(path), str(path), stride)
        capture = self._open()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        self._num_images = count if count > 0 else None

    @property
    def num_images(self) -> int | None:
        """Number of images before striding; for a video what its header says."""
        return self._num_images

    def _open(self) -> cv2.VideoCapture:
        with _quiet():
            capture = cv2.VideoCapture(self.name, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise BagError(f"{self.name} cannot be opened as a video: it is empty, damaged or of an unknown codec")
        return capture

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        capture = self._open()
        number = 0
        try:
            while capture.grab():
                number += 1
                stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                yield partial(self._retrieve, capture, stamp_ns)
        finally:
            capture.release()
        if self._num_images is not None and number < self._num_images:
            self.problems.add(f"{self.name} ends after {number} of {self._num_images} images")

    def _retrieve(self, capture: cv2.VideoCapture, stamp_ns: int) -> RawFrame:
        ok, image = capture.retrieve()
        if not ok:
            raise FrameError(f"{self.name}: the image at {stamp_ns / 1e9:.3f} s cannot be decoded")
        return RawFrame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), stamp_ns)


class ImageSource(FrameSource):
    """Image files in the order given; the stamp of file i is i / fps.

    Raises:
        ConfigError: ``fps`` is not positive.
    """

    def __init__(self, name: str, files: list[Path], stride: int, fps: float) -> None:
        super().__init__(name, name, stride)
        if not 0.001 <= fps <= 10_000:
            raise ConfigError(f"frame rate is {fps}, expected 0.001 to 10000 frames per second")
        self._files, self._fps = files, fps

    @property
    def num_images(self) -> int:
        """Number of files before striding."""
        return len(self._files)

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for number, file in enumerate(self._files):
            yield partial(self._read, file, round(number * 1e9 / self._fps))

    @staticmethod
    def _read(file: Path, stamp_ns: int) -> RawFrame:
        return RawFrame(read_image(file), stamp_ns, source=str(file))


class OverlayVideo(AbstractContextManager["OverlayVideo"]):
    """Write frames with their masks drawn on them as an MP4 (MPEG-4 part 2: no GPL encoder is needed).

    The rate is that of the first stamps. Frames of another size than the first, or of one that no video can have, are
    scaled. The file appears when the video is closed; left by an exception other than a keyboard interrupt, nothing
    remains.

    Raises:
        ConfigError: the name does not end in .mp4.
        BagError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = PendingFile(path, ".mp4")
        self._waiting: list[tuple[int, Uint8Array]] = []
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Frame, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        """Draw the result on the frame and add it."""
        self._waiting.append((frame.stamp_ns, draw_overlay(frame.image, result)))
        if self._writer is not None or len(self._waiting) == _RATE_FRAMES:
            self._flush()

    def close(self) -> None:
        """Write what is held back and finish the file."""
        self._flush()
        if self._writer is not None:
            self._writer.release()
            self._file.commit()
        else:
            self._file.discard()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close()
            return
        if self._writer is not None:
            self._writer.release()
        self._file.discard()

    def _flush(self) -> None:
        if self._waiting and self._writer is None:
            self._writer = self._start()
        for _, image in self._waiting:
            if self._writer is not None:
                # Scaling to its own size leaves an image as it is.
                self._writer.write(cv2.cvtColor(cv2.resize(image, self._size), cv2.COLOR_RGB2BGR))
        self._waiting.clear()

    def _start(self) -> cv2.VideoWriter:
        intervals = np.diff([stamp for stamp, _ in self._waiting])
        typical_ns = float(np.median(intervals)) if len(intervals) else 0.0
        fps = min(max(1e9 / typical_ns, 1.0), 240.0) if typical_ns > 0 else NOMINAL_FPS
        first = self._waiting[0][1]
        least, most = _VIDEO_SIDES
        scale = min(1.0, most / max(first.shape))
        self._size = (max(least, int(first.shape[1] * scale)), max(least, int(first.shape[0] * scale)))
        writer = cv2.VideoWriter(str(self._file.part), cv2.VideoWriter.fourcc(*"mp4v"), fps, self._size)
        if not writer.isOpened():
            raise BagError(f"{self._file.path} cannot be written as a video of {self._size[0]}x{self._size[1]}")
        return writer

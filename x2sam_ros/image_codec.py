"""Decode the bytes of sensor_msgs Image and CompressedImage: colour to RGB, depth to metres. Needs no ROS.

bag/ reads recordings with it; ros/image_bridge.py is built on it, and takes cv_bridge instead where that works.
rosbags-image is not used: it ignores ``step``, so padded rows come out sheared.
"""

from __future__ import annotations

import re
import struct
from array import array
from typing import Any, NamedTuple, Union

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from x2sam_ros.errors import FrameError
from x2sam_ros.types import MAX_IMAGE_PIXELS, Uint8Array

ImageBytes = Union[bytes, bytearray, memoryview, "array[int]", Uint8Array]
"""What message classes hold their data in: bytes, array.array (rclpy) or uint8 arrays (rosbags)."""


class Layout(NamedTuple):
    """How one encoding lies in memory, and what OpenCV calls its colours ('': it has none)."""

    channels: int
    sample: str = "u1"
    colours: str = ""


LAYOUTS: dict[str, Layout] = {
    **{f"{name}8": Layout(len(name), "u1", name.upper()) for name in ("rgb", "bgr", "rgba", "bgra")},
    **{f"{name}16": Layout(len(name), "u2", name.upper()) for name in ("rgb", "bgr", "rgba", "bgra")},
    "mono8": Layout(1, "u1", "GRAY"),
    "mono16": Layout(1, "u2", "GRAY"),
    "yuv422": Layout(2, "u1", "YUV_UYVY"),
    "uyvy": Layout(2, "u1", "YUV_UYVY"),
    "yuv422_yuy2": Layout(2, "u1", "YUV_YUYV"),
    "yuyv": Layout(2, "u1", "YUV_YUYV"),
    "nv12": Layout(1, "u1", "YUV_NV12"),
    "nv21": Layout(1, "u1", "YUV_NV21"),
    **{f"bayer_{name}8": Layout(1, "u1", f"Bayer{name.upper()}") for name in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{name}16": Layout(1, "u2", f"Bayer{name.upper()}") for name in ("rggb", "bggr", "gbrg", "grbg")},
}
"""Encodings that say what their colours are."""

_TAKEN_FOR = {"8UC1": "GRAY", "8UC3": "BGR", "8UC4": "BGRA", "16UC1": "GRAY"}
"""OpenCV's own types that drivers send pictures as, and the colours they then have."""

_OPENCV_TYPE = re.compile("(8U|8S|16U|16S|32S|32F|64F)C?([1-9][0-9]?)?")
_SAMPLES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}

ENCODINGS = (*LAYOUTS, *_TAKEN_FOR)
"""Encodings of sensor_msgs/Image that ``decode_image`` understands."""

DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
"""Encodings of sensor_msgs/Image that ``decode_depth`` understands."""


def layout_of(encoding: str) -> Layout:
    """Return how an encoding of sensor_msgs lies in memory, also one of OpenCV's types: "32FC1", "8UC3".

    Raises:
        FrameError: it is unknown.
    """
    if encoding in LAYOUTS:
        return LAYOUTS[encoding]
    match = _OPENCV_TYPE.fullmatch(encoding)
    if match is None:
        known = ", ".join((*ENCODINGS, "32FC1"))
        raise FrameError(f"image encoding {encoding!r} is not supported; expected one of {known}")
    return Layout(int(match[2] or 1), _SAMPLES[match[1]])


def colour_code(source: str, target: str) -> int | None:
    """Return OpenCV's number for a conversion of colours, for example "BayerRGGB" to "RGB"; None where it has none."""
    name, _, order = source.partition("_")
    code: int | None = getattr(cv2, f"COLOR_{name}2{target}{'_' if order else ''}{order}", None)
    return code


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: ImageBytes) -> Uint8Array:
    """Decode a sensor_msgs/Image to RGB.

    16-bit encodings are scaled by a fixed 255 / 65535, also depth (16UC1), so that a value looks the same in
    every frame. Images without colour are repeated in three channels. 32FC1 is refused, as cv_bridge refuses it: no
    scale makes a picture of metres.

    Args:
        encoding: one of ``ENCODINGS``.
        height: pixels.
        width: pixels.
        step: bytes per row, padding included.
        is_bigendian: byte order of 16-bit samples; not read for 8-bit ones.
        data: the message's bytes (bytes, array.array or uint8 array), row after row.

    Returns:
        uint8 (H, W, 3), RGB, contiguous, never a view of ``data``.

    Raises:
        FrameError: unknown encoding, no pixels, ``step`` smaller than a row, fewer bytes than promised.
    """
    if encoding not in ENCODINGS:
        hint = "; it is depth, not a picture: give its topic as depth" if encoding in DEPTH_ENCODINGS else ""
        raise FrameError(f"image encoding {encoding!r} is not supported{hint}; expected one of {', '.join(ENCODINGS)}")
    pixels = read_samples(encoding, height, width, step, is_bigendian, data)
    if pixels.dtype == np.uint16:
        pixels = _narrowed(pixels)
    colours = _TAKEN_FOR.get(encoding) or LAYOUTS[encoding].colours
    if colours == "RGB":
        return np.array(pixels, np.uint8, copy=True, order="C")
    code = colour_code(colours, "RGB")
    assert code is not None  # of every one in the table, tested
    return np.ascontiguousarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def read_samples(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: ImageBytes
) -> npt.NDArray[Any]:
    """Read the samples of a sensor_msgs/Image as they are.

    Args:
        encoding: one that ``layout_of`` knows.
        height, width, step, is_bigendian, data: as for ``decode_image``.

    Returns:
        (H, W) of one channel, else (H, W, channels), in this machine's byte order; (H * 3 / 2, W) for nv12 and nv21. It
        may be a view of ``data``.

    Raises:
        FrameError: as ``checked_rows``.
    """
    rows = checked_rows(encoding, height, width, step, data)
    layout = layout_of(encoding)
    sample = np.dtype(layout.sample)
    samples = np.ascontiguousarray(rows).view(sample.newbyteorder(">" if is_bigendian else "<"))
    shape = (len(rows), width) if layout.channels == 1 else (len(rows), width, layout.channels)
    return samples.astype(sample, copy=False).reshape(shape)


def checked_rows(encoding: str, height: int, width: int, step: int, data: ImageBytes) -> Uint8Array:
    """Check that a sensor_msgs/Image is whole, and copy nothing.

    Args:
        encoding: one that ``layout_of`` knows.
        height, width, step, data: as for ``decode_image``; the last row may come without its padding.

    Returns:
        Its rows without their padding, uint8 (rows, bytes), a view of ``data``; nv12 and nv21 have H * 3 / 2.

    Raises:
        FrameError: unknown encoding, no pixels, a size that the encoding cannot have, ``step`` smaller than a row,
            fewer bytes than promised.
    """
    layout = layout_of(encoding)
    if height <= 0 or width <= 0:
        raise FrameError(f"image has no pixels: {width}x{height}; check the camera driver")
    if height * width > MAX_IMAGE_PIXELS:
        raise FrameError(f"image of {width}x{height} exceeds {MAX_IMAGE_PIXELS} pixels; its header looks corrupt")
    planar = encoding in ("nv12", "nv21")
    if planar and (height % 2 or width % 2):
        raise FrameError(f"{encoding} image needs an even size, got {width}x{height}")
    if layout.colours.startswith("YUV") and width % 2:
        raise FrameError(f"{encoding} image needs an even width, got {width}")
    num_rows = height * 3 // 2 if planar else height
    row_bytes = width * layout.channels * np.dtype(layout.sample).itemsize
    if step < row_bytes:
        raise FrameError(f"image step is {step} bytes, a {encoding} row needs {row_bytes}; check the camera driver")
    flat = np.frombuffer(data, np.uint8)
    if flat.size < (num_rows - 1) * step + row_bytes:
        raise FrameError(f"image data has {flat.size} bytes, {num_rows} rows of {step} need {num_rows * step}")
    return np.lib.stride_tricks.as_strided(flat, (num_rows, row_bytes), (step, 1), writeable=False)


def decode_depth(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: ImageBytes
) -> npt.NDArray[np.float32]:
    """Decode a sensor_msgs/Image of depth.

    Args:
        encoding: "16UC1" or "mono16" in millimetres, "32FC1" in metres (REP 118).
        height, width, step, is_bigendian, data: as for ``decode_image``.

    Returns:
        float32 (H, W), metres, never a view of ``data``; NaN where the camera saw none (0, NaN, infinite, negative).

    Raises:
        FrameError: as for ``decode_image``.
    """
    if encoding not in DEPTH_ENCODINGS:
        raise FrameError(f"depth encoding {encoding!r} is not supported; expected one of {', '.join(DEPTH_ENCODINGS)}")
    samples = read_samples(encoding, height, width, step, is_bigendian, data)
    return _depth(samples if encoding == "32FC1" else np.divide(samples, 1000.0, dtype=np.float32))


def decode_compressed_depth(format_name: str, data: ImageBytes) -> npt.NDArray[np.float32]:
    """Decode a sensor_msgs/CompressedImage of the transport compressedDepth, PNG or RVL.

    Args:
        format_name: the message's ``format``: "16UC1; compressedDepth png", "32FC1; compressedDepth rvl".
        data: a header of 12 bytes (a number and the two of the quantisation), then the picture.

    Returns:
        As ``decode_depth``.

    Raises:
        FrameError: another format, or data that is truncated or corrupt.

    Source: compressed_depth_image_transport of image_transport_plugins (how 32FC1 is kept as inverse depth).
    """
    encoding, _, transport = (part.strip() for part in format_name.partition(";"))
    if encoding not in DEPTH_ENCODINGS or "compressedDepth" not in transport:
        raise FrameError(f"format {format_name!r} is not supported as depth; expected '16UC1; compressedDepth png'")
    packed = np.frombuffer(data, np.uint8)
    if packed.size <= 12:
        raise FrameError(f"compressed depth has {packed.size} bytes; check the camera driver")
    _, scale, offset = struct.unpack("<iff", packed[:12].tobytes())
    if transport.endswith("rvl"):
        samples = _read_rvl(packed[12:])
    else:
        samples = np.asarray(unpack_picture(format_name, packed[12:], cv2.IMREAD_UNCHANGED))
    if samples.dtype != np.uint16 or samples.ndim != 2:
        raise FrameError(f"compressed depth holds {samples.dtype} {samples.shape}, expected uint16 of one channel")
    if encoding != "32FC1":
        return _depth(np.divide(samples, 1000.0, dtype=np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(scale) / (samples.astype(np.float32) - np.float32(offset))
    return _depth(np.where(samples > 0, metres, np.float32(np.nan)))


def decode_compressed(format_name: str, data: ImageBytes) -> Uint8Array:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, or what else OpenCV opens) to RGB.

    Images with 16 bits are scaled as in ``decode_image``. An alpha channel is ignored. The picture is turned as its
    EXIF orientation says.

    Args:
        format_name: the message's ``format``: "jpeg", "png", "bgr8; jpeg compressed bgr8".
        data: the compressed bytes.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        FrameError: the data is empty, truncated or not an image, its samples are neither 8 nor 16 bits, or the format
            is a depth or video codec.
    """
    if "compressedDepth" in format_name:
        raise FrameError(f"compressed image format {format_name!r} is depth; choose the topic of the colour image")
    image = unpack_picture(format_name, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = _narrowed(image)
    if image.dtype != np.uint8:
        raise FrameError(f"compressed image ({format_name}) has {image.dtype} samples; save it with 8 or 16 bits")
    return np.ascontiguousarray(cv2.cvtColor(np.asarray(image, np.uint8), cv2.COLOR_BGR2RGB), dtype=np.uint8)


def unpack_picture(format_name: str, data: ImageBytes, flags: int) -> MatLike:
    """Decompress JPEG, PNG, or what else OpenCV opens.

    Args:
        format_name: for error messages.
        data: the compressed bytes.
        flags: of ``cv2.imdecode``.

    Raises:
        FrameError: the data is empty, truncated or not an image, or a JPEG or PNG is said to be enormous.
    """
    packed = np.frombuffer(data, np.uint8)
    if packed.size == 0:
        raise FrameError(f"compressed image ({format_name or 'no format'}) has no data; check the camera driver")
    raw = packed.tobytes()
    width, height = _announced_size(raw)
    if width * height > MAX_IMAGE_PIXELS:  # a few kilobytes may unpack to gigabytes
        raise FrameError(f"compressed image ({format_name}) is {width}x{height}, more than {MAX_IMAGE_PIXELS} pixels")
    # libjpeg fills what is missing with grey and only prints a warning. No entropy-coded data contains these two
    # markers, so a whole JPEG always ends its last scan; a truncated one does not.
    if raw[:2] == b"\xff\xd8" and raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        raise FrameError(f"compressed image ({format_name}) is truncated: {len(raw)} bytes without the end of the JPEG")
    try:
        image = cv2.imdecode(packed, flags)
    except cv2.error as error:
        raise FrameError(f"compressed image ({format_name}, {len(raw)} bytes) is corrupt: {error.err}") from error
    if image is None:
        raise FrameError(f"compressed image ({format_name}, {len(raw)} bytes) is corrupt or not JPEG or PNG")
    return image


def _announced_size(raw: bytes) -> tuple[int, int]:
    """Read width and height from the header of a PNG or a JPEG; zeros where there are none."""
    if raw.startswith(b"\x89PNG") and len(raw) >= 24:
        width, height = struct.unpack_from(">II", raw, 16)
        return width, height
    place = 2 if raw.startswith(b"\xff\xd8") else len(raw)
    while place + 9 <= len(raw) and raw[place] == 0xFF:
        marker, length = struct.unpack_from(">xBH", raw, place)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame: the others are tables
            height, width = struct.unpack_from(">HH", raw, place + 5)
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return 0, 0


def _narrowed(samples: MatLike) -> Uint8Array:
    """Scale 16-bit samples by 255 / 65535, rounding."""
    return np.asarray(cv2.convertScaleAbs(samples, alpha=255.0 / 65535.0), np.uint8)


def _depth(metres: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Copy depth, what is none as NaN."""
    known = (metres > 0) & (metres < np.inf)
    return np.where(known, metres, np.float32(np.nan)).astype(np.float32, copy=False)


def _read_rvl(packed: Uint8Array) -> npt.NDArray[np.uint16]:
    """Decompress run-length and variable-length coded depth; its width and height come first.

    Source: Wilson, Fast lossless depth image compression, ISS 2017.
    """
    width, height = np.frombuffer(packed[:8].tobytes().ljust(8, b"\0"), "<u4").tolist()
    if not 0 < width * height <= MAX_IMAGE_PIXELS:
        raise FrameError(f"compressed depth is {width}x{height}; its header looks corrupt")
    # Numbers are nibbles of three bits, the lowest first, the fourth bit set on all but the last of a number.
    words = np.frombuffer(packed[8 : len(packed) - len(packed) % 4].tobytes(), "<u4").astype(">u4").view(np.uint8)
    nibbles = np.stack([words >> 4, words & 15], axis=1).reshape(-1).astype(np.int64)
    ends = np.flatnonzero(nibbles < 8) + 1
    starts = np.append(0, ends)[:-1]
    lengths = ends - starts
    if not len(ends) or lengths.max() > 10:
        raise FrameError("compressed depth is corrupt: a number has no end")
    nibbles = nibbles[: ends[-1]]
    shifts = 3 * (np.arange(len(nibbles)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((nibbles & 7) << shifts, starts)
    places, steps, place, index = [], [], 0, 0
    while place < width * height and index + 1 < len(numbers):
        zeros, run = numbers[index : index + 2].tolist()
        place, index = place + zeros, index + 2
        places.append(np.arange(place, place + run) if run <= width * height else np.zeros(0, int))
        steps.append(numbers[index : index + run])
        place, index = place + run, index + run
    if place != width * height or index > len(numbers):
        raise FrameError(f"compressed depth is truncated or corrupt: {place} of {width * height} pixels")
    zigzag = np.concatenate(steps)
    depth = np.zeros(width * height, np.int64)
    depth[np.concatenate(places)] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1))
    return depth.astype(np.uint16).reshape(height, width)

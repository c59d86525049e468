"""Decode the bytes of sensor_msgs Image and CompressedImage to RGB; shared by bag/ and ros/, neither is needed here.

cv_bridge is not used: its distro builds break with NumPy 2. rosbags-image is not either: it ignores ``step``,
so padded rows come out sheared.
"""

from __future__ import annotations

import sys
from array import array
from typing import NamedTuple, Union

import cv2
import numpy as np
from cv2.typing import MatLike

from x2sam_ros.errors import FrameError
from x2sam_ros.types import MAX_IMAGE_PIXELS, Uint8Array

ImageBytes = Union[bytes, bytearray, memoryview, "array[int]", Uint8Array]
"""What message classes hold their data in: bytes, array.array (rclpy) or uint8 arrays (rosbags)."""


class _Layout(NamedTuple):
    """How one encoding lies in memory, and the OpenCV conversion that makes RGB of it (None: it is RGB)."""

    channels: int
    sample_bytes: int = 1
    to_rgb: int | None = None


_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
"""Encodings of a luma plane followed by half as many rows of interleaved chroma."""

_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}

_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3),
    "bgr8": _Layout(3, to_rgb=cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, to_rgb=cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, to_rgb=cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, to_rgb=cv2.COLOR_GRAY2RGB),
    "rgb16": _Layout(3, 2),
    "bgr16": _Layout(3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": _Layout(4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout(4, 2, cv2.COLOR_BGRA2RGB),
    "mono16": _Layout(1, 2, cv2.COLOR_GRAY2RGB),
    "8UC1": _Layout(1, to_rgb=cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout(3, to_rgb=cv2.COLOR_BGR2RGB),
    "8UC4": _Layout(4, to_rgb=cv2.COLOR_BGRA2RGB),
    "16UC1": _Layout(1, 2, cv2.COLOR_GRAY2RGB),
    "yuv422": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUYV),
    **{f"bayer_{pattern}8": _Layout(1, to_rgb=code) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _Layout(1, 2, code) for pattern, code in _BAYER.items()},
}

ENCODINGS = (*_LAYOUTS, *_YUV420)
"""Encodings of sensor_msgs/Image that ``decode_image`` understands."""


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: ImageBytes) -> Uint8Array:
    """Decode a sensor_msgs/Image to RGB.

    16-bit encodings are scaled by a fixed 255 / 65535, also depth (16UC1), so that a value looks the same in
    every frame. Images without colour are repeated in three channels.

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
        raise FrameError(f"image encoding {encoding!r} is not supported; expected one of {', '.join(ENCODINGS)}")
    if height <= 0 or width <= 0:
        raise FrameError(f"image has no pixels: {width}x{height}; check the camera driver")
    if height * width > MAX_IMAGE_PIXELS:
        raise FrameError(f"image of {width}x{height} exceeds {MAX_IMAGE_PIXELS} pixels; its header looks corrupt")
    if encoding in _YUV420:
        return _decode_yuv420(encoding, height, width, step, data)
    layout = _LAYOUTS[encoding]
    rows = _rows(encoding, height, width * layout.channels * layout.sample_bytes, step, data)
    if layout.channels == 2 and width % 2:
        raise FrameError(f"{encoding} image needs an even width, got {width}")
    pixels = np.ascontiguousarray(rows)
    if layout.sample_bytes == 2:
        wide = pixels.view(np.uint16)
        if bool(is_bigendian) != (sys.byteorder == "big"):
            wide = wide.byteswap()
        pixels = _narrowed(wide)
    if layout.channels > 1:
        pixels = pixels.reshape(height, width, layout.channels)
    if layout.to_rgb is None:
        return np.array(pixels, copy=True)
    return _convert(pixels, layout.to_rgb)


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
    packed = np.frombuffer(data, np.uint8)
    if packed.size == 0:
        raise FrameError(f"compressed image ({format_name or 'no format'}) has no data; check the camera driver")
    raw = packed.tobytes()
    # libjpeg fills what is missing with grey and only prints a warning. No entropy-coded data contains these two
    # markers, so a whole JPEG always ends its last scan; a truncated one does not.
    if raw[:2] == b"\xff\xd8" and raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        raise FrameError(f"compressed image ({format_name}) is truncated: {len(raw)} bytes without the end of the JPEG")
    try:
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise FrameError(f"compressed image ({format_name}, {len(raw)} bytes) is corrupt: {error.err}") from error
    if image is None:
        raise FrameError(f"compressed image ({format_name}, {len(raw)} bytes) is corrupt or not JPEG or PNG")
    if image.dtype == np.uint16:
        image = _narrowed(image)
    if image.dtype != np.uint8:
        raise FrameError(f"compressed image ({format_name}) has {image.dtype} samples; save it with 8 or 16 bits")
    return _convert(np.asarray(image, np.uint8), cv2.COLOR_BGR2RGB)


def _narrowed(samples: MatLike) -> Uint8Array:
    """Scale 16-bit samples by 255 / 65535, rounding."""
    return np.asarray(cv2.convertScaleAbs(samples, alpha=255.0 / 65535.0), np.uint8)


def _rows(encoding: str, num_rows: int, row_bytes: int, step: int, data: ImageBytes) -> Uint8Array:
    """View ``data`` as uint8 (num_rows, row_bytes), the padding of each row cut off."""
    if step < row_bytes:
        raise FrameError(f"image step is {step} bytes, a {encoding} row needs {row_bytes}; check the camera driver")
    flat = np.frombuffer(data, np.uint8)
    # The last row may come without its padding.
    needed = (num_rows - 1) * step + row_bytes
    if flat.size < needed:
        raise FrameError(f"image data has {flat.size} bytes, {num_rows} rows of {step} need {num_rows * step}")
    return np.lib.stride_tricks.as_strided(flat, (num_rows, row_bytes), (step, 1), writeable=False)


def _decode_yuv420(encoding: str, height: int, width: int, step: int, data: ImageBytes) -> Uint8Array:
    """Decode a luma plane with half-size interleaved chroma to RGB."""
    if height % 2 or width % 2:
        raise FrameError(f"{encoding} image needs an even size, got {width}x{height}")
    rows = _rows(encoding, height * 3 // 2, width, step, data)
    return _convert(np.ascontiguousarray(rows), _YUV420[encoding])


def _convert(pixels: Uint8Array, code: int) -> Uint8Array:
    """Run one of OpenCV's colour conversions."""
    return np.ascontiguousarray(cv2.cvtColor(pixels, code), dtype=np.uint8)

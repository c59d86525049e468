"""Images by way of cv_bridge where it is installed and works, and by an equivalent of its API everywhere else.

Messages are checked before either gets them, so that a damaged one is one clear FrameError and not a crash.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from x2sam_ros.errors import FrameError
from x2sam_ros.image_codec import (
    LAYOUTS,
    Layout,
    checked_rows,
    colour_code,
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
    layout_of,
    read_samples,
    unpack_picture,
)
from x2sam_ros.ros.cdr import RawImage, read_image
from x2sam_ros.types import Uint8Array

Picture: TypeAlias = "Image | CompressedImage | RawImage"

PASSTHROUGH = "passthrough"

_PROBE_TIMEOUT_S = 20.0
_PROBE = "from x2sam_ros.ros.image_bridge import load_cv_bridge; load_cv_bridge()"


class Bridge(Protocol):
    """What is used of ``cv_bridge.CvBridge``."""

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = PASSTHROUGH) -> npt.NDArray[Any]:
        """Convert an Image."""

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: Any, desired_encoding: str = PASSTHROUGH) -> npt.NDArray[Any]:
        """Convert a CompressedImage."""

    def cv2_to_imgmsg(self, cvim: npt.NDArray[Any], encoding: str = PASSTHROUGH, header: Any = None) -> Any:
        """Make an Image."""


class CvBridge:
    """The equivalent: the methods, encodings and rules of ``cv_bridge.CvBridge``; its errors are FrameErrors.

    Beyond it, padding of any number of bytes, both byte orders with any NumPy, and nv12 and nv21.
    """

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = PASSTHROUGH) -> npt.NDArray[Any]:
        """Convert an Image to an array.

        Args:
            img_msg: sensor_msgs/Image.
            desired_encoding: one of sensor_msgs; "passthrough" leaves the image as it is. Between 8 and 16 bits values
                are scaled. What has no colour ("16UC1") becomes no colour ("rgb8"), only another number type.

        Returns:
            (H, W), or (H, W, channels) of several; its own memory.

        Raises:
            FrameError: a damaged message, an unknown encoding, or a conversion that makes no sense.
        """
        size = (img_msg.height, img_msg.width, img_msg.step)
        samples = read_samples(img_msg.encoding, *size, bool(img_msg.is_bigendian), img_msg.data)
        image = _convert(samples, img_msg.encoding, desired_encoding)
        return np.array(image) if image is samples else image

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: Any, desired_encoding: str = PASSTHROUGH) -> npt.NDArray[Any]:
        """Convert a CompressedImage to an array.

        Args:
            cmprs_img_msg: sensor_msgs/CompressedImage, JPEG or PNG.
            desired_encoding: "passthrough" is what OpenCV decodes: BGR, BGRA or grey.

        Raises:
            FrameError: as ``imgmsg_to_cv2``.
        """
        image = np.asarray(unpack_picture(cmprs_img_msg.format, cmprs_img_msg.data, cv2.IMREAD_UNCHANGED))
        name = {1: "mono", 3: "bgr", 4: "bgra"}[1 if image.ndim == 2 else image.shape[2]]
        return _convert(image, f"{name}{8 * image.dtype.itemsize}", desired_encoding)

    def cv2_to_imgmsg(self, cvim: npt.NDArray[Any], encoding: str = PASSTHROUGH, header: Header | None = None) -> Image:
        """Make an Image of an array.

        Args:
            cvim: (H, W) or (H, W, channels).
            encoding: what it is; "passthrough" names OpenCV's type, "8UC3".
            header: of the message.

        Raises:
            TypeError: it is no array.
            FrameError: it is no image, or not of that encoding.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError(f"image is a {type(cvim).__name__}, expected a NumPy array")
        if cvim.ndim not in (2, 3) or cvim.dtype.name not in _TYPES:
            raise FrameError(f"image is {cvim.dtype} {cvim.shape}, expected (H, W) or (H, W, channels) of {_TYPES}")
        channels = cvim.shape[2] if cvim.ndim == 3 else 1
        given = f"{_TYPES[cvim.dtype.name]}C{channels}"
        wanted = given if encoding == PASSTHROUGH else encoding
        layout = layout_of(wanted)
        if (layout.channels, np.dtype(layout.sample).name) != (channels, cvim.dtype.name):
            raise FrameError(f"encoding is {encoding}, but the image is {given}")
        native = np.ascontiguousarray(cvim, cvim.dtype.newbyteorder("="))
        message = Image(height=cvim.shape[0], width=cvim.shape[1], encoding=wanted, is_bigendian=_BIG_ENDIAN)
        message.step = cvim.shape[1] * channels * cvim.dtype.itemsize
        message.data.frombytes(native.tobytes())
        if header is not None:
            message.header = header
        return message


_TYPES = {
    **{"uint8": "8U", "int8": "8S", "uint16": "16U", "int16": "16S"},
    **{"int32": "32S", "float32": "32F", "float64": "64F"},
}
_BIG_ENDIAN = sys.byteorder == "big"


def load_cv_bridge() -> Bridge:
    """Load cv_bridge and try it.

    Raises:
        Exception: anything; it is not installed, or was built for another NumPy, or converts wrongly.
    """
    import cv_bridge

    bridge: Bridge = cv_bridge.CvBridge()
    pixels = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    message = CvBridge().cv2_to_imgmsg(pixels, "bgr8")
    wide = CvBridge().cv2_to_imgmsg(pixels[..., 0].astype(np.uint16) * 257, "mono16")
    padded = Image(height=1, width=1, encoding="rgb8", step=6, data=message.data)
    for found, expected in (
        (bridge.imgmsg_to_cv2(message, "rgb8"), pixels[..., ::-1]),
        (bridge.imgmsg_to_cv2(padded, "rgb8"), pixels[:, :1]),
        (bridge.imgmsg_to_cv2(wide, "rgb8"), np.repeat(pixels[..., :1], 3, axis=2)),
    ):
        if not np.array_equal(found, expected):
            raise FrameError(f"cv_bridge made {np.asarray(found).tolist()} of {expected.tolist()}")
    return bridge


def open_bridge() -> Bridge:
    """Return cv_bridge's own CvBridge where it is installed and works in this process, else the equivalent.

    It is tried in a process of its own first, once, since a build for another NumPy may end the process.
    """
    try:
        if importlib.util.find_spec("cv_bridge") is None:
            return CvBridge()
        subprocess.run([sys.executable, "-c", _PROBE], check=True, capture_output=True, timeout=_PROBE_TIMEOUT_S)
        return load_cv_bridge()
    except Exception:
        return CvBridge()


def read_picture(data: bytes, kind: type) -> Picture:
    """Read a serialised message of class Image or CompressedImage.

    Raises:
        FrameError: it is truncated.
        Exception: what rclpy makes of a damaged CompressedImage.
    """
    picture: Picture = read_image(data) if kind is Image else deserialize_message(data, kind)
    return picture


def to_rgb(message: Picture, bridge: Bridge) -> Uint8Array:
    """Decode a camera message through a bridge.

    image_codec decodes for the equivalent; and always compressed images, encodings that do not name their colours, and
    what a release of cv_bridge refuses or gets wrong.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        FrameError: as ``decode_image`` and ``decode_compressed``.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.format, message.data)
    size = (message.height, message.width, message.step)
    if not isinstance(bridge, CvBridge) and _is_plain(message):
        checked_rows(message.encoding, *size, message.data)
        try:
            return np.require(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8, ("C", "W"))
        except Exception:  # an encoding that this release does not have
            pass
    return decode_image(message.encoding, *size, bool(message.is_bigendian), message.data)


def to_depth(message: Picture) -> npt.NDArray[np.float32]:
    """Decode a depth message, also one of the transport compressedDepth.

    Returns:
        float32 (H, W), metres; NaN where there is none.

    Raises:
        FrameError: as ``decode_depth`` and ``decode_compressed_depth``.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed_depth(message.format, message.data)
    size = (message.height, message.width, message.step)
    return decode_depth(message.encoding, *size, bool(message.is_bigendian), message.data)


def _is_plain(message: Image | RawImage) -> bool:
    """Tell whether cv_bridge is right about it: not with nv12, a foreign byte order, or padding by part of a pixel."""
    layout = LAYOUTS.get(message.encoding)
    if layout is None or layout.colours.startswith("YUV_NV") or bool(message.is_bigendian) != _BIG_ENDIAN:
        return False
    whole_pixels = message.step % (layout.channels * np.dtype(layout.sample).itemsize) == 0
    return whole_pixels and len(message.data) >= message.step * message.height


def _convert(samples: npt.NDArray[Any], source: str, target: str) -> npt.NDArray[Any]:
    """Convert between encodings by cv_bridge's rules; a view where there is nothing to do."""
    if target in (PASSTHROUGH, source):
        return samples
    have, want = layout_of(source), layout_of(target)
    code = None
    if have.colours and want.colours:
        if have.colours != want.colours:
            code = colour_code(have.colours, want.colours)
            if code is None:
                raise FrameError(f"image is {source}, which cannot become {target}")
        samples = samples if code is None else np.asarray(cv2.cvtColor(samples, code))
    elif want.colours or have.channels != want.channels:
        raise FrameError(f"image is {source}, which has no colours; it cannot become {target}")
    return _scaled(samples, want)


def _scaled(samples: npt.NDArray[Any], want: Layout) -> npt.NDArray[Any]:
    """Change the number type; between 8 and 16 bits all of the range stays all of it, else numbers are only clipped."""
    target = np.dtype(want.sample)
    if samples.dtype == target:
        return samples
    bits = (samples.dtype.itemsize, target.itemsize)
    factor = {(1, 2): 257.0, (2, 1): 1 / 257.0}.get(bits, 1.0)
    if target.kind == "f":
        return samples.astype(target)
    limits = np.iinfo(target)
    return np.rint(samples * factor).clip(limits.min, limits.max).astype(target)

"""Every encoding of sensor_msgs, padded rows, byte orders, and what a broken driver sends."""

from __future__ import annotations

import array
import struct

import cv2
import numpy as np
import pytest

from x2sam_ros.errors import FrameError
from x2sam_ros.image_codec import (
    ENCODINGS,
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
)

HEIGHT, WIDTH = 12, 16
COLOUR = np.array([200, 90, 30], np.uint8)


def _picture() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _padded(rows: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Give (step, data) of uint8 rows with garbage after each."""
    flat = np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
    padded = np.full((flat.shape[0], flat.shape[1] + padding), 0xAB, np.uint8)
    padded[:, : flat.shape[1]] = flat
    return padded.shape[1], padded.tobytes()


def _with_alpha(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, np.full_like(image[..., :1], 7)], axis=2)


def _plain_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows to send and the RGB to expect."""
    rgb = _picture()
    bgr, mono = rgb[..., ::-1], rgb[..., 0]
    mono_rgb = np.repeat(mono[..., None], 3, axis=2)
    return {
        "rgb8": (rgb, rgb),
        "bgr8": (bgr, rgb),
        "8UC3": (bgr, rgb),
        "rgba8": (_with_alpha(rgb), rgb),
        "bgra8": (_with_alpha(bgr), rgb),
        "8UC4": (_with_alpha(bgr), rgb),
        "mono8": (mono, mono_rgb),
        "8UC1": (mono, mono_rgb),
    }


def _wide_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    # 257 * v is the 16-bit value of the same brightness as the 8-bit v.
    names = {"rgb8": "rgb16", "bgr8": "bgr16", "rgba8": "rgba16", "bgra8": "bgra16", "mono8": "mono16", "8UC1": "16UC1"}
    cases = _plain_cases()
    return {wide: (cases[name][0].astype(np.uint16) * 257, cases[name][1]) for name, wide in names.items()}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", _plain_cases())
def test_8_bit_encodings(encoding: str, padding: int) -> None:
    rows, expected = _plain_cases()[encoding]
    step, data = _padded(rows, padding)
    for big_endian in (False, True):
        np.testing.assert_array_equal(decode_image(encoding, HEIGHT, WIDTH, step, big_endian, data), expected)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", _wide_cases())
def test_16_bit_encodings_in_both_byte_orders(encoding: str, big_endian: bool, padding: int) -> None:
    rows, expected = _wide_cases()[encoding]
    step, data = _padded(rows.astype(">u2" if big_endian else "<u2"), padding)
    np.testing.assert_array_equal(decode_image(encoding, HEIGHT, WIDTH, step, big_endian, data), expected)


def _bayer_mosaic(pattern: str) -> np.ndarray:
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = COLOUR["rgb".index(letter)]
    return mosaic


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_one_colour_gives_that_colour(pattern: str, bits: int) -> None:
    mosaic = _bayer_mosaic(pattern)
    rows = mosaic if bits == 8 else mosaic.astype("<u2") * 257
    step, data = _padded(rows, 4)
    image = decode_image(f"bayer_{pattern}{bits}", HEIGHT, WIDTH, step, False, data)
    np.testing.assert_array_equal(image, np.broadcast_to(COLOUR, (HEIGHT, WIDTH, 3)))


def _yuv_of(colour: np.ndarray) -> tuple[int, int, int]:
    """BT.601, studio swing."""
    r, g, b = colour.astype(float) / 255
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    u = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    v = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return round(y), round(u), round(v)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
@pytest.mark.parametrize("padding", [0, 8])
def test_yuv_of_one_colour_gives_that_colour(encoding: str, padding: int) -> None:
    y, u, v = _yuv_of(COLOUR)
    if encoding.startswith("nv"):
        chroma = (u, v) if encoding == "nv12" else (v, u)
        rows = np.full((HEIGHT * 3 // 2, WIDTH), y, np.uint8)
        rows[HEIGHT:] = np.tile(np.array(chroma, np.uint8), WIDTH // 2)
    else:
        group = (u, y, v, y) if encoding in ("yuv422", "uyvy") else (y, u, y, v)
        rows = np.tile(np.array(group, np.uint8), (HEIGHT, WIDTH // 2))
    step, data = _padded(rows, padding)
    image = decode_image(encoding, HEIGHT, WIDTH, step, False, data)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - COLOUR).max() <= 3


def test_all_encodings_are_covered_here() -> None:
    tested = {*_plain_cases(), *_wide_cases(), "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"}
    tested |= {f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
    assert tested == set(ENCODINGS)


def test_result_is_writable_and_its_own() -> None:
    data = array.array("B", _picture().tobytes())
    image = decode_image("rgb8", HEIGHT, WIDTH, WIDTH * 3, False, data)
    image[:] = 0
    assert any(data)
    assert image.flags.c_contiguous


def test_last_row_may_lack_its_padding() -> None:
    step, data = _padded(_picture(), 5)
    image = decode_image("rgb8", HEIGHT, WIDTH, step, False, data[:-5])
    np.testing.assert_array_equal(image, _picture())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "rgb9"}, "encoding 'rgb9' is not supported; expected one of rgb8"),
        ({"encoding": "32FC1"}, "encoding '32FC1' is not supported; it is depth"),
        ({"step": WIDTH * 3 - 1}, "step is 47 bytes, a rgb8 row needs 48"),
        ({"data": b"\0" * 100}, "data has 100 bytes, 12 rows of 48 need 576"),
        ({"data": b""}, "data has 0 bytes"),
        ({"height": 0}, "no pixels: 16x0"),
        ({"width": 0}, "no pixels: 0x12"),
        ({"height": 2**31, "width": 2**31}, "exceeds"),
        ({"encoding": "yuyv", "width": 15}, "even width"),
        ({"encoding": "nv12", "height": 11}, "even size"),
    ],
)
def test_broken_images_are_named(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "encoding": "rgb8",
        "height": HEIGHT,
        "width": WIDTH,
        "step": WIDTH * 3,
        "is_bigendian": False,
        "data": b"\0" * (HEIGHT * WIDTH * 3),
        **change,
    }
    with pytest.raises(FrameError, match=message):
        decode_image(**values)


def _jpeg() -> bytes:
    smooth = np.broadcast_to(COLOUR[::-1], (64, 96, 3))
    return cv2.imencode(".jpg", np.ascontiguousarray(smooth))[1].tobytes()


def test_jpeg_and_png_decode_to_rgb() -> None:
    image = decode_compressed("bgr8; jpeg compressed bgr8", _jpeg())
    assert np.abs(image.astype(int) - COLOUR).max() <= 3
    picture = _picture()
    png = cv2.imencode(".png", picture[..., ::-1])[1]
    np.testing.assert_array_equal(decode_compressed("png", png.tobytes()), picture)
    np.testing.assert_array_equal(decode_compressed("png", array.array("B", png.tobytes())), picture)
    np.testing.assert_array_equal(decode_compressed("png", png.reshape(-1)), picture)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("jpeg", b"", "has no data"),
        ("jpeg", _jpeg()[:-40], "truncated"),
        ("jpeg", b"no picture at all", "corrupt or not JPEG"),
        ("h264", b"\0\0\0\1\x67", "h264.*corrupt or not JPEG"),
        ("16UC1; compressedDepth png", b"\0" * 20, "is depth"),
    ],
)
def test_broken_compressed_images_are_named(name: str, data: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        decode_compressed(name, data)


@pytest.mark.parametrize("padding", [b"", b"\xff\xff"])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_small_file_that_says_it_is_enormous_is_not_unpacked(extension: str, padding: bytes) -> None:
    small = cv2.imencode(extension, np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    if extension == ".jpg":  # markers may be padded
        frame = small.index(b"\xff\xc0")
        said = small[:frame] + padding + small[frame : frame + 5] + struct.pack(">HH", 9000, 10000) + small[frame + 9 :]
    else:
        said = small[:16] + struct.pack(">II", 10000, 9000) + small[24:]
    with pytest.raises(FrameError, match="is 10000x9000, more than 50000000 pixels"):
        decode_compressed(extension, said)


def _metres() -> np.ndarray:
    """float32 (12, 16), whole millimetres, with what cameras send where they see nothing."""
    depth = np.random.default_rng(4).integers(1, 65536, (HEIGHT, WIDTH)).astype(np.float64) / 1000
    depth[2, 3:6] = 0
    return depth.astype(np.float32)


def _known(depth: np.ndarray) -> np.ndarray:
    return np.where((depth > 0) & np.isfinite(depth), depth, np.nan)


@pytest.mark.parametrize("padding", [0, 3, 8])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_depth_is_metres_in_both_byte_orders(encoding: str, big_endian: bool, padding: int) -> None:
    depth, order = _metres(), ">" if big_endian else "<"
    if encoding == "32FC1":
        depth[0, :4] = np.nan, np.inf, -np.inf, -2.0
        rows = depth.astype(f"{order}f4")
    else:
        rows = np.rint(depth * 1000).astype(f"{order}u2")
    step, data = _padded(rows, padding)
    found = decode_depth(encoding, HEIGHT, WIDTH, step, big_endian, array.array("B", data))
    assert found.dtype == np.float32 and found.flags.writeable
    np.testing.assert_array_equal(found, _known(depth))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "rgb8"}, "depth encoding 'rgb8' is not supported; expected one of 16UC1"),
        ({"step": 31}, "step is 31 bytes, a 16UC1 row needs 32"),
        ({"data": b"123"}, "data has 3 bytes"),
        ({"width": 0}, "no pixels"),
    ],
)
def test_broken_depth_is_named(change: dict[str, object], message: str) -> None:
    sizes = {"height": HEIGHT, "width": WIDTH, "step": 32, "is_bigendian": False, "data": bytes(32 * HEIGHT)}
    with pytest.raises(FrameError, match=message):
        decode_depth(**{"encoding": "16UC1", **sizes, **change})


def _rvl(samples: np.ndarray) -> bytes:
    """Compress as Wilson's paper says, a number at a time."""
    nibbles: list[int] = []

    def write(number: int) -> None:
        while True:
            low, number = number & 7, number >> 3
            nibbles.append(low | 8 if number else low)
            if not number:
                return

    flat, place, previous = samples.reshape(-1).tolist(), 0, 0
    while place < len(flat):
        start = place
        while place < len(flat) and not flat[place]:
            place += 1
        write(place - start)
        start = place
        while place < len(flat) and flat[place]:
            place += 1
        write(place - start)
        for value in flat[start:place]:
            step, previous = value - previous, value
            write(step << 1 if step >= 0 else (-step << 1) - 1)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{nibble:x}" for nibble in nibbles[at : at + 8]), 16) for at in range(0, len(nibbles), 8)]
    return struct.pack(f"<II{len(words)}I", samples.shape[1], samples.shape[0], *words)


def _compress(samples: np.ndarray, how: str, quantisation: tuple[float, float] = (0.0, 0.0)) -> bytes:
    packed = _rvl(samples) if how == "rvl" else cv2.imencode(".png", samples)[1].tobytes()
    return struct.pack("<iff", 0, *quantisation) + packed


@pytest.mark.parametrize("how", ["", "png", "rvl"])
@pytest.mark.parametrize("empty", [0.0, 0.4, 1.0])
def test_compressed_depth_is_metres(how: str, empty: float) -> None:
    depth = _metres()
    depth[np.random.default_rng(6).random(depth.shape) < empty] = 0
    samples = np.rint(depth * 1000).astype(np.uint16)
    found = decode_compressed_depth(f"16UC1; compressedDepth {how}".strip(), _compress(samples, how))
    np.testing.assert_array_equal(found, _known(depth))
    # As compressed_depth_image_transport does, with its depth_max 70 m and depth_quantization 100.
    scale, offset = 100 * 101.0, 1 - 100 * 101.0 / 70
    inverse = np.where(depth > 0, scale / np.maximum(depth, 1e-3) + offset, 0).clip(0, 65535).astype(np.uint16)
    packed = _compress(inverse, how, (scale, offset))
    found = decode_compressed_depth(f"32FC1; compressedDepth {how}".strip(), packed)
    fits = (depth == 0) | (depth > 0.2)
    np.testing.assert_allclose(found[fits], _known(depth)[fits], rtol=0.01)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("16UC1; compressedDepth png", bytes(12), "has 12 bytes"),
        ("16UC1; compressedDepth png", bytes(40), "corrupt or not JPEG or PNG"),
        (
            "16UC1; compressedDepth png",
            bytes(12) + cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes(),
            "uint8",
        ),
        ("rgb8; jpeg compressed bgr8", bytes(40), "not supported as depth"),
        ("16UC1; compressedDepth rvl", bytes(20), "0x0; its header"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<II", 16, 12), "no end"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<III", 16, 12, 0xFFFFFFFF), "no end"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<III", 16, 12, 0), "0 of 192 pixels"),
        ("16UC1; compressedDepth rvl", _compress(np.full((12, 16), 700, np.uint16), "rvl")[:-40], "of 192 pixels"),
    ],
)
def test_broken_compressed_depth_is_named(name: str, data: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        decode_compressed_depth(name, data)

"""One conformance test over both bridges: the equivalent, and cv_bridge where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from rosbags.image import message_to_cvimage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from x2sam_ros.errors import FrameError
from x2sam_ros.image_codec import LAYOUTS, decode_image
from x2sam_ros.ros.image_bridge import Bridge, CvBridge, load_cv_bridge, open_bridge, to_depth, to_rgb

HEIGHT, WIDTH = 10, 14
GENERIC = ("8UC1", "8UC3", "8UC4", "16UC1", "16UC3", "16SC1", "32SC2", "32FC1", "64FC1")
COLOURS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "rgb16", "bgr16", "rgba16", "bgra16")
PLANAR = ("nv12", "nv21")


HAS_CV_BRIDGE = importlib.util.find_spec("cv_bridge") is not None


@pytest.fixture(params=[CvBridge, load_cv_bridge] if HAS_CV_BRIDGE else [CvBridge])
def bridge(request: Any) -> Bridge:
    return request.param()


@pytest.mark.skipif(not HAS_CV_BRIDGE, reason="cv_bridge is not installed; the equivalent is tested alone")
def test_the_installed_cv_bridge_is_used() -> None:
    assert not isinstance(open_bridge(), CvBridge)


def layout(encoding: str) -> tuple[int, np.dtype]:
    if encoding in LAYOUTS:
        return LAYOUTS[encoding].channels, np.dtype(LAYOUTS[encoding].sample)
    name, _, channels = encoding.partition("C")
    return int(channels), np.dtype({"8U": "u1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}[name])


def picture(encoding: str) -> np.ndarray:
    """Random samples of an encoding; yuv422 and floats within what a camera sends."""
    channels, dtype = layout(encoding)
    rng, rows = np.random.default_rng(8), HEIGHT * 3 // 2 if encoding in PLANAR else HEIGHT
    shape = (rows, WIDTH) if channels == 1 else (rows, WIDTH, channels)
    if dtype.kind == "f":
        return rng.uniform(0, 10, shape).astype(dtype)
    top = 1000 if dtype.itemsize > 2 else np.iinfo(dtype).max
    return rng.integers(0, top, shape, endpoint=True).astype(dtype)


def message(encoding: str, samples: np.ndarray, padding: int = 0, big_endian: bool = False) -> Image:
    wire = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(">" if big_endian else "<")))
    rows = wire.view(np.uint8).reshape(len(samples), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    made = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=padded.shape[1], is_bigendian=int(big_endian))
    made.data.frombytes(padded.tobytes())
    return made


def rgb_of(encoding: str, samples: np.ndarray) -> np.ndarray:
    """RGB from elsewhere: rosbags-image where it is right, formulas where it is not."""
    if encoding in PLANAR:
        luma, chroma = (
            samples[:HEIGHT].astype(float),
            samples[HEIGHT:].astype(float).reshape(HEIGHT // 2, WIDTH // 2, 2),
        )
        order = [0, 1] if encoding == "nv12" else [1, 0]
        u, v = np.repeat(np.repeat(chroma[..., order] - 128, 2, 0), 2, 1).transpose(2, 0, 1)
        y = 1.164 * np.maximum(luma - 16, 0)  # BT.601
        return np.rint(np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1)).clip(0, 255)
    if samples.dtype == np.uint16 and not encoding.startswith("bayer"):  # it truncates
        narrow = np.rint(samples / 257.0).astype(np.uint8)
        return message_to_cvimage(message(encoding.replace("16", "8"), narrow), "rgb8")
    if samples.dtype == np.uint16:
        return np.rint(message_to_cvimage(message(encoding, samples), "rgb16") / 257.0)
    return message_to_cvimage(message(encoding, samples), "rgb8")


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", [*LAYOUTS, *GENERIC])
def test_passthrough_is_what_was_sent(bridge: Bridge, encoding: str, padding: int) -> None:
    if encoding in PLANAR and not isinstance(bridge, CvBridge):
        pytest.skip("cv_bridge has no planar encodings")
    samples = picture(encoding)
    found = bridge.imgmsg_to_cv2(message(encoding, samples, padding))
    np.testing.assert_array_equal(found, samples)
    assert found.dtype == samples.dtype
    if encoding not in PLANAR:
        np.testing.assert_array_equal(message_to_cvimage(message(encoding, samples)), samples)


@pytest.mark.parametrize("target", COLOURS)
@pytest.mark.parametrize("encoding", COLOURS)
def test_colours_become_others_as_elsewhere(bridge: Bridge, encoding: str, target: str) -> None:
    samples = picture(encoding)
    found = bridge.imgmsg_to_cv2(message(encoding, samples), target)
    channels, dtype = layout(target)
    assert found.dtype == dtype and found.shape == ((HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels))
    expected = np.asarray(message_to_cvimage(message(encoding, samples), target), float)
    if expected.shape[2:] == (3,) and channels == 4:  # it forgets to add the alpha to the same order of colours
        full = np.full((HEIGHT, WIDTH, 1), np.iinfo(dtype).max)
        expected = np.concatenate([expected, full], axis=2)
    # It truncates where 16 bits become 8; both round.
    np.testing.assert_allclose(found, expected, atol=1 if dtype == np.uint8 else 0)


@pytest.mark.parametrize("encoding", LAYOUTS)
def test_the_node_sees_the_same_rgb_through_either(bridge: Bridge, encoding: str) -> None:
    samples = picture(encoding)
    for padding, big_endian in ((0, False), (12, False), (5, False), (0, True), (7, True)):
        sent = message(encoding, samples, padding, big_endian)
        found = to_rgb(sent, bridge)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_allclose(found, rgb_of(encoding, samples), atol=3 if encoding in PLANAR else 1)
        sent.data = sent.data[: len(sent.data) - padding]  # a last row without its padding
        np.testing.assert_array_equal(to_rgb(sent, bridge), found)


@pytest.mark.parametrize("encoding", ["8UC1", "8UC3", "8UC4", "16UC1"])
def test_opencv_types_are_pictures_to_the_node_only(bridge: Bridge, encoding: str) -> None:
    sent = message(encoding, picture(encoding))
    np.testing.assert_array_equal(
        to_rgb(sent, bridge), decode_image(encoding, HEIGHT, WIDTH, sent.step, False, sent.data)
    )
    with pytest.raises((FrameError, TypeError)):
        bridge.imgmsg_to_cv2(sent, "rgb8")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [("16UC1", "32FC1", [1000.0, 65535.0]), ("16UC1", "8UC1", [4, 255]), ("mono16", "16UC1", [1000, 65535])],
)
def test_numbers_without_colour_change_their_type(bridge: Bridge, source: str, target: str, expected: list) -> None:
    samples = np.tile(np.array([1000, 65535], np.uint16), (HEIGHT, WIDTH // 2))
    found = bridge.imgmsg_to_cv2(message(source, samples), target)
    assert found.dtype == layout(target)[1] and found[0, :2].tolist() == expected


@pytest.mark.parametrize(
    ("encoding", "target"), [("32FC1", "rgb8"), ("rgb8", "32FC1"), ("8UC3", "8UC1"), ("rgb8", "nonsense")]
)
def test_conversions_without_sense_are_refused(bridge: Bridge, encoding: str, target: str) -> None:
    with pytest.raises((FrameError, TypeError)):
        bridge.imgmsg_to_cv2(message(encoding, picture(encoding)), target)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 3}, "step is 3 bytes"),
        ({"data": b"12"}, "data has 2 bytes"),
        ({"data": b""}, "data has 0 bytes"),
        ({"width": 0}, "no pixels"),
        ({"height": 20_000, "width": 20_000}, "exceeds 50000000 pixels"),
        ({"encoding": "rgb7"}, "'rgb7' is not supported"),
        ({"encoding": "32FC1", "step": WIDTH * 4}, "it is depth"),
    ],
)
def test_damaged_messages_are_our_errors_through_either(bridge: Bridge, change: dict, said: str) -> None:
    sent = message("rgb8", picture("rgb8"))
    for name, value in change.items():
        setattr(sent, name, value)
    with pytest.raises(FrameError, match=said):
        to_rgb(sent, bridge)


@pytest.mark.parametrize("encoding", ["passthrough", *COLOURS])
def test_images_are_written_and_read_back(bridge: Bridge, encoding: str) -> None:
    samples = picture("16UC3" if encoding == "passthrough" else encoding)
    header = Header(frame_id="camera")
    sent = bridge.cv2_to_imgmsg(samples[:, ::-1], encoding, header)
    assert (sent.height, sent.width, sent.header) == (HEIGHT, WIDTH, header)
    assert sent.encoding == ("16UC3" if encoding == "passthrough" else encoding)
    assert sent.step == samples[0].nbytes and len(sent.data) == samples.nbytes
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(sent), samples[:, ::-1])


def test_images_that_are_not_what_they_are_said_to_be_are_refused(bridge: Bridge) -> None:
    with pytest.raises((FrameError, TypeError)):
        bridge.cv2_to_imgmsg(picture("rgb8"), "mono8")
    with pytest.raises(TypeError):
        bridge.cv2_to_imgmsg([[1, 2]], "mono8")


@pytest.mark.parametrize("target", ["passthrough", "bgr8", "rgb8", "mono8"])
def test_compressed_images_are_read(bridge: Bridge, target: str) -> None:
    bgr = picture("bgr8")
    sent = CompressedImage(format="png", data=cv2.imencode(".png", bgr)[1].tobytes())
    expected = message_to_cvimage(sent, None if target == "passthrough" else target)
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(sent, target), expected)
    np.testing.assert_array_equal(to_rgb(sent, bridge), bgr[..., ::-1])


def test_a_damaged_compressed_image_is_our_error(bridge: Bridge) -> None:
    with pytest.raises(FrameError, match="corrupt"):
        to_rgb(CompressedImage(format="jpeg", data=b"no image"), bridge)


class OldBridge:
    """A cv_bridge that knows rgb8 and bgr8, and turns them upside down where it is wrong."""

    wrong = False

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = "passthrough") -> np.ndarray:
        if img_msg.encoding not in ("rgb8", "bgr8", "mono16"):
            raise TypeError("unknown encoding")
        found = CvBridge().imgmsg_to_cv2(img_msg, desired_encoding)
        return 255 - found if self.wrong else found


def test_what_an_old_release_does_not_know_is_decoded_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = message("yuv422", picture("yuv422"))
    expected = decode_image("yuv422", HEIGHT, WIDTH, sent.step, False, sent.data)
    np.testing.assert_array_equal(to_rgb(sent, OldBridge()), expected)
    monkeypatch.setattr(OldBridge, "wrong", True)  # which shows where it is used
    known = picture("rgb8")
    np.testing.assert_array_equal(to_rgb(message("rgb8", known), OldBridge()), 255 - known)
    np.testing.assert_array_equal(to_rgb(message("rgb8", known, 5), OldBridge()), known)


def test_cv_bridge_is_taken_only_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_CV_BRIDGE:
        assert isinstance(open_bridge(), CvBridge)
    module = types.ModuleType("cv_bridge")
    module.CvBridge = OldBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    assert isinstance(load_cv_bridge(), OldBridge)
    monkeypatch.setattr(OldBridge, "wrong", True)
    with pytest.raises(FrameError, match="cv_bridge made"):
        load_cv_bridge()


@pytest.mark.parametrize("code", ["import os; os._exit(139)", "raise AttributeError('_ARRAY_API not found')"])
def test_a_cv_bridge_that_ends_the_process_is_left_alone(code: str, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "cv_bridge.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    assert isinstance(open_bridge(), CvBridge)


def test_depth_comes_raw_or_compressed() -> None:
    millimetres = picture("16UC1")
    expected = np.where(millimetres > 0, millimetres / 1000, np.nan)
    np.testing.assert_allclose(to_depth(message("16UC1", millimetres, 5, True)), expected, rtol=1e-6)
    packed = bytes(12) + cv2.imencode(".png", millimetres)[1].tobytes()
    sent = CompressedImage(format="16UC1; compressedDepth png", data=packed)
    np.testing.assert_allclose(to_depth(sent), expected, rtol=1e-6)
    with pytest.raises(FrameError, match="'rgb8' is not supported"):
        to_depth(message("rgb8", picture("rgb8")))

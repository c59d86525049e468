"""Points in space become clicks on the camera that sees them best, or are rejected with each camera's reason."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, TransformStamped
from hypothesis import given
from hypothesis import strategies as st

from x2sam_ros.errors import PromptError, SpaceError
from x2sam_ros.ros.camera_infos import View
from x2sam_ros.ros.clicked_point import ClickedPoints, transform_point
from x2sam_ros.ros.requests import Reject, Submit
from x2sam_ros.space.camera_model import CameraModel
from x2sam_ros.types import PointPrompt

FRONT, REAR = "/front/image_raw", "/rear/image_raw"


def lens(width: int = 640, height: int = 480) -> CameraModel:
    focal = 0.8 * width
    k = np.array([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
    return CameraModel(width, height, k, np.zeros(0), "")


def point(x: float, y: float, z: float, frame_id: str = "front_optical", stamp_s: int = 0) -> PointStamped:
    message = PointStamped()
    message.header.frame_id, message.header.stamp.sec = frame_id, stamp_s
    message.point.x, message.point.y, message.point.z = x, y, z
    return message


def transform(quaternion: Any = (0, 0, 0, 1), translation: Any = (0, 0, 0)) -> TransformStamped:
    message = TransformStamped()
    for name, value in zip("xyzw", quaternion):
        setattr(message.transform.rotation, name, float(value))
    for name, value in zip("xyz", translation):
        setattr(message.transform.translation, name, float(value))
    return message


class Tree:
    """Transforms by target and source, of which some are known only as the latest, as while TF lags behind."""

    def __init__(self, known: dict[tuple[str, str], TransformStamped], since_s: int = 0) -> None:
        self.known, self.since_s = known, since_s
        self.asked: list[int] = []

    def lookup(self, target: str, source: str, stamp_ns: int) -> TransformStamped:
        self.asked.append(stamp_ns)
        if (target, source) not in self.known:
            raise PromptError(f'"{source}" passed to lookupTransform argument source_frame does not exist.')
        if stamp_ns > self.since_s * 1_000_000_000:
            raise PromptError("Lookup would require extrapolation into the future.")
        return self.known[target, source]


def clicks(
    views: dict[str, View | None], tree: Tree | None = None, sizes: dict[str, tuple[int, int]] | None = None
) -> ClickedPoints:
    numbers = itertools.count(1)

    def view(camera: str) -> View:
        found = views[camera]
        if found is None:
            raise SpaceError("no camera_info has come on /rear/camera_info")
        return found

    return ClickedPoints(list(views), view, lambda word: f"{word}-{next(numbers)}", tree, sizes or {})


def submitted(request: Any) -> tuple[str, list[float]]:
    assert isinstance(request, Submit), request
    assert isinstance(request.prompt, PointPrompt) and request.prompt.stamp_ns is None
    assert request.prompt_id == "click-1"
    return request.camera, request.prompt.points_px[0].tolist()


def rejected(request: Any) -> str:
    assert isinstance(request, Reject) and request.prompt_id == "click-1", request
    return request.message


ONE: dict[str, View | None] = {FRONT: View("front_optical", lens())}


@pytest.mark.parametrize("frame_id", ["front_optical", "/front_optical"])
def test_a_point_in_the_camera_s_frame_needs_no_tf(frame_id: str) -> None:
    camera, pixel = submitted(clicks(ONE).request(point(0.5, -0.25, 2.0, frame_id, stamp_s=9)))
    assert camera == FRONT
    assert pixel == pytest.approx([319.5 + 512 * 0.25, 239.5 - 512 * 0.125])


def test_another_frame_is_brought_by_tf_at_the_point_s_stamp() -> None:
    # From a map (x forward, z up) to an optical frame (x right, y down, z forward), 3 m behind the map's origin.
    tree = Tree({("front_optical", "map"): transform((0.5, -0.5, 0.5, 0.5), (0, 0, 3))}, since_s=100)
    message = point(1.0, 0.5, 0.25, "map", stamp_s=50)
    assert submitted(clicks(ONE, tree).request(message))[1] == pytest.approx(
        [319.5 - 512 * 0.125, 239.5 - 512 * 0.0625]
    )
    assert tree.asked == [50_000_000_000]


@pytest.mark.parametrize(("stamp_s", "asked"), [(101, [101_000_000_000, 0]), (0, [0])])
def test_the_latest_transform_serves_where_tf_lags_or_nothing_is_said(stamp_s: int, asked: list[int]) -> None:
    tree = Tree({("front_optical", "map"): transform(translation=(0, 0, 2))}, since_s=100)
    assert submitted(clicks(ONE, tree).request(point(0, 0, 0, "map", stamp_s)))[1] == pytest.approx([319.5, 239.5])
    assert tree.asked == asked


def test_without_tf_it_is_said_what_is_missing() -> None:
    assert rejected(clicks(ONE).request(point(0, 0, 1, "map"))) == (
        "no camera sees the point (0, 0, 1) of frame 'map': /front/image_raw: the point is in frame 'map', the camera "
        "in 'front_optical', and tf2_ros is not installed; install it, or publish the point in the camera's frame"
    )
    said = rejected(clicks(ONE, Tree({})).request(point(0, 0, 1, "map", stamp_s=3)))
    assert "no transform from 'map' to 'front_optical': \"map\" passed to lookupTransform" in said


@pytest.mark.parametrize(
    "broken", [transform((0, 0, 0, 0)), transform((np.nan, 0, 0, 1)), transform(translation=(np.inf, 0, 0))]
)
def test_a_transform_that_is_none_is_refused(broken: TransformStamped) -> None:
    said = rejected(clicks(ONE, Tree({("front_optical", "map"): broken})).request(point(0, 0, 1, "map")))
    assert "the transform from 'map' to 'front_optical' is unusable: rotation is (" in said


def test_of_several_cameras_the_one_that_sees_it_nearest_to_its_middle_is_meant() -> None:
    """The rear camera is 1 m to the right of the front one, and has half its resolution."""
    views: dict[str, View | None] = {FRONT: View("front_optical", lens()), REAR: View("rear_optical", lens(320, 240))}
    tree = Tree({("rear_optical", "front_optical"): transform(translation=(-1, 0, 0))})
    for x, camera in ((0.4, FRONT), (0.6, REAR), (-0.3, FRONT), (1.3, REAR)):
        assert submitted(clicks(views, tree).request(point(x, 0, 4)))[0] == camera
    assert submitted(clicks(views, tree).request(point(0.5, 0, 4)))[0] == FRONT, "the first where both see it alike"
    assert submitted(clicks(views).request(point(0.9, 0, 4)))[0] == FRONT, "one that has no transform is left out"


def test_nobody_sees_it() -> None:
    views = {**ONE, REAR: None}
    behind = rejected(clicks(views).request(point(0, 0, -1)))
    assert behind.startswith("no camera sees the point (0, 0, -1) of frame 'front_optical': /front/image_raw: ")
    assert "is behind the camera" in behind and behind.endswith(
        "; /rear/image_raw: no camera_info has come on /rear/camera_info"
    )
    assert "is seen outside of the image" in rejected(clicks(views).request(point(5, 0, 1)))


def test_bad_points_and_sizes_are_refused() -> None:
    assert rejected(clicks(ONE).request(point(0, 0, 1, ""))) == (
        "the point has no frame_id; name the frame that it is in"
    )
    for bad in (np.nan, np.inf):
        assert "expected finite numbers" in rejected(clicks(ONE).request(point(bad, 0, 1)))
    assert "image is 320x240, camera_info is for 640x480" in rejected(
        clicks(ONE, sizes={FRONT: (320, 240)}).request(point(0, 0, 1))
    )
    assert submitted(clicks(ONE, sizes={FRONT: (640, 480)}).request(point(0, 0, 1)))[0] == FRONT


numbers = st.floats(-10, 10)
vectors = st.tuples(numbers, numbers, numbers)


@given(turn=vectors, translation=vectors, given_point=vectors, length=st.floats(0.5, 2))
def test_a_transform_turns_and_moves(turn: Any, translation: Any, given_point: Any, length: float) -> None:
    """Quaternion (of any length) against rotation matrix."""
    angle = float(np.linalg.norm(turn))
    axis = np.divide(turn, angle) if angle > 1e-6 else np.zeros(3)
    quaternion = length * np.append(axis * np.sin(angle / 2), np.cos(angle / 2))
    expected = cv2.Rodrigues(axis * angle)[0] @ given_point + translation
    moved = transform_point(transform(quaternion, translation).transform, np.array(given_point))
    assert moved == pytest.approx(expected, abs=1e-6)

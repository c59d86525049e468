"""Rays and pixels of every lens model, against OpenCV's own projection; and calibrations that cannot be used."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from x2sam_ros.errors import PromptError, SpaceError
from x2sam_ros.space.camera_model import CameraModel

WIDTH, HEIGHT = 320, 240
K = (260.0, 0.0, 155.5, 0.0, 255.0, 121.25, 0.0, 0.0, 1.0)
LENSES: dict[str, tuple[str, tuple[float, ...]]] = {
    "none": ("plumb_bob", ()),
    "zeros": ("plumb_bob", (0.0,) * 5),
    "unnamed": ("", ()),
    "plumb_bob": ("plumb_bob", (-0.28, 0.09, 0.001, -0.0007, -0.01)),
    "barrel": ("plumb_bob", (-0.35, 0.15, 0.0, 0.0)),
    "rational": ("rational_polynomial", (0.4, -0.2, 0.0005, -0.0003, 0.01, 0.7, -0.25, 0.02)),
    "thin prism": ("rational_polynomial", (0.1, -0.05, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.002, 0.0, 0.001, 0.0)),
    "fisheye": ("equidistant", (0.05, -0.01, 0.003, -0.001)),
    "fisheye zeros": ("equidistant", (0.0,) * 4),
}


def camera(lens: str, **options: Any) -> CameraModel:
    model, d = LENSES[lens]
    return CameraModel.from_calibration((WIDTH, HEIGHT), K, d, model, **options)


def seen_by_opencv(lens: str, points: np.ndarray) -> np.ndarray:
    model, d = LENSES[lens]
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    coefficients = np.array(d or (0.0,) * 4)
    matrix = np.array(K).reshape(3, 3)
    return project(points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), matrix, coefficients)[0].reshape(-1, 2)


def points_ahead(count: int = 500) -> np.ndarray:
    rng = np.random.default_rng(5)
    depth = rng.uniform(0.2, 30.0, (count, 1))
    flat = rng.uniform((-0.55, -0.42), (0.55, 0.42), (count, 2))
    return np.concatenate([flat * depth, depth], axis=1)


@pytest.mark.parametrize("lens", LENSES)
def test_points_are_seen_where_opencv_sees_them_and_rays_lead_back(lens: str) -> None:
    points = points_ahead()
    pixels = seen_by_opencv(lens, points)
    np.testing.assert_allclose(camera(lens).project(points), pixels, atol=1e-6)
    rays = camera(lens).rays(pixels)
    np.testing.assert_allclose(rays * points[:, 2:], points, atol=2e-4 * 30)
    assert (rays[:, 2] == 1).all()


@pytest.mark.parametrize("lens", ["none", "plumb_bob", "fisheye"])
def test_the_table_has_the_ray_of_each_pixel(lens: str) -> None:
    model = camera(lens)
    assert model.ray_table.shape == (HEIGHT, WIDTH, 2) and model.ray_table is model.ray_table
    places = np.array([[0, 0], [WIDTH - 1, 3], [17, HEIGHT - 1], [160, 120]])
    np.testing.assert_allclose(model.ray_table[places[:, 1], places[:, 0]], model.rays(places)[:, :2], rtol=1e-6)
    assert model.sees.all()


def test_a_lens_that_cannot_be_undone_at_its_border_has_no_rays_there() -> None:
    wild = CameraModel.from_calibration((WIDTH, HEIGHT), K, (-0.9, 0.0, 0.0, 0.0), "plumb_bob")
    assert not wild.sees[0, 0] and wild.sees[121, 155]
    assert np.isnan(wild.rays(np.array([[0.0, 0.0]]))[0, :2]).all()


def test_binning_and_region_of_interest_are_those_of_the_image() -> None:
    whole = camera("none")
    part = camera("none", binning=(2, 4), roi=(40, 20, 200, 100))
    assert (part.width, part.height) == (100, 25)
    points = points_ahead(50)
    expected = (whole.project(points) - (40, 20)) / (2, 4)
    np.testing.assert_allclose(part.project(points), expected, atol=1e-9)
    same = camera("plumb_bob", binning=(0, 0), roi=(0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(same.k, camera("plumb_bob").k)


def test_a_rectified_image_has_the_projection_and_no_distortion() -> None:
    p = (200.0, 0.0, 150.0, 0.0, 0.0, 210.0, 118.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    rectified = camera("plumb_bob", p=p)
    np.testing.assert_allclose(rectified.project([[1.0, -0.5, 2.0]]), [[250.0, 65.5]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": (0.0,) * 9}, "not calibrated: fx is 0"),
        ({"k": (np.nan, *K[1:])}, "not finite"),
        ({"k": K[:4]}, "matrix of 4 numbers"),
        ({"d": (np.inf, 0, 0, 0, 0)}, "not finite"),
        ({"size": (0, 240)}, "does not lie on its 0x240"),
        ({"size": (100_000, 100_000)}, "image of 100000x100000"),
        ({"d": (0.1, 0.2)}, "plumb_bob has 2 distortion coefficients"),
        ({"d": (0.1,) * 5, "distortion_model": "equidistant"}, "equidistant has 5"),
        ({"d": (0.1,) * 5, "distortion_model": "thin_film"}, "'thin_film', expected one of: plumb_bob"),
        ({"roi": (300, 0, 100, 100)}, "does not lie on its 320x240 sensor"),
        ({"binning": (-1, 1)}, "binning"),
        ({"p": (0.0,) * 12}, "not calibrated"),
    ],
)
def test_a_calibration_that_makes_no_camera_is_refused_in_words(change: dict[str, Any], said: str) -> None:
    given = {"size": (WIDTH, HEIGHT), "k": K, "d": (), "distortion_model": "plumb_bob", **change}
    with pytest.raises(SpaceError, match=said):
        CameraModel.from_calibration(**given)


def test_an_image_of_another_size_is_refused() -> None:
    camera("none").check_size(WIDTH, HEIGHT)
    with pytest.raises(SpaceError, match="image is 640x480, camera_info is for 320x240"):
        camera("none").check_size(640, 480)


@pytest.mark.parametrize("lens", ["none", "plumb_bob", "fisheye"])
def test_a_click_in_space_is_a_pixel(lens: str) -> None:
    point = np.array([0.3, -0.2, 1.5])
    np.testing.assert_allclose(camera(lens).pixel_of(point), seen_by_opencv(lens, point)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("lens", "point", "said"),
    [
        ("none", (0.0, 0.0, -1.0), "behind the camera"),
        ("none", (0.0, 0.0, 0.0), "behind the camera"),
        ("none", (5.0, 0.0, 1.0), r"outside of the image, at \(1456, 121\) of 320x240"),
        ("none", (0.0, float("nan"), 1.0), "expected finite numbers"),
        # 1 - 0.35 r^2 + 0.15 r^4 - ... comes back to the middle for what is far outside.
        ("plumb_bob", (2.0, 0.0, 1.0), "outside of the image"),
        ("barrel", (1.6, 0.0, 1.0), "outside of the image"),
    ],
)
def test_a_click_in_space_that_is_not_in_the_image_is_refused(lens: str, point: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        camera(lens).pixel_of(point)

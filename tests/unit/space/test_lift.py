"""Boxes and clouds of scenes whose boxes are known: rays cast at them, and what real masks and sensors do to that."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from x2sam_ros.errors import FrameError, SpaceError
from x2sam_ros.space.camera_model import CameraModel
from x2sam_ros.space.lift import LiftedMasks, SpaceBox

IDS = np.array([7])
WALL_M = 4.0


def make_camera(width: int = 320, height: int = 240, d: tuple[float, ...] = ()) -> CameraModel:
    focal = 0.9 * width
    k = (focal, 0, width / 2 - 3, 0, focal, height / 2 + 2, 0, 0, 1)
    return CameraModel.from_calibration((width, height), k, d, "plumb_bob")


def cast(
    camera: CameraModel, centre: tuple[float, float, float], size: tuple[float, float, float], yaw: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cast a ray through each pixel at an upright box before a wall; return its mask and the depth."""
    rays = np.concatenate([camera.ray_table.astype(float), np.ones((camera.height, camera.width, 1))], axis=2)
    c, s = math.cos(yaw), math.sin(yaw)
    to_box = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    direction, origin = rays @ to_box.T, to_box @ -np.array(centre)
    with np.errstate(divide="ignore"):
        ends = np.stack([(sign * np.array(size) / 2 - origin) / direction for sign in (-1, 1)])
    enter, leave = ends.min(axis=0).max(axis=2), ends.max(axis=0).min(axis=2)
    mask = (enter < leave) & (enter > 0)
    return mask, np.where(mask, enter, WALL_M).astype(np.float32)


def lift(mask: np.ndarray, depth: np.ndarray, camera: CameraModel) -> SpaceBox:
    (box,) = LiftedMasks(mask[None], IDS, depth, camera).boxes
    return box


def assert_box(
    box: SpaceBox, centre: tuple[float, ...], size: tuple[float, ...], yaw: float, share: float = 0.04
) -> None:
    longest = max(size)
    np.testing.assert_allclose(box.centre, centre, atol=share * longest)
    np.testing.assert_allclose(box.size, size, atol=share * longest)
    assert abs(box.yaw - yaw) < math.radians(4)


SCENES = [
    ((0.2, 0.1, 1.6), (0.4, 0.3, 0.25), 0.6),
    ((-0.3, 0.0, 2.2), (0.9, 0.2, 0.3), -0.6),
    ((0.5, -0.2, 2.0), (0.2, 0.6, 0.5), -0.5),
]


@pytest.mark.parametrize("d", [(), (-0.2, 0.05, 0.001, -0.001, 0.0)], ids=["pinhole", "distorted"])
@pytest.mark.parametrize("size", [(320, 240), (1280, 720), (97, 131)])
@pytest.mark.parametrize(("centre", "lengths", "yaw"), SCENES)
def test_a_known_box_is_measured(
    centre: tuple[float, float, float],
    lengths: tuple[float, float, float],
    yaw: float,
    size: tuple[int, int],
    d: tuple[float, ...],
) -> None:
    camera = make_camera(*size, d)
    mask, depth = cast(camera, centre, lengths, yaw)
    box = lift(mask, depth, camera)
    assert_box(box, centre, lengths, yaw, share=0.03 + 4 / min(size))
    assert (box.target_id, box.num_points) == (7, mask.sum())


def test_flying_pixels_and_a_mask_that_bleeds_leave_the_box_as_it_is() -> None:
    camera = make_camera(640, 480)
    centre, size, yaw = SCENES[0]
    mask, depth = cast(camera, centre, size, yaw)
    rng = np.random.default_rng(2)
    wide = cv2.dilate(mask.view(np.uint8), np.ones((9, 9), np.uint8)).view(bool)
    border = wide & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
    inner = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & border
    depth[inner] += rng.uniform(0, 1, inner.sum()) * (WALL_M - depth[inner])
    depth += rng.normal(0, 0.002, depth.shape).astype(np.float32)
    assert_box(lift(wide, depth, camera), centre, size, yaw, share=0.08)


def test_something_before_the_target_is_not_part_of_it() -> None:
    camera = make_camera()
    mask, depth = cast(camera, *SCENES[0])
    depth[:, 180:188] = np.where(mask[:, 180:188], 0.5, depth[:, 180:188])
    assert_box(lift(mask, depth, camera), *SCENES[0], share=0.08)


def test_a_long_slanted_thing_is_one_thing() -> None:
    camera = make_camera()
    rows, _ = np.mgrid[: camera.height, : camera.width]
    down = camera.ray_table[..., 1]
    floor = np.where(down > 0.1, 1.2 / np.maximum(down, 0.1), np.nan).astype(np.float32)
    box = lift(rows > 150, floor, camera)
    expected = floor[151, 0] - floor[-1, 0]
    assert abs(box.size[2] - expected) < 0.05 * expected and box.size[1] < 0.01


@pytest.mark.parametrize("share", [0.005, 0.03])
def test_a_noisy_flat_thing_stays_where_it_is(share: float) -> None:
    camera = make_camera()
    depth = np.full((240, 320), 1.5) * np.random.default_rng(0).normal(1, share, (240, 320))
    mask = np.zeros((240, 320), bool)
    mask[60:160, 100:220] = True
    box = lift(mask, depth.astype(np.float32), camera)
    assert box.num_points == mask.sum()
    assert abs(box.centroid[2] - 1.5) < 0.1 * share * 1.5 + 0.002
    x = camera.ray_table[100, [100, 219], 0] * 1.5
    np.testing.assert_allclose([box.centre[0], box.size[0]], [x.mean(), np.ptp(x)], atol=0.04 + 2 * share)


def test_the_centroid_is_the_median_and_holes_are_left_out() -> None:
    camera = make_camera()
    depth = np.full((240, 320), 2.0, np.float32)
    depth[:, :150] = np.nan
    depth[10:20] = 0
    depth[30, :170], depth[30, 170:] = np.inf, 3.4e38
    mask = np.zeros((240, 320), bool)
    mask[5:205, 100:200] = True
    box = lift(mask, depth, camera)
    assert box.num_points == (200 - 11) * 50
    rows = np.setdiff1d(np.arange(5, 205), [*range(10, 20), 30])
    expected = 2 * np.median(camera.ray_table[rows[:, None], np.arange(150, 200)].reshape(-1, 2), axis=0)
    np.testing.assert_allclose(box.centroid, (*expected, 2.0), atol=0.01)


def test_a_thin_thing_and_a_single_pixel_have_boxes_and_nothing_has_none() -> None:
    camera = make_camera()
    depth = np.full((240, 320), WALL_M, np.float32)
    masks = np.zeros((4, 240, 320), bool)
    masks[0, 20:200, 50:52] = masks[1, 30, 40] = masks[3, :, 319] = True
    depth[masks[0]], depth[masks[1]], depth[masks[3]] = 1.0, 2.0, np.nan
    boxes = LiftedMasks(masks, np.array([4, 3, 2, 1]), depth, camera).boxes
    assert [(box.target_id, box.num_points) for box in boxes] == [(3, 1), (4, 360)]
    np.testing.assert_allclose(boxes[0].centroid, (*camera.ray_table[30, 40] * 2, 2), rtol=1e-6)
    assert boxes[0].size == (0, 0, 0)
    tall = camera.ray_table[199, 50, 1] - camera.ray_table[20, 50, 1]
    assert abs(boxes[1].centroid[2] - 1.0) < 1e-6 and abs(boxes[1].size[1] - tall) < 0.02 * tall


def test_the_cloud_has_every_pixel_with_its_colour_and_its_target() -> None:
    camera = make_camera(40, 30, (-0.1, 0.02, 0.0, 0.0))
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    depth = rng.uniform(1, 2, (30, 40)).astype(np.float32)
    depth[rng.random((30, 40)) < 0.2] = np.nan
    masks = rng.random((3, 30, 40)) < 0.3
    cloud = LiftedMasks(masks, np.array([9, 300, 2]), depth, camera).cloud(image, 10_000)
    assert (cloud.xyz.dtype, cloud.rgb.dtype, cloud.target_ids.dtype) == (np.float32, np.uint8, np.uint32)
    for row, target_id in enumerate((9, 300, 2)):
        mine = cloud.target_ids == target_id
        y, x = np.nonzero(masks[row] & (depth > 0))
        np.testing.assert_array_equal(cloud.rgb[mine], image[y, x])
        seen = camera.rays(np.stack([x, y], axis=1)) * depth[y, x, None]
        np.testing.assert_allclose(cloud.xyz[mine], seen, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [1, 10, 777, 5000])
def test_a_capped_cloud_is_spread_evenly(most: int) -> None:
    camera = make_camera()
    masks = np.zeros((2, 240, 320), bool)
    masks[0, 20:120, 30:130] = masks[1, 140:190, 200:250] = True
    lifted = LiftedMasks(masks, np.array([1, 2]), np.full((240, 320), 1.0, np.float32), camera)
    cloud = lifted.cloud(np.zeros((240, 320, 3), np.uint8), most)
    assert len(cloud.xyz) == most
    if most >= 777:
        assert abs((cloud.target_ids == 1).mean() - 0.8) < 0.01
        columns = np.rint(cloud.xyz[cloud.target_ids == 1, 0] * camera.k[0, 0] + camera.k[0, 2])
        assert np.histogram(columns, 10)[0].min() > 0.06 * len(columns)


def test_no_targets_and_no_depth_are_an_empty_cloud() -> None:
    camera, image = make_camera(), np.zeros((240, 320, 3), np.uint8)
    for masks in (np.zeros((0, 240, 320), bool), np.ones((2, 240, 320), bool)):
        lifted = LiftedMasks(masks, np.arange(len(masks)), np.full((240, 320), np.nan, np.float32), camera)
        assert lifted.boxes == () and lifted.cloud(image, 100).xyz.shape == (0, 3)


def test_sizes_that_differ_are_named() -> None:
    camera, masks = make_camera(), np.zeros((1, 240, 320), bool)
    with pytest.raises(SpaceError, match="depth is 640x480, the image 320x240"):
        LiftedMasks(masks, IDS, np.zeros((480, 640), np.float32), camera)
    with pytest.raises(SpaceError, match="image is 16x12, camera_info is for 320x240"):
        LiftedMasks(masks[:, :12, :16], IDS, np.zeros((12, 16), np.float32), camera)
    with pytest.raises(FrameError, match="the masks are 320x240"):
        LiftedMasks(masks, IDS, np.zeros((240, 320), np.float32), camera).cloud(np.zeros((12, 16, 3), np.uint8), 5)

"""Targets in space over the wire, with the real generated messages."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from geometry_msgs.msg import Pose, PoseWithCovariance, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, PointField, RegionOfInterest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from tests.shared_data import data_folder
from x2sam_ros.errors import SpaceError
from x2sam_ros.ros import space_messages
from x2sam_ros.space.lift import Cloud, SpaceBox
from x2sam_ros.types import FrameResult, TargetState
from x2sam_ros.visualise import target_colour

BOXES = (
    SpaceBox(3, (0.1, 0.2, 1.0), (0.1, 0.2, 1.5), (0.4, 0.6, 0.5), 0.3, 120),
    SpaceBox(2**31 + 5, (0.0, 0.0, 2.0), (0.0, 0.0, 2.0), (0.0, 0.0, 0.0), -0.2, 1),
)


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def result(target_ids: tuple[int, ...] = (2**31 + 5, 9, 3)) -> FrameResult:
    n = len(target_ids)
    return FrameResult(
        7_000_000_009,
        0,
        "camera_optical",
        (4, 6),
        np.zeros((n, 4, 6), bool),
        np.linspace(0.5, 0.75, n, dtype=np.float32),
        tuple(f"thing {number % 100}" for number in target_ids),
        np.array(target_ids, np.int64),
        (TargetState.TRACKED,) * n,
    )


def info(**changes: Any) -> CameraInfo:
    k = [300.0, 0.0, 150.0, 0.0, 310.0, 100.0, 0.0, 0.0, 1.0]
    p = [280.0, 0.0, 140.0, 0.0, 0.0, 280.0, 110.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    fields = {"width": 320, "height": 240, "k": k, "p": p, "d": [-0.2, 0.1, 0.0, 0.0, 0.0]}
    return CameraInfo(**{**fields, "distortion_model": "plumb_bob", **changes})


def test_boxes_carry_label_score_header_and_a_turn_about_y() -> None:
    message = over_the_wire(space_messages.box_array(result(), BOXES))
    assert (message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec) == ("camera_optical", 7, 9)
    first, second = message.boxes
    assert (first.target_id, first.label, first.score, first.num_points) == (3, "thing 3", 0.75, 120)
    assert (second.target_id, second.score) == (2**31 + 5, 0.5)
    assert (first.centroid.z, first.pose.position.z, first.size.x, first.size.z) == (1.0, 1.5, 0.4, 0.5)
    turn = first.pose.orientation
    assert (turn.x, turn.z) == (0, 0)
    # Rotating the box's own x axis by the quaternion gives (cos yaw, 0, -sin yaw).
    np.testing.assert_allclose([1 - 2 * turn.y**2, -2 * turn.y * turn.w], [math.cos(0.3), -math.sin(0.3)])
    assert over_the_wire(space_messages.box_array(result(()), ())).boxes == []


def test_a_cloud_reads_as_pcl_and_rviz_read_it() -> None:
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 256, (50, 3), dtype=np.uint8)
    ids = rng.integers(0, 2**32, 50, dtype=np.uint32)
    message = over_the_wire(space_messages.point_cloud(result(), Cloud(xyz, rgb, ids)))
    assert (message.height, message.width, message.row_step) == (1, 50, 50 * message.point_step)
    assert len(message.data) == message.row_step and message.is_dense and not message.is_bigendian
    kinds = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    names = [item.name for item in message.fields]
    dtype = np.dtype(
        {
            "names": names,
            "formats": [kinds[item.datatype] for item in message.fields],
            "offsets": [item.offset for item in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert names == ["x", "y", "z", "rgb", "target_id"] and dtype["rgb"] == np.float32
    points = np.frombuffer(message.data, dtype)
    np.testing.assert_array_equal(np.stack([points["x"], points["y"], points["z"]], axis=1), xyz)
    packed = points["rgb"].copy().view(np.uint32)
    np.testing.assert_array_equal(np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1), rgb)
    np.testing.assert_array_equal(points["target_id"], ids)
    empty = Cloud(xyz[:0], rgb[:0], ids[:0])
    assert over_the_wire(space_messages.point_cloud(result(), empty)).width == 0


def test_markers_are_drawn_in_the_colours_of_the_overlay_and_deleted_when_gone() -> None:
    writer = space_messages.MarkerWriter(lifetime_s=1.5)
    markers = over_the_wire(writer.write(result(), BOXES)).markers
    assert [(item.ns, item.id, item.action) for item in markers] == [
        ("boxes", 3, Marker.ADD),
        ("labels", 3, Marker.ADD),
        ("boxes", 5, Marker.ADD),
        ("labels", 5, Marker.ADD),
    ]
    cube, text, thin, _ = markers
    assert (cube.type, text.type, text.text) == (Marker.CUBE, Marker.TEXT_VIEW_FACING, "#3 thing 3 0.75")
    np.testing.assert_allclose(np.array(target_colour(3)) / 255, [cube.color.r, cube.color.g, cube.color.b], atol=1e-6)
    assert 0 < cube.color.a < 1 and (cube.lifetime.sec, cube.lifetime.nanosec) == (1, 500_000_000)
    assert text.pose.position.y < cube.pose.position.y - cube.scale.y / 2
    assert min(thin.scale.x, thin.scale.y, thin.scale.z) > 0
    later = writer.write(result(), BOXES[:1]).markers
    assert [(item.ns, item.id) for item in later if item.action == Marker.DELETE] == [("boxes", 5), ("labels", 5)]
    gone = writer.write(result(), ()).markers
    assert [(item.id, item.action) for item in gone] == [(3, Marker.DELETE)] * 2
    assert writer.write(result(), ()).markers == []


def test_a_calibration_is_read_with_its_region_and_binning() -> None:
    np.testing.assert_allclose(space_messages.camera_model(over_the_wire(info())).pixel_of((0.0, 0.0, 1.0)), (150, 100))
    part = space_messages.camera_model(info(roi=RegionOfInterest(x_offset=50, y_offset=20, width=200, height=100)))
    assert (part.width, part.height) == (200, 100)
    np.testing.assert_allclose(part.pixel_of((0.0, 0.0, 1.0)), (100, 80))
    binned = space_messages.camera_model(info(binning_x=2, binning_y=2))
    assert (binned.width, binned.height, binned.k[0, 0]) == (160, 120, 150)
    rectified = space_messages.camera_model(info(), rectified=True)
    np.testing.assert_allclose(rectified.project([[0.5, 0.0, 1.0]]), [[280.0, 110.0]])
    with pytest.raises(SpaceError, match="not calibrated"):
        space_messages.camera_model(CameraInfo(width=320, height=240))


def test_a_recorded_calibration_is_read() -> None:
    from rosbags.highlevel import AnyReader

    folder = data_folder("rosbags")
    bags = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    for bag in bags:
        with AnyReader([bag]) as reader:
            kinds = [item for item in reader.connections if item.msgtype == "sensor_msgs/msg/CameraInfo"]
            for connection, _, data in reader.messages(kinds):
                recorded = reader.deserialize(data, connection.msgtype)
                model = space_messages.camera_model(recorded)
                middle = recorded.k[[2, 5]]
                np.testing.assert_allclose(model.pixel_of((0.0, 0.0, 3.0)), middle)
                break


# vision_msgs has no wheels. These have the fields, and the names in the order, of its 4.1.1 (Humble to Lyrical).
@dataclass
class ObjectHypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclass
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: PoseWithCovariance = field(default_factory=PoseWithCovariance)


@dataclass
class BoundingBox3D:
    center: Pose = field(default_factory=Pose)
    size: Vector3 = field(default_factory=Vector3)


@dataclass
class Detection3D:
    header: Header = field(default_factory=Header)
    results: list = field(default_factory=list)
    bbox: BoundingBox3D = field(default_factory=BoundingBox3D)
    id: str = ""


@dataclass
class Detection3DArray:
    header: Header = field(default_factory=Header)
    detections: list = field(default_factory=list)


STAND_INS = (ObjectHypothesis, ObjectHypothesisWithPose, BoundingBox3D, Detection3D, Detection3DArray)


def test_detections_are_those_of_vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import vision_msgs.msg  # noqa: F401
    except ImportError:
        module = types.ModuleType("vision_msgs.msg")
        module.__dict__.update({kind.__name__: kind for kind in STAND_INS})
        monkeypatch.setitem(sys.modules, "vision_msgs", types.ModuleType("vision_msgs"))
        monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)
    message = space_messages.detections_3d(result(), BOXES)
    first = message.detections[0]
    assert message.header == first.header and message.header.frame_id == "camera_optical"
    assert (first.id, first.results[0].hypothesis.class_id, first.results[0].hypothesis.score) == ("3", "thing 3", 0.75)
    assert (first.bbox.size.x, first.bbox.center.position.z) == (0.4, 1.5)
    assert first.results[0].pose.pose == first.bbox.center
    assert len(message.detections) == 2

"""Targets in space as messages, and a calibration from one: pure functions, but for which markers are to go."""

from __future__ import annotations

import array
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from x2sam_ros.msg import TargetBox3D, TargetBox3DArray
from x2sam_ros.space.camera_model import CameraModel
from x2sam_ros.visualise import target_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from x2sam_ros.space.lift import Cloud, SpaceBox
    from x2sam_ros.types import FrameResult

_POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("target_id", "<u4")])
"""One point of a cloud. PCL and RViz read rgb as a float32 whose bytes are blue, green, red."""

_POINT_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="target_id", offset=16, datatype=PointField.UINT32, count=1),
]

_THIN_M = 0.001
"""Least length of a marker's side; RViz complains about none."""

_TEXT_SHARE = 0.05
"""Height of a label, as a share of its distance."""


def camera_model(info: CameraInfo, rectified: bool = False) -> CameraModel:
    """Read a calibration.

    Args:
        info: of the camera.
        rectified: whether its images are, as those of image_proc's ``image_rect``; they have the projection ``p`` and
            no distortion.

    Raises:
        SpaceError: it is not calibrated, or its numbers make no camera.
    """
    roi = info.roi
    return CameraModel.from_calibration(
        (info.width, info.height),
        info.k,
        info.d,
        info.distortion_model,
        p=info.p if rectified else None,
        binning=(info.binning_x, info.binning_y),
        roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )


def box_array(result: FrameResult, boxes: Iterable[SpaceBox]) -> TargetBox3DArray:
    """Write boxes with the header of their image, and the labels and scores of the result."""
    named = _names(result)
    written = []
    for box in boxes:
        label, score = named[box.target_id]
        pose, size, centroid = (
            _pose(box),
            _vector(box.size),
            Point(x=box.centroid[0], y=box.centroid[1], z=box.centroid[2]),
        )
        written.append(
            TargetBox3D(
                target_id=box.target_id,
                label=label,
                score=score,
                centroid=centroid,
                pose=pose,
                size=size,
                num_points=box.num_points,
            )
        )
    return TargetBox3DArray(header=_header(result), boxes=written)


def point_cloud(result: FrameResult, cloud: Cloud) -> PointCloud2:
    """Write a cloud of x, y, z (float32, metres), rgb (as PCL packs it) and target_id (uint32), without order."""
    points = np.empty(len(cloud.xyz), _POINT)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    red, green, blue = cloud.rgb.T.astype(np.uint32)
    points["rgb"] = red << 16 | green << 8 | blue
    points["target_id"] = cloud.target_ids
    message = PointCloud2(header=_header(result), height=1, width=len(points), fields=_POINT_FIELDS, is_dense=True)
    message.point_step, message.row_step = _POINT.itemsize, points.nbytes
    data = array.array("B")
    data.frombytes(points.tobytes())
    message.data = data
    return message


class MarkerWriter:
    """Boxes and labels for RViz, in the colours of the overlay; targets that are gone are deleted.

    Args:
        lifetime_s: after which markers vanish when nothing more comes; 0 never.
    """

    def __init__(self, lifetime_s: float) -> None:
        fraction, whole = math.modf(lifetime_s)
        self._lifetime = Duration(sec=int(whole), nanosec=int(fraction * 1e9))
        self._shown: set[int] = set()

    def write(self, result: FrameResult, boxes: Iterable[SpaceBox]) -> MarkerArray:
        """Write the markers of one image: of each target one in the namespace ``boxes`` and one in ``labels``."""
        header, named, markers = _header(result), _names(result), []
        shown = set()
        for box in boxes:
            label, score = named[box.target_id]
            marker_id = box.target_id & 0x7FFFFFFF
            shown.add(marker_id)
            red, green, blue = (channel / 255 for channel in target_colour(box.target_id))
            common: dict[str, Any] = {
                "header": header,
                "id": marker_id,
                "action": Marker.ADD,
                "lifetime": self._lifetime,
            }
            scale = _vector(tuple(max(length, _THIN_M) for length in box.size))
            tint = ColorRGBA(r=red, g=green, b=blue, a=0.4)
            markers.append(Marker(**common, ns="boxes", type=Marker.CUBE, pose=_pose(box), scale=scale, color=tint))
            markers.append(_label(common, box, " ".join(f"#{box.target_id} {label} {score:.2f}".split())))
        for gone in sorted(self._shown - shown):
            common = {"header": header, "id": gone, "action": Marker.DELETE}
            markers += [Marker(**common, ns=namespace) for namespace in ("boxes", "labels")]
        self._shown = shown
        return MarkerArray(markers=markers)


def detections_3d(result: FrameResult, boxes: Iterable[SpaceBox]) -> Any:
    """Write a vision_msgs/Detection3DArray: the label is the class, the target's id the detection's.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    from vision_msgs.msg import (
        BoundingBox3D,
        Detection3D,
        Detection3DArray,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
    )

    header, named, detections = _header(result), _names(result), []
    for box in boxes:
        label, score = named[box.target_id]
        best = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=label, score=score))
        best.pose.pose = _pose(box)
        around = BoundingBox3D(center=_pose(box), size=_vector(box.size))
        detections.append(Detection3D(header=header, id=str(box.target_id), results=[best], bbox=around))
    return Detection3DArray(header=header, detections=detections)


def _label(common: dict[str, Any], box: SpaceBox, text: str) -> Marker:
    """Write a text above a box; y points down."""
    height = max(_TEXT_SHARE * box.centroid[2], _THIN_M)
    x, y, z = box.centre
    above = Pose(position=Point(x=x, y=y - box.size[1] / 2 - height, z=z))
    white = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    return Marker(
        **common, ns="labels", type=Marker.TEXT_VIEW_FACING, pose=above, scale=Vector3(z=height), color=white, text=text
    )


def _names(result: FrameResult) -> dict[int, tuple[str, float]]:
    """Return label and score by target id."""
    rows = zip(result.target_ids.tolist(), result.labels, result.scores.tolist(), strict=True)
    return {target_id: (label, score) for target_id, label, score in rows}


def _pose(box: SpaceBox) -> Pose:
    turn = Quaternion(x=0.0, y=math.sin(box.yaw / 2), z=0.0, w=math.cos(box.yaw / 2))
    return Pose(position=Point(x=box.centre[0], y=box.centre[1], z=box.centre[2]), orientation=turn)


def _vector(values: tuple[float, ...]) -> Vector3:
    return Vector3(x=values[0], y=values[1], z=values[2])


def _header(result: FrameResult) -> Header:
    seconds, nanoseconds = divmod(result.stamp_ns, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=result.frame_id)

"""The node with depth: what is measured in space follows the masks, and a point in space is a click."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from tests.ros.harness import HEIGHT, THRESHOLD_NODE, WIDTH, Client, own_graph, running_node
from x2sam_ros.msg import Grounding, TargetArray, TargetBox3DArray, Timings

DEPTH = "/camera/depth/image_raw"
FOCAL = 100.0


class RgbdClient(Client):
    """Publishes depth and calibration beside the images; the red square is 2 m away, all else 5 m."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.create_publisher(Image, DEPTH, qos_profile_sensor_data)
        self.info = self.create_publisher(CameraInfo, "/camera/camera_info", qos_profile_sensor_data)
        self.boxes: list[TargetBox3DArray] = []
        self.clouds: list[PointCloud2] = []
        self.markers: list[MarkerArray] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.create_subscription(TargetBox3DArray, "/x2sam_node/boxes_3d", self.boxes.append, 10)
        self.create_subscription(PointCloud2, "/x2sam_node/cloud", self.clouds.append, 10)
        self.create_subscription(MarkerArray, "/x2sam_node/markers", self.markers.append, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep, 10)

    def _keep(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in message.status})

    def send_info(self, width: int = WIDTH) -> None:
        centre = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, HEIGHT / 2, 0.0, 0.0, 1.0]
        message = CameraInfo(width=width, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5, k=centre)
        message.header.frame_id = "camera_optical_frame"
        self.info.publish(message)

    def send_depth(self, height: int = HEIGHT) -> None:
        """Publish the depth of the newest image."""
        depth = np.full((height, WIDTH), 5000, np.uint16)
        depth[10:40, 10:40] = 2000
        message = Image(height=height, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
        message.header.frame_id = "camera_optical_frame"
        message.header.stamp.sec, message.header.stamp.nanosec = self.sent, 5_000_000  # 5 ms later
        message.data.frombytes(depth.tobytes())
        self.depth.publish(message)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RgbdClient]:
    parameter = f"depth_topics:=[{DEPTH}]"
    with own_graph(monkeypatch, RgbdClient) as made, running_node(THRESHOLD_NODE, parameter, log=tmp_path / "node.log"):
        made.wait(lambda: made.ready and made.camera.get_subscription_count() and made.depth.get_subscription_count())
        made.rest(0.5)
        yield made


def test_targets_are_measured_in_space_when_their_depth_comes(client: RgbdClient) -> None:
    client.publisher(String, "/x2sam_node/text").publish(String(data="the red square"))
    assert client.outcome("text-1").status == Grounding.OK
    client.answer()
    client.send_depth()
    client.rest(0.5)
    assert not client.boxes, "there is no calibration yet"
    client.send_info()
    client.rest(0.3)
    masks = client.answer()
    client.rest(0.2)
    assert not client.boxes, "masks do not wait for depth, and boxes do"
    client.send_depth()
    client.wait(lambda: client.boxes and client.clouds and client.markers)
    (box,) = client.boxes[-1].boxes
    assert client.boxes[-1].header == masks.header and box.target_id == 1 and box.num_points == 900
    assert box.centroid.z == pytest.approx(2.0) and box.centroid.x == pytest.approx((24.5 - WIDTH / 2) * 0.02, abs=0.02)
    assert box.size.x == pytest.approx(0.6, abs=0.05) and box.size.y == pytest.approx(0.6, abs=0.05)
    assert client.clouds[-1].width == 900 and client.clouds[-1].header == masks.header
    assert {marker.ns for marker in client.markers[-1].markers} == {"boxes", "labels"}


def test_a_point_in_space_is_a_click_and_what_does_not_fit_is_said(client: RgbdClient) -> None:
    client.send_info()
    client.rest(0.3)
    clicks = client.publisher(PointStamped, "/clicked_point")
    point = PointStamped(point=Point(x=(25 - WIDTH / 2) * 0.02, y=(25 - HEIGHT / 2) * 0.02, z=2.0))
    point.header.frame_id = "camera_optical_frame"
    clicks.publish(point)
    assert client.outcome("click-1").status == Grounding.OK
    assert [mask.area_px for mask in client.answer().masks] == [900]
    point.header.frame_id = "map"
    clicks.publish(point)
    refused = client.outcome("click-2")
    assert refused.status == Grounding.REJECTED and "'map'" in refused.message
    client.answer()
    client.send_depth(height=HEIGHT // 2)
    model, camera = "x2sam_node: model", "x2sam_node: /camera/image_raw"
    client.wait(lambda: {model, camera} <= client.statuses.keys())
    client.wait(lambda: any(pair.key == "problem.depth" for pair in client.statuses[model].values))
    client.wait(lambda: f"{WIDTH}x{HEIGHT // 2}" in client.statuses[camera].message)
    assert client.statuses[camera].level == DiagnosticStatus.WARN
    assert len(client.answer().masks) == 1, "the masks are unharmed"
    assert not client.boxes


def test_thresholds_change_at_run_time_and_the_rest_says_why_not(client: RgbdClient) -> None:
    service = client.create_client(SetParameters, "/x2sam_node/set_parameters")
    assert service.wait_for_service(10.0)

    def change(name: str, value: ParameterValue) -> tuple[bool, str]:
        answer = service.call_async(SetParameters.Request(parameters=[Parameter(name=name, value=value)]))
        client.wait(answer.done)
        (result,) = answer.result().results
        return result.successful, result.reason

    assert change("engine.score_threshold", ParameterValue(type=3, double_value=0.7)) == (True, "")
    done, reason = change("device", ParameterValue(type=4, string_value="cuda"))
    assert not done and "deactivate and clean up first" in reason
    assert len(client.answer().masks) == 0


def test_lists_timings_and_diagnostics_come(client: RgbdClient) -> None:
    targets: list[TargetArray] = []
    timings: list[Timings] = []
    client.create_subscription(TargetArray, "/x2sam_node/targets", targets.append, 10)
    client.create_subscription(Timings, "/x2sam_node/timings", timings.append, 10)
    client.publisher(String, "/x2sam_node/text").publish(String(data="the red square"))
    client.outcome("text-1")
    client.rest(0.3)
    message = client.answer()
    client.wait(lambda: timings and timings[-1].header == message.header and targets and targets[-1].targets)
    assert [(item.target_id, item.prompt_id) for item in targets[-1].targets] == [(1, "text-1")]
    newest = timings[-1]
    assert {"decode", "publish"} <= set(newest.stages) and newest.answered >= 2
    assert newest.answered == newest.received - newest.replaced - newest.bad
    camera = "x2sam_node: /camera/image_raw"

    def values() -> dict[str, str]:
        status = client.statuses.get(camera, DiagnosticStatus())
        return {pair.key: pair.value for pair in status.values}

    client.wait(lambda: values().get("answered") == str(newest.answered))  # of the next report
    assert values()["bad"] == "0" and {"x2sam_node: model", "x2sam_node: qos"} <= client.statuses.keys()

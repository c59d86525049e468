"""Bad input over DDS: it is counted, reported with its cause, the node lives, and the other camera is unharmed.

Text that is no UTF-8 is in test_node.py, points without TF in test_clicked_point.py, anything at all in test_fuzz.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from tests.ros.harness import Client, own_graph, picture, running_node
from x2sam_ros.msg import Grounding, Prompt, TargetBox3DArray, TrackedMaskArray
from x2sam_ros.srv import SessionFile, SetPrompt

NODE = "/x2sam_node"
FRONT, REAR = "/front/image_raw", "/rear/image_raw"
TARGETS = {FRONT: ("the red square", 900), REAR: ("the blue square", 1600)}
CAREFUL_NODE = ["-m", "tests.ros.careful_session"]
FLOOD = 1500


class Bench:
    """A node with two cameras: what is bad comes on the front one, which has depth."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder, self.log = client, folder, folder / "node.log"
        self.masks: dict[str, TrackedMaskArray] = {}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.boxes: list[TargetBox3DArray] = []
        self.cameras = {topic: client.create_publisher(Image, topic, qos_profile_sensor_data) for topic in TARGETS}
        self.infos = client.create_publisher(CameraInfo, "/front/camera_info", 10)
        self.depth = client.create_publisher(Image, "/front/depth", 10)
        for camera, name in ((FRONT, "front"), (REAR, "rear")):
            client.create_subscription(TrackedMaskArray, f"{NODE}/{name}/masks", self._keep(camera), 100)
        client.create_subscription(TargetBox3DArray, f"{NODE}/front/boxes_3d", self.boxes.append, 10)
        client.create_subscription(DiagnosticArray, "/diagnostics", self._read_diagnostics, 10)
        publishers = (*self.cameras.values(), self.infos, self.depth)
        client.wait(lambda: all(made.get_subscription_count() for made in publishers))
        client.rest(0.5)
        for camera, (text, _) in TARGETS.items():
            prompt = client.publisher(String, f"{NODE}/{camera.split('/')[1]}/text")
            prompt.publish(String(data=text))
        client.rest(0.3)

    def _keep(self, camera: str) -> Any:
        return lambda message: self.masks.update({camera: message})

    def _read_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = {status.name.partition(": ")[2]: status for status in message.status}

    def send(self, camera: str = FRONT, **changes: Any) -> Image:
        """Send the picture with the next second as its stamp, unless changed."""
        self.client.sent += 1
        pixels = picture()
        message = Image(height=96, width=128, encoding="rgb8", step=3 * 128)
        message.data.frombytes(pixels.tobytes())
        message.header.frame_id = "camera_optical_frame"
        message.header.stamp.sec = self.client.sent
        for name, value in changes.items():
            setattr(message.header.stamp if hasattr(message.header.stamp, name) else message, name, value)
        self.cameras[camera].publish(message)
        return message

    def answer(self, camera: str = FRONT, **changes: Any) -> TrackedMaskArray:
        """Send the picture, again where it is lost on the way, wait for its masks, which must be right: return them."""
        for _ in range(10):
            stamp, end_s = self.send(camera, **changes).header.stamp, time.monotonic() + 1.0
            while time.monotonic() < end_s:
                if camera in self.masks and self.masks[camera].header.stamp == stamp:
                    break
                self.client.spinner.spin_once(timeout_sec=0.02)
            else:
                continue
            break
        else:
            raise AssertionError(f"{camera} is not answered any more")
        assert [mask.area_px for mask in self.masks[camera].masks] == [TARGETS[camera][1]]
        return self.masks[camera]

    def told(self, name: str, *words: str) -> DiagnosticStatus:
        """Wait until /diagnostics has these words for a camera, "model" or "qos"."""

        def said() -> str:
            status = self.statuses.get(name, DiagnosticStatus())
            return " ".join([status.message, *(f"{item.key}={item.value}" for item in status.values)])

        end_s = time.monotonic() + 5.0
        while not all(word in said() for word in words):
            assert time.monotonic() < end_s, f"{name} does not say {words}: {said()}"
            self.client.spinner.spin_once(timeout_sec=0.02)
        return self.statuses[name]

    def unharmed(self) -> None:
        """Both cameras are answered, the rear one without ever a loss."""
        self.answer(FRONT)
        assert self.answer(REAR).frames_dropped == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bad")
    parameters = (
        f"image_topics:=[{FRONT}, {REAR}]",
        "depth_topics:=[/front/depth, '']",
        f"session_file:={folder / 'robot.x2'}",
        "session_period_s:=1.0",
        "log_period_s:=0.1",
        "max_pending_commands:=4",
    )
    with pytest.MonkeyPatch.context() as monkeypatch, own_graph(monkeypatch) as client:
        with running_node(CAREFUL_NODE, *parameters, log=folder / "node.log"):
            client.wait(lambda: client.ready)
            yield Bench(client, folder)
        assert "Traceback" not in (folder / "node.log").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 5}, "image step is 5 bytes, a rgb8 row needs 384"),
        ({"step": 10_000}, "image data has 36864 bytes"),
        ({"data": b""}, "image data has 0 bytes"),
        ({"height": 0}, "image has no pixels"),
        ({"width": 10_000, "height": 10_000, "step": 30_000}, "image of 10000x10000 exceeds 50000000 pixels"),
        ({"encoding": "rgb9"}, "image encoding 'rgb9' is not supported"),
        ({"sec": -1}, "stamp is -1 s"),
        ({"nanosec": 2_000_000_000}, "2000000000 ns, expected"),
    ],
)
def test_an_image_that_cannot_be_read(bench: Bench, changes: dict[str, Any], words: str) -> None:
    before = bench.answer().frames_dropped
    bench.client.rest(0.1)  # the log says each cause once in that time
    bench.send(**changes)
    bench.client.rest(0.1)
    assert bench.answer().frames_dropped == before + 1
    assert f"frame of {FRONT} dropped" in bench.log.read_text() and words in bench.log.read_text()
    assert bench.told(FRONT, words, "bad.unreadable=").level == DiagnosticStatus.WARN
    bench.unharmed()


def test_a_hundred_megapixels_with_all_their_bytes(bench: Bench) -> None:
    before = bench.answer().frames_dropped
    side = 10_000
    huge = bench.client.create_publisher(Image, FRONT, 1)  # reliable: some of so many fragments would be lost
    bench.client.wait(huge.get_subscription_count)
    message = Image(height=side, width=side, encoding="mono8", step=side)
    message.data.frombytes(bytes(side * side))
    huge.publish(message)
    began_s = time.monotonic()
    bench.unharmed()
    bench.client.rest(0.5)
    assert bench.answer().frames_dropped - before in (0, 1), "best effort may lose it on the way"
    assert time.monotonic() - began_s < 5.0
    bench.client.destroy_publisher(huge)


def test_frames_out_of_order_are_refused_and_stamps_of_zero_are_stamps(bench: Bench) -> None:
    before = bench.answer().frames_dropped
    bench.client.sent += 1
    late = bench.client.sent
    bench.answer()
    bench.send(sec=late, nanosec=999_999_000)
    bench.client.rest(0.2)
    assert bench.answer().frames_dropped == before + 1
    bench.told(FRONT, "older than the newest; deliver frames in the order", "bad.refused=1")
    assert "older than the newest" in bench.log.read_text()
    bench.unharmed()
    for _ in range(2):
        bench.answer(sec=0)
        bench.client.rest(0.1)
    bench.unharmed()


def test_calibration_and_depth_that_are_missing_or_of_another_size(bench: Bench) -> None:
    def depth(height: int, width: int) -> None:
        """Send the picture and its depth."""
        stamp = bench.answer().header.stamp
        message = Image(height=height, width=width, encoding="32FC1", step=4 * width)
        message.header.stamp = stamp
        message.data.frombytes(np.full((height, width), 2.0, np.float32).tobytes())
        bench.depth.publish(message)
        bench.client.rest(0.3)

    def calibrate(height: int, width: int) -> None:
        info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
        info.header.frame_id = "camera_optical_frame"
        info.k = [100.0, 0.0, width / 2, 0.0, 100.0, height / 2, 0.0, 0.0, 1.0]
        info.p = [100.0, 0.0, width / 2, 0.0, 0.0, 100.0, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        bench.infos.publish(info)
        bench.client.rest(0.2)

    def said(words: str) -> None:
        assert words in bench.log.read_text()
        bench.told("model", f"problem.depth of {FRONT}=")

    bench.client.wait(lambda: bench.client.count_publishers(f"{NODE}/front/boxes_3d"))
    depth(96, 128)
    said("no camera_info has come on /front/camera_info")
    calibrate(480, 640)
    depth(96, 128)
    said("image is 128x96, camera_info is for 640x480")
    calibrate(96, 128)
    depth(48, 64)
    said("depth is 64x48, the image 128x96")
    assert not bench.boxes
    depth(96, 128)
    bench.client.wait(lambda: bench.boxes)
    assert bench.boxes[0].boxes[0].centroid.z == pytest.approx(2.0)
    bench.unharmed()


def test_a_point_in_space_without_calibration(bench: Bench) -> None:
    clicks = bench.client.publisher(PointStamped, "/clicked_point")
    click = PointStamped()
    click.header.frame_id = "map"
    clicks.publish(click)
    bench.client.wait(lambda: any("camera_info" in item.message for item in bench.client.groundings))
    assert bench.client.groundings[-1].status == Grounding.REJECTED
    bench.told("model", "problem.rejected prompt=")
    bench.unharmed()


def test_a_subscription_that_does_not_fit_is_named(bench: Bench) -> None:
    wanted = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    deaf = bench.client.create_subscription(TrackedMaskArray, f"{NODE}/front/masks", lambda message: None, wanted)
    status = bench.told("qos", f"a subscription to {NODE}/front/masks gets nothing", "DURABILITY")
    assert status.level == DiagnosticStatus.WARN
    assert f"{NODE}/front/masks asks for another DURABILITY" in bench.log.read_text()
    bench.unharmed()
    bench.client.destroy_subscription(deaf)
    bench.told("qos", "fits everywhere")


def test_a_thousand_prompts_a_second(bench: Bench) -> None:
    lines = len(bench.log.read_text().splitlines())
    prompts = bench.client.publisher(Prompt, f"{NODE}/prompt")
    slowest_ms = 0.0
    began_s = time.monotonic()
    for number in range(FLOOD):
        prompts.publish(Prompt(text="the pink square", camera=FRONT, prompt_id=f"flood-{number}"))
        if number % 100 == 0:
            slowest_ms = max(slowest_ms, bench.answer(REAR).latency_ms)
            bench.answer(FRONT)
        bench.client.rest(max(0.0, began_s + number * 1e-3 - time.monotonic()))
    assert slowest_ms < 1000
    bench.unharmed()
    service = bench.client.create_client(SetPrompt, f"{NODE}/set_prompt")
    bench.client.wait(service.service_is_ready)
    added = service.call_async(
        SetPrompt.Request(prompt=Prompt(text="the green square", camera=FRONT, prompt_id="after"))
    )
    bench.client.rest(0.3)
    bench.send()
    bench.client.wait(added.done)
    assert added.result().success
    away = service.call_async(SetPrompt.Request(prompt=Prompt(action=Prompt.ACTION_REMOVE, prompt_id="after")))
    bench.client.wait(away.done)
    bench.told("model", "problem.rejected prompt=")
    assert "4 prompts are waiting already" in bench.log.read_text()
    assert len(bench.log.read_text().splitlines()) - lines < 200, "the log does not flood"
    bench.unharmed()


def test_a_parameter_of_a_type_that_there_is_not(bench: Bench) -> None:
    strange = [Parameter(name="log_period_s", value=ParameterValue(type=77))]
    for kind, name in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically")):
        service = bench.client.create_client(kind, f"{NODE}/{name}")
        bench.client.wait(service.service_is_ready)
        reply = service.call_async(kind.Request(parameters=strange))
        bench.client.wait(reply.done)
        [result] = getattr(reply.result(), "results", None) or [reply.result().result]
        assert not result.successful and "77 is not a valid" in result.reason
    bench.told("model", "problem.request=2")
    bench.unharmed()


def test_a_full_disk(bench: Bench) -> None:
    saved = bench.folder / "robot.front.x2"
    bench.client.wait(saved.exists, 5.0)
    saved.unlink()
    saved.symlink_to("/dev/full")
    bench.client.rest(1.5)
    bench.unharmed()  # a change, so that it is saved again
    bench.told("model", f"problem.session save of {FRONT}=")
    assert "No space left on device" in bench.log.read_text()
    service = bench.client.create_client(SessionFile, f"{NODE}/save_session")
    (bench.folder / ".asked.front.x2.new").symlink_to("/dev/full")
    bench.client.wait(service.service_is_ready)
    reply = service.call_async(SessionFile.Request(path=str(bench.folder / "asked.x2")))
    bench.client.wait(reply.done)
    assert not reply.result().success and "No space left on device" in reply.result().message
    assert not (bench.folder / "asked.rear.x2").exists(), "all files or none"
    bench.unharmed()
    saved.unlink()

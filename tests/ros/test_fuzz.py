"""Anything at all on every topic, service and parameter of a running node: it goes on, and its masks are right."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from geometry_msgs.msg import Point, PointStamped
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from tests.ros.harness import Client, own_graph, picture, running_node
from tests.ros.messages import INTERESTING, damaged, messages
from x2sam_ros.image_codec import DEPTH_ENCODINGS, ENCODINGS
from x2sam_ros.msg import Prompt, TrackedMaskArray
from x2sam_ros.ros.params import parameter_specs
from x2sam_ros.srv import ListTargets, SessionFile, SetPrompt
from x2sam_ros.types import Task

RCLError = rclpy_implementation.RCLError
CASES = int(os.environ.get("X2SAM_FUZZ_CASES", "300"))
BATCH = 15
"""Cases between two looks at the node."""

QUICK_NODE = [
    "-c",
    "import itertools; from tests.ros.threshold_session import ThresholdSession; from x2sam_ros.ros.node import main; "
    "ids = itertools.count(1); "
    "main(open_sessions=lambda config, cameras: {camera: ThresholdSession(0.0, ids) for camera in cameras})",
]
FUZZED, STEADY = "/front/image_raw", "/rear/image_raw"
COLOURS = {FUZZED: ("the red square", 900), STEADY: ("the blue square", 1600)}
NODE = "/x2sam_node"
REPLY_S = 20.0


class Case(NamedTuple):
    """What is sent to which topic or service."""

    to: str
    payload: Any


def _png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())


@st.composite
def images(draw: st.DrawFn, encodings: tuple[str, ...]) -> Image:
    encoding = draw(st.sampled_from(encodings) | st.text(max_size=5))
    height, width = draw(st.tuples(*[st.integers(0, 64) | st.sampled_from((*INTERESTING, 10_000))] * 2))
    step = draw(st.sampled_from((width, 2 * width, 3 * width, 4 * width, 3 * width + 1)) | st.integers(0, 2**32 - 1))
    length = draw(st.sampled_from((step * height, step * height - 1, 0, 1))) % 50_000
    message = Image(encoding=encoding, height=height, width=width, step=step % 2**32)
    message.header = draw(messages(type(message.header), {}))
    message.is_bigendian = draw(st.integers(0, 2))
    message.data.frombytes(bytes([draw(st.integers(0, 255))]) * length)
    return message


PACKED = (_png(picture()), bytes(cv2.imencode(".jpg", picture())[1].tobytes()), b"", b"\xff\xd8\xff")
KNOWN = {
    "Prompt.action": st.sampled_from((0, 0, 0, 1, 2, 3, 9)),
    "Prompt.kind": st.integers(0, 5),
    "Prompt.prompt_id": st.sampled_from(("", "", "one", "two")) | st.text(max_size=4),
    "Prompt.camera": st.sampled_from((FUZZED, FUZZED, "", "/other", STEADY)),
    "Prompt.target_id": st.sampled_from((-1, -1, 1, 2, 3, -(2**63), 2**63 - 1)),
    "Prompt.task": st.sampled_from(("", *Task, "none such")),
    "Prompt.text": st.sampled_from(("the red square", "the pink square", "", " ", "<p> <SEG>")) | st.text(max_size=20),
    "Prompt.mask_width": st.sampled_from((0, 128, 4, 2**32 - 1)),
    "Prompt.mask_height": st.sampled_from((0, 96, 4, 2**32 - 1)),
    "Prompt.mask_rle": st.sampled_from(([], [128 * 96], [0, 128 * 96], [4, 4, 8], [2**32 - 1] * 3)),
    "CompressedImage.format": st.sampled_from(("png", "jpeg", "", "16UC1; compressedDepth png")) | st.text(max_size=9),
    "CompressedImage.data": st.sampled_from(PACKED).flatmap(lambda data: st.just(data) | damaged(data)),
    "CameraInfo.width": st.sampled_from((0, 128, 640, 2**32 - 1)),
    "CameraInfo.height": st.sampled_from((0, 96, 480)),
    "CameraInfo.distortion_model": st.sampled_from(("", "plumb_bob", "equidistant", "rational_polynomial", "none")),
    "Header.frame_id": st.sampled_from(("camera_optical_frame", "", "map", "/camera")),
}


def topics(transport: str) -> dict[str, tuple[type, st.SearchStrategy[Any]]]:
    """Return class and messages of every topic that the node listens to."""
    if transport == "raw":
        camera = {FUZZED: (Image, images(ENCODINGS))}
    else:
        camera = {f"{FUZZED}/compressed": (CompressedImage, messages(CompressedImage, KNOWN))}
    kinds = {
        "/front/camera_info": CameraInfo,
        f"{NODE}/prompt": Prompt,
        f"{NODE}/front/text": String,
        f"{NODE}/text": String,
        f"{NODE}/front/click": PointStamped,
        f"{NODE}/click": PointStamped,
        f"{FUZZED}_mouse_left": Point,
        "/clicked_point": PointStamped,
    }
    depth = {"/front/depth": (Image, images(DEPTH_ENCODINGS))}
    return {**camera, **depth, **{topic: (kind, messages(kind, KNOWN)) for topic, kind in kinds.items()}}


def parameters() -> st.SearchStrategy[Parameter]:
    names = [spec.name for spec in parameter_specs()] + ["use_sim_time", "none.such", ""]
    value = messages(ParameterValue, {"ParameterValue.type": st.integers(0, 10)})
    return st.builds(Parameter, name=st.sampled_from(names), value=value)


def services(folder: Path) -> dict[str, tuple[type, st.SearchStrategy[Any]]]:
    """Return class and requests of every service; files are only written in the folder."""
    paths = st.sampled_from(
        [str(folder / "saved"), str(folder / "no" / "saved"), str(folder), "", "saved", "~", "x\0y"]
    )
    asked = st.builds(SessionFile.Request, path=paths)
    return {
        "set_prompt": (SetPrompt, st.builds(SetPrompt.Request, prompt=messages(Prompt, KNOWN))),
        "list_targets": (ListTargets, st.builds(ListTargets.Request, camera=KNOWN["Prompt.camera"])),
        "save_session": (SessionFile, asked),
        "load_session": (SessionFile, asked),
        "enable": (SetBool, st.builds(SetBool.Request, data=st.booleans())),
        "reset": (Trigger, st.just(Trigger.Request())),
        "set_parameters": (
            SetParameters,
            st.builds(SetParameters.Request, parameters=st.lists(parameters(), max_size=3)),
        ),
    }


def cases(transport: str, folder: Path) -> st.SearchStrategy[Case]:
    """Make cases: of topics half of them damaged, and now and then a service."""

    def on(topic: str, sent: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
        packed = sent.map(serialize_message)
        return st.builds(Case, st.just(topic), packed | packed.flatmap(damaged))

    choices = [on(topic, sent) for topic, (_, sent) in topics(transport).items()]
    choices += [st.builds(Case, st.just(name), sent) for name, (_, sent) in services(folder).items()]
    return st.one_of(choices)


class Fuzzed:
    """The running node and all ways into it."""

    def __init__(self, client: Client, transport: str, folder: Path) -> None:
        self.client, self.transport = client, transport
        self.publishers = {
            topic: client.create_publisher(kind, topic, 50) for topic, (kind, _) in topics(transport).items()
        }
        self.services = {
            name: client.create_client(kind, f"{NODE}/{name}") for name, (kind, _) in services(folder).items()
        }
        self.seen: dict[str, TrackedMaskArray] = {}
        kind, suffix = (Image, "") if transport == "raw" else (CompressedImage, "/compressed")
        self.cameras = {
            topic: client.create_publisher(kind, topic + suffix, qos_profile_sensor_data) for topic in COLOURS
        }
        for camera, name in ((FUZZED, "front"), (STEADY, "rear")):
            client.create_subscription(TrackedMaskArray, f"{NODE}/{name}/masks", self._keep(camera), 100)
        self.open: list[tuple[str, Any]] = []
        client.wait(
            lambda: all(made.get_subscription_count() for made in (*self.publishers.values(), *self.cameras.values()))
        )
        client.wait(lambda: all(made.service_is_ready() for made in self.services.values()))
        client.rest(0.5)

    def _keep(self, camera: str) -> Callable[[TrackedMaskArray], None]:
        return lambda message: self.seen.update({camera: message})

    def send(self, case: Case) -> None:
        if case.to in self.services:
            self.open.append((case.to, self.services[case.to].call_async(case.payload)))
        else:
            with suppress(RCLError):  # fewer bytes than any message has cannot even be sent
                self.publishers[case.to].publish(case.payload)

    def answer(self, camera: str) -> TrackedMaskArray:
        """Let the picture come on a camera and return its masks; it is sent again where it was lost."""
        client = self.client
        for _ in range(10):
            client.sent += 1
            stamp_s = client.sent
            if self.transport == "raw":
                message: Any = Image(height=96, width=128, encoding="rgb8", step=3 * 128)
                message.data.frombytes(picture().tobytes())
            else:
                message = CompressedImage(format="png", data=_png(picture()))
            message.header.stamp.sec, message.header.stamp.nanosec = stamp_s, 123_456_789
            self.cameras[camera].publish(message)
            end_s = time.monotonic() + 2.0
            while time.monotonic() < end_s:
                client.spinner.spin_once(timeout_sec=0.02)
                found = self.seen.get(camera)
                if found is not None and (found.header.stamp.sec, found.header.stamp.nanosec) == (stamp_s, 123_456_789):
                    return found
        raise AssertionError(f"{camera} is not answered any more")

    def ask(self, name: str, request: Any, camera: str = STEADY) -> Any:
        """Call a service and let images come until it has answered."""
        self.open.append((name, self.services[name].call_async(request)))
        answer = self.open[-1][1]
        self.settle(camera)
        return answer.result()

    def settle(self, *cameras: str) -> None:
        """Let images come until every call has its reply."""
        end_s = time.monotonic() + REPLY_S
        while waiting := [name for name, answer in self.open if not answer.done()]:
            assert time.monotonic() < end_s, f"no reply came from {waiting}"
            self.client.rest(0.005)
            for camera in cameras:
                self.answer(camera)
        self.open.clear()

    def check(self) -> None:
        """The node still answers everybody, and masks are right on both cameras.

        Topics and services have no common order: what was sent before may come later, and remove a target.
        """
        for chance in (1, 2, 3):
            self.client.rest(0.01)
            self.open.append(("enable", self.services["enable"].call_async(SetBool.Request(data=True))))
            self.settle_enabled()
            assert self.ask("reset", Trigger.Request()).success
            areas = {camera: self.areas(camera) for camera in COLOURS}
            if areas == {camera: [area] for camera, (_, area) in COLOURS.items()}:
                break
            assert chance < 3, areas
        assert self.seen[STEADY].frames_dropped == 0

    def areas(self, camera: str) -> list[int]:
        """Ask for the one target of a camera; return what its masks are like."""
        prompt = Prompt(text=COLOURS[camera][0], camera=camera)
        reply = self.ask("set_prompt", SetPrompt.Request(prompt=prompt), camera)
        return [mask.area_px for mask in self.answer(camera).masks] if reply.success else [-1]

    def settle_enabled(self) -> None:
        """Wait for that call alone first: images are not answered before."""
        last = self.open[-1][1]
        self.client.wait(last.done, REPLY_S)
        self.settle(FUZZED, STEADY)


@pytest.fixture(params=["raw", "compressed"])
def fuzzed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fuzzed]:
    log = tmp_path / "node.log"
    set_up = (
        f"image_topics:=[{FUZZED}, {STEADY}]",
        "depth_topics:=[/front/depth, '']",
        f"image_transport:={request.param}",
    )
    with own_graph(monkeypatch) as client, running_node(QUICK_NODE, *set_up, log=log):
        client.wait(lambda: client.ready)
        yield Fuzzed(client, request.param, tmp_path)
    said = log.read_text()
    assert "Traceback" not in said, said[-4000:]


def test_whatever_comes_the_node_goes_on_and_the_other_camera_is_unharmed(fuzzed: Fuzzed, tmp_path: Path) -> None:
    @settings(
        max_examples=max(1, CASES // BATCH // 2),
        phases=[Phase.generate],  # a node that has gone wrong stays so: smaller cases would tell nothing
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(cases(fuzzed.transport, tmp_path), min_size=BATCH, max_size=BATCH))
    def batch(sent: list[Case]) -> None:
        for case in sent:
            fuzzed.send(case)
        fuzzed.check()

    batch()

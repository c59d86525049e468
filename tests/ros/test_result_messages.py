"""What goes out for a result: lists when they change, pictures when somebody looks, times and boxes, over DDS."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from tests.ros.graph import Graph, graph_of_its_own
from x2sam_ros.errors import FrameError
from x2sam_ros.image_codec import decode_compressed, decode_image
from x2sam_ros.msg import LabelInfo, TargetArray, Timings, TrackedMaskArray
from x2sam_ros.ros import convert, result_messages
from x2sam_ros.ros.cameras import Camera
from x2sam_ros.ros.frame_slots import Counters
from x2sam_ros.ros.qos import Publishers
from x2sam_ros.ros.result_messages import DetectionTypes, ResultPublishers, compressed_overlay, detections
from x2sam_ros.types import Frame, FrameResult, TargetInfo, TargetState
from x2sam_ros.visualise import draw_overlay

LATCHED = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SECOND = 1_000_000_000


def frame(stamp_s: int = 1, size: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(np.full((*size, 3), 90, np.uint8), stamp_s * SECOND + 7, 0, "optical", "/front/image_raw")


def answer(of: Frame, *ids: int, state: TargetState = TargetState.TRACKED) -> FrameResult:
    """A target at the lower right for each id; the last has no pixel."""
    masks = np.zeros((len(ids), *of.size), bool)
    masks[:-1, 20:30, 40:60] = True
    return FrameResult(
        of.stamp_ns,
        0,
        of.frame_id,
        of.size,
        masks,
        np.full(len(ids), 0.75, np.float32),
        tuple("" if number == 3 else f"cup {number}" for number in ids),
        np.array(ids, np.int64),
        (state,) * len(ids),
        timings_ms={"encode": 5.0, "decode_masks": 2.5},
    )


def infos(result: FrameResult) -> tuple[TargetInfo, ...]:
    rows = zip(result.target_ids.tolist(), result.labels, result.states, strict=True)
    return tuple(TargetInfo(number, label, "p", state, result.stamp_ns) for number, label, state in sorted(rows))


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    with graph_of_its_own(monkeypatch) as made:
        yield made


class Station:
    """Publishers of one of two cameras, and a node that hears what it asks for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.node, self.watcher = graph.node("x2sam_node"), graph.node("watcher")
        camera = Camera("/front/image_raw", "front")
        self.opened = Publishers(self.node, graph.monitor)
        self.publishers = ResultPublishers(self.opened, camera, jpeg_quality=90)

    def hear(self, message_type: type, topic: str, qos: Any = 10) -> list[Any]:
        heard: list[Any] = []
        name = f"/x2sam_node/front/{topic}"
        self.watcher.create_subscription(message_type, name, heard.append, qos)
        self.graph.wait(lambda: self.node.count_subscribers(name) and self.watcher.count_publishers(name))
        self.graph.rest(0.3)
        return heard

    def publish(self, of: Frame, result: FrameResult, counters: Counters | None = None) -> float:
        received_ns = time.monotonic_ns() - 20_000_000
        return self.publishers.publish(of, result, received_ns, counters or Counters(1), infos(result), 1.5, 3)


def test_masks_times_and_pictures_reach_who_asked_for_them(graph: Graph) -> None:
    station = Station(graph)
    masks, times = station.hear(TrackedMaskArray, "masks"), station.hear(Timings, "timings")
    labels = station.hear(Image, "label_image")
    drawn, packed = station.hear(Image, "overlay"), station.hear(CompressedImage, "overlay/compressed")
    of = frame()
    result = answer(of, 3, 2)
    counters = Counters(9, 4, 2, Counter(unreadable=1))
    latency_ms = station.publish(of, result, counters)
    graph.wait(lambda: all((masks, times, labels, drawn, packed)))
    told = times[0]
    assert told.latency_ms == pytest.approx(latency_ms) == masks[0].latency_ms and latency_ms >= 20
    assert masks[0].frames_dropped == 3
    assert (told.received, told.answered, told.replaced, told.bad, told.without_depth) == (9, 5, 2, 1, 3)
    assert list(told.stages) == ["encode", "decode_masks", "decode", "publish"]
    assert list(told.stage_ms)[:3] == [5.0, 2.5, 1.5] and told.stage_ms[3] > 0
    assert set(labels[0].data) == {0, 3}
    expected = draw_overlay(of.image, result)
    whole = drawn[0]
    assert (decode_image(whole.encoding, whole.height, whole.width, whole.step, False, whole.data) == expected).all()
    near = decode_compressed(packed[0].format, packed[0].data).astype(int)
    assert packed[0].format == "rgb8; jpeg compressed bgr8" and np.abs(near - expected).mean() < 8
    stamps = {(item[0].header.stamp.sec, item[0].header.frame_id) for item in (masks, times, labels, drawn, packed)}
    assert stamps == {(1, "optical")}


def test_lists_are_latched_and_come_again_when_they_change(graph: Graph) -> None:
    station = Station(graph)
    first = frame(1)
    station.publish(first, answer(first, 3, 2))
    infos_heard, targets = station.hear(LabelInfo, "label_info", LATCHED), station.hear(TargetArray, "targets", LATCHED)
    for stamp_s in (2, 3):  # nothing new
        station.publish(frame(stamp_s), answer(frame(stamp_s), 2, 3))
    station.publish(frame(4), answer(frame(4), 2, 3, state=TargetState.OCCLUDED))
    station.publish(frame(5), answer(frame(5), 2, 3, 7))
    graph.wait(lambda: len(infos_heard) == 2 and len(targets) == 3)
    station.publishers.publish_targets(())  # removed while no image comes
    graph.wait(lambda: len(targets) == 4)
    assert [(item.header.stamp.sec, list(item.values), item.labels) for item in infos_heard] == [
        (1, [2, 3], ["cup 2", ""]),
        (5, [2, 3, 7], ["cup 2", "", "cup 7"]),
    ]
    assert [(item.header.stamp.sec, [target.target_id for target in item.targets]) for item in targets] == [
        (1, [2, 3]),
        (4, [2, 3]),
        (5, [2, 3, 7]),
        (5, []),
    ]
    told = targets[1].targets[0]
    assert targets[1].camera == "/front/image_raw" and (told.label, told.prompt_id, told.state) == ("cup 2", "p", 2)
    assert (told.last_seen.sec, told.last_seen.nanosec) == (4, 7)


def test_nothing_is_drawn_for_nobody(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    station = Station(graph)
    for module, name in ((result_messages, "draw_overlay"), (convert, "from_result"), (convert, "label_image")):
        monkeypatch.setattr(module, name, lambda *_, name=name: calls.append(name))
    assert station.publish(frame(), answer(frame(), 1, 2)) >= 20
    assert not calls
    station.opened.close()
    assert not [name for name, _ in station.node.get_topic_names_and_types() if name.startswith("/x2sam_node/front")]


def test_a_picture_too_long_for_a_jpeg_is_named() -> None:
    with pytest.raises(FrameError, match="overlay of 65501x1 cannot be a JPEG"):
        compressed_overlay(Header(), np.zeros((1, 65_501, 3), np.uint8), 80)


@dataclass
class Flat:
    """A message of vision_msgs, which is not installed here, with whichever fields a release has."""

    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vars(self).update(self.fields)


def flat(**fields: Any) -> Any:
    return Flat(fields)


def test_boxes_fit_every_release_of_vision_msgs() -> None:
    point = {"x": 0.0, "y": 0.0}
    releases = {
        "humble and later": (
            lambda header: flat(header=header, id="", bbox=flat(center=flat(position=flat(**point), theta=0.0))),
            lambda: flat(hypothesis=flat(class_id="", score=0.0)),
        ),
        "before": (
            lambda header: flat(header=header, bbox=flat(center=flat(**point, theta=0.0))),
            lambda: flat(id="", score=0.0),
        ),
    }
    masks = convert.from_result(answer(frame(), 2, 3, 4), 0)
    for detection, hypothesis in releases.values():
        types: Any = DetectionTypes(flat, detection, hypothesis)
        found = detections(masks, types)
        assert found.header == masks.header and len(found.detections) == 2
        for item, number, name in zip(found.detections, (2, 3), ("cup 2", "3"), strict=True):
            centre = getattr(item.bbox.center, "position", item.bbox.center)
            assert (centre.x, centre.y, item.bbox.size_x, item.bbox.size_y) == (50.0, 25.0, 20.0, 10.0)
            named = getattr(item.results[0], "hypothesis", item.results[0])
            assert (getattr(named, "class_id", named.__dict__.get("id")), named.score) == (name, 0.75)
            assert getattr(item, "id", str(number)) == str(number)

"""TF is listened to from when somebody can click; a stand-in with the real one's calls where that is not installed."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from geometry_msgs.msg import PointStamped, TransformStamped
from rclpy.time import Time

from tests.ros.harness import own_graph
from x2sam_ros.errors import PromptError
from x2sam_ros.ros import transforms
from x2sam_ros.ros.transforms import open_transforms

POINTS = "/clicked_point"


class TransformError(Exception):
    pass


class Buffer:
    """Knows one transform, since 10 s."""

    cleared = 0

    def lookup_transform(self, target: str, source: str, stamp: Time) -> TransformStamped:
        if (target, source) != ("lens", "map") or stamp.nanoseconds > 10_000_000_000:
            raise TransformError("Lookup would require extrapolation\n into the future.")
        return TransformStamped(child_frame_id=source)

    def clear(self) -> None:
        self.cleared += 1


class Listener:
    made: ClassVar[list[Listener]] = []

    def __init__(self, buffer: Buffer, node: Any) -> None:
        self.listens = True
        self.made.append(self)

    def unregister(self) -> None:
        self.listens = False


def test_without_tf2_ros_or_a_topic_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "tf2_ros", None)
    assert open_transforms(None, POINTS) is None  # type: ignore[arg-type]
    monkeypatch.setattr(transforms, "tf2_ros", sys)
    assert open_transforms(None, "") is None  # type: ignore[arg-type]


def test_it_is_listened_to_from_when_somebody_can_click(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(Buffer=Buffer, TransformListener=Listener, TransformException=TransformError)
    monkeypatch.setattr(transforms, "tf2_ros", stand_in)
    Listener.made.clear()
    with own_graph(monkeypatch) as client:
        made = open_transforms(client, POINTS)
        assert made is not None
        client.rest(2 * transforms.WATCH_PERIOD_S)
        assert not Listener.made
        with pytest.raises(PromptError, match="TF is not listened to before somebody can click; click again"):
            made.lookup("lens", "map", 0)
        client.create_publisher(PointStamped, POINTS, 10)
        client.wait(lambda: Listener.made)
        assert made.lookup("lens", "map", 5_000_000_000).child_frame_id == "map"
        for stamp_ns, message in ((11_000_000_000, "extrapolation into the future"), (-1, ".")):
            with pytest.raises(PromptError, match=message):
                made.lookup("lens", "map", stamp_ns)
        client.rest(2 * transforms.WATCH_PERIOD_S)
        made.close()
        assert [listener.listens for listener in Listener.made] == [False], "there is one, and it ended"


@pytest.mark.skipif(importlib.util.find_spec("tf2_ros") is None, reason="tf2_ros is not installed")
def test_the_real_tf(monkeypatch: pytest.MonkeyPatch) -> None:
    import tf2_ros

    with own_graph(monkeypatch) as client:
        client.create_publisher(PointStamped, POINTS, 10)
        made = open_transforms(client, POINTS)
        assert made is not None
        message = TransformStamped(child_frame_id="lens")
        message.header.frame_id = "map"
        message.transform.translation.z, message.transform.rotation.w = 2.0, 1.0
        broadcaster = tf2_ros.StaticTransformBroadcaster(client)
        broadcaster.sendTransform(message)

        def known() -> bool:
            try:
                return bool(made.lookup("lens", "map", 0))
            except PromptError:
                return False

        client.wait(known)
        assert made.lookup("lens", "map", time.time_ns()).transform.translation.z == pytest.approx(-2.0)
        with pytest.raises(PromptError, match="nowhere"):
            made.lookup("lens", "nowhere", 0)
        made.close()

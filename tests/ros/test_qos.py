"""Quality of service is a parameter of each topic, nonsense is refused, and what does not fit is named, over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from std_msgs.msg import String

from tests.ros.graph import Graph, graph_of_its_own
from x2sam_ros.errors import ConfigError
from x2sam_ros.ros import qos
from x2sam_ros.ros.qos import PROFILES, check_override_names, create_publisher, create_raw_subscription

TOPIC = "/camera/image_raw"
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    with graph_of_its_own(monkeypatch) as made:
        yield made


def listen(graph: Graph, node: Node) -> tuple[Subscription, list[bytes]]:
    """Subscribe to the topic; return what is heard, too."""
    heard: list[bytes] = []
    return create_raw_subscription(node, graph.monitor, String, TOPIC, heard.append, "sensor"), heard


def override(topic: str, direction: str, policy: str) -> str:
    return f"qos_overrides.{topic}.{direction}.{policy}"


def test_a_raw_subscription_with_an_override_hears_a_peer_that_fits(graph: Graph) -> None:
    name = override(TOPIC, "subscription", "reliability")
    node = graph.node("listener", **{name: "reliable", override(TOPIC, "subscription", "depth"): 7})
    subscription, heard = listen(graph, node)
    assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert (subscription.qos_profile.depth, PROFILES["sensor"].depth) == (7, 5)
    assert node.describe_parameter(name).read_only and TOPIC in node.describe_parameter(name).description
    talker = graph.node("talker").create_publisher(String, TOPIC, 10)
    graph.wait(talker.get_subscription_count)
    talker.publish(String(data="heard"))
    graph.wait(lambda: heard)
    assert isinstance(heard[0], bytes)
    assert deserialize_message(heard[0], String).data == "heard"
    assert not graph.lines and not graph.monitor.misfits(node)


def test_a_peer_that_does_not_fit_is_named_once_and_forgotten_when_it_leaves(graph: Graph) -> None:
    node = graph.node("x2sam_node", **{override(TOPIC, "subscription", "reliability"): "Reliable"})
    listen(graph, node)
    overlay = create_publisher(node, graph.monitor, String, "~/overlay", "reliable")
    assert not graph.monitor.misfits(node)
    others = graph.node("talker")
    talkers = [others.create_publisher(String, TOPIC, BEST_EFFORT) for _ in range(2)]
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    deaf = others.create_subscription(String, "/x2sam_node/overlay", lambda message: None, late)
    others.create_subscription(String, "/x2sam_node/overlay", lambda message: None, 10)
    found = {
        (TOPIC, "subscription"): ("RELIABILITY",),
        ("/x2sam_node/overlay", "publisher"): ("DURABILITY",),
    }
    graph.wait(lambda: graph.monitor.misfits(node) == found)
    assert len(graph.lines) == 2
    assert any(override(TOPIC, "subscription", "reliability") in line for line in graph.lines)
    assert any(override("/x2sam_node/overlay", "publisher", "durability") in line for line in graph.lines)
    for talker in talkers:
        others.destroy_publisher(talker)
    graph.wait(lambda: list(graph.monitor.misfits(node)) == [("/x2sam_node/overlay", "publisher")])
    others.destroy_subscription(deaf)
    graph.wait(lambda: not graph.monitor.misfits(node))
    others.create_subscription(String, "/x2sam_node/overlay", lambda message: None, late)
    graph.wait(lambda: graph.monitor.misfits(node))
    node.destroy_publisher(overlay)
    assert not graph.monitor.misfits(node)


def test_made_again_it_keeps_its_parameters(graph: Graph) -> None:
    node = graph.node("x2sam_node", automatic=True, **{override("/x2sam_node/masks", "publisher", "depth"): 3})
    for _ in range(2):
        publisher = create_publisher(node, graph.monitor, String, "~/masks", "reliable")
        assert publisher.qos_profile.depth == 3
        assert node.describe_parameter(override("/x2sam_node/masks", "publisher", "depth")).read_only
        node.destroy_publisher(publisher)


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize(
    ("policy", "value", "said"),
    [
        ("reliability", "reliabel", "reliability is 'reliabel', expected one of: .*reliable, best_effort"),
        ("reliability", 1, "reliability"),
        ("durability", "unknown", "durability is 'unknown', expected one of"),
        ("durability", "transient_local", "transient_local needs reliability reliable"),
        ("history", "keep_all", "history is 'keep_all', expected one of: keep_last"),
        ("depth", 0, "depth is 0, expected a whole number, 1 to 1000"),
        ("depth", 100_000, "depth is 100000, expected a whole number, 1 to 1000"),
        ("depth", "ten", "expected a whole number, 1 to 1000"),
        ("deadline", -1, "deadline is -1, expected nanoseconds"),
        ("liveliness_lease_duration", 0.5, "expected nanoseconds"),
    ],
)
def test_nonsense_is_refused_by_name(graph: Graph, automatic: bool, policy: str, value: Any, said: str) -> None:
    name = override(TOPIC, "subscription", policy)
    node = graph.node("listener", automatic=automatic, **{name: value})
    with pytest.raises(ConfigError, match=said) as refusal:
        listen(graph, node)
    assert override(TOPIC, "subscription", "").rstrip(".") in str(refusal.value)


def test_durations_are_overridden_in_nanoseconds(graph: Graph) -> None:
    node = graph.node("x2sam_node", **{override("/beat", "publisher", "deadline"): 250_000_000})
    made = create_publisher(node, graph.monitor, String, "/beat", "heartbeat")
    assert made.qos_profile.deadline.nanoseconds == 250_000_000
    assert made.qos_profile.liveliness_lease_duration.nanoseconds == 3_000_000_000


def test_a_middleware_without_events_is_done_without(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(self: Any, *_: Any) -> list[Any]:  # what rclpy of Humble does
        if self.incompatible_qos:
            raise qos.UnsupportedEventTypeError("no such event")
        return []

    for callbacks in (qos.PublisherEventCallbacks, qos.SubscriptionEventCallbacks):
        monkeypatch.setattr(callbacks, "create_event_handlers", unsupported)
    node = graph.node("x2sam_node")
    _, heard = listen(graph, node)
    talker = create_publisher(node, graph.monitor, String, TOPIC, "sensor")
    graph.wait(talker.get_subscription_count)
    talker.publish(String(data="heard"))
    graph.wait(lambda: heard)
    assert not graph.monitor.misfits(node)


def test_an_override_that_nothing_reads_is_refused_with_the_nearest() -> None:
    endpoints = [(TOPIC, "subscription"), ("/x2sam_node/masks", "publisher")]
    check_override_names(["preset", override(TOPIC, "subscription", "depth")], endpoints)
    for wrong in (
        override(TOPIC, "subscription", "reliabilty"),
        override(TOPIC, "publisher", "reliability"),
        override("/camera/image", "subscription", "reliability"),
    ):
        nearest = override(TOPIC, "subscription", "reliability")
        with pytest.raises(ConfigError, match=f"{wrong} does not exist; did you mean {nearest}"):
            check_override_names([wrong], endpoints)

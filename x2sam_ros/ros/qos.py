"""Quality of service: a profile for each kind of topic, parameters that change it, and a record of what does not fit.

The parameters are ROS's own: ``qos_overrides.<topic>.<publisher|subscription>.<policy>``, the topic fully resolved.
They are read when a publisher or subscription is made.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from x2sam_ros.config import HEARTBEAT_PERIOD_S
from x2sam_ros.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.callback_groups import CallbackGroup
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError

Direction = Literal["publisher", "subscription"]

_SILENCE = Duration(nanoseconds=int(3 * HEARTBEAT_PERIOD_S * 1e9))

PROFILES: Mapping[str, QoSProfile] = MappingProxyType(
    {
        "sensor": QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
        "reliable": QoSProfile(depth=10),
        "prompt": QoSProfile(depth=50),
        "latched": QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        "heartbeat": QoSProfile(
            depth=1,
            deadline=_SILENCE,
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=_SILENCE,
        ),
        "diagnostics": QoSProfile(depth=10),
    }
)
"""The profile of each kind of topic, before overrides; reliable and volatile where nothing else is said."""

POLICIES = (
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.DEADLINE,
    QoSPolicyKind.LIVELINESS_LEASE_DURATION,
)
"""What a parameter can change: all that two sides must agree on, and the queue."""

MAX_DEPTH = 1000
"""Messages that a queue may hold at most; of images, some hundred are gigabytes."""

DURATION_MAX_NS = 2**63 - 1
"""For ever."""

_CHOICES = {
    QoSPolicyKind.RELIABILITY: tuple(item.name.lower() for item in ReliabilityPolicy if item.name != "UNKNOWN"),
    QoSPolicyKind.DURABILITY: tuple(item.name.lower() for item in DurabilityPolicy if item.name != "UNKNOWN"),
    QoSPolicyKind.HISTORY: (HistoryPolicy.KEEP_LAST.name.lower(),),  # keep_all lets one slow reader stop the node
}

_PARAMETERS = {"LIVELINESS": "liveliness_lease_duration"}
"""What changes a policy, where it is not called like it."""


class QosMonitor:
    """Keeps which topics have a peer whose quality of service does not fit. Of the executor's thread.

    Args:
        log: takes a line; each topic and policy has one.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._seen: dict[tuple[str, Direction], tuple[QoSProfile, list[str]]] = {}  # one for each topic at most

    def watch(self, topic: str, direction: Direction, profile: QoSProfile) -> Callable[[Any], None]:
        """Make the callback for event ``incompatible_qos`` of a publisher or subscription with this profile."""

        def callback(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            _, policies = self._seen.setdefault((topic, direction), (profile, []))
            if policy not in policies:
                policies.append(policy)
                self._log(_advice(topic, direction, policy))

        return callback

    def misfits(self, node: Node) -> dict[tuple[str, Direction], tuple[str, ...]]:
        """Return the policies that do not fit, by topic and direction, where both sides are still there."""
        found: dict[tuple[str, Direction], tuple[str, ...]] = {}
        for (topic, direction), (own, policies) in self._seen.items():
            own = _explicit(own)
            entities = node.publishers if direction == "publisher" else node.subscriptions
            if topic not in [entity.topic_name for entity in entities]:
                continue
            if direction == "publisher":
                pairs = [(own, peer.qos_profile) for peer in node.get_subscriptions_info_by_topic(topic)]
            else:
                pairs = [(peer.qos_profile, own) for peer in node.get_publishers_info_by_topic(topic)]
            if any(qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR for pair in pairs):
                found[topic, direction] = tuple(policies)
        return found


def create_publisher(node: Node, monitor: QosMonitor, message_type: type, topic: str, kind: str) -> Publisher:
    """Make a publisher whose quality of service is a parameter.

    Args:
        node: owns it.
        monitor: is told of subscriptions that do not fit.
        message_type: class of its messages.
        topic: as the node names it.
        kind: key of ``PROFILES``.

    Raises:
        ConfigError: a parameter of this topic has a value that it cannot have.
    """
    return _create(
        node,
        (topic, "publisher", kind),
        monitor,
        lambda profile, options, watch: node.create_publisher(
            message_type,
            topic,
            profile,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=watch, use_default_callbacks=watch is not None),
            qos_overriding_options=options,
        ),
    )


class Publishers:
    """Publishers that are closed together, also where one of them cannot be made.

    Args:
        node: owns them.
        monitor: is told of subscriptions that do not fit.
    """

    def __init__(self, node: Node, monitor: QosMonitor) -> None:
        self._node, self._monitor = node, monitor
        self._open: list[Publisher] = []

    def open(self, message_type: type, topic: str, kind: str) -> Publisher:
        """Make one more; see ``create_publisher``."""
        self._open.append(create_publisher(self._node, self._monitor, message_type, topic, kind))
        return self._open[-1]

    def close(self) -> None:
        """Destroy them all."""
        while self._open:
            self._node.destroy_publisher(self._open.pop())


def create_raw_subscription(
    node: Node,
    monitor: QosMonitor,
    message_type: type,
    topic: str,
    callback: Callable[[bytes], None],
    kind: str,
    group: CallbackGroup | None = None,
) -> Subscription:
    """Make a subscription that hands over bytes and whose quality of service is a parameter.

    Args:
        node: owns it.
        monitor: is told of publishers that do not fit.
        message_type: class of its messages.
        topic: as the node names it.
        callback: takes the serialised message.
        kind: key of ``PROFILES``.
        group: of its callbacks; the node's own by default.

    Raises:
        ConfigError: a parameter of this topic has a value that it cannot have.
    """
    return _create(
        node,
        (topic, "subscription", kind),
        monitor,
        lambda profile, options, watch: node.create_subscription(
            message_type,
            topic,
            callback,
            profile,
            callback_group=group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=watch, use_default_callbacks=watch is not None),
            qos_overriding_options=options,
            raw=True,
        ),
    )


def check_override_names(names: Iterable[str], endpoints: Iterable[tuple[str, Direction]]) -> None:
    """Refuse a ``qos_overrides`` parameter that nothing would read.

    Args:
        names: of parameters that the user set; others are passed over.
        endpoints: every topic that the node can have, fully resolved, with its direction.

    Raises:
        ConfigError: names the nearest one that exists.
    """
    known = [_parameter_name(topic, direction, policy) for topic, direction in endpoints for policy in POLICIES]
    for name in names:
        if name.startswith("qos_overrides.") and name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0.0)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"parameter {name} does not exist{hint}")


def _create(node: Node, what: tuple[str, Direction, str], monitor: QosMonitor, make: Callable[..., Any]) -> Any:
    topic, direction, kind = what
    resolved, profile = node.resolve_topic_name(topic), copy.copy(PROFILES[kind])
    for policy in POLICIES:
        _declare(node, resolved, direction, policy, profile)
    options = QoSOverridingOptions(POLICIES, callback=_validate)
    try:
        try:
            return make(profile, options, monitor.watch(resolved, direction, profile))
        except UnsupportedEventTypeError:  # this middleware does not tell; Humble passes that on
            return make(profile, options, None)
    except InvalidQosOverridesError as error:
        raise ConfigError(f"qos_overrides.{resolved}.{direction}: {str(error).partition('not valid: ')[2]}") from error


def _declare(node: Node, topic: str, direction: Direction, policy: QoSPolicyKind, profile: QoSProfile) -> None:
    """Declare a parameter and check it; rclpy would, but what it says of a wrong value helps nobody."""
    name, value = _parameter_name(topic, direction, policy), getattr(profile, policy.name.lower())
    if choices := _CHOICES.get(policy):
        default, expected = value.name.lower(), f"one of: {', '.join(choices)}"
    elif isinstance(value, Duration):
        default, expected = value.nanoseconds, "nanoseconds as a whole number, 0 for none"
    else:
        default, expected = value, f"a whole number, 1 to {MAX_DEPTH}"
    about = ParameterDescriptor(
        description=f"QoS of {topic}: {policy.name.lower().replace('_', ' ')}",
        additional_constraints=expected,
        read_only=True,
    )
    try:
        if not node.has_parameter(name):
            node.declare_parameter(name, default, about)
    except InvalidParameterTypeException as error:
        raise ConfigError(f"{name} has a value of another type, expected {expected}") from error
    parameter = node.get_parameter(name)
    chosen: Any = parameter.value
    if choices:
        fits = str(chosen).lower() in choices
    else:
        low, high = (0, DURATION_MAX_NS) if isinstance(value, Duration) else (1, MAX_DEPTH)
        fits = type(chosen) is int and low <= chosen <= high
    if not fits:
        raise ConfigError(f"{name} is {chosen!r}, expected {expected}")
    if not node.describe_parameter(name).read_only:  # declared by rclpy, from what the user set
        about.type = parameter.type_.value
        node.set_descriptor(name, about)


def _explicit(profile: QoSProfile) -> QoSProfile:
    """Return it with durations as peers show theirs: one that is not set lasts for ever."""
    explicit = copy.copy(profile)
    for name in ("deadline", "liveliness_lease_duration"):
        if not getattr(explicit, name).nanoseconds:
            setattr(explicit, name, Duration(nanoseconds=DURATION_MAX_NS))
    return explicit


def _validate(profile: QoSProfile) -> SetParametersResult:
    late = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    if late and profile.reliability == ReliabilityPolicy.BEST_EFFORT:
        reason = "durability transient_local needs reliability reliable: best_effort keeps nothing for late comers"
        return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def _parameter_name(topic: str, direction: Direction, policy: QoSPolicyKind) -> str:
    return f"qos_overrides.{topic}.{direction}.{policy.name.lower()}"


def _advice(topic: str, direction: Direction, policy: str) -> str:
    name = f"qos_overrides.{topic}.{direction}.{_PARAMETERS.get(policy, policy.lower())}"
    if direction == "publisher":
        return f"a subscription to {topic} asks for another {policy} and gets nothing; change it, or parameter {name}"
    return f"a publisher of {topic} offers another {policy} and is not heard; change it, or parameter {name}"

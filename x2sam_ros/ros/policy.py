"""The SROS2 policy of the node: what it may publish, hear and serve, written from the interface table. No ROS.

``python -m x2sam_ros.ros.policy > config/x2sam_policy.xml`` writes that of the default parameters.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import ConfigError, X2SamError
from x2sam_ros.ros.cameras import Camera, camera_info_topic, name_cameras, topics_beside
from x2sam_ros.ros.interface import ACTIONS, SERVICES, TOPICS, Topic
from x2sam_ros.ros.params import build_config

NODE = "x2sam_node"

PUBLISHED = ("/rosout", "/parameter_events", "~/transition_event")
"""Topics that every managed node publishes."""

HEARD = ("/clock", "/tf", "/tf_static")
"""Topics that the node hears when time is simulated, and through tf2_ros."""

SERVED = (
    *("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters"),
    *("set_parameters", "set_parameters_atomically", "get_type_description"),
    *("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph"),
)
"""Services that every managed node has, without ``~/``."""


def topic_names(topic: Topic, config: NodeConfig, namespace: str = "/") -> Iterator[str]:
    """Yield what a topic of the table is called under a configuration.

    Args:
        topic: a row of ``TOPICS``.
        config: says which cameras there are.
        namespace: the node's, which begins with ``/``.

    Yields:
        Names as ROS expands them: absolute, ``~/`` for private ones, the others relative to the namespace.
    """
    inside = namespace.rstrip("/") + "/"
    resolved = [name if name.startswith("/") else inside + name for name in config.image_topics]
    cameras = name_cameras(resolved, namespace)
    if "{image}" in topic.name:
        yield from (topic.name.replace("{image}", name) for name in config.image_topics)
    elif topic.name == "{camera_info}":
        given = topics_beside(config.camera_info_topics, config.image_topics)
        yield from (name or camera_info_topic(image) for name, image in zip(given, config.image_topics))
    elif topic.name == "{depth}":
        yield from filter(None, config.depth_topics)
    elif topic.name == "{clicked_point}":
        yield from filter(None, [config.clicked_point_topic])
    else:
        yield from _own_names(topic, cameras)


def _own_names(topic: Topic, cameras: tuple[Camera, ...]) -> Iterator[str]:
    if topic.each_camera:
        yield from (camera.own(topic.name) for camera in cameras)
    if not topic.each_camera or (topic.direction == "in" and len(cameras) > 1):
        yield topic.name


def policy_text(config: NodeConfig, namespace: str = "/", enclave: str = "") -> str:
    """Write the policy, in SROS2's schema 0.2.0, of one node in one enclave.

    Args:
        config: its parameters.
        namespace: the node's, which begins with ``/``.
        enclave: path of the enclave; empty is the full name of the node.
    """

    def names(direction: str) -> Iterator[str]:
        for topic in TOPICS:
            if topic.direction == direction:
                yield from topic_names(topic, config, namespace)

    policy = ElementTree.Element("policy", version="0.2.0")
    path = enclave or f"{namespace.rstrip('/')}/{NODE}"
    profiles = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(policy, "enclaves"), "enclave", path=path), "profiles"
    )
    profile = ElementTree.SubElement(profiles, "profile", ns=namespace, node=NODE)
    _allow(profile, "actions", "execute", (action.name for action in ACTIONS))
    _allow(profile, "services", "reply", (*(service.name for service in SERVICES), *(f"~/{name}" for name in SERVED)))
    _allow(profile, "topics", "publish", (*names("out"), *PUBLISHED))
    _allow(profile, "topics", "subscribe", (*names("in"), *HEARD))
    ElementTree.indent(policy)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(policy, "unicode")}\n'


def _allow(profile: ElementTree.Element, kind: str, right: str, names: Iterable[str]) -> None:
    """Add a list of rights; ``kind`` is the plural of the element's name."""
    rights = ElementTree.SubElement(profile, kind, {right: "ALLOW"})
    for name in sorted(set(names)):
        ElementTree.SubElement(rights, kind[:-1]).text = name


def read_parameters(path: Path) -> NodeConfig:
    """Read what a parameter file says about the node.

    Raises:
        ConfigError: the file cannot be read, says nothing about the node, or has a value that cannot be.
    """
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as a parameter file: {' '.join(str(error).split())}") from error
    values: dict[str, Any] = {}
    for node, section in sections.items() if isinstance(sections, dict) else ():
        mine = node == "/**" or str(node).rpartition("/")[2] == NODE
        if mine and isinstance(section, dict) and isinstance(section.get("ros__parameters"), dict):
            values |= dotted_names(section["ros__parameters"])
    if not values:
        raise ConfigError(f"{path} has no parameters for {NODE}; they lie under '/**:' and 'ros__parameters:'")
    config: NodeConfig = build_config(values)
    return config


def dotted_names(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested parameters the names that the node declares: ``engine.max_targets``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= dotted_names(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def main(args: list[str] | None = None) -> int:
    """Print the policy; returns 2 when the parameters cannot be."""
    parser = argparse.ArgumentParser(prog="x2sam_ros.ros.policy", description="Print the SROS2 policy of the node.")
    parser.add_argument("--params-file", type=Path, help="parameters of the node; without, the defaults")
    parser.add_argument("--namespace", default="/", help="namespace of the node")
    parser.add_argument("--enclave", default="", help="path of the enclave; without, the full name of the node")
    options = parser.parse_args(args)
    try:
        config = read_parameters(options.params_file) if options.params_file else NodeConfig()
        namespace = "/" + options.namespace.strip("/")
        print(policy_text(config, namespace, options.enclave), end="")
    except X2SamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

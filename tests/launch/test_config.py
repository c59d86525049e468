"""Parameter files, the RViz configuration and the Foxglove layout name only what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.test_launch import PARAMETERS
from x2sam_ros.config import NodeConfig
from x2sam_ros.ros.interface import TOPICS
from x2sam_ros.ros.policy import dotted_names, read_parameters, topic_names

CONFIG = Path(__file__).resolve().parents[2] / "config"
FILES = sorted(CONFIG.glob("*.yaml"))
TYPES = {
    f"/x2sam_node{name[1:]}" if name[0] == "~" else name: topic
    for topic in TOPICS
    for name in topic_names(topic, NodeConfig())
}
"""Full name of every topic of the node, at its default parameters, to its row."""

RVIZ_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/PublishPoint": "geometry_msgs/msg/PointStamped",
}
"""Plugins of RViz that have a topic."""

RVIZ_OTHERS = {
    *(
        f"rviz_default_plugins/{name}"
        for name in ("Axes", "MoveCamera", "Select", "FocusCamera", "Measure", "TF", "Orbit")
    ),
    *(f"rviz_common/{name}" for name in ("Displays", "Tool Properties", "Views")),
    "",
}
FOXGLOVE_PANELS = {"3D", "DiagnosticSummary", "Image", "Plot", "Publish", "RawMessages", "Table"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parameter_files_load_as_the_node_loads_them(path: Path) -> None:
    (section,) = yaml.safe_load(path.read_text("utf-8")).values()
    assert not set(dotted_names(section["ros__parameters"])) - PARAMETERS
    loaded = read_parameters(path)
    assert (loaded == NodeConfig()) == (path.name == "x2sam.yaml"), "an example that changes nothing has no use"
    assert path.read_text("utf-8").startswith("# ")


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a tree."""
    if isinstance(tree, dict):
        yield tree
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from walk(item)


def test_rviz_shows_topics_of_the_node_by_plugins_of_its_own() -> None:
    tree = yaml.safe_load((CONFIG / "x2sam.rviz").read_text("utf-8"))
    items = [item for item in walk(tree) if "Class" in item]
    with_topic = {item["Topic"]["Value"]: item for item in items if "Topic" in item}
    assert {item["Class"] for item in items} <= RVIZ_OTHERS | set(RVIZ_TYPES)
    assert [item["Class"] for item in items if ("Topic" in item) != (item["Class"] in RVIZ_TYPES)] == []
    for name, item in with_topic.items():
        assert item["Class"] == "rviz_default_plugins/PublishPoint" or not name.startswith("/"), "follows no namespace"
        topic = TYPES["/" + name.lstrip("/")]
        assert topic.type == RVIZ_TYPES[item["Class"]]
        assert item["Topic"]["Reliability Policy"] == ("Best Effort" if topic.qos == "sensor" else "Reliable")
    shown = {"camera/image_raw", *(f"x2sam_node/{name}" for name in ("overlay", "label_image", "markers", "cloud"))}
    assert set(with_topic) == shown | {"/clicked_point"}


def test_foxglove_shows_topics_of_the_node() -> None:
    layout = json.loads((CONFIG / "x2sam.foxglove.json").read_text("utf-8"))
    panels: dict[str, dict[str, Any]] = layout["configById"]
    placed = {
        text for item in walk(layout["layout"]) for text in item.values() if "!" in str(text) and isinstance(text, str)
    }
    assert placed == set(panels) and {name.partition("!")[0] for name in panels} == FOXGLOVE_PANELS
    # RViz's, of the 3D panel, which only publishes there when it is told to
    mute = {"/move_base_simple/goal", "/initialpose"}
    named = set(re.findall(r'"(/[\w/]+)', json.dumps(layout))) - mute
    assert named <= set(TYPES), f"the node has no {named - set(TYPES)}"
    wanted = (
        "overlay/compressed",
        "label_image",
        "markers",
        "cloud",
        "targets",
        "groundings",
        "timings",
        "text",
        "click",
    )
    assert named >= {f"/x2sam_node/{name}" for name in wanted} | {"/camera/image_raw", "/diagnostics", "/clicked_point"}
    for panel in (panels[name] for name in panels if name.startswith("Publish!")):
        assert TYPES[panel["topicName"]].type == panel["datatype"]
        assert isinstance(json.loads(panel["value"]), dict)

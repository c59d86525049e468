"""The SROS2 policy allows what the node does, and the node does nothing that only a listening socket could."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rclpy.action import get_action_server_names_and_types_by_node

from tests.ros.harness import ROOT, THRESHOLD_NODE, Client, own_graph, running_node
from x2sam_ros.config import NodeConfig
from x2sam_ros.ros.interface import TOPICS
from x2sam_ros.ros.policy import main, policy_text, read_parameters, topic_names

FILE = ROOT / "config/x2sam_policy.xml"
RIGHTS = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"execute", "call"}}
"""Children of a profile and their attributes in the schema of sros2, version 0.2.0."""

Allowed = dict[tuple[str, str], set[str]]
"""(kind, right) to full names."""


def read_policy(text: str) -> tuple[ElementTree.Element, Allowed]:
    """Return the profile of a policy and what it allows, names expanded as permissions.xsl of sros2 does."""
    policy = ElementTree.fromstring(text)
    assert policy.tag == "policy" and policy.attrib == {"version": "0.2.0"}
    (profile,) = policy.findall("enclaves/enclave/profiles/profile")
    inside = profile.attrib["ns"].rstrip("/") + "/"
    allowed: Allowed = {}
    for rights in profile:
        ((right, qualifier),) = rights.attrib.items()
        assert right in RIGHTS[rights.tag] and qualifier == "ALLOW"
        names = [str(item.text) for item in rights]
        assert names and names == sorted(set(names)) and {item.tag for item in rights} == {rights.tag[:-1]}
        private = inside + profile.attrib["node"]
        absolute = {
            name if name[0] == "/" else private + name[1:] if name[0] == "~" else inside + name for name in names
        }
        allowed[rights.tag, right] = absolute
    return profile, allowed


def test_the_file_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    written = capsys.readouterr().out
    assert written == FILE.read_text("utf-8"), "run: python -m x2sam_ros.ros.policy > config/x2sam_policy.xml"
    assert written == policy_text(NodeConfig())


def test_every_row_of_the_interface_has_a_name_in_the_policy() -> None:
    config = NodeConfig(image_topics=("front/image_raw", "/rear/image_raw"), depth_topics=("", "/rear/depth"))
    _, allowed = read_policy(policy_text(config, "/robot1", "/fleet/one"))
    heard, published = allowed["topics", "subscribe"], allowed["topics", "publish"]
    assert all(list(topic_names(topic, config, "/robot1")) for topic in TOPICS)
    assert {"/robot1/front/image_raw", "/rear/image_raw/compressed", "/rear/depth"} <= heard
    assert {"/robot1/front/camera_info", "/rear/image_raw_mouse_left", "/clicked_point"} <= heard
    assert {"/robot1/x2sam_node/click", "/robot1/x2sam_node/front/click", "/robot1/x2sam_node/prompt"} <= heard
    assert {"/robot1/x2sam_node/rear/masks", "/robot1/x2sam_node/ready", "/rosout"} <= published
    assert not [name for name in (*heard, *published) if "{" in name or "//" in name or "*" in name]
    assert "/robot1/x2sam_node/masks" not in published


def test_the_enclave_is_the_full_name_of_the_node_or_as_told() -> None:
    assert '<enclave path="/robot1/x2sam_node">' in policy_text(NodeConfig(), "/robot1")
    assert '<enclave path="/fleet/one">' in policy_text(NodeConfig(), "/robot1", "/fleet/one")


def test_the_policy_of_a_parameter_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text("/robot1/x2sam_node:\n  ros__parameters: {image_topics: [left], engine: {max_targets: 3}}\n")
    assert read_parameters(path).engine.max_targets == 3
    assert main(["--params-file", str(path), "--namespace", "robot1"]) == 0
    _, allowed = read_policy(capsys.readouterr().out)
    assert "/robot1/left_mouse_left" in allowed["topics", "subscribe"]


@pytest.mark.parametrize("text", ["", "a: [", "other_node: {ros__parameters: {a: 1}}", "/**: {ros__parameters: 3}"])
def test_a_file_without_parameters_of_the_node_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert main(["--params-file", str(path)]) == 2
    assert str(path) in (message := capsys.readouterr().err) and message.count("\n") == 1


def test_the_policy_covers_the_graph_of_the_running_node(monkeypatch: Any, tmp_path: Path) -> None:
    cameras = ("front/image_raw", "/rear/image_raw")
    _, allowed = read_policy(policy_text(NodeConfig(image_topics=cameras)))
    parameter = f"image_topics:=[{','.join(cameras)}]"
    with own_graph(monkeypatch) as client, running_node(THRESHOLD_NODE, parameter, log=tmp_path / "log"):
        client.wait(lambda: client.ready)
        client.wait(lambda: ("x2sam_node", "/") in client.get_node_names_and_namespaces())
        client.wait(lambda: is_known(graph_of(client)))
        client.rest(1.0)  # there may be more than must be
        graph = graph_of(client)
    for right, names in graph.items():
        assert names <= allowed[right], f"{right}: the policy lacks {names - allowed[right]}"


def is_known(graph: Allowed) -> bool:
    """Tell whether discovery has come to the node's last topics."""
    published, heard = {"/x2sam_node/rear/timings", "/rosout"}, {"/rear/image_raw", "/x2sam_node/prompt"}
    return published <= graph["topics", "publish"] and heard <= graph["topics", "subscribe"]


def graph_of(client: Client) -> Allowed:
    """Return what the node has in the ROS graph; what belongs to an action is the action's."""
    node = ("x2sam_node", "/")

    def plain(found: list[tuple[str, list[str]]]) -> set[str]:
        return {name for name, _ in found if "/_action/" not in name}

    assert not client.get_client_names_and_types_by_node(*node)
    return {
        ("topics", "publish"): plain(client.get_publisher_names_and_types_by_node(*node)),
        ("topics", "subscribe"): plain(client.get_subscriber_names_and_types_by_node(*node)),
        ("services", "reply"): plain(client.get_service_names_and_types_by_node(*node)),
        ("actions", "execute"): {name for name, _ in get_action_server_names_and_types_by_node(client, *node)},
    }


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are read from /proc")
def test_nothing_listens_but_dds(monkeypatch: Any, tmp_path: Path) -> None:
    with (
        own_graph(monkeypatch) as client,
        plain_node() as plain,
        running_node(THRESHOLD_NODE, log=tmp_path / "log") as node,
    ):
        client.wait(lambda: client.ready)
        ours, empty = sockets(node.pid), sockets(plain.pid)
    assert not [kind for kind in ours if kind.startswith("tcp")]
    assert sum(empty.values()) >= 2 and ours == empty, "the node has other sockets than an empty rclpy node"


@contextmanager
def plain_node() -> Iterator[subprocess.Popen[str]]:
    """Run a node that does nothing."""
    code = "import rclpy; rclpy.init(); node = rclpy.create_node('plain'); print('up', flush=True); rclpy.spin(node)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()


def sockets(pid: int) -> Counter[str]:
    """Count a process's listening TCP sockets and its UDP sockets, by what DDS uses their port for."""
    links = (os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    base = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])  # "RTPS over UDP": 250 ports to a domain, 2 to a participant
    found: Counter[str] = Counter()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] not in inodes or (protocol.startswith("tcp") and columns[3] != "0A"):
                continue
            offset = int(columns[1].rpartition(":")[2], 16) - base
            use = "any" if not 0 <= offset < 250 else str(offset if offset < 10 else 10 + offset % 2)
            found[f"{protocol} {use}"] += 1
    return found

"""Parameters and their file come from config.py alone; a running node takes over those that are live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient

from tests.ros.graph import Graph, graph_of_its_own
from x2sam_ros.config import MAX_CAMERAS, NodeConfig, NodeEngineConfig
from x2sam_ros.engine.fleet import MAX_TARGET_ID
from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.ros.params import Parameters, build_config, parameter_specs, yaml_text

FILE = Path(__file__).resolve().parents[2] / "config/x2sam.yaml"


def flatten(tree: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


def test_the_shipped_file_is_the_generated_text() -> None:
    assert FILE.read_text() == yaml_text(), "run: python -m x2sam_ros.ros.params > config/x2sam.yaml"


def test_the_file_holds_every_default_and_nothing_else() -> None:
    values = flatten(yaml.safe_load(FILE.read_text())["/**"]["ros__parameters"])
    assert values == json.loads(json.dumps({spec.name: spec.default for spec in parameter_specs()}))
    assert build_config(values) == NodeConfig()


def test_the_file_says_what_is_live() -> None:
    lines = FILE.read_text().splitlines()
    remarks = {lines[row].split(":")[0].strip(): lines[row - 1] for row in range(1, len(lines))}
    for spec in parameter_specs():
        assert remarks[spec.name.rpartition(".")[2]].endswith("live)") == spec.live, spec.name
    assert remarks["score_threshold"].endswith("(0.0 to 1.0; live)")
    assert remarks["at_cap"].endswith("(reject, evict; live)") and remarks["weights"].endswith("(exact, int8)")


def test_every_parameter_is_described() -> None:
    for spec in parameter_specs():
        assert spec.description, spec.name
        assert isinstance(spec.default, (bool, str, tuple)) or spec.low is not None, f"{spec.name} has no range"


def test_dotted_names_reach_the_nested_configuration() -> None:
    config = build_config({"engine.max_targets": 3, "preset": "other"})
    assert config == NodeConfig(preset="other", engine=NodeEngineConfig(max_targets=3))


def test_one_camera_may_be_given_without_brackets() -> None:
    assert build_config({"image_topics": "/front/image_raw"}) == NodeConfig(image_topics=("/front/image_raw",))
    assert build_config({"image_topics": ["/a", "/b"]}).image_topics == ("/a", "/b")


def test_every_target_of_most_cameras_has_room_for_an_id() -> None:
    most = next(spec.high for spec in parameter_specs() if spec.name == "engine.max_targets")
    assert most is not None and MAX_CAMERAS * most < MAX_TARGET_ID


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_transport": "theora"}, "image_transport is 'theora', expected one of: raw, compressed"),
        ({"engine.score_threshold": 1.5}, "^engine.score_threshold is 1.5, expected 0.0 to 1.0"),
        ({"engine.max_targets": "many"}, "max_targets is 'many', expected a value of type int"),
        ({"engine.score_threshold": float("nan")}, "score_threshold is nan"),
        ({"image_topics": ""}, "image_topics is empty"),
        ({"image_topics": []}, "image_topics is empty"),
        ({"image_topics": ["/front", ""]}, "or has an empty name"),
        ({"image_topics": [1, 2]}, "image_topics is .1, 2., expected a value of type list of texts"),
        ({"image_topics": 5}, "image_topics is 5, expected a value of type list of texts"),
        ({"image_topics": [f"/camera{number}" for number in range(33)]}, "has 33 topics, expected at most 32"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(values)


class Owner:
    """What a node with parameters does: it keeps what it is handed."""

    def __init__(self, graph: Graph, **given: Any) -> None:
        self.is_configured, self.refuses, self.handed = True, "", [NodeConfig()]
        self.node = graph.node("x2sam_node", automatic=True, **given)
        self.parameters = Parameters(self.node, lambda: self.is_configured, self._on_change)

    def _on_change(self, config: NodeConfig) -> None:
        if self.refuses:
            raise PromptError(self.refuses)
        self.handed.append(config)


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    with graph_of_its_own(monkeypatch) as opened:
        yield opened


class Setter:
    """Another node, which asks for changes through the services."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._client = AsyncParameterClient(graph.node("someone"), "x2sam_node")
        graph.wait(self._client.services_are_ready)

    def set(self, **values: Any) -> list[SetParametersResult]:
        """Set one after the other."""
        return list(self._answer(self._client.set_parameters(_messages(values))).results)

    def set_together(self, **values: Any) -> SetParametersResult:
        return self._answer(self._client.set_parameters_atomically(_messages(values))).result

    def refused(self, **values: Any) -> str:
        result = self.set_together(**values)
        assert not result.successful and "\n" not in result.reason
        return str(result.reason)

    def descriptor(self, name: str) -> ParameterDescriptor:
        return self._answer(self._client.describe_parameters([name])).descriptors[0]

    def _answer(self, future: Any) -> Any:
        self._graph.wait(future.done)
        return future.result()


def _messages(values: dict[str, Any]) -> list[Any]:
    kinds = {name: Parameter.Type.STRING_ARRAY if value == [] else None for name, value in values.items()}
    named = [Parameter(name.replace("__", "."), kinds[name], value) for name, value in values.items()]
    return [parameter.to_parameter_msg() for parameter in named]


def test_live_values_are_handed_over_and_in_force(graph: Graph) -> None:
    owner, setter = Owner(graph), Setter(graph)
    results = setter.set(engine__score_threshold=0.75, memory_policy="pinned", session_period_s=2.0, log_period_s=1.0)
    assert all(result.successful for result in results) and len(owner.handed) == 5, "one after the other"
    config = NodeConfig(
        engine=NodeEngineConfig(score_threshold=0.75), memory_policy="pinned", session_period_s=2.0, log_period_s=1.0
    )
    assert owner.parameters.config == owner.handed[-1] == config
    assert setter.set_together(engine__score_threshold=0.2, engine__max_targets=3).successful
    assert len(owner.handed) == 6 and owner.parameters.config.engine.max_targets == 3
    assert owner.node.get_parameter("engine.max_targets").value == 3
    assert setter.set_together(engine__max_targets=3, preset="nano").successful, "what is so already may be set"
    assert len(owner.handed) == 6, "and changes nothing"


def test_values_are_checked_together(graph: Graph) -> None:
    owner, setter = Owner(graph), Setter(graph)
    first, second = setter.set(engine__keep_threshold=0.6, engine__score_threshold=0.7)
    assert not first.successful and second.successful, "one after the other each must fit what is there"
    assert first.reason == "engine.keep_threshold is 0.6, expected at most score_threshold, 0.5"
    assert setter.set_together(engine__keep_threshold=0.8, engine__score_threshold=0.9).successful
    before = owner.parameters.config
    assert "engine.keep_threshold is 0.8" in setter.refused(engine__max_targets=9, engine__score_threshold=0.1)
    assert owner.parameters.config is before and owner.node.get_parameter("engine.max_targets").value == 16


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"engine__score_threshold": 1.5}, ("engine.score_threshold", "0.0", "1.0", "1.5")),
        ({"engine__score_threshold": float("nan")}, ("engine.score_threshold", "0.0", "1.0", "nan")),
        ({"engine__max_targets": 0}, ("engine.max_targets", "1", "1024", "0")),
        ({"engine__max_targets": 2.0}, ("type", "INTEGER", "DOUBLE")),
        ({"engine__at_cap": "panic"}, ("engine.at_cap is 'panic', expected one of: reject, evict",)),
        ({"memory_policy": "nosuch"}, ("unknown memory policy 'nosuch'; available: distractor_aware, fifo",)),
        ({"engine__max_target": 3}, ("undeclared parameter",)),  # in the words of rclpy
        (
            {"checkpoint": "/new"},
            ("checkpoint is '' and is read when the node is configured: deactivate and clean up",),
        ),
        ({"engine__max_targets": 2, "image_topics": ["/b"]}, ("image_topics is ('/camera/image_raw',) and is read",)),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(graph: Graph, values: dict, words: tuple[str, ...]) -> None:
    owner, setter = Owner(graph), Setter(graph)
    reason = setter.refused(**values)
    assert all(word in reason for word in words), reason
    assert owner.parameters.config == NodeConfig() and len(owner.handed) == 1
    assert owner.node.get_parameter("engine.max_targets").value == 16


def test_the_owner_may_refuse(graph: Graph) -> None:
    owner, setter = Owner(graph), Setter(graph)
    owner.refuses = "too much waits;\nsend it later"
    assert setter.refused(engine__max_targets=2) == "too much waits; send it later"
    assert owner.parameters.config == NodeConfig()


def test_before_it_is_configured_everything_may_change(graph: Graph) -> None:
    owner, setter = Owner(graph), Setter(graph)
    owner.is_configured = False
    assert setter.set_together(checkpoint="/new", image_topics=["/a", "/b"], engine__input_side=64).successful
    assert owner.parameters.config == NodeConfig(
        checkpoint="/new", image_topics=("/a", "/b"), engine=NodeEngineConfig(input_side=64)
    )
    assert "image_topics is empty" in setter.refused(image_topics=[])


def test_parameters_of_rclpy_are_its_own(graph: Graph) -> None:
    name = "qos_overrides./x2sam_node/masks.publisher.depth"
    owner = Owner(graph, **{"use_sim_time": True, name: 3})
    assert {name, "use_sim_time"} <= set(owner.parameters.others)
    owner.node.declare_parameter("qos_overrides./other.publisher.depth", 3)
    assert Setter(graph).set_together(use_sim_time=False).successful and len(owner.handed) == 1


def test_descriptors_say_what_is_accepted(graph: Graph) -> None:
    Owner(graph)
    setter = Setter(graph)
    threshold, topics = setter.descriptor("engine.score_threshold"), setter.descriptor("image_topics")
    assert threshold.description == "confidence below which a target counts as not seen"
    assert (threshold.floating_point_range[0].from_value, threshold.floating_point_range[0].to_value) == (0.0, 1.0)
    assert threshold.additional_constraints == "may change at run time" and not threshold.read_only
    assert topics.additional_constraints == "read when the node is configured" and not topics.read_only
    assert setter.descriptor("engine.max_targets").integer_range[0].to_value == 1024
    assert setter.descriptor("engine.at_cap").additional_constraints == "one of: reject, evict; may change at run time"


def from_file(graph: Graph, path: Path, text: str) -> NodeConfig:
    """Return what a node reads from a parameter file."""
    path.write_text(text)
    node = Node(
        "x2sam_node",
        cli_args=["--ros-args", "--params-file", str(path)],
        automatically_declare_parameters_from_overrides=True,
    )
    try:
        return Parameters(node, lambda: True, lambda config: None).config
    finally:
        node.destroy_node()


def test_files_are_read(graph: Graph, tmp_path: Path) -> None:
    assert from_file(graph, tmp_path / "all.yaml", FILE.read_text()) == NodeConfig()
    several = "/**:\n  ros__parameters: {use_sim_time: false}\n/driver:\n  ros__parameters: {fps: 30}\n"
    several += "/x2sam_node:\n  ros__parameters: {engine: {score_threshold: 1, max_targets: 2}}\n"
    config = from_file(graph, tmp_path / "several.yaml", several)
    assert config == NodeConfig(engine=NodeEngineConfig(score_threshold=1.0, max_targets=2))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            "{engine: {max_target: 3}}",
            "parameter engine.max_target does not exist, the nearest that does is "
            "engine.max_targets; correct or remove it, and in a file for several nodes put what is for others under",
        ),
        ("{max_targets: 3}", "parameter max_targets does not exist, the nearest that does is engine.max_targets"),
        ("{use_sim_tim: true}", "parameter use_sim_tim does not exist, the nearest that does is use_sim_time"),
        ("{engine: {score_threshold: 1.5}}", "engine.score_threshold is 1.5, expected 0.0 to 1.0"),
    ],
)
def test_files_with_mistakes_are_refused(graph: Graph, tmp_path: Path, values: str, said: str) -> None:
    for name in ("/**", "/x2sam_node"):
        with pytest.raises(ConfigError, match=f"^{said}"):
            from_file(graph, tmp_path / "wrong.yaml", f"{name}:\n  ros__parameters: {values}\n")

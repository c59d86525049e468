"""Parameters and their file come from config.py alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from x2sam_ros.config import MAX_CAMERAS, NodeConfig, NodeEngineConfig
from x2sam_ros.engine.fleet import MAX_TARGET_ID
from x2sam_ros.errors import ConfigError
from x2sam_ros.ros.params import build_config, parameter_specs, yaml_text

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
        ({"engine.score_threshold": 1.5}, "score_threshold is 1.5, expected 0.0 to 1.0"),
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

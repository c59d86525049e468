"""The network's configuration: presets, and the way to JSON and back."""

from __future__ import annotations

import json

import pytest

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.config import PRESETS, from_dict, preset, to_dict


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'huge'.*nano, release"):
        preset("huge")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"segmentor": {"decoder": {"hiden": 3}}}, "config.segmentor.decoder has unknown settings .*hiden.*hidden"),
        ({"segmentor": 7}, "config.segmentor must be a table of settings, got int"),
        ([], "config must be a table of settings, got list"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(data: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_dict(data)


def test_picture_features_need_the_squashed_square() -> None:
    data = {"segmentor": {"resize": "longest"}, "region": {"picture_features": True}}
    with pytest.raises(ConfigError, match="picture_features .* resize is 'longest'; set it to 'square'"):
        from_dict(data)


def test_missing_settings_keep_their_defaults() -> None:
    config = from_dict({"segmentor": {"image_size": 256}})
    assert config.segmentor.image_size == 256
    assert config.segmentor.decoder == preset("release").segmentor.decoder


@pytest.mark.parametrize(
    ("name", "known"), [("resize", ("square", "longest")), ("resample", ("pil", "torch"))], ids=["resize", "resample"]
)
def test_how_a_picture_comes_to_the_square_is_one_of_two(name: str, known: tuple[str, str]) -> None:
    assert getattr(preset("release").segmentor, name) == known[0]
    assert getattr(from_dict({"segmentor": {name: known[1]}}).segmentor, name) == known[1]
    with pytest.raises(ConfigError, match=f"{name} is 'crop', expected one of {known[0]}, {known[1]}"):
        from_dict({"segmentor": {name: "crop"}})

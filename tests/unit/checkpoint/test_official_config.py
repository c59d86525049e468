"""Options of the published configuration are read or refused, never ignored."""

from __future__ import annotations

from typing import Any

import pytest

from x2sam_ros.checkpoint.official_config import config_from_official
from x2sam_ros.errors import ConfigError


def tables() -> tuple[dict[str, Any], dict[str, Any]]:
    language = {"qwen3_vl": {"text_config": {}, "vision_config": {}}, "x2sam": {}}
    return language, {"sam2": {"vision_config": {"backbone_config": {}}}, "mask2former": {}, "segmentor": {}}


def test_absent_settings_are_those_of_the_release() -> None:
    config = config_from_official(*tables())
    assert config.segmentor.decoder.num_queries == 200
    assert config.language.text.num_hidden_layers == 36


def test_the_stage_that_regions_are_read_from_is_a_setting() -> None:
    language, segmentor = tables()
    language["x2sam"]["visual_select_layer"] = -1
    assert config_from_official(language, segmentor).region.region_stage == -1


@pytest.mark.parametrize(
    ("processor", "resize"),
    [
        (None, "square"),
        ({"size": {"height": 1024, "width": 1024}}, "square"),
        ({"size": {"longest_edge": 1024}}, "longest"),
        ({}, "longest"),
    ],
)
def test_how_pictures_come_to_the_square_is_a_setting(processor: dict[str, Any] | None, resize: str) -> None:
    language, segmentor = tables()
    if processor is not None:
        segmentor["image_processor"] = processor
    assert config_from_official(language, segmentor).segmentor.resize == resize


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("x2sam", "use_flatten_cond"), True),
        (("qwen3_vl", "text_config", "tie_word_embeddings"), False),
        (("mask2former", "num_feature_levels"), 4),
        (("mask2former", "pre_norm"), True),
        (("mask2former", "use_repeat_cond"), True),
        (("segmentor", "use_memory"), False),
        (("sam2", "feature_downsampler_stride"), 4),
        (("image_processor", "size"), {"height": 512, "width": 1024}),
    ],
)
def test_unsupported_options_are_refused(path: tuple[str, ...], value: object) -> None:
    language, segmentor = tables()
    table: dict[str, Any] = language if path[0] in language else segmentor
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value
    with pytest.raises(ConfigError, match=path[-1]):
        config_from_official(language, segmentor)

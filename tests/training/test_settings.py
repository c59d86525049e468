"""Settings of a file: names and types are checked, and what is missing stays as it was."""

from __future__ import annotations

from typing import Any

import pytest

from x2sam_ros.errors import ConfigError
from x2sam_ros.training.data.joint import JointSettings
from x2sam_ros.training.data.sources import SourceConfig
from x2sam_ros.training.lora import LoraSettings
from x2sam_ros.training.recipe import Recipe
from x2sam_ros.training.settings import filled


def test_what_is_missing_stays() -> None:
    start = Recipe.whole(5, learning_rate=2e-3)
    made = filled(start, {"betas": [0.9, 0.98], "loss": {"points": 7}, "clip_norm": 1}, "recipe")
    assert made.betas == (0.9, 0.98) and made.learning_rate == 2e-3
    assert (made.loss.points, made.loss.classes) == (7, start.loss.classes)
    assert type(made.clip_norm) is float


def test_a_power_of_ten_that_yaml_reads_as_a_text() -> None:
    assert filled(Recipe(5), {"learning_rate": "1e-4"}, "recipe").learning_rate == 1e-4


def test_what_may_be_nothing() -> None:
    assert filled(Recipe(5), {"lora": None}, "recipe").lora is None
    adapted = filled(Recipe(5, lora=LoraSettings(rank=3)), {"lora": {"alpha": 9}}, "recipe").lora
    assert adapted == LoraSettings(rank=3, alpha=9.0)
    assert filled(SourceConfig("a"), {"split": "val", "regions": ["box"]}, "source").regions == ("box",)


@pytest.mark.parametrize(
    ("start", "values", "message"),
    [
        (Recipe(5), {"learning_speed": 1}, "here: there is no setting 'learning_speed', but .*learning_rate"),
        (Recipe(5), {"learning_rate": "fast"}, "here: learning_rate is 'fast', expected a number"),
        (Recipe(5), {"steps": 5.5}, "here: steps is 5.5, expected a whole number"),
        (Recipe(5), {"steps": True}, "here: steps is True, expected a whole number"),
        (Recipe(5), {"bf16": "on"}, "here: bf16 is 'on', expected true or false"),
        (Recipe(5), {"betas": [0.9]}, r"here: betas is \[0.9\], expected a list of a number, a number"),
        (Recipe(5), {"loss": {"dots": 3}}, "here: loss: there is no setting 'dots'"),
        (Recipe(5), {"loss": 3}, "here: loss is 3, expected settings with names"),
        (Recipe(5), {"lora": True}, "here: lora is True, expected settings with names or nothing"),
        (Recipe(5), {"average": 1.5}, "here: average is 1.5"),
        (Recipe(5), [3], r"here is \[3\], expected settings with names"),
        (JointSettings(), {"parts": {"video": "four"}}, "here: parts: video is 'four', expected a whole number"),
        (JointSettings(), {"parts": {"film": 4}}, "here: parts are {'film': 4}"),
        (JointSettings(), {"balance": float("nan")}, "here: balance is nan, expected at least 0"),
        (JointSettings(), {"workers": -1}, "here: workers is -1, expected at least 0"),
        (JointSettings(), {"clip_share": 2}, "here: clip_share is 2.0, expected a share"),
        (SourceConfig("a"), {"batch": "2"}, "here: batch is '2', expected a whole number"),
        (SourceConfig("a"), {"split": 3}, "here: split is 3, expected a text or nothing"),
    ],
)
def test_settings_that_make_no_sense(start: Any, values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        filled(start, values, "here")

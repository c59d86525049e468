"""What a loss configuration refuses."""

from __future__ import annotations

from typing import Any

import pytest

from x2sam_ros.errors import ConfigError
from x2sam_ros.training.loss_config import LossConfig


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"layers": "last"}, "layers is 'last'"),
        ({"over": "batch"}, "over is 'batch'"),
        ({"text": "word"}, "text is 'word'"),
        ({"dice": -1.0}, "dice is -1.0"),
        ({"bce": float("nan")}, "bce is nan"),
        ({"points": -1}, "points is -1"),
        ({"oversample": 0.5}, "oversample is 0.5"),
        ({"oversample": float("inf")}, "oversample is inf"),
        ({"importance": 1.5}, "importance 1.5"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LossConfig(**wrong)


def test_the_published_way_samples_points_and_adds_layers() -> None:
    published = LossConfig.published(share_phrases=True)
    assert (published.classes, published.bce, published.dice, published.background) == (2.0, 5.0, 5.0, 0.1)
    assert (published.points, published.oversample, published.importance) == (12544, 3.0, 0.75)
    assert (published.layers, published.over, published.text) == ("sum", "clip", "token")
    assert published.share_phrases and not LossConfig.published().share_phrases

"""Sources of generated scenes: their shares, and what each of several processes draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.joint_runs import SOURCES, TINY
from tests.unit.model.networks import nano_tokenizer
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.config import preset
from x2sam_ros.training.feed import SceneSource, SceneSources


def scenes(**changes: int) -> SceneSources:
    return SceneSources(TINY, preset("nano"), nano_tokenizer(), SOURCES, 4, **changes)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_different_batches_of_the_same_phases(world: int) -> None:
    alone, each = scenes(), [scenes(rank=rank, world=world) for rank in range(world)]
    assert [len(one) for one in each] == [len(alone)] * world
    for (phase, _), *others in zip(alone.plan, *(one.plan for one in each)):
        assert [other for other, _ in others] == [phase] * world
    for phase in ("image", "video"):
        numbers = sorted(number for one in each for name, number in one.plan if name == phase)
        assert numbers == [*range(len(numbers))], "each batch is drawn once"
    firsts = [next(iter(one)) for one in each]
    assert len({item.names for item in firsts}) == world
    assert not torch.equal(firsts[0].batch.pixel_values, firsts[1].batch.pixel_values)


@pytest.mark.parametrize("share", [0.0, float("nan"), float("inf")])
def test_a_share_is_a_number_above_0(share: float) -> None:
    with pytest.raises(ConfigError, match=f"share {share} and parts 1, expected above 0"):
        SceneSource("image", share)


def test_a_source_has_its_share_of_the_steps() -> None:
    shares = (SceneSource("image", 3.0), replace(SOURCES[1], share=1.0))
    plan = SceneSources(TINY, preset("nano"), nano_tokenizer(), shares, 8).plan
    assert [number for phase, number in plan if phase == "image"] == [*range(6)]
    assert [number for phase, number in plan if phase == "video"] == [*range(4)], "two batches make a step"

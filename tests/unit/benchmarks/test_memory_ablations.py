"""Each variation of the memory phase changes one thing; differences to the recipe are those of single clips."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from memory_ablations import NO_TWINS, RECIPE, recipe, row, variations

from x2sam_ros.config import TrainConfig
from x2sam_ros.training.scenes import KINDS


def test_each_variation_changes_one_thing_of_the_shipped_phase() -> None:
    base = recipe(300, 6)
    found = variations(base)
    assert (
        found[RECIPE] is base and base.memory.steps == 300 and base.memory_kind_odds == TrainConfig().memory_kind_odds
    )
    assert [base.phase(name).steps for name in base.phases] == [0, 0, 0, 0, 300]
    for name, config in found.items():
        changed = [item.name for item in fields(config) if getattr(config, item.name) != getattr(base, item.name)]
        assert len(changed) == (name != RECIPE), f"{name} changes {changed}"
        assert config.memory.steps == 300 and config.memory.clips * config.memory.frames == 24
    assert NO_TWINS[KINDS.index("twins")] == 0


def test_a_row_compares_clip_with_clip() -> None:
    base = {"gains": [0.1, 0.5], "pictures": [0.8, 0.9]}
    found = {"gains": [0.2, 0.6], "pictures": [0.8, 0.8]}
    name, gain, error, change, change_error, alone, _ = row("other", found, base)
    assert (name, gain, change, change_error, alone) == ("other", "0.400", "0.100", "0.000", "0.800")
    assert float(error) == pytest.approx(0.2)
    assert row(RECIPE, base, base)[3:5] == ("", "")

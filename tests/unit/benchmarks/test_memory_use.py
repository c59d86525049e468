"""What is measured of a memory: hidden targets are hidden as they play, and one answer counts where it should."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.model.networks import new_nano
from x2sam_ros.training.memory_use import MemoryUse
from x2sam_ros.training.scenes.hiding import HIDDEN
from x2sam_ros.types import PointPrompt, TextPrompt

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import memory_use
from memory_use import (
    IN_SIGHT,
    LATER,
    Outcome,
    Passage,
    hidden_clip,
    hidden_row,
    is_right,
    outcome,
    overlaps,
    twin_rows,
)
from scene_cases import HEIGHT, HELD_OUT_SEED, WIDTH, prompt_for


def test_a_passage_is_one_that_hides_for_long_enough() -> None:
    visible = np.ones(40)
    visible[8:30] = 0.5
    visible[10 : 10 + HIDDEN] = 0.0
    assert Passage.of(visible) == Passage(before=7, gone=10, last=9 + HIDDEN, back=30)
    visible[29] = IN_SIGHT
    assert Passage.of(visible).back == 29, "as a whole in sight"
    for frames, share, problem in (
        (slice(10, 11), 0.01, "in a row"),  # one frame too few
        (slice(15, 16), 0.01, "in a row"),  # it peeps out
        (slice(30, 40), 0.9, "before and after"),  # it never comes back as a whole
        (slice(0, 8), 0.9, "before and after"),  # it was never there as a whole
    ):
        changed = visible.copy()
        changed[frames] = share
        changed[29] = 0.5
        with pytest.raises(ValueError, match=problem):
            Passage.of(changed)


@pytest.mark.parametrize("others", ["other shapes", "look-alikes"])
def test_targets_are_hidden_at_the_size_that_is_played(others: str) -> None:
    clip, passage = hidden_clip(HELD_OUT_SEED, others)
    assert clip.frames.shape[1:3] == (HEIGHT, WIDTH)
    areas = (clip.labels == clip.target + 1).sum(axis=(1, 2))
    assert not areas[passage.gone : passage.last + 1].any() and passage.last - passage.gone + 1 >= HIDDEN
    assert min(areas[passage.before], areas[passage.back]) > 1000
    assert passage.back + LATER < len(clip.frames)
    words = prompt_for(clip, clip.target, 0, "text", np.random.default_rng(0))
    assert isinstance(words, TextPrompt) if others == "other shapes" else words is None
    click = prompt_for(clip, clip.target, 0, "point", np.random.default_rng(0))
    assert isinstance(click, PointPrompt)
    x, y = click.points_px[0].astype(int)
    assert clip.labels[0, y, x] == clip.target + 1


def test_right_is_the_target_and_no_other() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[:2, :3], labels[2:, 3:] = 1, 2
    np.testing.assert_allclose(overlaps(labels == 1, labels, 2), [1.0, 0.0])
    np.testing.assert_allclose(overlaps(labels > 0, labels, 2), [0.5, 0.5])
    np.testing.assert_allclose(overlaps(np.zeros((4, 6), bool), labels, 3), [0.0, 0.0, 0.0])
    assert is_right(np.array([0.2, 0.6]), 1) and not is_right(np.array([0.2, 0.5]), 1)
    assert not is_right(np.array([0.7, 0.6]), 1), "another one is covered better"


class Teller:
    """Follows what it is shown the truth of; without a past it finds the object of ``wrong``."""

    wrong = 1

    def __init__(self, model: object, policy: str, prompt: object) -> None:
        self.steps = 0

    def step(self, clip: memory_use.Clip, index: int) -> np.ndarray:
        self.steps += 1
        fresh = self.steps == 1 and index > 0
        return np.asarray(clip.labels[index] == (self.wrong if fresh else clip.target) + 1)


def test_the_answer_without_memory_is_a_new_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_use, "Follower", Teller)
    model = new_nano()
    by_text = outcome(model, "fifo", "other shapes", "text", HELD_OUT_SEED)
    assert by_text["right_before"] and by_text["right_after"] and by_text["without_memory"] is False
    clip, passage = hidden_clip(HELD_OUT_SEED, "other shapes")
    assert by_text["chance"] == 1 / len(clip.objects)
    assert len(by_text["target"]) == len(by_text["other"]) == passage.back + 1 + LATER
    assert by_text["target"][passage.back] == 1.0 and max(by_text["other"]) == 0.0
    assert outcome(model, "fifo", "look-alikes", "point", HELD_OUT_SEED)["without_memory"] is None


def test_rows_are_means_over_clips() -> None:
    true, none = torch.tensor([[0.8, 0.6], [float("nan"), 0.4]]), torch.full((2, 2), 0.5)
    one = twin_rows([MemoryUse(true, none, none), MemoryUse(none, none, none)])[0]
    assert one[:4] == ("next frame", "4", "0.600", "0.500") and one[4] == "0.100"
    found: list[Outcome] = [
        {"right_before": True, "right_after": right, "without_memory": None, "chance": 0.25, "target": [], "other": []}
        | {"passage": {}}
        for right in (True, False)
    ]
    row = hidden_row("look-alikes", "point", found)
    assert row == ("look-alikes", "point", "2", "1.000", "0.500", "0.500", "-", "-", "0.250")

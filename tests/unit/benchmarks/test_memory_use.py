"""The occlusions that are scored are occlusions, among others of the target's colour."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from x2sam_ros.training.memory_use import MemoryUse
from x2sam_ros.types import PointPrompt

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from memory_use import AFTER, HIDDEN, NUM_FRAMES, hidden_span, mean_and_error, occluded, twin_rows


def test_a_target_is_hidden_long_enough_and_comes_back() -> None:
    visible = np.ones(30)
    assert hidden_span(visible) is None
    visible[5 : 5 + HIDDEN] = 0.0
    visible[5 + HIDDEN] = 0.3
    assert hidden_span(visible) == (5, 6 + HIDDEN)
    visible[5] = 0.2
    assert hidden_span(visible) is None, "one frame too few"
    visible[3:] = 0.0
    assert hidden_span(visible) is None, "it never comes back"


def test_the_others_have_the_colour_of_what_is_hidden() -> None:
    ((clip, prompt, gone, back),) = occluded(1, "point")
    target = clip.objects[clip.target]
    beside = [o for k, o in enumerate(clip.objects) if k != clip.target and o.colour == target.colour]
    assert len(clip.frames) == NUM_FRAMES and beside and all(o.shape != target.shape for o in beside)
    assert (clip.visible[gone:back, clip.target] < 0.01).sum() >= HIDDEN and clip.visible[back, clip.target] >= 0.4
    assert back + AFTER < NUM_FRAMES and isinstance(prompt, PointPrompt)
    x, y = prompt.points_px[0].astype(int)
    assert clip.labels[0, y, x] == clip.target + 1


def test_rows_are_means_over_clips() -> None:
    true, none = torch.tensor([[0.8, 0.6], [float("nan"), 0.4]]), torch.full((2, 2), 0.5)
    one = twin_rows([MemoryUse(true, none, none), MemoryUse(none, none, none)])[0]
    assert one[:4] == ("next frame", "4", "0.600", "0.500") and one[4] == "0.100"
    assert mean_and_error(np.array([1.0, np.nan, 3.0])) == (2.0, 1.0)

"""Long clips are compared with themselves: the same object, at both ends, and asked for anew."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.unit.model.networks import new_nano
from x2sam_ros.training.scenes import Clip
from x2sam_ros.types import Prompt, TextPrompt

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import long_clips
from long_clips import SCENES, WINDOW, meant, measured, row, scores
from pieces import Notes
from scene_cases import HELD_OUT_SEED, is_fit

LENGTH = 2 * WINDOW + 4


class Tiring:
    """Finds what it is asked for, the object of a clip, for as long as it is not tired."""

    patience = WINDOW + 10
    asked: ClassVar[list[Prompt]] = []

    def __init__(self, model: object, policy: str, prompt: Prompt) -> None:
        self.asked.append(prompt)
        self.first: int | None = None

    def step(self, clip: Clip, index: int) -> np.ndarray:
        self.first = index if self.first is None else self.first
        rng = np.random.default_rng(HELD_OUT_SEED)
        scene = "twins" if clip.kind == "twins" else "plain"
        target = meant(clip, scene, LENGTH - WINDOW, rng)
        assert target is not None
        return np.asarray((clip.labels[index] == target + 1) & (index - self.first < self.patience))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HEIGHT", 48), ("WIDTH", 64), ("Follower", Tiring)):
        monkeypatch.setattr(long_clips, name, value)
    monkeypatch.setattr(Tiring, "asked", [])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("prompt_kind", ["text", "point"])
def test_drift_is_seen_beside_an_answer_that_is_new(prompt_kind: str) -> None:
    found = scores(new_nano(), "fifo", LENGTH, prompt_kind, "plain", HELD_OUT_SEED)
    assert found is not None
    first, last, anew = found
    assert first == anew == 1.0 and last < 0.9
    prompt, again = Tiring.asked
    assert isinstance(prompt, TextPrompt) == (prompt_kind == "text") and (prompt is again) == (prompt_kind == "text")


@pytest.mark.usefixtures("small")
def test_scenes_without_such_an_object_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {HELD_OUT_SEED: None, HELD_OUT_SEED + 1: (0.9, 0.8, 0.85), HELD_OUT_SEED + 2: (0.7, 0.7, 0.7)}
    monkeypatch.setattr(long_clips, "scores", lambda *args: known[args[-1]])
    for _ in range(2):
        found = list(measured(new_nano(), Notes(tmp_path / "notes.jsonl", {}), "fifo", LENGTH, "text", 2))
        assert [tuple(one) for one in found] == 2 * [known[HELD_OUT_SEED + 1], known[HELD_OUT_SEED + 2]]
        monkeypatch.setattr(long_clips, "scores", lambda *args: pytest.fail("noted, that there is none too"))


def test_what_is_meant_is_in_sight_at_both_ends() -> None:
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + 12)
    for scene in SCENES["point"]:
        clips = (long_clips.generate_clip(seed, LENGTH, 48, 64, kind=scene) for seed in seeds)
        found = [(clip, meant(clip, scene, LENGTH - WINDOW, np.random.default_rng(0))) for clip in clips]
        fit = [(clip, k) for clip, k in found if k is not None]
        assert len(fit) >= 6 and all(is_fit(clip, k, 0) and is_fit(clip, k, LENGTH - WINDOW) for clip, k in fit)
        assert scene != "twins" or all(k == clip.target for clip, k in islice(fit, 3))
    assert not {"occlusion", "reentry"} & {*SCENES["text"], *SCENES["point"]}, "they last as long as the clip does"


def test_differences_are_paired() -> None:
    found = [(0.9, 0.8, 0.85), (0.5, 0.4, 0.45)]
    assert row("text", found) == ("text", "2", "0.700", "0.600", "-0.100", "0.000", "0.650", "-0.050", "0.000")

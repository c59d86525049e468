"""Recorded clips: mode "clip" against mode "stream", and what is not a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.engine.sessions import ScriptedHead, box, classes, drawn, make_say, same, text, use_heads
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import CLIP_LENGTH, EngineConfig
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.errors import ConfigError, FrameError, PluginError
from x2sam_ros.types import CaptionPrompt, FrameResult, Prompt

CONFIG = EngineConfig(score_threshold=0.0)


def segment(count: int, prompt: Prompt, mode: Any, **options: Any) -> list[FrameResult]:
    return list(segment_clip(nano(), frames(count), prompt, mode, config=CONFIG, **options))


@pytest.mark.parametrize("prompt", [text(), classes(), box(), drawn()], ids=lambda p: p.prompt_id)
def test_the_first_clip_is_the_same_in_both_modes(prompt: Prompt) -> None:
    clip, stream = (segment(CLIP_LENGTH + 3, prompt, mode) for mode in ("clip", "stream"))
    assert len(clip) == len(stream) == CLIP_LENGTH + 3
    assert all(same(a, b) for a, b in zip(clip[:CLIP_LENGTH], stream))
    assert [len(r.groundings) for r in stream] == [1] + [0] * (CLIP_LENGTH + 2)
    assert [len(r.groundings) for r in clip] == [1] + [0] * (CLIP_LENGTH - 1) + [1, 0, 0]
    assert set(stream[0].target_ids.tolist()) <= set(stream[-1].target_ids.tolist())
    assert not set(clip[0].target_ids.tolist()) & set(clip[-1].target_ids.tolist()), "new clips have new ids"


def test_every_clip_is_segmented_as_if_it_were_the_only_one() -> None:
    results = segment(7, text(), "clip", clip_length=4)
    alone = list(segment_clip(nano(), frames(7)[4:], text(), config=CONFIG))
    for a, b in zip(results[4:], alone, strict=True):
        assert np.array_equal(a.masks, b.masks) and np.array_equal(a.scores, b.scores)
    assert [r.target_ids.tolist() for r in results] == [[1]] * 4 + [[2]] * 3


def test_clips_of_one_frame() -> None:
    results = segment(3, text(), "clip", clip_length=1)
    assert [r.target_ids.tolist() for r in results] == [[1], [2], [3]]
    assert [len(r.groundings) for r in results] == [1, 1, 1] and results[0].masks.any()
    assert same(segment(1, text(), "stream")[0], results[0])
    assert segment(0, text(), "clip") == []


def test_captions_of_every_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "<p>A cup</p> <SEG>.", "Nothing.", "<p>a fork</p> on <p>a plate</p> <SEG>.")
    results = segment(6, CaptionPrompt("c"), "clip", clip_length=2)
    assert [g.response for r in results for g in r.groundings] == ["A cup .", "Nothing.", "a fork on a plate ."]
    assert [r.target_ids.tolist() for r in results] == [[1], [1], [], [], [2, 3], [2, 3]]


def test_a_list_that_still_looks_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([]))
    results = segment(5, classes(), "clip", clip_length=2)
    assert [len(r.groundings) for r in results] == [1, 0, 1, 0, 1]


def test_what_cannot_be_segmented_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="mode is 'both', expected 'clip'"):
        segment_clip(nano(), frames(1), text(), "both")
    for length in (0, 1_000):
        with pytest.raises(ConfigError, match=f"clip_length is {length}, expected 1 to"):
            segment_clip(nano(), frames(1), text(), clip_length=length)
    with pytest.raises(PluginError, match="nonsense"):
        segment_clip(nano(), frames(1), text(), memory_policy="nonsense")
    with pytest.raises(FrameError, match=r"different sizes \[\(60, 80\), \(96, 128\)\]"):
        list(segment_clip(nano(), [*frames(1), *frames(1, size=(60, 80))], text()))

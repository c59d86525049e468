"""Prompts that wait: which frame each refers to, when it is too late or too early, and which ids are taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.sessions import classes, click, text
from tests.unit.model.networks import FRAME_PERIOD_NS, frames
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.prompt_queue import REMEMBERED_PROMPT_IDS, PromptQueue, Waiting
from x2sam_ros.errors import PromptError
from x2sam_ros.types import CaptionPrompt, Prompt

MS = 1_000_000


def queue(**options: Any) -> PromptQueue:
    return PromptQueue(EngineConfig(**options))


def filled(count: int = 6, kept: int = 64) -> tuple[FrameBuffer, list[Kept]]:
    """Return a buffer into which frames have come, one each 100 ms."""
    buffer = FrameBuffer(kept, 1 << 30)
    return buffer, [buffer.add(frame) for frame in frames(count)]


def outcome(of: PromptQueue, newest: Kept, buffer: FrameBuffer) -> tuple[dict[str, int], dict[str, str]]:
    """Return the number of the frame of each prompt that is due, and why others are refused."""
    due, refused = of.due(newest, buffer)
    return {w.prompt.prompt_id: at.number for w, at in due}, {w.prompt.prompt_id: why for w, why in refused}


def test_without_a_stamp_it_is_the_newest_frame_and_with_one_the_nearest() -> None:
    buffer, kept = filled()
    waiting = queue()
    stamps = {"exact": 2 * FRAME_PERIOD_NS, "near": 3 * FRAME_PERIOD_NS + 40 * MS, "between": FRAME_PERIOD_NS * 3 // 2}
    for name, stamp in stamps.items():
        waiting.submit(click(name, stamp_ns=stamp), None, 0)
    waiting.submit(text("now"), None, 0)
    due, refused = outcome(waiting, kept[-1], buffer)
    assert due == {"exact": 2, "near": 3, "between": 2, "now": 5} and not refused and len(waiting) == 0


def test_one_that_is_ahead_waits_for_its_frame_up_to_the_limit() -> None:
    buffer, kept = filled(6)
    waiting = queue(prompt_lead_ms=250.0)
    for name, frame in (("soon", 5), ("far", 8)):
        waiting.submit(click(name, stamp_ns=frame * FRAME_PERIOD_NS), None, 0)
    due, refused = outcome(waiting, kept[3], buffer)
    assert due == {} and [item.prompt.prompt_id for item in waiting] == ["soon"]
    assert "500 ms ahead of the newest image, at most 250 ms" in refused["far"]
    assert outcome(waiting, kept[4], buffer) == ({}, {})
    assert outcome(waiting, kept[5], buffer) == ({"soon": 5}, {})


def test_one_whose_frame_has_gone_is_refused_with_the_numbers() -> None:
    buffer, kept = filled(9, kept=3)
    waiting = queue(prompt_tolerance_ms=150.0)
    waiting.submit(click("late", stamp_ns=0), None, 0)
    waiting.submit(click("just", stamp_ns=5 * FRAME_PERIOD_NS), None, 0)
    due, refused = outcome(waiting, kept[-1], buffer)
    assert due == {"just": 6}
    assert "its image is 800 ms old" in refused["late"] and "3 images of the last 200 ms" in refused["late"]
    assert "within 150 ms" in refused["late"]


def test_one_that_was_put_back_keeps_its_frame_even_when_that_has_gone() -> None:
    buffer, kept = filled(3)
    waiting = queue()
    waiting.submit(text("a"), None, 0)
    ((item, at),) = waiting.due(kept[-1], buffer)[0]
    waiting.put_back(replace(item, at=at))
    buffer.clear()
    newest = buffer.add(frames(9)[8])
    assert waiting.due(newest, buffer)[0][0][1] is kept[-1]


def test_ids_are_taken_once_and_remembered_up_to_a_number() -> None:
    waiting = queue(max_pending_prompts=4)
    waiting.submit(text("a"), None, 0)
    with pytest.raises(PromptError, match="prompt id 'a' is taken"):
        waiting.submit(click("a"), None, 0)
    waiting.drop("a")
    assert len(waiting) == 0 and waiting.used_ids == ("a",)
    waiting.submit(text(""), None, 0)
    waiting.submit(text(""), None, 0)
    assert waiting.used_ids == ("a",), "'' is no id"
    waiting.use_ids(tuple(f"old {number}" for number in range(REMEMBERED_PROMPT_IDS)))
    assert len(waiting.used_ids) == REMEMBERED_PROMPT_IDS
    waiting.submit(text("a"), None, 0)


def test_too_many_are_refused_with_the_numbers_and_take_no_id() -> None:
    waiting = queue(max_pending_prompts=3)
    waiting.submit(text("a"), None, 1)
    waiting.submit(text("b"), None, 1)
    with pytest.raises(PromptError, match="3 prompts are waiting, at most 3 may"):
        waiting.submit(text("c"), None, 1)
    assert waiting.used_ids == ("a", "b") and len(waiting) == 2
    waiting.submit(text("c"), None, 0)


@pytest.mark.parametrize("prompt", [text("w"), classes("w"), CaptionPrompt("w")])
def test_on_another_stream_words_are_asked_at_once(prompt: Prompt) -> None:
    buffer, kept = filled(2)
    waiting = queue()
    waiting.put_back(Waiting(replace(prompt, stamp_ns=10**12), at=kept[0]))
    waiting.begin_anew()
    assert outcome(waiting, kept[-1], buffer) == ({"w": 1}, {})


def test_on_another_stream_a_region_waits_for_its_frame_however_long() -> None:
    buffer, kept = filled(2)
    waiting = queue(prompt_lead_ms=100.0)
    waiting.submit(click("r", stamp_ns=10**12), np.zeros((1, 4, 4, 3), np.uint8), 0)
    waiting.begin_anew()
    assert outcome(waiting, kept[-1], buffer) == ({}, {})
    (item,) = waiting
    assert item.again and item.prompt.stamp_ns == 10**12 and item.clip is not None
    came = buffer.add(replace(frames(3)[2], stamp_ns=10**12))
    assert outcome(waiting, came, buffer) == ({"r": 2}, {})


def test_clearing_forgets_prompts_and_ids() -> None:
    waiting = queue()
    waiting.submit(text("a"), None, 0)
    waiting.clear()
    assert len(waiting) == 0 and waiting.used_ids == ()

"""The rule of each built-in memory policy, on records made by hand, and all of them on a real session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.sessions import run, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.default_plugins.memory_policies.distractor_aware import DistractorAwarePolicy
from x2sam_ros.default_plugins.memory_policies.gated import GatedPolicy
from x2sam_ros.default_plugins.memory_policies.long_term import LongTermPolicy
from x2sam_ros.default_plugins.memory_policies.pinned import PinnedPolicy
from x2sam_ros.default_plugins.memory_policies.restricted import RestrictedPolicy
from x2sam_ros.engine.memory_policy import (
    MemoryPolicy,
    MemoryRecord,
    checked_keep,
    checked_merge,
    checked_show,
    merge_records,
)
from x2sam_ros.engine.session import Session
from x2sam_ros.plugins import MEMORY_POLICIES, load_plugins
from x2sam_ros.testing import memory_record

NAMES = ("distractor_aware", "fifo", "gated", "long_term", "pinned", "restricted")
GONE: dict[str, Any] = {"score": 0.0, "mask_fraction": 0.0, "stability": 0.0}


def life(policy: MemoryPolicy, num_frames: int, **odd: Sequence[int]) -> list[tuple[MemoryRecord, ...]]:
    """Return what a policy holds after each frame of a stream prompted on frame 0.

    Args:
        policy: it.
        num_frames: length of the stream.
        odd: frames that are ``gone``, ``shaky``, ``astray``, ``beside`` a distractor, or ``prompted`` again.
    """
    kinds: dict[str, dict[str, Any]] = {
        "gone": GONE,
        "shaky": {"stability": 0.3},
        "astray": {"motion_iou": 0.0},
        "beside": {"distractors": 1, "distractor_iou": 0.4},
        "prompted": {"prompted": True},
    }
    stored: tuple[MemoryRecord, ...] = ()
    history = []
    for index in range(num_frames):
        facts: dict[str, Any] = {"prompted": index == 0}
        for kind, indices in odd.items():
            facts |= kinds[kind] if index in indices else {}
        entries = [*stored, memory_record(index, **facts)]
        merged = checked_merge(policy, stored, entries[-1])
        if merged is not None:
            entries[merged[0]] = merge_records(entries[merged[0]], entries.pop(merged[1]))
        stored = tuple(entries[place] for place in checked_keep(policy, entries[:-1], entries[-1]))
        history.append(stored)
    return history


def numbers(stored: Sequence[MemoryRecord]) -> list[int]:
    return [record.frame_index for record in stored]


def test_all_six_are_there() -> None:
    assert set(NAMES) <= set(load_plugins().names(MEMORY_POLICIES))


def test_pinned_keeps_the_prompted_frame_and_the_newest() -> None:
    history = life(PinnedPolicy(4), 8)
    assert [numbers(stored) for stored in history[3:5]] == [[0, 1, 2, 3], [0, 2, 3, 4]]
    assert numbers(history[7]) == [0, 5, 6, 7]


def test_pinned_gives_the_pin_to_a_new_prompt() -> None:
    assert numbers(life(PinnedPolicy(3), 9, prompted=[4])[8]) == [4, 7, 8]
    assert numbers(life(PinnedPolicy(4, max_pinned=2), 9, prompted=[4])[8]) == [0, 4, 7, 8]
    assert numbers(life(PinnedPolicy(1), 5, prompted=[2])[4]) == [2]


def test_gated_remembers_what_passes_and_shows_the_newest_in_any_case() -> None:
    policy = GatedPolicy(4)
    assert numbers(life(policy, 8)[7]) == [0, 5, 6, 7]
    history = life(policy, 12, gone=[5, 6, 7], shaky=[8], astray=[9])
    assert [numbers(history[index]) for index in (5, 7, 9)] == [[0, 3, 4, 5], [0, 3, 4, 7], [0, 3, 4, 9]]
    assert numbers(history[11]) == [0, 4, 10, 11], "the frames that did not pass are gone"


@pytest.mark.parametrize("facts", [GONE, {"stability": 0.5}, {"motion_iou": 0.0}])
def test_each_gate_of_gated(facts: dict[str, Any]) -> None:
    policy = GatedPolicy(5)
    assert policy.passes(memory_record(3)) and not policy.passes(memory_record(3, **facts))


def test_distractor_aware_keeps_the_newest_and_every_fifth_before_it() -> None:
    history = life(DistractorAwarePolicy(5), 20)
    assert numbers(history[3]) == [0, 1, 3]
    assert numbers(history[13]) == [0, 6, 11, 13]
    assert numbers(history[16]) == [0, 11, 16] or numbers(history[16]) == [0, 6, 11, 16]
    assert numbers(history[18]) == [0, 11, 16, 18]


def test_distractor_aware_leaves_out_frames_without_the_target() -> None:
    history = life(DistractorAwarePolicy(5), 40, gone=range(12, 39))
    assert all(numbers(history[index]) == numbers(history[11]) for index in range(12, 39))
    assert numbers(history[39])[-1] == 39


def test_distractor_aware_anchors_frames_with_a_distractor() -> None:
    history = life(DistractorAwarePolicy(6), 60, beside=[7, 9, 20, 40])
    assert {0, 7, 20} <= set(numbers(history[30])), "9 comes too soon after 7"
    assert 9 not in numbers(history[30])
    assert {0, 20, 40} <= set(numbers(history[59])) and 7 not in numbers(history[59]), "the prompted frame stays"
    assert len(history[59]) == 6 and numbers(history[59])[-1] == 59


@pytest.mark.parametrize(
    "facts", [{"stability": 0.8}, {"size_ratio": 1.3}, {"size_ratio": 0.7}, {"distractor_iou": 0.75}, GONE]
)
def test_what_is_no_anchor(facts: dict[str, Any]) -> None:
    policy = DistractorAwarePolicy(5)
    good: dict[str, Any] = {"distractors": 1, "distractor_iou": 0.7}
    assert policy.is_anchor(memory_record(5, **good)) and not policy.is_anchor(memory_record(5, **{**good, **facts}))


def test_restricted_keeps_the_first_and_the_newest_and_drops_what_is_worth_least() -> None:
    history = life(RestrictedPolicy(4), 40)
    assert all(numbers(stored)[0] == 0 and numbers(stored)[-1] == index for index, stored in enumerate(history))
    assert all(len(stored) <= 4 for stored in history)
    entries = [memory_record(index, score=score) for index, score in enumerate((0.9, 0.9, 0.2, 0.9, 0.9))]
    assert checked_keep(RestrictedPolicy(4), entries[:-1], entries[-1]) == (0, 1, 3, 4), "irrelevant"
    alike = [memory_record(index) for index in (0, 5, 20, 21, 22)]
    assert checked_keep(RestrictedPolicy(4), alike[:-1], alike[-1]) == (0, 2, 3, 4), "stale"


def test_restricted_gives_up_blank_frames_before_all_it_knows_is_gone() -> None:
    history = life(RestrictedPolicy(5), 40, gone=range(10, 40))
    assert all(sum(record.seen for record in stored) >= 3 for stored in history[10:25])
    assert history[39][0].seen


def test_restricted_counts_as_published() -> None:
    entries = [memory_record(index, score=0.5) for index in (0, 6, 9)]
    times = np.array([10, 4, 1])
    expected = 1 / 3 + 1.5 * np.sqrt(np.log(times.sum()) / (times + 8))
    assert RestrictedPolicy(4).worth(entries) == pytest.approx(expected.tolist())
    strided = [memory_record(5 * index, score=0.5) for index in (0, 6, 9)]
    assert RestrictedPolicy(4, stride=5).worth(strided) == pytest.approx(expected.tolist())


def facts(stored: Sequence[MemoryRecord]) -> list[tuple[int, int]]:
    return [(record.frame_index, record.merged) for record in stored]


def test_long_term_works_old_frames_into_prototypes() -> None:
    history = life(LongTermPolicy(3, prototypes=2, span=3), 60)
    assert facts(history[4]) == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]
    assert facts(history[5]) == [(0, 1), (1, 1), (3, 2), (4, 1), (5, 1)]
    assert facts(history[6]) == [(0, 1), (1, 1), (4, 3), (5, 1), (6, 1)], "the newest prototype is full"
    assert facts(history[7]) == [(0, 1), (4, 4), (5, 1), (6, 1), (7, 1)], "so the two become one"
    for index, stored in enumerate(history):
        assert sum(record.merged for record in stored) == index + 1, "every frame is in it"
        assert len(stored) == min(5, index + 1) and stored[0].frame_index == 0


def test_long_term_drops_blank_frames() -> None:
    history = life(LongTermPolicy(4), 40, gone=range(8, 23))
    assert sum(not record.seen for record in history[22]) == 1, "the newest"
    assert sum(record.merged for record in history[22] if record.seen) == 8, "nothing was lost"
    assert all(record.seen for record in history[39]) and sum(record.merged for record in history[39]) == 40 - 15


def test_long_term_shows_more_of_the_past_when_the_target_is_out_of_sight() -> None:
    policy = LongTermPolicy(4, span=3)
    history = life(policy, 41, gone=[40])
    seen, gone = history[39], history[40]
    assert [record.merged > 1 for record in seen] == [False, True, True, False, False, False]
    assert checked_show(policy, seen, 40, 0, 4) == (0, 2, 4, 5)
    assert [record.merged > 1 for record in gone] == [False, True, True, False, False, False]
    assert checked_show(policy, gone, 41, 0, 4) == (0, 1, 2, 5)
    assert checked_show(policy, seen[:3], 40, 0, 4) == (0, 1, 2)


def remembered(live: Session) -> tuple[MemoryRecord, ...]:
    """Return what a session's only conversation remembers."""
    (group,) = live._roster.groups
    return group.memory.records


@pytest.mark.parametrize("name", NAMES)
def test_a_real_session_follows_with_every_policy(name: str) -> None:
    live = Session(nano(), EngineConfig(score_threshold=0.0, num_maskmem=3), memory_policy=name)
    results = run(live, frames(9), {0: [text()]})
    assert live.target_ids == (1,) and not live.faults
    assert all(result.masks.shape[0] == 1 and np.isfinite(result.scores).all() for result in results)
    records = remembered(live)
    assert 1 <= len(records) <= (5 if name == "long_term" else 3) and records[-1].frame_index == 8
    assert records[0].prompted == (name != "fifo")


def test_a_stride_writes_less_and_still_follows() -> None:
    live = session(memory_stride=3)
    run(live, frames(9), {1: [text()]})
    assert numbers(remembered(live)) == [1, 4, 7]

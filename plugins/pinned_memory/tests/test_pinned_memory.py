"""The pinned policy: what stays, what goes, and the contract of x2sam_ros."""

from __future__ import annotations

import pytest
from x2sam_pinned_memory import PinnedPolicy, pinned, x2sam_memory_policies

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import PluginError
from x2sam_ros.testing import check_memory_policy, memory_record, memory_stream, run_memory_policy


def kept_frames(policy: PinnedPolicy, prompted: set[int], num_frames: int) -> list[list[int]]:
    stream = [memory_record(index, prompted=index in prompted) for index in range(num_frames)]
    return [[record.frame_index for record in stored] for stored in run_memory_policy(policy, stream)]


def test_contract() -> None:
    for factory in x2sam_memory_policies().values():
        check_memory_policy(factory)


def test_capacity_is_the_networks() -> None:
    assert pinned(EngineConfig(num_maskmem=7)).capacity == 7


def test_prompted_frame_stays_and_the_rest_is_recent() -> None:
    history = kept_frames(PinnedPolicy(4), prompted={0}, num_frames=8)
    assert history[2] == [0, 1, 2]
    assert history[3] == [0, 1, 2, 3]
    assert history[4] == [0, 2, 3, 4]
    assert history[7] == [0, 5, 6, 7]


def test_a_new_prompt_takes_the_pin() -> None:
    history = kept_frames(PinnedPolicy(3), prompted={0, 4}, num_frames=9)
    assert history[3] == [0, 2, 3]
    # Frame 0 is no longer pinned and too old to be recent.
    assert history[4] == [2, 3, 4]
    assert history[8] == [4, 7, 8]


def test_several_pins() -> None:
    assert kept_frames(PinnedPolicy(4, max_pinned=2), prompted={0, 3, 6}, num_frames=10)[-1] == [3, 6, 8, 9]


def test_without_a_prompt_it_is_a_queue() -> None:
    assert kept_frames(PinnedPolicy(3), prompted=set(), num_frames=6)[-1] == [3, 4, 5]


def test_one_slot_holds_the_prompt() -> None:
    assert kept_frames(PinnedPolicy(1), prompted={2}, num_frames=5) == [[0], [1], [2], [2], [2]]


def test_a_prompted_entry_is_held_at_every_moment() -> None:
    for stored in run_memory_policy(PinnedPolicy(5), memory_stream(500, seed=3)):
        assert any(record.prompted for record in stored)


def test_impossible_sizes_are_an_error() -> None:
    with pytest.raises(PluginError, match="max_pinned 3 and capacity 2"):
        PinnedPolicy(2, max_pinned=3)

"""The policy pinned_best: what stays, what goes, and the contract of x2sam_ros."""

from __future__ import annotations

from collections.abc import Mapping

from x2sam_pinned_memory import PinnedBestPolicy, pinned_best, x2sam_memory_policies

from x2sam_ros.config import EngineConfig
from x2sam_ros.testing import check_memory_policy, memory_record, memory_stream, run_memory_policy


def kept_frames(
    policy: PinnedBestPolicy, prompted: set[int], num_frames: int, scores: Mapping[int, float] | None = None
) -> list[list[int]]:
    stream = [
        memory_record(index, prompted=index in prompted, score=(scores or {}).get(index, 0.5))
        for index in range(num_frames)
    ]
    return [[record.frame_index for record in stored] for stored in run_memory_policy(policy, stream)]


def test_contract() -> None:
    for factory in x2sam_memory_policies().values():
        check_memory_policy(factory)


def test_capacity_is_the_networks() -> None:
    assert pinned_best(EngineConfig(num_maskmem=7)).capacity == 7


def test_the_prompted_frame_stays_and_of_equals_the_newest() -> None:
    history = kept_frames(PinnedBestPolicy(4), prompted={0}, num_frames=8)
    assert history[3] == [0, 1, 2, 3]
    assert history[4] == [0, 2, 3, 4]
    assert history[7] == [0, 5, 6, 7]


def test_what_was_seen_best_stays() -> None:
    history = kept_frames(PinnedBestPolicy(4), prompted={0}, num_frames=12, scores={2: 0.9, 5: 0.8, 6: 0.1})
    assert history[6] == [0, 2, 5, 6]
    assert history[11] == [0, 2, 5, 11]


def test_a_new_prompt_takes_the_pin() -> None:
    assert kept_frames(PinnedBestPolicy(3), prompted={0, 4}, num_frames=9)[8] == [4, 7, 8]


def test_without_a_prompt_it_is_a_queue_of_equals() -> None:
    assert kept_frames(PinnedBestPolicy(3), prompted=set(), num_frames=6)[-1] == [3, 4, 5]


def test_one_slot_holds_the_prompt() -> None:
    assert kept_frames(PinnedBestPolicy(1), prompted={2}, num_frames=5) == [[0], [1], [2], [2], [2]]


def test_a_prompted_entry_is_held_at_every_moment() -> None:
    for stored in run_memory_policy(PinnedBestPolicy(5), memory_stream(500, seed=3)):
        assert any(record.prompted for record in stored)

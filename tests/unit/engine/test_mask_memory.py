"""The Mask Memory of one conversation, and several as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory, entry_row, gap, merge_entries, merge_memories
from x2sam_ros.engine.memory_policy import MemoryRecord, PolicyGuard, open_policy
from x2sam_ros.model.memory import MemoryEntry

INTERVAL_NS = 33_333_333


def record(frame_index: int) -> MemoryRecord:
    return MemoryRecord(frame_index, frame_index * INTERVAL_NS, 0.9, 0.1)


def entry(value: float, targets: int = 1) -> MemoryEntry:
    return MemoryEntry(tuple(torch.full((targets, 2, 4, 4), float(value)) for _ in range(3)))


def filled(*frame_indices: int, **config: float) -> MaskMemory:
    memory = MaskMemory(open_policy("fifo", EngineConfig(**config)))
    for index in frame_indices:
        memory.store(record(index), entry(index))
    return memory


def gaps(memory: MaskMemory, frame_index: int) -> list[int]:
    batch = memory.read(frame_index, frame_index * INTERVAL_NS)
    return batch.gaps[0].tolist()


def test_fifo_of_five_is_bounded_and_ordered() -> None:
    memory = filled(*range(9))
    assert len(memory) == 5 and [r.frame_index for r in memory.records] == [4, 5, 6, 7, 8]
    assert memory.nbytes == 5 * 3 * 2 * 16 * 4
    batch = memory.read(9, 9 * INTERVAL_NS)
    assert batch.gaps.tolist() == [[5, 4, 3, 2, 1]]
    assert batch.embeds[0][0, :, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    memory.clear()
    assert len(memory) == 0 and memory.nbytes == 0


def test_gaps_count_dropped_frames_and_survive_a_counter_that_starts_again() -> None:
    assert gaps(filled(0, 4, 7, memory_max_gap=100), 10) == [10, 6, 3]
    assert gaps(filled(0, 4, 7, memory_max_gap=5), 10) == [5, 5, 3]
    assert gaps(filled(5, 6), 0) == [1, 1]


@pytest.mark.parametrize("config", [{"memory_stride": 5}, {"memory_interval_s": 1 / 6}])
def test_a_strided_camera_of_30_hz_shows_the_gaps_of_one_of_6_hz(config: dict[str, float]) -> None:
    memory = filled(**config)
    shown = []
    for index in range(40):
        stamp = index * INTERVAL_NS + (index % 3) * 2_000_000  # a camera is never quite regular
        if len(memory):
            shown.append(memory.read(index, stamp).gaps[0].tolist())
        if memory.is_due(index, stamp):
            memory.store(MemoryRecord(index, stamp, 0.9, 0.1), entry(index))
    frames = [r.frame_index for r in memory.records]
    assert all(5 <= later - earlier <= 6 for earlier, later in pairwise(frames))
    assert shown[0] == [1] and all(found == list(range(len(found), 0, -1)) for found in shown)
    assert shown[-1] == [5, 4, 3, 2, 1]


def test_what_is_due() -> None:
    assert filled(memory_stride=3).is_due(0, 0), "the first frame is"
    memory = filled(10, memory_stride=3)
    assert [memory.is_due(index, index * INTERVAL_NS) for index in (11, 12, 13, 20)] == [False, False, True, True]
    assert memory.is_due(2, 2 * INTERVAL_NS), "a counter that starts again"
    assert filled(10, memory_interval_s=60.0).is_due(11, 0), "a clock that jumped back"


def test_a_stream_that_is_counted_anew() -> None:
    memory = filled(3, 5)
    memory.shift(-6)
    assert [r.frame_index for r in memory.records] == [-3, -1] and gaps(memory, 0) == [3, 1]


def test_a_memory_of_what_another_one_held() -> None:
    memory = filled(3, 5)
    other = MaskMemory.of(open_policy("fifo", EngineConfig()), memory.records, memory.entries)
    assert other.records == memory.records and other.entries == memory.entries and gaps(other, 6) == [3, 1]
    other.store(record(6), entry(6))
    assert len(memory) == 2


def test_memories_of_different_lengths_merge() -> None:
    batch = merge_memories([filled(0), filled(0, 1, 2)], 3, 3 * INTERVAL_NS)
    assert batch.valid.tolist() == [[True, False, False], [True, True, True]]
    assert batch.gaps.tolist() == [[3, 1, 1], [3, 2, 1]]


def test_a_row_owns_its_memory() -> None:
    both = entry(1, targets=2)
    row = entry_row(both, 1)
    both.embeds[0].zero_()
    assert bool((row.embeds[0] == 1).all())
    assert row.nbytes == both.nbytes // 2 == sum(x.untyped_storage().nbytes() for x in row.embeds)


class Scripted:
    """A policy that does as it is told, and shows the oldest."""

    name, capacity = "scripted", 3

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        return range(len(stored) + 1)

    def show(self, stored: Sequence[MemoryRecord], frame_index: int, stamp_ns: int) -> Sequence[int]:
        return (0, 2) if len(stored) == 3 else (0,)

    def merge(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, int] | None:
        return (1, 2) if len(stored) == 3 else None


def test_a_policy_chooses_what_is_shown_and_what_is_merged() -> None:
    memory = MaskMemory(PolicyGuard(Scripted(), EngineConfig(num_maskmem=2)))
    for index in range(3):
        memory.store(record(index), entry(index))
    assert gaps(memory, 3) == [3, 1]
    memory.store(record(3), entry(3))
    assert [(r.frame_index, r.merged) for r in memory.records] == [(0, 1), (2, 2), (3, 1)]
    assert [float(e.embeds[0].mean()) for e in memory.entries] == [0.0, 1.5, 3.0]
    memory.store(record(4), entry(4))
    assert [r.merged for r in memory.records] == [1, 3, 1]
    assert float(memory.entries[1].embeds[2].mean()) == pytest.approx(2.0), "all three weigh the same"


def test_merging_reads_from_cells_that_look_alike_wherever_they_are() -> None:
    """What a prototype shows stays where it is, although the other entry shows it elsewhere."""
    into, other = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    into[0, :, 0, 0], into[0, :, 0, 1] = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 2.0])
    other[0, :, 0, 0], other[0, :, 0, 1] = torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0])
    merged = merge_entries(MemoryEntry((into,)), MemoryEntry((other,)), 1.0).embeds[0]
    assert merged.shape == into.shape
    torch.testing.assert_close(merged[0, :, 0], torch.tensor([[3.0, 0.0], [0.0, 3.0]]), atol=1e-3, rtol=0)
    assert float(into[0, 0, 0, 0]) == 4.0, "an entry is never written to"


@pytest.mark.parametrize(("age", "shown"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (500, 8)])
def test_gaps_are_strides_rounded_up(age: int, shown: int) -> None:
    config = EngineConfig(memory_stride=5, memory_max_gap=8)
    assert gap(record(0), age, age * INTERVAL_NS, config) == shown

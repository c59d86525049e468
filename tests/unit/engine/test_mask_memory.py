"""The Mask Memory of one conversation, and several as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory, entry_row, merge_memories
from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.errors import PluginError
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.plugins import installed_plugins


def record(frame_index: int) -> MemoryRecord:
    return MemoryRecord(frame_index, frame_index * 10, 0.9, 0.1)


def entry(value: float, targets: int = 1) -> MemoryEntry:
    return MemoryEntry(tuple(torch.full((targets, 2, 4, 4), float(value)) for _ in range(3)))


def filled(*frame_indices: int, slots: int = 5) -> MaskMemory:
    memory = MaskMemory(installed_plugins().memory_policy("fifo")(EngineConfig(num_maskmem=slots)))
    for index in frame_indices:
        memory.store(record(index), entry(index))
    return memory


def test_fifo_of_five_is_bounded_and_ordered() -> None:
    memory = filled(*range(9))
    assert len(memory) == 5 and [r.frame_index for r in memory.records] == [4, 5, 6, 7, 8]
    assert memory.nbytes == 5 * 3 * 2 * 16 * 4
    batch = memory.read(9)
    assert batch.gaps.tolist() == [[5, 4, 3, 2, 1]]
    assert batch.embeds[0][0, :, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    memory.clear()
    assert len(memory) == 0 and memory.nbytes == 0


def test_gaps_count_dropped_frames_and_survive_a_counter_that_starts_again() -> None:
    assert filled(0, 4, 7).read(10).gaps.tolist() == [[10, 6, 3]]
    assert filled(5, 6).read(0).gaps.tolist() == [[1, 1]]


def test_memories_of_different_lengths_merge() -> None:
    batch = merge_memories([filled(0), filled(0, 1, 2)], 3)
    assert batch.valid.tolist() == [[True, False, False], [True, True, True]]
    assert batch.gaps.tolist() == [[3, 1, 1], [3, 2, 1]]


def test_a_row_owns_its_memory() -> None:
    both = entry(1, targets=2)
    row = entry_row(both, 1)
    both.embeds[0].zero_()
    assert bool((row.embeds[0] == 1).all())
    assert row.nbytes == both.nbytes // 2 == sum(x.untyped_storage().nbytes() for x in row.embeds)


class Keeps:
    """A policy that answers what it was given."""

    name, capacity = "odd", 3

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer = answer

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        return self.answer


@pytest.mark.parametrize("answer", [(), (1,), (0, 0)])
def test_an_invalid_answer_changes_nothing(answer: Sequence[int]) -> None:
    """An empty memory is invalid too: the next frame could not attend to it."""
    memory = MaskMemory(Keeps(answer))
    with pytest.raises(PluginError, match="memory policy 'odd' kept .* expected 1 to 3 ascending positions"):
        memory.store(record(0), entry(0))
    assert len(memory) == 0

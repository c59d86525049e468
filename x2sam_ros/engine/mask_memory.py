"""The Mask Memory of one conversation: stored entries, and the policy that decides which live on."""

from __future__ import annotations

import torch

from x2sam_ros.engine.memory_policy import MemoryPolicy, MemoryRecord, checked_keep
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry


class MaskMemory:
    """At most ``policy.capacity`` entries, oldest first.

    Args:
        policy: chooses what is kept; holds no state, so conversations may share it.
    """

    def __init__(self, policy: MemoryPolicy) -> None:
        self._policy = policy
        self._records: list[MemoryRecord] = []
        self._entries: list[MemoryEntry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def records(self) -> tuple[MemoryRecord, ...]:
        """What is known of the stored entries, oldest first."""
        return tuple(self._records)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.nbytes for entry in self._entries)

    def store(self, record: MemoryRecord, entry: MemoryEntry) -> None:
        """Offer a new entry to the policy.

        Raises:
            PluginError: the policy's answer is no valid choice; nothing is changed then.
        """
        kept = checked_keep(self._policy, self._records, record)
        records, entries = [*self._records, record], [*self._entries, entry]
        self._records = [records[index] for index in kept]
        self._entries = [entries[index] for index in kept]

    def read(self, frame_index: int) -> MemoryBatch:
        """Return the stored entries as attended to from frame ``frame_index``; gaps count frames, at least 1."""
        gaps = [max(1, frame_index - record.frame_index) for record in self._records]
        return MemoryBatch.stack(self._entries, gaps)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._entries.clear()


def entry_row(entry: MemoryEntry, row: int) -> MemoryEntry:
    """Return one conversation's part of a batched entry as tensors of its own, so that dropping it frees memory."""
    return MemoryEntry(tuple(x[row : row + 1].clone() for x in entry.embeds))


def merge_memories(memories: list[MaskMemory], frame_index: int) -> MemoryBatch:
    """Return several conversations' memories as one batch with fixed slots."""
    with torch.no_grad():
        return MemoryBatch.merge([memory.read(frame_index) for memory in memories])

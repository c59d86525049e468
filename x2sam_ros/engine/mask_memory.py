"""The Mask Memory of one conversation: stored entries, and the policy that decides which live on and which are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.finest import Finest
from x2sam_ros.engine.memory_policy import MemoryRecord, PolicyGuard, merge_records
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry

MERGE_TEMPERATURE = 0.1
"""How alike two cells must be to be merged: a cosine that is this much smaller weighs e times less."""

_JITTER = 0.1
"""Share of the write interval, where it is given in seconds, that stamps may be early or late."""


class MaskMemory:
    """At most ``policy.capacity`` entries, oldest first.

    Args:
        policy: chooses what is kept and read; holds no state, so conversations may share it.

    Attributes:
        finest: what it added to the finest map lately, where that is kept from frame to frame; goes when it is cleared.
    """

    def __init__(self, policy: PolicyGuard) -> None:
        self._policy = policy
        self._records: tuple[MemoryRecord, ...] = ()
        self._entries: tuple[MemoryEntry, ...] = ()
        self.finest: Finest | None = None

    @classmethod
    def of(cls, policy: PolicyGuard, records: Sequence[MemoryRecord], entries: Sequence[MemoryEntry]) -> MaskMemory:
        """Return a memory that holds what another one held: as many records as entries, oldest first."""
        memory = cls(policy)
        memory._records, memory._entries = tuple(records), tuple(entries)
        return memory

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def records(self) -> tuple[MemoryRecord, ...]:
        """What is known of the stored entries, oldest first."""
        return self._records

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        """The stored entries, oldest first. Their tensors are never written to."""
        return self._entries

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.nbytes for entry in self._entries)

    def is_due(self, frame_index: int, stamp_ns: int) -> bool:
        """Tell whether a frame is far enough from the newest stored one to be offered to the policy.

        Without one, and where time ran backwards, it is.
        """
        if not self._records:
            return True
        newest, config = self._records[-1], self._policy.config
        if frame_index <= newest.frame_index or stamp_ns < newest.stamp_ns:
            return True
        return _elapsed(newest, frame_index, stamp_ns, config) >= 1 - _tolerance(config)

    def store(self, record: MemoryRecord, entry: MemoryEntry) -> None:
        """Offer a new entry to the policy, which may have two entries merged before it chooses what is kept."""
        records, entries = [*self._records, record], [*self._entries, entry]
        merged = self._policy.merge(self._records, record)
        if merged is not None:
            into, other = merged
            entries[into] = merge_entries(entries[into], entries[other], records[other].merged / records[into].merged)
            records[into] = merge_records(records[into], records[other])
            del records[other], entries[other]
        kept = self._policy.keep(records[:-1], records[-1])
        self._records = tuple(records[index] for index in kept)
        self._entries = tuple(entries[index] for index in kept)

    def replace(self, record: MemoryRecord, entry: MemoryEntry) -> None:
        """Offer an entry in the place of the newest one, if that is of the same frame; see ``store``."""
        self.finest = None
        if self._records and self._records[-1].frame_index == record.frame_index:
            self._records, self._entries = self._records[:-1], self._entries[:-1]
        self.store(record, entry)

    def read(self, frame_index: int, stamp_ns: int) -> MemoryBatch:
        """Return the entries that are looked at from a frame, with how far back they lie as the network knows it."""
        shown = self._policy.show(self._records, frame_index, stamp_ns)
        gaps = [gap(self._records[index], frame_index, stamp_ns, self._policy.config) for index in shown]
        return MemoryBatch.stack([self._entries[index] for index in shown], gaps)

    def shift(self, frames: int, ns: int = 0) -> None:
        """Add to every frame index and to every stamp, where a stream is counted anew."""
        moved = ((record, record.frame_index + frames, record.stamp_ns + ns) for record in self._records)
        self._records = tuple(replace(record, frame_index=index, stamp_ns=stamp) for record, index, stamp in moved)
        self.finest = None

    def follow(self, policy: PolicyGuard) -> None:
        """Go on under another policy; one of another name or capacity chooses among what it holds, oldest first."""
        before, self._policy = self._policy, policy
        if before.kind == policy.kind:
            return
        stored = list(zip(self._records, self._entries))
        self.clear()
        for record, entry in stored:
            self.store(record, entry)

    def clear(self) -> None:
        """Forget everything."""
        self._records, self._entries, self.finest = (), (), None


def gap(record: MemoryRecord, frame_index: int, stamp_ns: int, config: EngineConfig) -> int:
    """Return how far back an entry lies, as the network is told: in write strides, rounded up.

    The published weights were trained on clips of about 6 frames per second with every frame stored, so that an entry
    lay 1 to 5 frames back. A camera of 30 Hz whose every fifth frame is stored gives them the same numbers.

    Returns:
        At least 1, at most ``config.memory_max_gap``.
    """
    strides = _elapsed(record, frame_index, stamp_ns, config) - _tolerance(config)
    return min(max(1, math.ceil(strides)), config.memory_max_gap)


def _tolerance(config: EngineConfig) -> float:
    return _JITTER if config.memory_interval_s else 0.0


def _elapsed(record: MemoryRecord, frame_index: int, stamp_ns: int, config: EngineConfig) -> float:
    """Return the write strides between a record and a frame."""
    if config.memory_interval_s:
        return (stamp_ns - record.stamp_ns) / 1e9 / config.memory_interval_s
    return (frame_index - record.frame_index) / config.memory_stride


def merge_entries(into: MemoryEntry, other: MemoryEntry, weight: float) -> MemoryEntry:
    """Work an entry into another: each cell becomes the mean of itself and of the cells of the other that look like it.

    Source: memory potentiation of XMem (Cheng and Schwing 2022): a prototype reads, by similarity, from what is about
    to be forgotten. There keys are compared; X2SAM's entries are their own keys, so that cosines are taken.

    Args:
        into: the prototype, which keeps its layout.
        other: what is worked into it.
        weight: what the other weighs against it.
    """
    return MemoryEntry(tuple(_merge_maps(x, y, weight) for x, y in zip(into.embeds, other.embeds)))


def _merge_maps(into: Tensor, other: Tensor, weight: float) -> Tensor:
    """Merge maps (N, C, h, w)."""
    own, rest = (x.flatten(2).transpose(1, 2) for x in (into, other))  # (N, h * w, C)
    alike = torch.nn.functional.normalize(own, dim=-1) @ torch.nn.functional.normalize(rest, dim=-1).transpose(1, 2)
    read = (alike / MERGE_TEMPERATURE).softmax(-1) @ rest
    return ((own + weight * read) / (1 + weight)).transpose(1, 2).reshape(into.shape)


def entry_row(entry: MemoryEntry, row: int) -> MemoryEntry:
    """Return one conversation's part of a batched entry as tensors of its own, so that dropping it frees memory."""
    return MemoryEntry(tuple(x[row : row + 1].clone() for x in entry.embeds))


def merge_memories(memories: Sequence[MaskMemory], frame_index: int, stamp_ns: int) -> MemoryBatch:
    """Return what several conversations look at from a frame as one batch with fixed slots."""
    with torch.no_grad():
        return MemoryBatch.merge([memory.read(frame_index, stamp_ns) for memory in memories])

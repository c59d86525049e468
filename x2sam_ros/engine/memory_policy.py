"""What a memory policy is: it chooses which of a target's memories live on. No tensors, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import PluginError


@dataclass(frozen=True)
class MemoryRecord:
    """What a policy may know of one memory entry; the tensors stay with the session.

    Args:
        frame_index: order of the frame in the stream.
        stamp_ns: the frame's stamp in nanoseconds.
        score: how sure the decoder was of the target on that frame, 0 to 1.
        mask_fraction: share of the image the target's mask covered, 0 to 1.
        prompted: whether a prompt for this target was carried out on that frame.
    """

    frame_index: int
    stamp_ns: int
    score: float
    mask_fraction: float
    prompted: bool = False


class MemoryPolicy(Protocol):
    """Chooses the memories of one target; holds no state, so one policy serves every target.

    A policy orders and drops; it never alters an entry, and it runs once per target and stored frame.
    """

    @property
    def name(self) -> str:
        """The name users choose it by."""
        ...

    @property
    def capacity(self) -> int:
        """The most entries it keeps per target, at least 1."""
        ...

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
        """Choose what remains once ``new`` has arrived.

        Args:
            stored: the target's entries, oldest first, at most ``capacity``.
            new: the entry of the frame just segmented; leaving it out means not storing it, which the first cannot.

        Returns:
            Positions in ``(*stored, new)``, ascending, none twice, 1 to ``capacity`` of them.
        """
        ...


MemoryPolicyFactory = Callable[[EngineConfig], MemoryPolicy]
"""What a plugin offers under a name: builds the policy for an engine configuration."""


def checked_keep(policy: MemoryPolicy, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, ...]:
    """Ask a policy what to keep and check its answer.

    Args:
        policy: the policy; it may come from a third party and return anything.
        stored: the target's entries, oldest first.
        new: the entry that arrived.

    Returns:
        Positions in ``(*stored, new)``, ascending.

    Raises:
        PluginError: the answer is no ascending sequence of valid positions, is empty, or longer than the capacity.
    """
    answer = policy.keep(stored, new)
    count = len(stored) + 1
    try:
        kept = tuple(int(index) for index in answer)
        valid = 1 <= len(kept) <= policy.capacity and all(0 <= index < count for index in kept)
        valid = valid and all(left < right for left, right in pairwise(kept)) and list(kept) == list(answer)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise PluginError(
            f"memory policy '{policy.name}' kept {answer!r}, expected 1 to {policy.capacity} ascending "
            f"positions from 0 to {count - 1}; choose another memory policy or report it to its author"
        )
    return kept

"""What a memory policy is: it chooses which of a target's memories live on, and which are looked at. No torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, pairwise
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import PluginError, told
from x2sam_ros.plugins import installed_plugins

MAX_CAPACITY = 128
"""Most entries a policy may keep per conversation."""

MAX_HELD_RECORDS = 1_024
"""Records that a policy may hold on to between calls; more are a leak."""

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryRecord:
    """What a policy may know of one memory entry; the tensors stay with the session.

    Of a conversation with several targets it tells of all of them together. Made by engine/observation.py.

    Args:
        frame_index: order of the frame in the stream.
        stamp_ns: the frame's stamp in nanoseconds.
        score: how sure the decoder was of the target on that frame, 0 to 1.
        mask_fraction: share of the image the target's mask covered, 0 to 1; 0 where it was not seen.
        prompted: whether a prompt for this target was carried out on that frame.
        stability: how little the mask depends on its threshold, 0 to 1; 0 where it was not seen.
        size_ratio: size of the mask over the median of the ten frames before on which the target was seen.
        motion_iou: overlap of the target's box with where its motion led one to expect it, 0 to 1; 1 while the motion
            is not known.
        distractors: queries that look like the target and lie elsewhere.
        distractor_iou: how little the worst of them would change the target's box, 0 to 1; 1 without any.
        merged: frames it stands for; more than 1 once a policy merged entries.
    """

    frame_index: int
    stamp_ns: int
    score: float
    mask_fraction: float
    prompted: bool = False
    stability: float = 1.0
    size_ratio: float = 1.0
    motion_iou: float = 1.0
    distractors: int = 0
    distractor_iou: float = 1.0
    merged: int = 1

    @property
    def seen(self) -> bool:
        """Whether the target was seen on that frame."""
        return self.mask_fraction > 0


class MemoryPolicy(Protocol):
    """Chooses the memories of one target; holds no state, so one policy serves every target.

    It runs once per target and stored frame, in more than one thread. Two more methods are optional:

    ``show(stored, frame_index, stamp_ns) -> Sequence[int]``: positions in ``stored``, ascending, at most
    ``config.num_maskmem`` of them: what the network looks at on that frame. Without it: the newest.

    ``merge(stored, new) -> tuple[int, int] | None``: two positions in ``(*stored, new)``, ascending: the second entry
    is worked into the first before ``keep`` is asked, which then sees one entry less. Without it: nothing is merged.
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


def newest(length: int, most: int) -> tuple[int, ...]:
    """Return the last ``most`` positions of a list of ``length``: the rule of a queue."""
    return tuple(range(max(0, length - most), length))


def checked_keep(
    policy: MemoryPolicy, stored: Sequence[MemoryRecord], new: MemoryRecord, capacity: int | None = None
) -> tuple[int, ...]:
    """Ask a policy what to keep and check its answer.

    Args:
        policy: the policy; it may come from a third party and return anything.
        stored: the target's entries, oldest first.
        new: the entry that arrived.
        capacity: what it said once that it keeps at most; None: what it says now.

    Returns:
        Positions in ``(*stored, new)``, ascending.

    Raises:
        PluginError: the answer is no ascending sequence of valid positions, is empty, or longer than the capacity.
    """
    return _positions(policy, "kept", policy.keep(stored, new), len(stored) + 1, capacity or policy.capacity)


def checked_show(
    policy: MemoryPolicy, stored: Sequence[MemoryRecord], frame_index: int, stamp_ns: int, slots: int
) -> tuple[int, ...]:
    """Ask a policy what to look at and check its answer.

    Args:
        policy: the policy.
        stored: the target's entries, oldest first, at least one.
        frame_index, stamp_ns: the frame about to be segmented.
        slots: most entries that the network looks at.

    Returns:
        Positions in ``stored``, ascending.

    Raises:
        PluginError: as for ``checked_keep``.
    """
    show = getattr(policy, "show", None)
    if show is None:
        return newest(len(stored), slots)
    return _positions(policy, "showed", show(stored, frame_index, stamp_ns), len(stored), slots)


def checked_merge(policy: MemoryPolicy, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, int] | None:
    """Ask a policy what to merge and check its answer.

    Raises:
        PluginError: the answer is neither None nor two ascending positions in ``(*stored, new)``.
    """
    merge = getattr(policy, "merge", None)
    answer = None if merge is None else merge(stored, new)
    if answer is None:
        return None
    first, *others = _positions(policy, "merged", answer, len(stored) + 1, 2)
    if len(others) != 1:
        raise PluginError(f"memory policy '{policy.name}' merged {answer!r:.80}, expected two positions or None")
    return first, others[0]


def _positions(policy: MemoryPolicy, did: str, answer: Iterable[int], length: int, most: int) -> tuple[int, ...]:
    try:
        given = list(islice(iter(answer), most + 1))  # an endless answer ends here
        chosen = tuple(int(index) for index in given)
        valid = 1 <= len(chosen) <= most and all(0 <= index < length for index in chosen)
        valid = valid and all(left < right for left, right in pairwise(chosen)) and list(chosen) == given
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise PluginError(
            f"memory policy '{policy.name}' {did} {answer!r:.80}, expected 1 to {most} ascending "
            f"positions from 0 to {length - 1}; choose another memory policy or report it to its author"
        )
    return chosen


def merge_records(into: MemoryRecord, other: MemoryRecord) -> MemoryRecord:
    """Return the record of two merged entries: the place in time of the newer, the better of what speaks for them."""
    newer = max(into, other, key=lambda record: record.frame_index)
    frames = into.merged + other.merged
    covered = (into.mask_fraction * into.merged + other.mask_fraction * other.merged) / frames
    return replace(
        newer,
        score=max(into.score, other.score),
        mask_fraction=covered,
        prompted=into.prompted or other.prompted,
        stability=max(into.stability, other.stability),
        merged=frames,
    )


class PolicyGuard:
    """A session's memory policy, which no plugin can break.

    A plugin that raises, answers nonsense or hoards records is let go for the rest of the session, with one message;
    from that call on every conversation keeps its newest entries, as ``fifo`` does. What they hold is not touched.

    Args:
        policy: the plugin's.
        config: how many entries the network looks at, and how often one is stored.

    Raises:
        PluginError: it has no name, or an impossible capacity.
    """

    def __init__(self, policy: MemoryPolicy, config: EngineConfig) -> None:
        name, capacity = policy.name, policy.capacity
        if not isinstance(name, str) or not name or type(capacity) is not int or not 1 <= capacity <= MAX_CAPACITY:
            raise PluginError(
                f"memory policy {name!r} keeps {capacity!r} entries, expected a name and 1 to {MAX_CAPACITY} entries"
            )
        self.name, self.capacity, self.config = name, capacity, config
        self._policy: MemoryPolicy | None = policy
        self._fault = ""
        self._lock = threading.Lock()
        # about MAX_HELD_RECORDS at most: whoever holds more is let go
        self._handed: WeakValueDictionary[int, MemoryRecord] = WeakValueDictionary()
        self._numbers = count()

    @property
    def kind(self) -> tuple[str, int]:
        """Name and capacity; memories of two that differ in them are not the same."""
        return self.name, self.capacity

    @property
    def fault(self) -> str:
        """What the plugin did wrong; '' while it is in use."""
        return self._fault

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, ...]:
        """Choose what remains once ``new`` has arrived; see MemoryPolicy."""
        return self._ask(
            "keep",
            lambda policy: checked_keep(policy, self._hand(stored), self._lend(new), self.capacity),
            newest(len(stored) + 1, min(self.config.num_maskmem, self.capacity)),
        )

    def show(self, stored: Sequence[MemoryRecord], frame_index: int, stamp_ns: int) -> tuple[int, ...]:
        """Choose what is looked at; see MemoryPolicy."""
        slots = self.config.num_maskmem
        return self._ask(
            "show",
            lambda policy: checked_show(policy, self._hand(stored), frame_index, stamp_ns, slots),
            newest(len(stored), slots),
        )

    def merge(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> tuple[int, int] | None:
        """Choose what is merged; see MemoryPolicy."""
        return self._ask("merge", lambda policy: checked_merge(policy, self._hand(stored), self._lend(new)), None)

    def _ask(self, method: str, question: Callable[[MemoryPolicy], Answer], otherwise: Answer) -> Answer:
        policy = self._policy
        if policy is None:
            return otherwise
        try:
            answer = question(policy) if hasattr(policy, method) else otherwise
        except PluginError as error:
            return self._let_go(str(error), otherwise)
        except (Exception, SystemExit) as error:  # whatever a third party raises, the stream goes on
            said = f"memory policy '{self.name}' raised {told(error)}"
            return self._let_go(f"{said}; report it to its author", otherwise)
        if len(self._handed) > MAX_HELD_RECORDS:
            held = f"holds on to more than {MAX_HELD_RECORDS} records of earlier frames"
            return self._let_go(f"memory policy '{self.name}' {held}; report it to its author", otherwise)
        return answer

    def _let_go(self, message: str, otherwise: Answer) -> Answer:
        with self._lock:
            if not self._fault:
                self._fault = f"{message}; the newest frames are remembered instead until the session ends"
                _log.error("%s", self._fault)
            self._policy = None
            self._handed.clear()
        return otherwise

    def _hand(self, records: Sequence[MemoryRecord]) -> tuple[MemoryRecord, ...]:
        return tuple(self._lend(record) for record in records)

    def _lend(self, record: MemoryRecord) -> MemoryRecord:
        """Return a copy that is counted for as long as it lives."""
        copy = replace(record)
        self._handed[next(self._numbers)] = copy
        return copy


def open_policy(name: str, config: EngineConfig) -> PolicyGuard:
    """Build the memory policy of a session.

    Raises:
        PluginError: there is no policy of that name, or it cannot be built.
    """
    factory = installed_plugins().memory_policy(name)
    try:
        policy = factory(config)
    except PluginError:
        raise
    except Exception as error:  # a third party's factory may raise anything
        raise PluginError(f"memory policy '{name}' cannot be built: {told(error)}; choose another one") from error
    return PolicyGuard(policy, config)

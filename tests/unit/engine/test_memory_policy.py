"""The guard around a memory policy: no plugin breaks a session, whatever it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.sessions import click, run, same, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine import memory_policy
from x2sam_ros.engine.memory_policy import MemoryRecord, PolicyGuard, merge_records, open_policy
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import PluginError
from x2sam_ros.testing import memory_record, memory_stream


class Odd:
    """A policy that does what it was given to do."""

    name, capacity = "odd", 3

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.calls = 0
        vars(self).update(methods)

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Any:
        self.calls += 1
        return range(max(0, len(stored) - 2), len(stored) + 1)


def fails(*args: Any) -> Any:
    raise RuntimeError("out of\nluck")


def guard(policy: Any, **config: Any) -> PolicyGuard:
    return PolicyGuard(policy, EngineConfig(**config))


def use(monkeypatch: pytest.MonkeyPatch, factory: Callable[[EngineConfig], Any]) -> None:
    """Let every session find one memory policy, whatever it asks for."""

    class Plugins:
        def memory_policy(self, name: str) -> Callable[[EngineConfig], Any]:
            return factory

    monkeypatch.setattr(memory_policy, "installed_plugins", Plugins)


STORED = [memory_record(index) for index in range(3)]
GARBAGE = [(), (4,), (-1,), (0, 0), (2, 1), None, 7, "ab", (0.5,), (0, 1, 2, 3), (float("nan"),), {"a": 1}]


@pytest.mark.parametrize("answer", GARBAGE)
@pytest.mark.parametrize("method", ["keep", "show", "merge"])
def test_nonsense_is_named_and_the_newest_entries_are_kept(
    method: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "merge" and answer is None:
        return  # nothing to merge
    asked = guard(Odd(**{method: lambda *args: answer}), num_maskmem=2)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            kept, shown = asked.keep(STORED, memory_record(3)), asked.show(STORED, 3, 0)
            merged = asked.merge(STORED, memory_record(3))
    assert (kept, shown, merged) == ((2, 3), (1, 2), None), "as fifo does"
    assert "memory policy 'odd' " in asked.fault and asked.fault.count("\n") == 0
    assert [line.getMessage() for line in caplog.records] == [asked.fault], "said once"


def test_an_endless_answer_ends() -> None:
    asked = guard(Odd(keep=lambda *args: count()))
    assert asked.keep(STORED, memory_record(3)) == (1, 2, 3) and "'odd' kept count(" in asked.fault


class Mute(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("error", [Mute(), SystemExit(1), RecursionError(), StopIteration()])
def test_whatever_is_raised_is_told(error: BaseException) -> None:
    def keep(*args: Any) -> Any:
        raise error

    asked = guard(Odd(keep=keep))
    assert asked.keep(STORED, memory_record(3)) == (1, 2, 3)
    assert f"memory policy 'odd' raised {type(error).__name__}" in asked.fault


@pytest.mark.parametrize("method", ["keep", "show", "merge"])
def test_an_exception_is_named_and_the_plugin_is_never_asked_again(method: str) -> None:
    policy = Odd(**{method: fails})
    asked = guard(policy)
    getattr(asked, method)(*{"show": (STORED, 3, 0)}.get(method, (STORED, memory_record(3))))
    assert asked.fault.startswith("memory policy 'odd' raised RuntimeError: out of luck; report it to its author; ")
    for _ in range(5):
        asked.keep(STORED, memory_record(3))
    assert policy.calls == 0
    assert (asked.name, asked.capacity) == ("odd", 3), "a saved session is still one of this policy"


def test_a_plugin_that_hoards_is_let_go_and_a_careful_one_is_not() -> None:
    hoard: list[MemoryRecord] = []
    leaky = guard(Odd(keep=lambda stored, new: (hoard.append(new), (0,))[1]))
    careful = guard(Odd())
    for index in range(memory_policy.MAX_HELD_RECORDS + 2):
        assert careful.keep(STORED, memory_record(index)) == (1, 2, 3)
        leaky.keep(STORED, memory_record(index))
    assert not careful.fault
    assert f"holds on to more than {memory_policy.MAX_HELD_RECORDS} records" in leaky.fault
    held = len(hoard)
    leaky.keep(STORED, memory_record(0))
    assert len(hoard) == held


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": 3}, {"capacity": 0}, {"capacity": 10_000}, {"capacity": 2.0}, {"capacity": True}]
)
def test_an_impossible_policy_is_refused_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="expected a name and 1 to 128 entries"):
        guard(Odd(**wrong))


def test_a_policy_that_cannot_be_built_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fails)
    with pytest.raises(PluginError, match="memory policy 'mine' cannot be built: RuntimeError: out of luck"):
        Session(nano(), memory_policy="mine")


def test_capacity_is_asked_once() -> None:
    policy = Odd()
    asked = guard(policy, num_maskmem=8)
    policy.capacity = 10_000
    stored = [memory_record(index) for index in range(100)]
    policy.__dict__["keep"] = lambda *args: range(101)
    assert (
        len(asked.keep(stored, memory_record(100))) == 3 and "'odd' kept range(0, 101), expected 1 to 3" in asked.fault
    )


def test_a_record_of_two_frames() -> None:
    early = memory_record(2, score=0.9, mask_fraction=0.3, prompted=True, stability=0.5)
    late = memory_record(7, score=0.6, mask_fraction=0.6, stability=0.8, merged=2)
    both = merge_records(early, late)
    assert (both.frame_index, both.stamp_ns, both.merged) == (7, late.stamp_ns, 3)
    assert (both.score, both.stability, both.prompted) == (0.9, 0.8, True)
    assert both.mask_fraction == pytest.approx(0.5)


def test_every_built_in_policy_survives_a_hard_life_within_its_capacity() -> None:
    for name in ("fifo", "pinned", "gated", "distractor_aware", "restricted", "long_term"):
        for slots in (1, 2, 5):
            asked = open_policy(name, EngineConfig(num_maskmem=slots))
            stored: list[MemoryRecord] = []
            for new in memory_stream(300, seed=slots):
                entries = [*stored, new]
                merged = asked.merge(stored, new)
                if merged is not None:
                    entries[merged[0]] = merge_records(entries[merged[0]], entries.pop(merged[1]))
                stored = [entries[index] for index in asked.keep(entries[:-1], entries[-1])]
                assert 1 <= len(asked.show(stored, new.frame_index + 1, new.stamp_ns + 1)) <= slots
            assert not asked.fault and len(stored) <= asked.capacity


class FailsFor(Odd):
    """A policy that works until it is asked about a frame."""

    def __init__(self, frame_index: int, prompts: int) -> None:
        super().__init__()
        self.frame_index, self.left = frame_index, prompts

    def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Any:
        if new.frame_index == self.frame_index:
            self.left -= 1
            if self.left < 0:
                raise KeyError(new.frame_index)
        return super().keep(stored, new)


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_stream_goes_on_when_its_policy_fails(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The second of two targets meets the fault; both go on, with the queue from then on."""
    use(monkeypatch, lambda config: FailsFor(failing, prompts=1))
    live = session(num_maskmem=3)
    results = run(live, frames(8), {0: [text(), click()]})
    assert len(live.faults) == 1 and "memory policy 'odd' raised KeyError" in live.faults[0]
    assert live.target_ids == (1, 2)
    assert all(result.target_ids.tolist() == [1, 2] for result in results)
    assert all(np.isfinite(result.scores).all() for result in results)
    monkeypatch.undo()
    queued = run(session(num_maskmem=3), frames(8), {0: [text(), click()]})
    assert all(same(a, b) for a, b in zip(results, queued)), "this policy kept what fifo keeps"


def test_a_session_without_a_faulty_plugin_has_no_faults() -> None:
    live = session()
    run(live, frames(2), {0: [text()]})
    assert live.faults == ()


def test_memory_is_freed_although_the_plugin_keeps_every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records hold no tensors: whatever a plugin keeps, the bytes of a session do not grow."""
    hoard: list[MemoryRecord] = []
    use(monkeypatch, lambda config: Odd(keep=lambda stored, new: (hoard.append(new), (len(stored),))[1]))
    live = session()
    sizes = []
    for index, frame in enumerate(frames(12)):
        run(live, [frame], {0: [text()]} if index == 0 else {})
        sizes.append(live.nbytes)
    assert len(hoard) == 12 and len(set(sizes[6:])) == 1

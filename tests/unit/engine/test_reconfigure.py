"""What changes at run time: every part takes it over at once, and what may not change is refused as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.sessions import (
    ScriptedHead,
    box,
    classes,
    click,
    only,
    rejected,
    run,
    same,
    session,
    text,
    use_heads,
)
from tests.unit.engine.test_language_lane import PATIENCE_S, Gate
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.default_plugins.memory_policies.fifo import FifoPolicy
from x2sam_ros.engine import roster
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.live_config import LiveConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import ConfigError, PluginError, PromptError
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, TargetInfo, TargetState

LIVE = [item.name for item in fields(EngineConfig) if item.metadata["live"]]


@pytest.fixture(params=["inline", "beside"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def change(live: Session, memory_policy: str = "fifo", **values: Any) -> None:
    """Change some values of a session, as the node does."""
    now = {item.name: getattr(live._config, item.name) for item in fields(EngineConfig)}
    live.reconfigure(EngineConfig(**{**now, **values}), memory_policy)


def begun(live: Session, stream: Iterator[Frame], *prompts: Any) -> FrameResult:
    """Give prompts and carry them out; return the result that has the last of them."""
    for prompt in prompts:
        live.submit(prompt)
    result = live.step(next(stream))
    if len(result.groundings) == len(prompts):
        return result
    assert live.wait(PATIENCE_S)
    return live.step(next(stream))


def remembered(live: Session) -> list[list[int]]:
    return [[record.frame_index for record in group.memory.records] for group in live._roster.groups]


def held_by(part: Any, known: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the configurations that a part of the engine and the parts of it hold, each with its holder."""
    if id(part) in known or not type(part).__module__.startswith("x2sam_ros.engine"):
        return
    known[id(part)] = part
    for value in vars(part).values():
        if isinstance(value, EngineConfig):
            yield type(part).__name__, value
        else:
            yield from held_by(value, known)


def test_every_part_holds_the_one_configuration_that_changes() -> None:
    live = session()
    held = [(name, config) for name, config in held_by(live, {}) if name != "PolicyGuard"]  # each has its own
    assert {name for name, config in held if config is not live._config} == set()
    assert {"Tracker", "Timeline", "Roster", "Search", "PromptDesk", "PromptQueue", "Grounder", "Opener"} <= {
        name for name, _ in held
    }
    assert {"LanguageLane", "Merger", "Regrounder"} <= {name for name, _ in held}


def test_a_configuration_takes_over_all_values_of_another() -> None:
    first, second = EngineConfig(), EngineConfig(score_threshold=0.9, max_targets=3)
    live = LiveConfig.of(first)
    assert vars(live) == vars(first) and live.confidence_kept == 0.3
    live.become(second)
    assert vars(live) == vars(second) and first == EngineConfig(), "the others stay what they are"


def test_thresholds_hold_from_the_next_frame_on(lane: str) -> None:
    stream = iter(frames(8))
    with session(language_lane=lane) as live:
        begun(live, stream, click())
        before = live.step(next(stream))
        assert before.states == (TargetState.TRACKED,)
        change(live, mask_threshold=0.9)
        after = live.step(next(stream))
        assert 0 <= after.masks.sum() < before.masks.sum()
        change(live, mask_threshold=0.5, score_threshold=1.0, keep_threshold=1.0, lost_frames=2)
        assert [live.step(next(stream)).states for _ in range(2)] == [(TargetState.OCCLUDED,), (TargetState.LOST,)]
        change(live, score_threshold=0.0, keep_threshold=0.3, confirm_frames=1)
        assert live.step(next(stream)).states == (TargetState.TRACKED,)


def test_a_changed_session_goes_on_as_one_that_was_opened_so() -> None:
    values = {"mask_threshold": 0.6, "memory_stride": 2, "confirm_frames": 3, "lost_frames": 4, "memory_max_gap": 2}
    stream = frames(7)
    expected = run(session(**values), stream, {0: [text(), box()]})
    live = session()
    change(live, **values)
    assert all(same(a, b) for a, b in zip(run(live, stream, {0: [text(), box()]}), expected))


def test_targets_beyond_a_lowered_cap_stay_and_none_is_added(lane: str) -> None:
    stream = iter(frames(12))
    with session(language_lane=lane) as live:
        begun(live, stream, text("a"), click("b"), box("c"))
        change(live, max_targets=2)
        live.submit(click("d"))
        assert "3 targets are followed, at most 2 may be" in rejected(live.step(next(stream)))
        assert live.target_ids == (1, 2, 3)
        change(live, max_targets=4)
        assert begun(live, stream, click("e")).target_ids.tolist() == [1, 2, 3, 4]


def test_targets_beyond_a_lowered_cap_make_room_where_they_may(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = iter(frames(8))
    with session(language_lane=lane, at_cap="evict") as live:
        begun(live, stream, text("a"), click("b"), box("c"))
        live._roster.group_of(2).targets[2].missed_frames = 40
        change(live, max_targets=2)
        assert live.target_ids == (1, 3)
        gone = only(live.step(next(stream)))
        assert (gone.prompt_id, gone.status, gone.target_ids) == ("b", GroundingStatus.REMOVED, (2,))
        assert "as 3 targets are followed, at most 2 may be" in gone.message
        monkeypatch.setattr(roster, "MIB", 1_000)
        change(live, max_memory_mb=1)
        assert not live.target_ids, "the memory of one target takes more than that"
        assert {g.prompt_id for g in live.step(next(stream)).groundings} == {"a", "c"}


def test_a_list_beyond_a_lowered_cap_gives_up_its_lost_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    three = [(0, (0, 8, 0, 32), 0.9), (1, (12, 20, 0, 32), 0.8), (2, (24, 32, 0, 32), 0.7)]
    new = [(3, (12, 20, 0, 32), 0.8)]
    use_heads(monkeypatch, ScriptedHead(three, [], [], new))
    live, stream = session(lost_frames=1, score_threshold=0.4, mask_score_threshold=0.0), frames(4)
    run(live, stream[:3], {0: [classes()]})
    assert len(live.target_ids) == 3
    change(live, max_targets=1)
    assert live.target_ids == (1, 2, 3)
    live.step(stream[3])
    assert live.target_ids == (4,), "a new one takes the place of as many as the cap leaves no room for"


def test_caps_of_waiting_prompts_and_times_of_stamps() -> None:
    live, stream = session(), frames(6)
    live.step(stream[0])
    change(live, max_pending_prompts=1, prompt_lead_ms=0.0, prompt_tolerance_ms=0.0)
    live.submit(text("early", stamp_ns=stream[2].stamp_ns))
    with pytest.raises(PromptError, match="1 prompts are waiting, at most 1 may"):
        live.submit(text("more"))
    assert "at most 0 ms are waited for" in rejected(live.step(stream[1]))
    change(live, late_frames=0)
    live.submit(text("kept"))
    live.step(stream[2])
    assert only(live.step(stream[0])).prompt_id == "kept", "an earlier stamp begins another stream at once"


def test_words_are_asked_again_once_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = Grounder.ask
    monkeypatch.setattr(Grounder, "ask", lambda self, prompt, *rest: asked.append("") or ask(self, prompt, *rest))
    live, stream = session(), frames(8)
    run(live, stream[:3], {0: [text()]})
    assert len(asked) == 1
    change(live, reground_frames=1)
    run(live, stream[3:5], {})
    assert len(asked) == 2, "it is asked a frame after it was first considered"
    change(live, reground_frames=0)
    run(live, stream[5:], {})
    assert len(asked) == 2


def test_lost_targets_are_searched_for_once_that_is_wanted() -> None:
    live, stream = session(lost_frames=1), frames(6)
    run(live, stream[:2], {0: [text()]})
    change(live, score_threshold=1.0, keep_threshold=1.0, search_frames=1)
    assert "search" in live.step(stream[2]).timings_ms
    change(live, search_frames=0)
    assert "search" not in live.step(stream[3]).timings_ms


def test_later_prompts_share_conversations_and_earlier_ones_stay(lane: str) -> None:
    stream = iter(frames(16))
    with session(language_lane=lane) as live:
        begun(live, stream, text("a", "one thing"), text("b", "another thing"))
        change(live, conversations="merged")
        begun(live, stream, text("c", "a third"), text("d", "a fourth"))
        live.step(next(stream))
        assert sorted(map(len, live.conversations)) == [1, 1, 2]
        change(live, max_merged=2)
        begun(live, stream, text("e", "a fifth"))
        assert sorted(map(len, live.conversations)) == [1, 1, 1, 2]


def test_another_memory_policy_chooses_among_what_is_stored(tmp_path: Path) -> None:
    stream = frames(14)
    live = Session(nano(), EngineConfig(score_threshold=0.0), "pinned")
    run(live, stream[:8], {0: [text()]})
    assert remembered(live) == [[0, 4, 5, 6, 7]]
    live.reconfigure(EngineConfig(score_threshold=0.0), "long_term")
    run(live, stream[8:12], {})
    held = remembered(live)[0]
    assert len(held) > 5 and held[0] == 0
    change(live)
    assert remembered(live) == [held[-5:]], "the queue keeps the newest"
    live.save(tmp_path / "saved")
    again = Session.load(tmp_path / "saved", nano(), EngineConfig(score_threshold=0.0), "fifo")
    assert [len(memory) for memory in remembered(again)] == [5]
    assert same(live.step(stream[12]), live.step(stream[12])), "it goes on"


def test_the_policy_knows_the_new_values() -> None:
    live = Session(nano(), EngineConfig(score_threshold=0.0), "restricted")
    run(live, frames(3), {0: [text()]})
    change(live, "restricted", memory_stride=4)
    assert live._policy._policy.stride == 4 and live._roster.groups[0].memory._policy is live._policy
    assert remembered(live) == [[0, 1, 2]], "it is the same policy, with other values"
    run(live, frames(8)[3:], {})
    assert remembered(live) == [[0, 1, 2, 6]]


def test_what_is_being_understood_goes_on_under_the_new_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stream = Gate(monkeypatch), frames(12)
    with session(language_lane="beside", max_answer_tokens=8) as live:
        live.submit(text())
        live.step(stream[0])
        assert gate.reached.wait(PATIENCE_S)
        change(live, "pinned", max_targets=1, catch_up_frames=2)
        run(live, stream[1:5], {})
        gate.open()
        assert live.wait(PATIENCE_S)
        change(live, "long_term")
        assert only(live.step(stream[5])).target_ids == (1,)
        assert [group.memory._policy for group in live._roster.groups] == [live._policy]
        live.submit(click())
        assert "1 targets are followed, at most 1 may be" in rejected(live.step(stream[6]))


def test_a_policy_that_failed_is_not_tried_again_until_another_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FifoPolicy, "keep", lambda self, stored, new: [99])
    live, stream = session(), frames(6)
    run(live, stream[:2], {0: [text()]})
    faults = live.faults
    assert len(faults) == 1
    change(live, memory_stride=2)
    run(live, stream[2:4], {})
    assert live.faults == faults and remembered(live) == [[0, 1, 3]], "the stride holds all the same"
    change(live, "pinned")
    assert live.faults == () and remembered(live) == [[0, 1, 3]]


@pytest.mark.parametrize("name", sorted({item.name for item in fields(EngineConfig)} - set(LIVE)))
def test_what_is_not_live_is_refused_and_nothing_changes(name: str) -> None:
    live = session()
    default = getattr(live._config, name)
    others = {"compiled": "on", "language_lane": "beside", "memory_window": 8, "input_side": 64}
    other = others.get(name, not default if isinstance(default, bool) else default and default * 2)
    before = dict(vars(live._config))
    with pytest.raises(ConfigError, match=f"^{name} is .* and cannot become .* in what runs; open a new session"):
        live.reconfigure(EngineConfig(**{"max_targets": 3, name: other}), "pinned")
    assert vars(live._config) == before and live._policy.name == "fifo"


def test_a_policy_that_does_not_exist_is_refused_and_nothing_changes() -> None:
    live = session()
    with pytest.raises(PluginError, match="unknown memory policy 'nosuch'"):
        change(live, "nosuch", max_targets=3)
    assert live._config.max_targets == 16 and live._policy.name == "fifo"


def test_targets_are_listed_with_prompt_state_and_when_they_were_seen(tmp_path: Path) -> None:
    stream, live = frames(6), session(conversations="merged")
    assert live.targets == ()
    run(live, stream[:2], {0: [text("a"), click("b")], 1: [text("c", "another thing")]})
    seen_ns = stream[1].stamp_ns
    tracked, tentative = TargetState.TRACKED, TargetState.TENTATIVE
    assert live.targets == (
        TargetInfo(1, "the red circle", "a", tracked, seen_ns),
        TargetInfo(2, "object 2", "b", tracked, seen_ns),
        TargetInfo(3, "another thing", "c", tentative, seen_ns),
    )
    change(live, score_threshold=1.0, keep_threshold=1.0)
    live.step(stream[2])
    assert {(info.state, info.last_seen_ns) for info in live.targets} == {(TargetState.OCCLUDED, seen_ns)}
    live.save(tmp_path / "saved")
    again = Session.load(tmp_path / "saved", nano(), live._config)
    assert again.targets == live.targets
    again.step(Frame(stream[3].image, seen_ns + 5, 0, "camera"))  # after a reboot
    ago_ns = stream[2].stamp_ns - seen_ns
    assert {info.last_seen_ns for info in again.targets} == {seen_ns + 5 - ago_ns}, "it moves to the new clock"

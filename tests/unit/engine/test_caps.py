"""The caps of a session: what is said when they are reached, and who makes room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.engine.sessions import ScriptedHead, box, classes, click, rejected, run, session, text, use_heads
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import FrameError, PromptError, SavedSessionError
from x2sam_ros.types import FrameResult, GroundingStatus, TargetState

PATIENCE_S = 60.0


@pytest.fixture(params=["inline", "beside"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def outcome(result: FrameResult) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {g.prompt_id: (g.status.name, g.target_ids) for g in result.groundings}


def feed(live: Session, *prompts: Any, stream: Iterator[Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Give prompts; return what became of them once they have been carried out."""
    for prompt in prompts:
        live.submit(prompt)
    answers = outcome(live.step(next(stream)))
    assert live.wait(PATIENCE_S)
    return {**answers, **outcome(live.step(next(stream)))}


def test_the_least_recently_seen_makes_room_and_is_reported(lane: str) -> None:
    stream = iter(frames(8))
    with session(max_targets=2, at_cap="evict", language_lane=lane) as live:
        feed(live, text("a"), click("b"), stream=stream)
        live._roster.group_of(1).targets[1].missed_frames = 40
        live.submit(box("c"))
        results = [live.step(next(stream))]
        assert live.wait(PATIENCE_S)
        results.append(live.step(next(stream)))
        said = {g.prompt_id: g for result in results for g in result.groundings}
        assert said["c"].status is GroundingStatus.OK and said["c"].target_ids == (3,)
        gone = said["a"]
        assert gone.status is GroundingStatus.REMOVED and len(gone.target_ids) == 1
        assert "target 1 was given up, as 3 targets are followed, at most 2 may be" in gone.message
        assert live.target_ids == (2, 3)


def test_nobody_makes_room_for_what_is_not_found(monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    stream = iter(frames(6))
    with session(max_targets=1, at_cap="evict", language_lane=lane, score_threshold=0.4) as live:
        use_heads(monkeypatch, ScriptedHead([(0, (0, 8, 0, 8), 0.9)]))
        assert feed(live, classes("first"), stream=stream)["first"] == ("OK", (1,))
        use_heads(monkeypatch, ScriptedHead([]))
        assert feed(live, classes("second"), stream=stream)["second"][0] == "NO_TARGET"
        assert live.target_ids in ((1,), ()), "only what looks on may have taken its place"


def test_the_bytes_of_full_memories_are_capped(monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    """However long the stream, what is held stays below the cap."""
    with session(language_lane=lane) as probe:
        feed(probe, text(), stream=iter(frames(2)))
        most = int(2.5 * probe._roster._held(probe._roster.groups))
    monkeypatch.setattr(Roster, "_most_bytes", most)
    stream = iter(frames(20))
    with session(language_lane=lane) as live:
        answers: dict[str, tuple[str, tuple[int, ...]]] = {}
        for index in range(4):
            answers |= feed(live, text(f"p{index}"), stream=stream)
        assert [answers[f"p{index}"][0] for index in range(4)] == ["OK", "OK", "REJECTED", "REJECTED"]
        assert feed(live, click("again", target_id=1), stream=stream)["again"][0] == "OK", "refining needs no room"
        for frame in stream:
            live.step(frame)
            assert live.nbytes <= most
        with pytest.raises(PromptError, match="MiB"):
            live.begin(live._roster.groups[0])


def test_a_prompt_that_never_fits_is_rejected_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for at_cap in ("reject", "evict"):
        live = session(at_cap=at_cap)
        monkeypatch.setattr(Roster, "_most_bytes", 1000)
        message = rejected(run(live, frames(1), {0: [text()]})[0])
        assert "its memory will take" in message and "raise max_memory_mb" in message and live.nbytes == 0


def test_a_saved_session_that_takes_more_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    live = session()
    run(live, frames(2), {0: [text()]})
    live.save(tmp_path / "saved")
    monkeypatch.setattr(Roster, "_most_bytes", 1000)
    with pytest.raises(SavedSessionError, match="does not fit here: memories will take"):
        Session.load(tmp_path / "saved", nano(), EngineConfig(score_threshold=0.0))


def full_gpu(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let the network run out of GPU memory where more than so many prompts are decoded at once."""
    honest = nano().segmentor.decoder.forward

    def forward(pixels: Any, condition: Any) -> Any:
        if len(condition.seg_embeds) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return honest(pixels, condition)

    monkeypatch.setattr(nano().segmentor.decoder, "forward", forward)


def test_where_the_network_runs_out_of_memory_one_after_the_other_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, live = frames(5), session()
    run(live, stream[:2], {0: [text("a"), click("b"), box("c")]})
    live._roster.group_of(2).targets[2].missed_frames = 7
    live._roster.group_of(3).targets[3].missed_frames = 5
    full_gpu(monkeypatch, 1)
    result = live.step(stream[2])
    assert outcome(result) == {"b": ("REMOVED", (2,)), "c": ("REMOVED", (3,))}
    assert result.target_ids.tolist() == [1] == live.step(stream[3]).target_ids.tolist()
    with monkeypatch.context() as fuller:
        full_gpu(fuller, 0)
        with pytest.raises(FrameError, match="no GPU memory left for one prompt"):
            live.step(stream[4])
    assert live.target_ids == (1,)


def test_a_search_that_runs_out_of_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, live = frames(5), session(search_frames=1)
    run(live, stream[:2], {0: [text()]})
    target = live._roster.targets[0]

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(live._tracker), "search", full)
    live._search.due = lambda groups: groups  # type: ignore[method-assign]
    assert live.step(stream[2]).target_ids.tolist() == [1] and target.state is TargetState.TRACKED
    assert live.step(stream[3]).groundings == ()

"""Words are asked again in silence: for a target that is lost, whose mask jumps, or now and then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.unit.engine.sessions import click, counted, only, run, session, text
from tests.unit.engine.test_language_lane import Gate
from tests.unit.model.networks import frames, nano
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.language_lane import Job, LanguageLane
from x2sam_ros.engine.regrounding import COOL_DOWN, LONGEST_PAUSE
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.track import Group, Reading
from x2sam_ros.types import GroundingStatus, Prompt, TargetState

PATIENCE_S = 60.0


@pytest.fixture
def live() -> Iterator[Session]:
    with session(language_lane="beside", reground_frames=2) as opened:
        yield opened


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the prompts that the language model is asked, as they come."""
    ids: list[str] = []
    ask = Grounder.ask

    def noted(grounder: Grounder, prompt: Prompt, *args: Any, **options: Any) -> Any:
        ids.append(prompt.prompt_id)
        return ask(grounder, prompt, *args, **options)

    monkeypatch.setattr(Grounder, "ask", noted)
    return ids


def group_of(of: Session, target_id: int = 1) -> Group:
    return of._roster.group_of(target_id)


def fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the language pass fail from now on."""

    def ground(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(Grounder, "ground", ground)


def test_nothing_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plain = asked(monkeypatch), session()
    run(plain, frames(6), {0: [text()]})
    assert ids == ["text"] and not plain._desk.regrounder._watches


def test_words_are_asked_every_few_frames_and_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, inline = asked(monkeypatch), session(reground_frames=3)
    stream = frames(8)
    results = run(inline, stream[:3], {0: [text()]})
    before = group_of(inline)
    results += run(inline, stream[3:4], {})
    after = group_of(inline)
    assert ids == ["text", "text"] and after is not before and len(after.memory) == 1
    target = after.targets[1]
    assert (target.target_id, target.label, target.seen_frames) == (1, "the red circle", 5)
    results += run(inline, stream[4:], {})
    assert len(ids) == 3
    assert [len(result.groundings) for result in results] == [1] + [0] * 7
    assert all(result.target_ids.tolist() == [1] for result in results)
    assert results[-1].states == (TargetState.TRACKED,) and inline.target_ids == (1,)
    assert after.prompt.prompt_id == "text" and after.prompt.target_id is None


def test_the_picture_is_not_encoded_again_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    inline = session(reground_frames=1)
    run(inline, frames(2), {0: [text()]})
    ids = asked(monkeypatch)
    with counted(nano()) as counts:
        inline.step(frames(3)[2])
    assert counts["encoder"] == 1 and ids == ["text"]


def test_regions_and_descriptions_cannot_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, inline = asked(monkeypatch), session(reground_frames=1)
    run(inline, frames(4), {0: [click()]})
    assert ids == ["click"]


def test_beside_the_old_group_goes_on_until_the_new_is_ready(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(9)
    live.submit(text())
    live.step(stream[0])
    assert live.wait(PATIENCE_S)
    live.step(stream[1])
    gate, before = Gate(monkeypatch), group_of(live)
    results = [live.step(frame) for frame in stream[2:6]]
    assert gate.reached.wait(PATIENCE_S)
    assert group_of(live) is before and len(before.memory) == 5
    assert live._desk.waiting_ids == set(), "it waits in no queue"
    gate.open()
    assert live.wait(PATIENCE_S)
    results.append(live.step(stream[6]))
    assert group_of(live) is not before and live.target_ids == (1,)
    assert all(result.groundings == () and result.target_ids.tolist() == [1] for result in results)


def test_one_at_a_time_and_who_was_asked_longest_ago_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, inline = asked(monkeypatch), session(reground_frames=2)
    run(inline, frames(6), {0: [text("a"), text("b", "the blue square")]})
    assert ids == ["a", "b", "a", "b", "a", "b"], "one on a frame, in turn"


def test_where_it_finds_nothing_all_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    inline = session(reground_frames=1)
    stream = frames(80)
    run(inline, stream[:2], {0: [text()]})
    before, ids = group_of(inline), asked(monkeypatch)
    fail(monkeypatch)
    results = run(inline, stream[2:40], {})
    assert group_of(inline) is before and all(result.groundings == () for result in results)
    assert 2 <= len(ids) <= 38
    assert before.targets[1].state is TargetState.TRACKED


def lost(of: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every target of a session be lost for good."""
    for target in of._roster.targets:
        target.missed_frames = 1_000

    def nothing(group: Group, found: Any, config: Any, prompted: bool) -> Reading:
        return Reading({}, [], prompted)

    monkeypatch.setattr(Group, "read", nothing)


def test_a_hopeless_target_is_asked_for_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    inline, stream = session(reground_on_loss=True), frames(1)[0]
    run(inline, [stream], {0: [text()]})
    before = group_of(inline)
    lost(inline, monkeypatch)
    ids = asked(monkeypatch)
    when = []
    for index in range(1, 130):
        count = len(ids)
        result = inline.step(replace(stream, frame_index=index, stamp_ns=stream.stamp_ns + index * 33_333_333))
        when += [index] * (len(ids) > count)
        assert result.groundings == () and result.target_ids.tolist() == [1]
    assert when[0] >= COOL_DOWN - 1
    gaps = [later - earlier for earlier, later in pairwise(when)]
    assert gaps == [COOL_DOWN, 2 * COOL_DOWN, 4 * COOL_DOWN][: len(gaps)] and len(gaps) >= 2
    assert group_of(inline) is before and before.targets[1].state is TargetState.LOST
    assert LONGEST_PAUSE >= 4 * COOL_DOWN


def test_a_lost_target_is_found_again_by_its_words() -> None:
    inline, stream = session(reground_on_loss=True), frames(COOL_DOWN + 4)
    run(inline, stream[:1], {0: [text()]})
    target, of = inline._roster.targets[0], group_of(inline)
    with pytest.MonkeyPatch.context() as patch:
        lost(inline, patch)
        run(inline, stream[1:COOL_DOWN], {})
    assert target.state is TargetState.LOST and group_of(inline) is of
    # following finds whatever there is at once; the words get their turn because it is not allowed to here
    inline._desk.regrounder._watches[1].asked_at = -100
    target.state = TargetState.LOST
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(inline._tracker), "advance", lambda *args: None)
        result = inline.step(stream[COOL_DOWN])
    assert group_of(inline) is not of and result.states == (TargetState.TENTATIVE,) and result.groundings == ()
    assert inline.step(stream[COOL_DOWN + 1]).states == (TargetState.TRACKED,)


def test_a_mask_that_jumps_makes_it_ask() -> None:
    inline = session(reground_iou=0.5)
    run(inline, frames(1), {0: [text()]})
    regrounder, target = inline._desk.regrounder, inline._roster.targets[0]
    watch = regrounder._watches[1]
    assert watch.place is not None and not watch.strayed
    left, right = torch.zeros(2, *watch.place.shape, dtype=torch.bool)
    left[:, :4], right[:, -4:] = True, True
    target.motion = None
    for mask, strayed in ((left, True), (left, True), (right, True)):
        target.last_mask, target.logits = mask, mask.float()
        watch.strayed = False
        watch.place = left if mask is right else right
        regrounder._compare(watch, target)
        assert watch.strayed is strayed
    watch.strayed = False
    regrounder._compare(watch, target)
    assert not watch.strayed, "where it was expected"
    target.logits = None
    regrounder._compare(watch, target)
    assert watch.place is None, "only frames on which it is seen are compared"
    watch.strayed, watch.asked_at = True, -COOL_DOWN
    assert regrounder._is_due(watch, 1)
    watch.asked_at = regrounder._frames
    assert not regrounder._is_due(watch, 1), "it was asked just now"


@pytest.mark.parametrize("action", ["remove", "remove_prompt", "reset", "refine", "another stream"])
def test_it_is_called_off(live: Session, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    stream = frames(8)
    live.submit(text())
    live.step(stream[0])
    assert live.wait(PATIENCE_S)
    live.step(stream[1])
    gate = Gate(monkeypatch)
    live.step(stream[2])
    live.step(stream[3])
    assert gate.reached.wait(PATIENCE_S) and live._desk.regrounder._job is not None
    job = live._desk.regrounder._job
    if action == "remove":
        live.remove(1)
    elif action == "remove_prompt":
        live.remove_prompt("text")
    elif action == "reset":
        live.reset()
    elif action == "refine":
        live.submit(click("better", target_id=1))
    shift = -60_000_000_000 if action == "another stream" else 0
    result = live.step(replace(stream[4], stamp_ns=stream[4].stamp_ns + shift))
    gate.open()
    assert live.wait(PATIENCE_S)
    late = live.step(replace(stream[5], stamp_ns=stream[5].stamp_ns + shift))
    said = {g.prompt_id: g.status for r in (result, late) for g in r.groundings}
    if action in ("remove", "remove_prompt", "reset"):
        assert live.target_ids == () and said == {}
        assert job.is_cancelled or action == "remove_prompt"
    elif action == "refine":
        assert said == {"better": GroundingStatus.OK} and live.target_ids == (1,)
        assert group_of(live).prompt.prompt_id == "better" and job.is_cancelled
    else:
        assert job.is_cancelled and live.target_ids == (1,)
        assert set(said) <= {"text"} and group_of(live).prompt.prompt_id == "text"


def test_users_go_first(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(10)
    live.submit(text())
    live.step(stream[0])
    assert live.wait(PATIENCE_S)
    live.step(stream[1])
    put: list[bool] = []
    honest = LanguageLane.put

    def noted(lane: LanguageLane, jobs: Sequence[Any]) -> None:
        put.extend(isinstance(job, Job) and job.is_quiet for job in jobs)
        honest(lane, jobs)

    monkeypatch.setattr(LanguageLane, "put", noted)
    gate = Gate(monkeypatch)
    for frame in stream[2:4]:
        live.step(frame)
    assert put == [True] and gate.reached.wait(PATIENCE_S)
    live.submit(text("mine", "the blue square"))
    for frame in stream[4:7]:
        live.step(frame)
    assert put == [True, False], "nothing is asked again while a user waits"
    gate.open()
    assert live.wait(PATIENCE_S)
    assert only(live.step(stream[7])).prompt_id == "mine"


def test_caps_have_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = asked(monkeypatch)
    inline = session(reground_frames=2, max_targets=1, max_pending_prompts=1)
    stream = frames(6)
    run(inline, stream[:4], {0: [text()]})
    inline.submit(text("next", "the blue square"))
    assert ids.count("text") == 2 and inline.target_ids == (1,)
    assert only(inline.step(stream[4])).status is GroundingStatus.REJECTED
    inline.remove(1)
    inline.submit(text("last"))
    assert only(inline.step(stream[5])).status is GroundingStatus.OK


def test_targets_that_share_a_conversation_are_not_asked_for_by_themselves() -> None:
    inline = session(reground_frames=2, conversations="merged")
    stream = frames(7)
    first = run(inline, stream[:1], {0: [text("a"), text("b", "the blue square")]})[0]
    run(inline, stream[1:], {})
    assert sorted(first.target_ids.tolist()) == [1, 2] == sorted(inline.target_ids)
    assert inline.conversations == ((1, 2),)


def test_a_merged_conversation_of_one_stays_one_that_others_can_join() -> None:
    inline = session(reground_frames=2, conversations="merged")
    stream = frames(8)
    run(inline, stream[:1], {0: [text("a")]})
    (before,) = inline._roster.groups
    run(inline, stream[1:6], {})
    assert inline._roster.groups[0] is not before, "its words were asked again"
    run(inline, stream[6:], {0: [text("b", "the blue square")]})
    assert inline.conversations == ((1, 2),)


def test_many_passes_leave_nothing_behind() -> None:
    inline = session(reground_frames=1)
    stream = frames(40)
    run(inline, stream[:10], {0: [text()]})
    held = inline.nbytes
    run(inline, stream[10:], {})
    inline.remove(1)
    inline.step(stream[-1])
    assert inline.nbytes == 0 < held and inline._desk.regrounder._job is None
    inline.submit(text("b"))
    inline.step(frames(42)[41])
    assert list(inline._desk.regrounder._watches) == [2]

"""Several prompts in one conversation: one memory and one decoder pass, and each of them refined and removed alone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.unit.engine.sessions import box, classes, click, counted, drawn, only, run, same, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.engine.grounding import Grounder
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.task_head import checked_read
from x2sam_ros.engine.track import Group
from x2sam_ros.errors import ModelError, PromptError
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, Prompt, TargetState, Task

PATIENCE_S = 60.0
WORDS = ("the red circle", "the blue square", "a green thing", "the left one", "the right one")


def merged(**options: Any) -> Session:
    return session(conversations="merged", **options)


@pytest.fixture(params=["inline", "beside"])
def live(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session whose prompts are carried out inline, or beside."""
    with merged(language_lane=request.param) as opened:
        yield opened


def feed(live: Session, stream: list[Frame], prompts: dict[int, list[Prompt]]) -> list[FrameResult]:
    """Step through a stream as ``run`` does, and wait for the lane after each frame."""
    results = []
    for index, frame in enumerate(stream):
        for prompt in prompts.get(index, []):
            live.submit(prompt)
        results.append(live.step(frame))
        assert live.wait(PATIENCE_S)
    return results


def answers(results: list[FrameResult]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {g.prompt_id: (g.status.name, g.target_ids) for result in results for g in result.groundings}


def texts(*ids: str) -> list[Prompt]:
    return [text(name, WORDS[index]) for index, name in enumerate(ids)]


def groups(live: Session) -> list[Group]:
    return live._roster.groups


def nothing_is(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Let nothing in any image fit some words."""

    def read(head: Any, found: Any, context: Any) -> Any:
        return [choice for choice in checked_read(head, found, context) if context.labels[choice.class_index] != words]

    monkeypatch.setattr("x2sam_ros.engine.track.checked_read", read)


def test_two_texts_share_a_memory_and_a_decoder_row(live: Session) -> None:
    results = feed(live, frames(5), {0: texts("a", "b")})
    assert answers(results) == {"a": ("OK", (1,)), "b": ("OK", (2,))} and live.conversations == ((1, 2),)
    assert results[-1].labels == WORDS[:2] and results[-1].target_ids.tolist() == [1, 2]
    (group,) = groups(live)
    assert group.condition.num_phrases == 2 and len(group.condition.cond_embeds) == 1
    assert len(group.memory) == len(group.memory.entries) > 0
    with counted(nano()) as counts:
        live.step(frames(6)[5])
    assert counts["mask decoder"] == 1 and counts["encoder"] == 1


def test_one_prompt_alone_is_as_it_is_separate() -> None:
    stream = frames(5)
    for prompt in (text(), click(), box(), drawn()):
        mine, theirs = (run(of, stream, {0: [prompt]}) for of in (merged(), session()))
        assert all(same(a, b) for a, b in zip(mine, theirs))


def test_regions_share_a_conversation_and_texts_another(live: Session) -> None:
    results = feed(live, frames(4), {0: [click("c"), text("t"), box("b"), drawn("m"), classes("l", "circle")]})
    kinds = {tuple(group.head.task for _ in group.targets) for group in groups(live)}
    assert ("objseg",) * 3 in kinds and ("refseg",) in kinds
    assert answers(results)["c"][0] == answers(results)["m"][0] == answers(results)["t"][0] == "OK"
    assert all(not group.members for group in groups(live) if group.head.task == "genseg")


def test_a_prompt_joins_and_the_others_keep_ids_labels_and_states(live: Session) -> None:
    stream = frames(10)
    before = feed(live, stream[:4], {0: texts("a", "b")})[-1]
    results = feed(live, stream[4:], {0: [text("c", WORDS[2])], 2: [text("d", WORDS[3])]})
    assert answers(results) == {"c": ("OK", (3,)), "d": ("OK", (4,))} and live.conversations == ((1, 2, 3, 4),)
    assert results[-1].labels == WORDS[:4] and results[-1].target_ids.tolist() == [1, 2, 3, 4]
    states = [result.states[:2] for result in results]
    assert states == [before.states] * len(states), "tracked all the time"
    grounding = next(g for result in results for g in result.groundings if g.prompt_id == "c")
    assert grounding.query == WORDS[2] and [(p.text, p.target_ids) for p in grounding.phrases] == [(WORDS[2], (3,))]
    assert next(iter(groups(live)[0].targets.values())).seen_frames >= 9, "counted on through both joins"


def test_the_others_masks_on_the_frame_of_a_join_are_those_without_it() -> None:
    stream = frames(5)
    joined, alone = (run(merged(), stream, {0: texts("a", "b"), 4: more})[4] for more in ([text("c", WORDS[2])], []))
    assert joined.target_ids.tolist() == [1, 2, 3]
    assert np.array_equal(joined.masks[:2], alone.masks) and np.array_equal(joined.scores[:2], alone.scores)


def test_clicks_join_from_the_masks_of_the_others(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [], Grounder.ask

    def noted(grounder: Grounder, prompt: Prompt, *args: Any) -> Any:
        asked.append(prompt)
        return ask(grounder, prompt, *args)

    stream = frames(6)
    feed(live, stream[:3], {0: [drawn("a")]})
    monkeypatch.setattr(Grounder, "ask", noted)
    feed(live, stream[3:], {0: [click("b")]})
    assert live.conversations == ((1, 2),)
    shown = next(prompt for prompt in asked if prompt.prompt_id == "")
    assert shown.mask.shape == stream[0].size and shown.mask.any()  # type: ignore[union-attr]
    assert groups(live)[0].members[0].prompt.prompt_id == "a", "what it was asked for by stays known"


def test_a_lost_region_is_asked_for_by_what_it_looked_like(monkeypatch: pytest.MonkeyPatch) -> None:
    live, stream = merged(), frames(6)
    run(live, stream[:3], {0: [drawn("a")]})
    (group,) = groups(live)
    tokens = group.members[0].tokens
    target = group.targets[1]
    target.logits, target.state, target.missed_frames = None, TargetState.LOST, 40
    monkeypatch.setattr("x2sam_ros.engine.claims.followed", lambda *args: None)
    result = run(live, stream[3:4], {0: [click("b")]})[0]
    assert live.conversations == ((1, 2),) and result.states[0] is TargetState.LOST
    assert torch.equal(groups(live)[0].members[0].tokens, tokens)  # type: ignore[arg-type]


def test_a_removed_target_is_not_found_again_and_left_out_of_the_next_join(live: Session) -> None:
    stream = frames(10)
    feed(live, stream[:3], {0: texts("a", "b", "c")})
    live.remove(2)
    assert live.conversations == ((1, 3),)
    results = feed(live, stream[3:6], {})
    assert all(result.target_ids.tolist() == [1, 3] for result in results), "its words are still in the conversation"
    assert len(groups(live)[0].labels) == 3
    feed(live, stream[6:], {0: [text("d", WORDS[3])]})
    assert live.conversations == ((1, 3, 4),) and groups(live)[0].labels == (WORDS[0], WORDS[2], WORDS[3])


def test_a_prompt_is_removed_with_its_target_alone(live: Session) -> None:
    stream = frames(4)
    feed(live, stream, {0: texts("a", "b")})
    assert live.remove_prompt("a") == (1,) and live.conversations == ((2,),)
    with pytest.raises(PromptError, match="there is no prompt 'a'"):
        live.remove_prompt("a")
    assert live.remove_prompt("b") == (2,) and groups(live) == []


def test_a_target_is_refined_by_clicks_in_its_conversation(live: Session) -> None:
    stream = frames(12)
    feed(live, stream[:3], {0: [click("a", 20, 30), click("b", 90, 60)]})
    more = {0: [click("more", 22, 32, target_id=1)], 3: [click("not", 95, 62, label=0, target_id=1)]}
    results = feed(live, stream[3:], more)
    assert answers(results) == {"more": ("OK", (1,)), "not": ("OK", (1,))}
    assert live.conversations == ((1, 2),) and live.target_ids == (1, 2)
    (group,) = groups(live)
    held = group.clicks_of(group.targets[1])
    assert held is not None and held.points_px[-1].tolist() == [95, 62] and held.point_labels is not None
    assert held.point_labels.tolist()[-1] == 0, "clicks add up"
    assert group.clicks_of(group.targets[2]).points_px.tolist() == [[90, 60]]  # type: ignore[union-attr]


def test_a_target_is_refined_by_other_words(live: Session) -> None:
    stream = frames(8)
    feed(live, stream[:3], {0: texts("a", "b")})
    results = feed(live, stream[3:], {0: [text("other", WORDS[2], target_id=1)]})
    assert answers(results) == {"other": ("OK", (1,))} and live.conversations == ((1, 2),)
    assert results[-1].labels == (WORDS[2], WORDS[1]) and groups(live)[0].labels == (WORDS[1], WORDS[2])
    assert live.remove_prompt("other") == (1,)


def test_a_target_of_words_is_refined_by_a_click_and_changes_its_conversation(live: Session) -> None:
    stream = frames(8)
    feed(live, stream[:3], {0: [*texts("a", "b"), click("c")]})
    feed(live, stream[3:], {0: [drawn("again", target_id=1)]})
    assert sorted(live.conversations) == [(1, 3), (2,)] and live.target_ids == (1, 2, 3)


def test_what_is_not_found_leaves_the_others_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(8)
    nothing_is(monkeypatch, WORDS[2])
    with_it, without = (run(merged(), stream, {0: texts("a", "b"), 3: m}) for m in ([text("absent", WORDS[2])], []))
    assert answers(with_it)["absent"] == ("NO_TARGET", ())
    assert all(same(replace(a, groundings=()), replace(b, groundings=())) for a, b in zip(with_it, without))


def test_what_fails_leaves_the_others_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, ground = frames(8), Grounder.ground

    def broken(grounder: Grounder, asked: Any, *args: Any) -> Any:
        if "bad words" in asked.request.phrases:
            raise ModelError("by chance")
        return ground(grounder, asked, *args)

    without = run(merged(), stream, {0: texts("a", "b")})
    monkeypatch.setattr(Grounder, "ground", broken)
    with_it = run(merged(), stream, {0: texts("a", "b"), 3: [text("bad", "bad words")]})
    assert answers(with_it)["bad"] == ("REJECTED", ()) and only(with_it[3]).message == "by chance"
    assert all(same(replace(a, groundings=()), replace(b, groundings=())) for a, b in zip(with_it, without))


def test_of_prompts_that_are_asked_together_each_has_its_own_answer(
    live: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is(monkeypatch, WORDS[1])
    results = feed(live, frames(5), {0: [*texts("a", "absent"), click("in"), click("out", 500, 5)]})
    found = answers(results)
    assert {name: status for name, (status, _) in found.items()} == {
        "a": "OK",
        "absent": "NO_TARGET",
        "in": "OK",
        "out": "REJECTED",
    }
    assert sorted(live.conversations) == [(1,), (2,)] == sorted(found[name][1] for name in ("a", "in"))
    assert sorted(len(group.labels) for group in groups(live)) == [1, 2], "what was not found is not looked for"


def test_prompts_that_do_not_go_together_are_asked_alone(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation may be longer than the model can read, where each of its prompts is not."""
    together = Grounder.together

    def short(grounder: Grounder, questions: Any, view: Any) -> Any:
        if len(questions) > 2:
            raise PromptError("too long")
        return together(grounder, questions, view)

    monkeypatch.setattr(Grounder, "together", short)
    results = feed(live, frames(6), {0: texts("a", "b"), 2: [text("c", WORDS[2])]})
    assert answers(results) == {"a": ("OK", (1,)), "b": ("OK", (2,)), "c": ("OK", (3,))}
    assert live.conversations == ((1, 2), (3,))


def test_a_full_conversation_is_not_joined() -> None:
    live, stream = merged(max_merged=2), frames(8)
    prompts = [text(name, WORDS[index]) for index, name in enumerate("abcde")]
    results = run(live, stream, {0: prompts[:3], 2: prompts[3:4], 4: prompts[4:]})
    assert live.conversations == ((1, 2), (3, 4), (5,)) and results[-1].target_ids.tolist() == [1, 2, 3, 4, 5]
    live.remove(1)
    live.submit(text("f", "something else"))
    live.step(frames(9)[8])
    assert sorted(live.conversations) == [(2, 6), (3, 4), (5,)], "there is room again"


def test_the_same_words_are_not_said_twice_in_a_conversation() -> None:
    live = merged()
    results = run(live, frames(5), {0: [text("a"), text("b")], 2: [text("c", "The Red Circle")]})
    assert live.conversations == ((1,), (2,), (3,)) and answers(results)["c"] == ("OK", (3,))


def test_prompts_of_one_conversation_are_carried_out_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a conversation is being joined waits, and keeps its frame."""
    reached, gate, ask = threading.Event(), threading.Event(), Grounder.ask

    def held(grounder: Grounder, *args: Any, **options: Any) -> Any:
        reached.set()
        assert gate.wait(PATIENCE_S)
        return ask(grounder, *args, **options)

    stream = frames(9)
    with merged(language_lane="beside") as live:
        feed(live, stream[:2], {0: [text("a", WORDS[0])]})
        monkeypatch.setattr(Grounder, "ask", held)
        results = []
        for index, name in enumerate("bc"):
            live.submit(text(name, WORDS[index + 1]))
            results.append(live.step(stream[2 + index]))
            assert reached.wait(PATIENCE_S)
        live.submit(text("again", WORDS[3], target_id=1))
        results.append(live.step(stream[4]))
        gate.set()
        results += feed(live, stream[5:], {})
        reported = [g for result in results for g in result.groundings]
        assert [g.prompt_id for g in reported] == ["b", "c", "again"], reported
        assert [g.stamp_ns for g in reported] == [frame.stamp_ns for frame in stream[2:5]]
        assert live.conversations == ((1, 2, 3),)


def test_a_target_that_is_removed_during_a_join_stays_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, gate, ask = threading.Event(), threading.Event(), Grounder.ask

    def held(grounder: Grounder, *args: Any, **options: Any) -> Any:
        reached.set()
        assert gate.wait(PATIENCE_S)
        return ask(grounder, *args, **options)

    stream = frames(7)
    with merged(language_lane="beside") as live:
        feed(live, stream[:2], {0: texts("a", "b")})
        monkeypatch.setattr(Grounder, "ask", held)
        live.submit(text("c", WORDS[2]))
        live.submit(text("d", WORDS[3]))
        live.step(stream[2])
        assert reached.wait(PATIENCE_S)
        live.remove(1)
        assert live.remove_prompt("d") == ()
        gate.set()
        results = feed(live, stream[3:], {})
        assert live.conversations == ((2, 3),) and answers(results) == {"c": ("OK", (3,))}


def test_on_another_stream_each_is_asked_again_under_its_id(live: Session) -> None:
    bag = [replace(frame, stamp_ns=1_000_000_000 + 10 * frame.stamp_ns) for frame in frames(5)]
    feed(live, bag, {0: [*texts("a", "b"), drawn("m"), click("c")]})
    assert len(live.conversations) == 2 and live.target_ids == (1, 2, 3, 4)
    before = sorted(live.conversations)
    second = feed(live, [replace(frame, frame_index=5 + frame.frame_index) for frame in bag], {})
    assert {name: status for name, (status, _) in answers(second).items()} == dict.fromkeys("abmc", "OK")
    assert sorted(live.conversations) == before and live.target_ids == (1, 2, 3, 4)
    assert {record.stamp_ns for group in groups(live) for record in group.memory.records} <= {f.stamp_ns for f in bag}


def test_a_saved_session_goes_on_with_its_conversations(tmp_path: Path) -> None:
    stream, live = frames(9), merged()
    run(live, stream[:4], {0: [*texts("a", "b"), click("c", 20, 30), click("d", 90, 60)]})
    live.save(tmp_path / "session")
    options = {"config": live._config}
    again = Session.load(tmp_path / "session", nano(), **options)
    assert again.conversations == live.conversations and again.left_out == ()
    for frame in stream[4:6]:
        mine, theirs = again.step(replace(frame, frame_index=frame.frame_index - 4)), live.step(frame)
        assert np.array_equal(mine.masks, theirs.masks) and mine.labels == theirs.labels
    for of, offset in ((again, 4), (live, 0)):
        of.submit(text("e", WORDS[2]))
        of.submit(click("f", 60, 40, target_id=3))
        of.step(replace(stream[6], frame_index=6 - offset))
    assert again.conversations == live.conversations and len(live.conversations) == 2
    assert again.remove_prompt("b") == (2,)


def test_a_file_from_before_there_were_conversations_is_read(tmp_path: Path) -> None:
    stream, live, path = frames(5), session(), tmp_path / "session"
    run(live, stream[:4], {0: [text("a"), click("b")]})
    live.save(path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["session"])
        metadata = {**file.metadata(), "version": "1"}
    tensors = load_file(path)
    for group in content["groups"]:
        assert group["fields"].pop("members") == []
    metadata["session"] = json.dumps(content)
    metadata["sha256"] = hashlib.sha256(metadata["session"].encode()).hexdigest()
    save_file(tensors, path, metadata)
    again = Session.load(path, nano(), live._config)
    assert np.array_equal(again.step(replace(stream[4], frame_index=0)).masks, live.step(stream[4]).masks)


def test_a_conversation_gives_way_to_no_prompt_at_the_cap() -> None:
    live, stream = merged(max_targets=2), frames(5)
    results = run(live, stream, {0: texts("a", "b"), 2: [text("c", WORDS[2])]})
    assert "2 targets are followed, at most 2 may be" in only(results[2]).message and live.target_ids == (1, 2)
    live.remove(1)
    live.submit(text("d", WORDS[3]))
    assert only(live.step(frames(6)[5])).target_ids == (3,) and live.conversations == ((2, 3),)


def test_tasks_of_several_targets_and_published_rules_are_not_merged() -> None:
    quirks = merged(official_quirks=True)
    run(quirks, frames(2), {0: [text("a", WORDS[0]), text("b", WORDS[1])]})
    assert quirks.conversations == ((1,), (2,))
    live = merged()
    run(live, frames(2), {0: [text("a", WORDS[0], task=Task.GREFSEG), text("b", WORDS[1], task=Task.GREFSEG)]})
    assert live.conversations == ((1,), (2,))
    live = merged()
    clip = np.stack([frame.image for frame in frames(4)])
    live.submit(text("a", WORDS[0]), clip)
    live.submit(text("b", WORDS[1]))
    live.step(frames(1)[0])
    assert live.conversations == ((1,), (2,)) or live.conversations == ((2,), (1,))


def test_an_old_prompt_joins_on_its_own_frame() -> None:
    live, stream = merged(), frames(8)
    results = run(live, stream, {0: [drawn("a")], 6: [click("b", 20, 30, stamp_ns=stream[2].stamp_ns)]})
    assert only(results[6]).stamp_ns == stream[2].stamp_ns and live.conversations == ((1, 2),)
    (group,) = groups(live)
    assert group.memory.records[0].stamp_ns >= stream[2].stamp_ns and len(results[7].target_ids) == 2


def test_a_join_whose_frame_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    live, stream = merged(), frames(5)
    run(live, stream[:2], {0: [text("a", WORDS[0])]})
    live.submit(text("b", WORDS[1]))

    def broken(*args: Any) -> None:
        raise ModelError("by chance")

    with monkeypatch.context() as patched:
        patched.setattr(live._tracker, "advance", broken)
        with pytest.raises(ModelError):
            live.step(stream[2])
    assert only(live.step(stream[3])).status is GroundingStatus.OK and live.conversations == ((1, 2),)


def test_many_joins_and_removals_leave_nothing_behind() -> None:
    live, stream = merged(max_targets=6), frames(40, size=(48, 64))
    held = []
    for frame in stream:
        live.submit(text(f"prompt {frame.frame_index}", f"thing {frame.frame_index}"))
        live.step(frame)
        if len(live.target_ids) > 3:
            live.remove(min(live.target_ids))
        held.append(live.nbytes)
    assert len(live.target_ids) == 3 and live.target_ids[-1] == 40 and live._roster.reserved == 0
    assert len(live.conversations) == 1 and len(live._desk._merger._open) <= 1 and not live._desk._asked
    assert max(held[20:]) <= 1.1 * max(held[8:20])

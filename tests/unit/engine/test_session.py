"""The streaming session on a real network with random weights: targets of every kind, ids, caps, cost."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import (
    MANY,
    ScriptedHead,
    box,
    classes,
    click,
    counted,
    drawn,
    only,
    rejected,
    run,
    same,
    session,
    text,
    use_heads,
)
from tests.unit.model.networks import frames, nano
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.types import Frame, GroundingStatus, Prompt, TargetState, Task

THREE = [(0, (0, 8, 0, 32), 0.9), (1, (12, 20, 0, 32), 0.8), (1, (24, 32, 0, 32), 0.7)]
"""One thing of the first class and two of the second, for a scripted head."""


def test_the_image_is_encoded_once_however_many_targets_there_are() -> None:
    """Pixel decoder: once a frame, and once more where targets start beside others; nothing runs without a target."""
    stream, live = frames(5), session()
    prompts: dict[int, list[Prompt]] = {1: [text(), click()], 3: [box(), drawn()]}
    passes = []
    for index, frame in enumerate(stream):
        with counted(nano()) as counts:
            run(live, [frame], {0: prompts.get(index, [])})
        passes.append(dict(counts))
    assert len(live.target_ids) == 4
    assert [counts.get("encoder", 0) for counts in passes] == [0, 1, 1, 1, 1]
    assert [counts.get("pixel decoder", 0) for counts in passes] == [0, 1, 1, 2, 1]
    assert [counts.get("mask decoder", 0) for counts in passes] == [0, 1, 1, 2, 1]
    assert [counts.get("picture tower", 0) for counts in passes] == [0, 1, 0, 1, 0]
    assert [counts.get("language tower", 0) for counts in passes] == [0, 3, 0, 3, 0], "the picture is read once"


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("prompt", [text(), classes(), click(), box(), drawn()], ids=lambda p: p.prompt_id)
def test_every_kind_of_prompt_starts_a_target_at_any_frame(prompt: Prompt, start: int) -> None:
    results = run(session(), frames(6), {start: [prompt]})
    assert all(len(result.target_ids) == 0 for result in results[:start])
    grounding = only(results[start])
    assert (grounding.prompt_id, grounding.status) == (prompt.prompt_id, GroundingStatus.OK)
    assert grounding.stamp_ns == results[start].stamp_ns
    assert set(grounding.target_ids) == set(results[start].target_ids.tolist()) != set()
    for result, frame in zip(results, frames(6)):
        assert (result.stamp_ns, result.frame_index, result.frame_id) == (frame.stamp_ns, frame.frame_index, "camera")
        assert result.masks.shape[1:] == frame.size == result.image_size
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert all(set(grounding.target_ids) <= set(result.target_ids.tolist()) for result in results[start:])
    assert results[start].masks.any((1, 2)).all()
    assert results[start].states[0] is TargetState.TENTATIVE
    if prompt.prompt_id != "classes":  # random weights see now this class, now that one
        assert results[-1].states[0] is TargetState.TRACKED


def test_labels_and_phrases() -> None:
    result = run(
        session(), frames(1), {0: [text("a", "  the   red circle "), click("b"), classes("c", "star", "box")]}
    )[0]
    words, region, listed = result.groundings
    assert words.query == "the red circle" and result.labels[:2] == ("the red circle", "object 2")
    assert region.query == "point"
    assert not region.phrases and listed.query == "star, box"
    for grounding in (words, listed):
        for phrase in grounding.phrases:
            assert grounding.query[phrase.start : phrase.end] == phrase.text
    assert [phrase.text for phrase in listed.phrases] == ["star", "box"]
    assert {i for phrase in listed.phrases for i in phrase.target_ids} == set(listed.target_ids)


def test_refining_keeps_the_id_and_moves_on() -> None:
    live = session()
    first, later = frames(6)[:3], frames(6)[3:]
    run(live, first, {0: [text(), box()]})
    results = run(live, later, {0: [click("again", 90, 60, target_id=1)]})
    assert live.target_ids == (1, 2)
    assert only(results[0]).target_ids == (1,) and results[0].labels[0] == "the red circle"
    assert results[0].states[0] is TargetState.TRACKED
    other = session()
    run(other, first, {0: [text(), box()]})
    untouched = run(other, later, {})
    assert not np.array_equal(results[0].masks[0], untouched[0].masks[0])
    assert np.array_equal(results[0].masks[1], untouched[0].masks[1])


def test_two_clicks_on_one_target_between_frames_are_both_carried_out() -> None:
    live = session()
    run(live, frames(1), {0: [click()]})
    more: list[Prompt] = [click("more", 25, 35, target_id=1), click("less", 100, 10, label=0, target_id=1)]
    results = run(live, frames(4)[1:], {0: more})
    assert [[g.prompt_id for g in result.groundings] for result in results] == [["more"], ["less"], []]
    assert all(g.status is not GroundingStatus.REJECTED for result in results for g in result.groundings)
    assert live.target_ids == (1,)


def test_one_instance_of_a_class_list_is_refined_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead(THREE))
    live = session()
    found = run(live, frames(2), {0: [classes()]})[1].target_ids.tolist()
    assert found == [1, 2, 3]
    result = run(live, frames(3)[2:], {0: [click(target_id=found[0])]})[0]
    assert only(result).target_ids == (found[0],)
    assert set(found) <= set(result.target_ids.tolist())


def test_removing() -> None:
    live = session()
    run(live, frames(2), {0: [text(), click(), box()]})
    live.remove(2)
    result = live.step(frames(3)[2])
    assert result.target_ids.tolist() == [1, 3] == list(live.target_ids)
    with pytest.raises(PromptError, match="no target 2; targets: 1, 3"):
        live.remove(2)
    live.submit(text("new"))
    assert only(live.step(frames(4)[3])).target_ids == (4,)


def test_reset_forgets_everything() -> None:
    live = session()
    before = run(live, frames(3), {0: [text(), click()]})
    live.submit(box())
    live.reset()
    assert live.target_ids == () and live.nbytes == 0
    with pytest.raises(PromptError, match="no target 1; targets: none"):
        live.remove(1)
    again = run(live, frames(3), {0: [text(), click()]})
    assert all(same(a, b) for a, b in zip(before, again))


def test_a_used_prompt_id_is_refused() -> None:
    live = session()
    live.submit(text("same"))
    with pytest.raises(PromptError, match="'same'"):
        live.submit(click("same"))
    live.step(frames(1)[0])
    with pytest.raises(PromptError, match="'same' is taken"):
        live.submit(click("same"))
    live.submit(click(""))
    live.submit(box(""))
    assert len(live.step(frames(2)[1]).groundings) == 2


def test_waiting_prompts_are_capped() -> None:
    live = session(max_pending_prompts=2)
    live.submit(text("a"))
    live.submit(text("b"))
    with pytest.raises(PromptError, match="2 prompts are waiting, at most 2"):
        live.submit(text("c"))
    live.step(frames(1)[0])
    live.submit(text("c"))  # the refused id was not used up


def test_targets_are_capped() -> None:
    live = session(max_targets=2)
    result = run(live, frames(1), {0: [text("a"), click("b"), box("c")]})[0]
    assert [g.status for g in result.groundings].count(GroundingStatus.OK) == 2
    refused = next(g for g in result.groundings if g.status is GroundingStatus.REJECTED)
    assert refused.prompt_id == "c" and "2 targets are followed, at most 2" in refused.message
    result = run(live, frames(2)[1:], {0: [click("d", target_id=1)]})[0]
    assert only(result).status is GroundingStatus.OK, "refining needs no room"
    live.remove(1)
    result = run(live, frames(3)[2:], {0: [text("e")]})[0]
    assert only(result).target_ids == (3,)


def test_class_lists_of_one_frame_share_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead(THREE))
    live = session(max_targets=3)
    prompts: list[Prompt] = [classes("a"), classes("b", *MANY[::-1]), text("c")]
    for result in run(live, frames(4), {0: prompts}):
        assert len(result.target_ids) <= 3
    assert "the red circle" in result.labels, "a text accepted on the same frame keeps its place"


def test_the_memory_policy_must_exist() -> None:
    with pytest.raises(PluginError, match="fifo"):
        Session(nano(), memory_policy="nonsense")


def test_a_click_outside_the_image_is_rejected_and_the_rest_carried_out() -> None:
    result = run(session(), frames(1), {0: [click("out", 128, 5), text("in")]})[0]
    by_id = {g.prompt_id: g for g in result.groundings}
    assert by_id["out"].status is GroundingStatus.REJECTED
    assert by_id["out"].message == "click at (128, 5) is outside the image of 128x96 pixels"
    assert by_id["in"].status is GroundingStatus.OK


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (click(target_id=7), "there is no target 7; targets: none"),
        (drawn(size=(96, 120)), "mask prompt is 120x96, the image 128x96"),
        (text(task="mindreading"), "unknown task head 'mindreading'; available: chat"),
        (text(task=Task.OBJSEG), "task objseg takes points, a box or a mask, got a TextPrompt"),
        (click("p", -1, 5), "click at \\(-1, 5\\) is outside"),
    ],
)
def test_prompts_that_cannot_be_carried_out(prompt: Prompt, words: str) -> None:
    live = session()
    message = rejected(run(live, frames(1), {0: [prompt]})[0])
    assert re.search(words, message), message
    assert live.target_ids == () and live.nbytes == 0
    assert only(run(live, frames(2)[1:], {0: [text("next")]})[0]).status is GroundingStatus.OK


def test_a_failed_refinement_leaves_the_target_alone() -> None:
    stream = frames(4)
    plain, poked = session(), session()
    expected = run(plain, stream, {0: [text()]})
    results = run(poked, stream, {0: [text()], 2: [click(x=500, target_id=1)]})
    assert rejected(results[2]).startswith("click at (500, 30)")
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(expected, results))


def test_negative_clicks_alone_need_a_mask_to_cut() -> None:
    live = session()
    run(live, frames(2), {0: [click()]})
    result = run(live, frames(3)[2:], {0: [click("less", 5, 90, label=0, target_id=1)]})[0]
    assert only(result).status in (GroundingStatus.OK, GroundingStatus.NO_TARGET)
    assert live.target_ids == (1,)


def test_what_is_not_found_is_answered_and_takes_no_room() -> None:
    live = session(score_threshold=1.0)
    result = run(live, frames(1), {0: [text()]})[0]
    grounding = only(result)
    assert grounding.status is GroundingStatus.NO_TARGET and "nothing in the image" in grounding.message
    assert live.target_ids == () and live.nbytes == 0


def test_a_frame_of_another_size_mid_stream() -> None:
    live = session()
    run(live, frames(2), {0: [text(), click()]})
    wide = frames(4, size=(90, 320))[2:]
    result = run(live, wide, {1: [click("again", 300, 40, target_id=2)]})
    assert [r.masks.shape for r in result] == [(2, 90, 320)] * 2
    assert only(result[1]).status is GroundingStatus.OK


def test_an_unusable_frame_changes_nothing() -> None:
    """The language side refuses extremely elongated pictures; the prompt waits for the next frame."""
    live = session()
    live.submit(text())
    with pytest.raises(ValueError, match="aspect|elongated|200"):
        live.step(Frame(np.zeros((2, 600, 3), np.uint8), 0))
    assert only(live.step(frames(1)[0])).status is GroundingStatus.OK


@pytest.mark.parametrize(("lost_frames", "expected"), [(1, [[1, 2], [2, 3], [3, 4]]), (100, [[1, 2]] * 3)])
def test_at_the_cap_a_new_instance_takes_the_place_of_a_lost_one(
    monkeypatch: pytest.MonkeyPatch, lost_frames: int, expected: list[list[int]]
) -> None:
    """A class list on a live stream must not go blind once as many objects as the cap have come and gone."""
    first, second, third, fourth = ((0, (8 * i, 8 * i + 8, 0, 32), 0.9) for i in range(4))
    use_heads(monkeypatch, ScriptedHead([first, second], [second, third], [third, fourth]))
    live = session(max_targets=2, lost_frames=lost_frames)
    results = run(live, frames(3), {0: [classes()]})
    assert [result.target_ids.tolist() for result in results] == expected, "a hidden target keeps its place for a while"


def test_a_target_whose_mask_has_no_pixel_at_the_image_size_counts_as_missed() -> None:
    live, large = session(), frames(1, size=(480, 640))[0]
    run(live, [large], {0: [click()]})
    target = live._roster.targets[0]
    target.logits = torch.full((32, 32), -50.0)
    target.logits[5, 5] = 0.01
    masks = live._roster.masks(live._tracker.place(large))
    assert not masks.any()
    assert target.state is TargetState.OCCLUDED

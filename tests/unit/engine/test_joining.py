"""Prompts that are asked as one conversation: their labels, who stays in it, and where that is on the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.unit.engine.sessions import click, drawn, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder, View
from x2sam_ros.engine.joining import Join, Stay, ask_together, mask_on
from x2sam_ros.engine.language_lane import Job, Pictures
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.region import locate
from x2sam_ros.engine.track import Group, Member, Target
from x2sam_ros.engine.tracker import Tracker, arithmetic
from x2sam_ros.types import Prompt

CONFIG = EngineConfig(conversations="merged")


def kept() -> Kept:
    return FrameBuffer(4, 1 << 30).add(frames(1)[0])


def seen_by() -> tuple[Grounder, View, Tracker]:
    tracker = Tracker(nano(), CONFIG)
    with torch.inference_mode(), arithmetic(nano(), CONFIG):
        seen = tracker.encode(frames(1)[0])
        view = Pictures(nano(), seen, [None]).view(None)
    return Grounder(nano(), open_policy("fifo", CONFIG), CONFIG), view, tracker


def target(number: int, box: tuple[slice, slice]) -> Target:
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[box] = True
    return Target(number, f"object {number}", logits=torch.where(mask, 5.0, -5.0), last_mask=mask)


def test_labels_of_new_prompts_come_after_those_that_stay() -> None:
    at, prompts = kept(), [text("a"), text("b")]
    jobs = [Job(prompt, at) for prompt in prompts]
    stay = Stay(Member(text("old", "the blue square")), target(1, (slice(0, 4), slice(0, 4))))
    join = Join(at, "refseg", jobs, None, (stay,))
    assert [join.label_of(job) for job in jobs] == [1, 2]
    alone = join.alone(jobs[1])
    assert alone.jobs == [jobs[1]] and alone.stays == () and alone.label_of(jobs[1]) == 0


def test_it_is_called_off_once_all_its_prompts_are() -> None:
    at = kept()
    join = Join(at, "refseg", [Job(text("a"), at), Job(text("b"), at)])
    join.jobs[0].cancel()
    assert not join.is_cancelled
    join.cancel()
    assert join.is_cancelled and all(job.is_cancelled for job in join.jobs)


def test_a_mask_is_that_of_the_buffered_frame_at_the_images_size() -> None:
    at, (_, _, tracker) = kept(), seen_by()
    place = tracker.place(at.frame)
    now, then = target(1, (slice(0, 12), slice(0, 16))), torch.zeros(24, 32, dtype=torch.bool)
    then[12:, 16:] = True
    assert mask_on(now, at, place, CONFIG)[:44, :60].all() and not mask_on(now, at, place, CONFIG)[52:].any()
    at.masks = {1: then}
    assert mask_on(now, at, place, CONFIG).shape == at.frame.size and mask_on(now, at, place, CONFIG)[52:, 68:].all()


def test_a_region_that_stays_is_asked_by_where_it_is_or_by_what_it_looked_like() -> None:
    grounder, view, _ = seen_by()
    size = view.size
    there = locate(drawn(), size)
    mask = np.zeros(size, bool)
    mask[5:30, 5:30] = True
    tokens = torch.zeros(1, 1, 1)
    stay = Stay(Member(click("old"), tokens=tokens), target(1, (slice(0, 4), slice(0, 4))), there, mask)
    with torch.inference_mode():
        seen, lost = stay.ask(grounder, view), replace(stay, mask=None).ask(grounder, view)
    assert np.array_equal(seen.regions[0].mask, mask) and seen.tokens is not None and seen.tokens is not tokens
    assert lost.tokens is tokens and lost.regions == (there,)


def test_what_is_asked_together_has_a_label_for_each_and_copies_of_the_targets() -> None:
    grounder, view, _ = seen_by()
    at = kept()
    old, refined = target(1, (slice(0, 4), slice(0, 4))), target(2, (slice(8, 12), slice(8, 12)))
    prompts: list[Prompt] = [text("new", "a green thing"), text("again", "the left one", target_id=2)]
    jobs = [Job(prompts[0], at), Job(prompts[1], at, target=refined)]
    join = Join(at, "refseg", jobs, None, (Stay(Member(text("old", "the blue square")), old),))
    with torch.inference_mode(), arithmetic(nano(), CONFIG):
        questions = [grounder.ask(job.prompt, view) for job in jobs]
        group = ask_together(join, questions, grounder, view, lambda: False)
    assert isinstance(group, Group)
    assert group.labels == ("the blue square", "a green thing", "the left one") and group.condition.num_phrases == 3
    assert [member.prompt.prompt_id for member in group.members] == ["old", "new", "again"]
    assert [member.begins for member in group.members] == [False, True, True]
    assert {number: t.class_index for number, t in group.targets.items()} == {1: 0, 2: 2}
    assert group.targets[1] is not old and group.targets[2] is not refined and old.label == "object 1"

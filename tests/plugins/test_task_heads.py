"""What the built-in heads read from queries: each task's rule, right also where the published one is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.engine.queries import SIZE, candidates, masks
from x2sam_ros.engine.postprocess import label_map
from x2sam_ros.engine.published import panoptic_clip
from x2sam_ros.engine.region import Region, locate
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import HISTORY, ReadContext, Track, checked_read
from x2sam_ros.plugins import TASK_HEADS, installed_plugins
from x2sam_ros.types import MaskPrompt, PointPrompt

THRESHOLD = 0.5


def context(found: Candidates, **fields: object) -> ReadContext:
    labels = tuple(str(index) for index in range(found.probs.shape[1]))
    return replace(ReadContext(labels, score_threshold=THRESHOLD), **fields)


def read(task: str, found: Candidates, **fields: object) -> tuple[Choice, ...]:
    return checked_read(installed_plugins().task_head(task)(), found, context(found, **fields))


def region(*columns: tuple[int, int]) -> Region:
    return locate(MaskPrompt(mask=(masks(*columns) > 0).any(0).numpy()), SIZE)


def columns(choice: Choice) -> list[int]:
    return choice.mask.any(0).nonzero()[:, 0].tolist()


class Follower:
    """Gives ids to targets as a session does: one for each track, never the same twice."""

    def __init__(self, task: str, stuff: Sequence[int] = ()) -> None:
        self.task, self.stuff, self.tracks = task, tuple(stuff), []

    def step(self, found: Candidates) -> tuple[list[int], Tensor]:
        """Return the ids of this frame's choices, counted from 1, and their map."""
        chosen = read(self.task, found, stuff=self.stuff, tracks=tuple(self.tracks), prompted=not self.tracks)
        ids = []
        for choice in chosen:
            if choice.track is None:
                self.tracks.append(Track(choice.class_index, choice.mask))
            else:
                self.tracks[choice.track] = Track(choice.class_index, choice.mask)
            ids.append(1 + (len(self.tracks) - 1 if choice.track is None else choice.track))
        return ids, label_map(chosen, ids, (found.mask_logits.shape[1], found.mask_logits.shape[2]))


@pytest.mark.parametrize("task", ["refseg", "reaseg"])
def test_a_phrase_is_its_best_query_where_the_target_was(task: str) -> None:
    found = candidates([[0.7], [0.8]], (0, 4), (8, 12))
    tracks = (Track(0, masks((0, 4))[0] > 0),)
    assert [(c.query, c.track) for c in read(task, found)] == [(1, None)]
    assert [(c.query, c.track) for c in read(task, found, tracks=tracks)] == [(0, 0)]
    published = read(task, found, tracks=tracks, official_quirks=True)
    assert [(c.query, c.track) for c in published] == [(1, 0)]


def test_several_phrases_are_found_or_not_each_for_itself() -> None:
    found = candidates([[0.9, 0.0, 0.1], [0.0, 0.3, 0.6]], (0, 4), (8, 12))
    chosen = read("refseg", found)
    assert [(c.class_index, c.query, c.score >= THRESHOLD) for c in chosen] == [
        (0, 0, True),
        (1, 1, False),
        (2, 1, True),
    ]


def test_a_generalised_phrase_is_all_it_means_or_nothing() -> None:
    (both,) = read("grefseg", candidates([[0.9], [0.7], [0.2]], (0, 4), (8, 12), (14, 16)))
    assert columns(both) == [0, 1, 2, 3, 8, 9, 10, 11] and both.score == pytest.approx(0.8)
    none = candidates([[0.3], [0.2]], (0, 4), (8, 12))
    assert all(choice.score < THRESHOLD for choice in read("grefseg", none))
    (published,) = read("grefseg", none, official_quirks=True)
    assert columns(published) == [0, 1, 2, 3]
    moved = candidates([[0.9], [0.7]], (12, 16), (8, 10))
    tracks = (Track(0, both.mask),)
    assert [(columns(c), c.track) for c in read("grefseg", moved, tracks=tracks)] == [([8, 9, 12, 13, 14, 15], 0)]


@pytest.mark.parametrize("task", ["gcgseg", "chat"])
def test_phrases_of_an_answer_keep_their_own_masks(task: str) -> None:
    found = candidates([[0.9, 0.1, 0.2], [0.1, 0.8, 0.1]], (0, 8), (4, 12))
    first, second, third = read(task, found)
    assert columns(first) == list(range(8)) and columns(second) == list(range(4, 12))
    assert third.score < THRESHOLD
    painted = label_map(read(task, found, official_quirks=True), [1, 2, 3], SIZE)
    assert 4 not in (painted == 1).any(0).nonzero()[:, 0], "the published map gives shared pixels to the later phrase"
    assert read(task, Candidates(torch.zeros(2, 0), found.mask_logits)) == ()


@pytest.mark.parametrize("task", ["objseg", "intseg"])
def test_the_object_under_the_prompt_wins_over_a_surer_look_alike(task: str) -> None:
    found = candidates([[0.9], [0.3]], (0, 4), (8, 12))
    click = locate(PointPrompt(points_px=np.array([[10.0, 4.0]])), SIZE)
    for prompt in (click, region((8, 12))):
        (choice,) = read(task, found, regions=(prompt,))
        assert (choice.query, choice.track) == (1, None)


@pytest.mark.parametrize("task", ["objseg", "intseg"])
def test_the_object_is_followed_where_it_was(task: str) -> None:
    found = candidates([[0.8], [0.7]], (0, 4), (8, 12))
    tracks = (Track(0, masks((9, 12))[0] > 0),)
    (choice,) = read(task, found, regions=(region((0, 4)),), prompted=False, tracks=tracks)
    assert (choice.query, choice.track) == (1, 0)
    assert not read(task, found, regions=(region((0, 4)),), prompted=False), "it was removed, and is not found anew"


def test_published_objects_ignore_the_prompt_and_count_four_masks() -> None:
    found = candidates([[0.6], [0.62]], (0, 4), (8, 12))
    prompt = (region((0, 4)),)
    assert read("objseg", found, regions=prompt)[0].query == 0
    assert read("objseg", found, regions=prompt, official_quirks=True)[0].query == 1
    mask = masks((0, 4))[0] > 0
    track = Track(0, mask, ((mask, 0.9),) * HISTORY)
    (choice,) = read("objseg", found, regions=prompt, tracks=(track,), official_quirks=True)
    assert choice.query == 0 and choice.score == pytest.approx(0.2 * 3.6 / 4.6 + 0.8 * 0.6)


def test_published_interaction_takes_the_best_overlap_among_the_sure() -> None:
    found = candidates([[0.9], [0.8], [0.3]], (0, 4), (6, 12), (8, 12))
    prompt = (region((8, 12)),)
    assert read("intseg", found, regions=prompt, official_quirks=True)[0].query == 1


def test_regions_stand_for_their_categories() -> None:
    found = candidates([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7], [0.2, 0.3]], (0, 3), (4, 7), (8, 11), (12, 15))
    chosen = read("vgdseg", found, regions=(region((0, 3)), region((8, 11))))
    assert [(c.query, c.class_index) for c in chosen] == [(0, 0), (1, 0), (2, 1)]
    published = read("vgdseg", found, official_quirks=True)
    assert [(c.query, c.class_index) for c in published] == [(0, 0), (1, 0), (2, 1)]


@pytest.mark.parametrize("task", ["genseg", "ovseg"])
def test_a_class_list_finds_every_instance_and_follows_it(task: str) -> None:
    found = candidates([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]], (0, 4), (8, 12), (8, 12))
    tracks = (Track(1, masks((8, 11))[0] > 0), Track(0, masks((9, 12))[0] > 0))
    chosen = read(task, found, tracks=tracks, prompted=False)
    assert [(c.query, c.class_index, c.track) for c in chosen] == [(0, 0, None), (1, 0, 1), (2, 1, 0)]


def test_ids_are_unique_where_the_published_ones_collide() -> None:
    first = candidates([[0.0, 0.9], [0.9, 0.0]], (0, 8), (8, 16))
    second = candidates([[0.9, 0.0], [0.0, 0.8]], (8, 16), (0, 8))
    published = panoptic_clip([first, second], [SIZE] * 2, (1,), THRESHOLD)
    assert [frame.segment_ids for frame in published] == [(1, 2), (2, 2)]
    follower = Follower("genseg", stuff=(1,))
    (ids, painted), (later_ids, later) = follower.step(first), follower.step(second)
    assert sorted(ids) == sorted(later_ids) == [1, 2]
    assert torch.equal(painted, later), "neither object moved, so neither changes its id"


def test_stuff_in_pieces_is_one_target_with_one_id() -> None:
    frames = [
        candidates([[0.0, 0.9], [0.9, 0.0], [0.0, 0.8], [0.7, 0.0]], (0, 4), (4, 7), (7, 10), (10, 14)),
        candidates([[0.8, 0.0], [0.0, 0.9], [0.0, 0.6]], (4, 7), (7, 10), (14, 16)),
    ]
    follower = Follower("genseg", stuff=(1,))
    before, after = (follower.step(found) for found in frames)
    assert len(set(before[0])) == len(before[0]) == 3
    sky, thing = int(before[1][0, 0]), int(before[1][0, 5])
    assert before[1][0, 8] == sky and int(before[1][0, 12]) not in (0, sky, thing)
    assert [int(after[1][0, column]) for column in (5, 8, 15)] == [thing, sky, sky]
    assert (after[1][0, 10:14] == 0).all(), "nothing is there, where the published rule paints a neighbour"


def test_a_thing_hidden_for_a_frame_keeps_its_id() -> None:
    seen = candidates([[0.9, 0.0], [0.0, 0.9]], (0, 4), (8, 16))
    hidden = candidates([[0.1, 0.0], [0.0, 0.9]], (0, 4), (8, 16))
    follower = Follower("genseg", stuff=(1,))
    maps = [follower.step(found)[1] for found in (seen, hidden, seen)]
    assert torch.equal(maps[0], maps[2]) and int(maps[1][0, 0]) == 0
    ids = [frame.segment_ids for frame in panoptic_clip([seen, hidden, seen], [SIZE] * 3, (1,), THRESHOLD)]
    assert ids[0] == ids[2] == (1, 2) and ids[1] == (1,), "as published the stuff's id changes"


def test_each_frame_of_a_clip_has_its_own_size() -> None:
    sizes, found = [(4, 6), (8, 8), (1, 2)], candidates([[0.9, 0.0], [0.0, 0.9]], (0, 8), (8, 16))
    shapes = [read("genseg", found.resized(size), stuff=(1,))[0].logits.shape for size in sizes]
    assert [tuple(shape) for shape in shapes] == sizes
    published = panoptic_clip([found] * 3, sizes, (1,), THRESHOLD)
    assert [tuple(frame.ids.shape) for frame in published] == [sizes[0]] * 3


def test_published_segments_fill_the_picture_and_ours_do_not() -> None:
    found = candidates([[0.9, 0.0]], (0, 3))
    assert columns(read("genseg", found, stuff=(1,))[0]) == [0, 1, 2]
    assert columns(read("genseg", found, stuff=(1,), official_quirks=True)[0]) == list(range(16))


TASKS = installed_plugins().names(TASK_HEADS)
MANY = [(task, 500) for task in TASKS if task not in ("objseg", "intseg")]


@pytest.mark.parametrize(("task", "classes"), [*((task, 1) for task in TASKS), *MANY])
@pytest.mark.parametrize("size", [(1, 1), SIZE])
def test_background_everywhere_is_nothing(task: str, size: tuple[int, int], classes: int) -> None:
    logits = torch.zeros(8, classes + 1)
    logits[:, -1] = 30.0
    found = Candidates.read(logits, torch.ones(8, *size))
    pointed = Region(np.ones(size, bool), np.zeros((0, 2)), np.zeros(0, int), shape=np.ones(size, bool))
    for stuff in ((), (0,)):
        chosen = read(task, found, regions=(pointed,), stuff=stuff)
        assert all(choice.score < THRESHOLD for choice in chosen)


@pytest.mark.parametrize("task", TASKS)
def test_empty_masks_are_no_pixels(task: str) -> None:
    found = Candidates(torch.tensor([[0.9], [0.8]]), torch.full((2, *SIZE), -5.0))
    for stuff in ((), (0,)):
        chosen = read(task, found, regions=(region((0, 4)),), stuff=stuff)
        assert not any(bool(choice.mask.any()) for choice in chosen)

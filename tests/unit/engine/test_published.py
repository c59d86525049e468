"""The published rules do what is wrong with them, so that numbers can be reproduced; parity is in tests/parity."""

from __future__ import annotations

import numpy as np
import torch

from tests.unit.engine.queries import SIZE, candidates, masks
from x2sam_ros.engine.published import followed_query, panoptic_clip, panoptic_pieces, prompted_query, segment_ids
from x2sam_ros.engine.select import Candidates, Choice


def test_a_lone_object_fills_the_picture() -> None:
    (piece,) = panoptic_pieces(candidates([[0.9]], (0, 3)), 0.5)
    assert bool(piece.mask.all())
    assert panoptic_pieces(candidates([[0.4]], (0, 3)), 0.5) == []
    assert panoptic_pieces(Candidates(torch.zeros(1, 0), masks((0, 3))), 0.5) == []


def test_ids_collide_after_a_stuff_class_that_came_before() -> None:
    pieces = [Choice(query, label, 0.9, masks((0, 1))[0]) for query, label in enumerate((0, 1, 0, 2))]
    assert segment_ids(pieces, stuff=(0,)) == [1, 2, 1, 2]
    assert segment_ids(pieces, stuff=()) == [1, 2, 3, 4]


def test_all_frames_of_a_clip_get_the_first_ones_size() -> None:
    clip = [candidates([[0.9]], (0, 8))] * 3
    frames = panoptic_clip(clip, [(4, 6), (8, 8), (2, 3)], (), 0.5)
    assert [tuple(frame.ids.shape) for frame in frames] == [(4, 6)] * 3


def test_a_thing_takes_over_an_id_that_stuff_has() -> None:
    first = candidates([[0.0, 0.9], [0.9, 0.0]], (0, 8), (8, 16))
    second = candidates([[0.9, 0.0], [0.0, 0.8]], (8, 16), (0, 8))
    one, two = panoptic_clip([first, second], [SIZE] * 2, (1,), 0.5)
    assert one.segment_ids == (1, 2) and two.segment_ids == (2, 2)
    assert two.ids.unique().tolist() == [2]


def test_a_thing_hidden_for_a_frame_without_any_is_found_again() -> None:
    seen, hidden = candidates([[0.9]], (0, 8)), candidates([[0.1]], (0, 8))
    frames = panoptic_clip([seen, hidden, seen], [SIZE] * 3, (), 0.5)
    assert [frame.segment_ids for frame in frames] == [(1,), (), (1,)]


def test_an_empty_anchor_only_dampens_the_overlap() -> None:
    found = candidates([[0.6], [0.62]], (0, 4), (8, 12))
    history = [(masks((0, 4))[0] > 0, 0.8)]
    without = followed_query(found, None, history, 0.5)
    assert without.query == 0 and abs(without.score - (0.2 * 0.8 / 1.8 + 0.8 * 0.6)) < 1e-6
    anchored = followed_query(found, masks((8, 12))[0] > 0, history, 0.5)
    assert anchored.query == 1 and abs(anchored.score - (0.2 / 1.8 + 0.8 * 0.62)) < 1e-6


def test_a_prompt_mask_of_another_size_is_resized() -> None:
    found = candidates([[0.9], [0.6]], (0, 8), (8, 16))
    prompt = np.zeros((16, 32), bool)
    prompt[:, 20:] = True
    assert prompted_query(found, prompt, 0.5).query == 1
    assert prompted_query(found, prompt, 0.8).query == 0
    assert prompted_query(found, prompt, 0.99).query == 0

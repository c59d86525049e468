"""Overlays and contact sheets, judged by their pixels."""

from __future__ import annotations

import numpy as np

from x2sam_ros.types import FrameResult, Phrase, TargetState
from x2sam_ros.visualise import coloured_text, contact_sheet, draw_overlay, target_colour

SIZE = (120, 160)


def _result(masks: np.ndarray, states: tuple[TargetState, ...], ids: tuple[int, ...]) -> FrameResult:
    return FrameResult(
        0,
        0,
        "camera",
        SIZE,
        masks,
        np.full(len(ids), 0.9, np.float32),
        tuple("café" for _ in ids),
        np.array(ids, np.int64),
        states,
    )


def _square() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[60:100, 60:100] = True
    return mask


def test_colours_are_stable_and_differ_between_neighbours() -> None:
    colours = np.array([target_colour(i) for i in range(1, 17)])
    assert target_colour(3) == target_colour(3)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(16)
    assert distances.min() >= 25
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() >= 150


def test_overlay_tints_the_mask_and_leaves_the_rest() -> None:
    image = np.full((*SIZE, 3), 100, np.uint8)
    drawn = draw_overlay(image, _result(_square()[None], (TargetState.TRACKED,), (5,)), alpha=0.5)
    assert (image == 100).all()
    expected = 0.5 * 100 + 0.5 * np.array(target_colour(5))
    assert np.abs(drawn[80, 80] - expected).max() <= 1
    assert (drawn[105:, :50] == 100).all()
    assert (drawn[60, 61:99] == target_colour(5)).all()


def test_colour_depends_on_the_id_not_on_the_row() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    empty = np.zeros(SIZE, bool)
    states = (TargetState.TRACKED, TargetState.TRACKED)
    alone = draw_overlay(image, _result(_square()[None], states[:1], (5,)))
    second = draw_overlay(image, _result(np.stack([empty, _square()]), states, (2, 5)))
    np.testing.assert_array_equal(alone[70:95, 70:95], second[70:95, 70:95])


def test_state_is_written_and_targets_without_mask_are_listed_below() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    empty = np.zeros((1, *SIZE), bool)
    drawn = {state: draw_overlay(image, _result(empty, (state,), (1,))) for state in TargetState}
    for state in TargetState:
        assert drawn[state][:100].sum() == 0
        assert drawn[state][108:].any()
    written = {drawn[state].tobytes() for state in TargetState}
    assert len(written) == len(TargetState)


def test_no_targets_draws_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_overlay(image, _result(np.zeros((0, *SIZE), bool), (), ())), image)


def test_tiny_image_is_drawn_too() -> None:
    mask = np.ones((1, 1, 1), bool)
    result = FrameResult(
        0, 0, "", (1, 1), mask, np.ones(1, np.float32), ("a",), np.ones(1, np.int64), (TargetState.TRACKED,)
    )
    assert draw_overlay(np.zeros((1, 1, 3), np.uint8), result).shape == (1, 1, 3)


def test_contact_sheet_holds_every_image_in_reading_order() -> None:
    images = [np.full((60, 80, 3), 40 * i + 20, np.uint8) for i in range(5)]
    sheet = contact_sheet(images, captions=["first"], columns=3, cell_width_px=80)
    assert sheet.shape == (2 * 62 + 2, 3 * 82 + 2, 3)
    for i in range(5):
        row, column = divmod(i, 3)
        assert (sheet[2 + row * 62 + 50, 2 + column * 82 + 70] == 40 * i + 20).all()


def test_contact_sheet_keeps_the_shape_of_odd_images() -> None:
    sheet = contact_sheet([np.full((60, 80, 3), 9, np.uint8), np.full((80, 40, 3), 200, np.uint8)], cell_width_px=80)
    bright = (sheet == 200).all(axis=2)
    assert np.ptp(np.flatnonzero(bright.any(axis=0))) + 1 == 30
    assert contact_sheet([]).ndim == 3


def test_answer_is_cut_at_its_phrases_and_has_their_targets_colours() -> None:
    text = "a red circle above a blue square"
    phrases = [Phrase("a blue square", 19, 32, (7, 9)), Phrase("a red circle", 0, 12, (3,)), Phrase("above", 13, 18)]
    pieces = coloured_text(text, phrases)
    assert pieces == (("a red circle", target_colour(3)), (" above ", None), ("a blue square", target_colour(7)))
    assert coloured_text(text, []) == ((text, None),)
    assert coloured_text("", []) == ()


def test_phrases_that_overlap_lose_no_letter() -> None:
    text = "abcdefgh"
    phrases = [Phrase("abcd", 0, 4, (1,)), Phrase("cdef", 2, 6, (2,)), Phrase("bc", 1, 3, (3,))]
    pieces = coloured_text(text, phrases)
    assert pieces == (("abcd", target_colour(1)), ("ef", target_colour(2)), ("gh", None))

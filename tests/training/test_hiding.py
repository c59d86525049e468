"""Clips that measure a memory: the target is hidden as a whole, the others never, and only what is meant to helps."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_ros.training.scenes import Layout
from x2sam_ros.training.scenes.hiding import HIDDEN, NUM_FRAMES, lay_out_hidden
from x2sam_ros.training.scenes.render import draw

SEEDS = range(500_000, 500_024)
SIZE = 120, 160


def layouts(alike: bool) -> list[Layout]:
    return [lay_out_hidden(seed, *SIZE, alike) for seed in SEEDS]


@pytest.mark.parametrize("alike", [False, True])
def test_only_the_target_is_hidden_and_for_long_enough(alike: bool) -> None:
    styles = set()
    for layout in layouts(alike):
        clip = draw(layout)
        shares = clip.visible[:, clip.target]
        gone = np.flatnonzero(shares == 0)
        assert HIDDEN <= len(gone) <= 2 * HIDDEN and np.all(np.diff(gone) == 1)
        assert (shares[: gone[0]] >= 0.95).sum() >= 5 and (shares[gone[-1] :] >= 0.95).sum() >= 5
        assert np.delete(clip.visible, clip.target, axis=1).min() == 1.0 and 4 <= len(clip.objects) <= 5
        styles.add(bool(np.ptp(clip.objects[clip.target].centre, axis=0).max() > 0))
    assert styles == {True, False}, "the target passes behind, or the board in front"


def test_others_have_the_colour_and_another_shape() -> None:
    for layout in layouts(alike=False):
        target, *others = layout.objects
        assert {o.colour for o in others} == {target.colour} and target.shape not in {o.shape for o in others}


def test_look_alikes_differ_in_place_alone() -> None:
    for layout in layouts(alike=True):
        first, *others = layout.layers[: len(layout.objects)]
        for other in others:
            np.testing.assert_allclose(
                other.outline - other.centre[:, None], first.outline - first.centre[:, None], atol=1e-6
            )
            assert np.array_equal(other.tile, first.tile) and np.array_equal(other.angle, first.angle)
            assert other.rgb == first.rgb and not np.allclose(other.centre, first.centre, atol=0.1)
        assert len({(o.shape, o.colour, o.size_name, o.texture) for o in layout.objects}) == 1


def test_a_seed_is_a_scene() -> None:
    one, other = lay_out_hidden(7, *SIZE, False), lay_out_hidden(7, 480, 640, False)
    assert len(one.gains) == NUM_FRAMES and one.kind == "hidden"
    np.testing.assert_array_equal(one.layers[0].outline, other.layers[0].outline)
    assert not np.array_equal(one.layers[0].centre, lay_out_hidden(8, *SIZE, False).layers[0].centre)

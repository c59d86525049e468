"""What a batch's clips show, from frames and label maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from x2sam_ros.model.config import preset
from x2sam_ros.training.drawn import (
    ATTRIBUTE_SIZES,
    MASK_STRIDE,
    LanguageView,
    Things,
    attribute_shares,
    draw,
    object_shares,
)
from x2sam_ros.training.samples import FIRST_TRAINING_SEED
from x2sam_ros.training.scenes import lay_out
from x2sam_ros.training.scenes.render_torch import Canvas
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, SIZES

LAYOUTS = [lay_out(FIRST_TRAINING_SEED + seed, 5, 128, 128) for seed in (3, 4, 8)]
LANGUAGE = preset("nano").language


@pytest.mark.parametrize(("frames", "steps"), [(None, 1), (2, 1), (5, 3)])
def test_cells_show_what_the_picture_tokens_cover(frames: int | None, steps: int) -> None:
    view, things = LanguageView.of(480, 640, frames, LANGUAGE), Things.of(LAYOUTS)
    drawn = draw(LAYOUTS, view)
    patches, grid = view.patches(drawn.shown, LANGUAGE)
    shares = attribute_shares(object_shares(drawn.labels, things.centre.shape[2]), things)
    cells = view.cells(drawn.labels, things, shares, LANGUAGE.vision).chunk(len(LAYOUTS))
    assert len(patches) == int(grid.prod(1).sum()) and len(grid) == len(LAYOUTS)
    assert view.media.steps == (None if frames is None else steps)
    for number, layout in enumerate(LAYOUTS):
        assert len(cells[number]) == steps * view.media.tokens_per_step == int(grid[number].prod()) // 4
        first = cells[number][: view.media.tokens_per_step]
        inside = [k for k, o in enumerate(layout.objects) if (o.centre[0] > 0).all() and (o.centre[0] < 1).all()]
        seen = [k for k in inside if (drawn.labels[0, number] == k + 1).any()]
        assert first[:, -1].sum() == len(seen)
        background = float((drawn.labels[0, number] == 0).float().mean())
        assert float(first[:, 0].mean()) == pytest.approx(background, abs=0.03)


def test_shares_are_those_of_each_cell_and_each_attribute() -> None:
    drawn, things = draw(LAYOUTS, LanguageView.of(480, 640, None, LANGUAGE)), Things.of(LAYOUTS)
    shares = object_shares(drawn.labels, things.centre.shape[2])
    attributes = attribute_shares(shares, things)
    torch.testing.assert_close(shares.sum(2), torch.ones_like(shares[:, :, 0]))
    for number, layout in enumerate(LAYOUTS):
        corner = drawn.labels[2, number, 40 : 40 + MASK_STRIDE, 60 : 60 + MASK_STRIDE]
        wanted = [float((corner == k).float().mean()) for k in range(shares.shape[2])]
        assert shares[2, number, :, 40 // MASK_STRIDE, 60 // MASK_STRIDE].tolist() == wanted
        starts = np.cumsum([0, *ATTRIBUTE_SIZES])
        for start, names, key in zip(starts, (SHAPES, COLOURS, SIZES), ("shape", "colour", "size_name")):
            for index, name in enumerate(names):
                own = [k + 1 for k, o in enumerate(layout.objects) if getattr(o, key) == name]
                assert torch.equal(attributes[:, number, start + 1 + index], shares[:, number, own].sum(1))


def test_a_clip_is_shown_as_each_of_its_frames_would_be() -> None:
    view = LanguageView.of(360, 640, 3, LANGUAGE)
    drawn = draw(LAYOUTS, view)
    assert drawn.shown.shape == (3, len(LAYOUTS), *view.size, 3)
    alone = cv2.resize(drawn.frames[2, 1].numpy(), view.size[::-1], interpolation=cv2.INTER_AREA)
    assert np.array_equal(drawn.shown[2, 1].numpy(), alone)
    (patches, _), (one, grid) = (view.patches(shown, LANGUAGE) for shown in (drawn.shown, drawn.shown[:, 1:2]))
    assert torch.equal(patches.chunk(len(LAYOUTS))[1], one) and grid.tolist() == [[2, *(n // 16 for n in view.size)]]


def test_both_renderers_draw_the_same_shapes() -> None:
    view = LanguageView.of(480, 640, 2, LANGUAGE)
    host, device = draw(LAYOUTS, view), draw(Canvas.of(LAYOUTS), view)
    for name in ("frames", "labels", "shown"):
        ours, theirs = getattr(device, name), getattr(host, name)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.uint8
        assert (ours.int() - theirs.int()).abs().float().mean() < 1.5

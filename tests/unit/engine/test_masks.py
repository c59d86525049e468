"""From mask maps to the image: what part shows it, enlarging, who wins a pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from x2sam_ros.engine.masks import Placement, strongest
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.model.segmentor import StepOutput

SQUARE, LONGEST = SegmentorConfig(image_size=128), SegmentorConfig(image_size=128, resize="longest")


def output(queries: int = 3, classes: int = 4) -> StepOutput:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, queries, classes + 1, generator=generator)
    return StepOutput(logits, torch.randn(2, queries, 32, 32, generator=generator), torch.zeros(2, queries, 8), ())


@pytest.mark.parametrize(
    ("size", "config", "extent", "cells"),
    [
        ((480, 640), SQUARE, (128, 128), (32, 32)),
        ((480, 640), LONGEST, (96, 128), (24, 32)),
        ((640, 477), LONGEST, (128, 95), (32, 24)),
        ((1, 100), LONGEST, (1, 128), (1, 32)),
        ((1, 1), LONGEST, (128, 128), (32, 32)),
    ],
)
def test_where_the_image_lies(
    size: tuple[int, int], config: SegmentorConfig, extent: tuple[int, int], cells: tuple[int, int]
) -> None:
    place = Placement.of(size, config)
    assert (place.extent, place.cells) == (extent, cells)
    found = place.candidates(output(), 1, 2)
    assert found.mask_logits.shape == (3, *cells) and found.probs.shape == (3, 2)
    assert place.enlarge(found.mask_logits).shape == (3, *size)
    assert place.exact_candidates(output(), 1, 2).mask_logits.shape == (3, *size)


def test_padded_classes_are_left_out() -> None:
    made = output()
    found = Placement.of((64, 64), SQUARE).candidates(made, 0, 2)
    expected = made.class_logits[0][:, [0, 1, 4]].softmax(-1)[:, :2]
    assert torch.allclose(found.probs, expected)


@pytest.mark.parametrize(
    ("size", "tolerance"), [((96, 128), 1e-5), ((90, 128), 1e-5), ((75, 128), 1e-5), ((256, 200), 0.1)]
)
def test_a_padded_map_is_enlarged_as_published(size: tuple[int, int], tolerance: float) -> None:
    """The published evaluation goes through the square's size, and at the edge looks into the padding."""
    place = Placement.of(size, LONGEST)
    coarse = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(coarse, size=(32, 32), mode="bicubic")
    square = F.interpolate(smooth, size=(128, 128), mode="bilinear", align_corners=False)
    shown = square[..., : place.extent[0], : place.extent[1]]
    expected = F.interpolate(shown, size=size, mode="bilinear", align_corners=False)[0]
    found = place.enlarge(smooth[0, :, : place.cells[0], : place.cells[1]])
    assert float((found - expected)[:, :-4, :-4].abs().max()) < tolerance


def test_maps_of_the_image_stay_as_they_are() -> None:
    maps = torch.randn(2, 60, 90)
    assert torch.equal(Placement.of((60, 90), LONGEST).enlarge(maps), maps)


def test_each_pixel_has_one_owner() -> None:
    logits = torch.tensor([[[1.0, -1.0]], [[2.0, -3.0]]])
    assert strongest(logits).tolist() == [[[False, True]], [[True, False]]]

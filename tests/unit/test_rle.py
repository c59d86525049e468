"""Run lengths: against pycocotools, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from x2sam_ros.errors import FrameError
from x2sam_ros.rle import (
    BoxRle,
    box_rle_to_mask,
    decode_rle,
    encode_rle,
    from_coco,
    mask_to_box_rle,
    to_coco,
)


def _slow_encode(mask: np.ndarray) -> list[int]:
    """Count runs pixel by pixel, column by column."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def _masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 7), (7, 1), (2, 2), (13, 5), (40, 60)]
    random = [rng.random(shape) < share for shape in shapes for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
    disc = np.hypot(*np.mgrid[-20:20, -30:30]) < 15
    return [*random, disc, ~disc]


@pytest.mark.parametrize("mask", _masks(), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_counts_are_those_of_the_slow_definition_and_go_back(mask: np.ndarray) -> None:
    counts = encode_rle(mask)
    assert counts.dtype == np.uint32
    assert counts.tolist() == _slow_encode(mask)
    np.testing.assert_array_equal(decode_rle(counts, *mask.shape), mask)


@pytest.mark.parametrize("mask", _masks(), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_coco_form_is_pycocotools_own_and_lossless(mask: np.ndarray) -> None:
    counts = encode_rle(mask)
    coco = to_coco(counts, *mask.shape)
    assert coco == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(from_coco(coco), counts)


@pytest.mark.parametrize("mask", _masks(), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_box_is_tight_and_goes_back(mask: np.ndarray) -> None:
    box = mask_to_box_rle(mask)
    assert box.counts.sum() == box.width * box.height
    assert box.counts[1::2].sum() == mask.sum()
    if mask.any():
        rows, columns = np.nonzero(mask)
        assert (box.x, box.y) == (columns.min(), rows.min())
        assert (box.width, box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    np.testing.assert_array_equal(box_rle_to_mask(box, mask.shape), mask)


def test_views_that_are_not_contiguous_encode_alike() -> None:
    mask = np.random.default_rng(1).random((30, 40)) < 0.3
    for view in (mask[::2, ::3], mask.T, np.asfortranarray(mask)):
        assert encode_rle(view).tolist() == _slow_encode(view)


def test_empty_image_has_no_runs() -> None:
    assert encode_rle(np.zeros((0, 4), bool)).size == 0
    assert decode_rle([], 0, 4).shape == (0, 4)


@pytest.mark.parametrize("runs", [[2, 3], [2, 5], [-2, 8], []])
def test_coco_form_of_other_pixels_is_refused(runs: list[int]) -> None:
    with pytest.raises(FrameError, match="3x2"):
        from_coco(to_coco(runs, 2, 3))


@pytest.mark.parametrize("counts", ["P", "\u00e9", "o" * 20 + "1"])
def test_damaged_coco_form_is_refused(counts: str) -> None:
    with pytest.raises(FrameError, match="of 3x2 pixels are damaged"):
        from_coco({"size": [2, 3], "counts": counts})


def test_counts_of_another_size_are_refused() -> None:
    with pytest.raises(FrameError, match="add up to 5 pixels, the mask is 3x2"):
        decode_rle([2, 3], 2, 3)


def test_box_outside_the_image_is_refused() -> None:
    with pytest.raises(FrameError, match="leaves the 8x8 image"):
        box_rle_to_mask(BoxRle(6, 0, 3, 1, np.array([0, 3], np.uint32)), (8, 8))

"""Where a click, box or mask points, and how well a query's mask fits it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from x2sam_ros.engine.region import POINT_RADIUS, locate, mask_iou, overlap
from x2sam_ros.errors import PromptError
from x2sam_ros.types import BoxPrompt, MaskPrompt, PointPrompt

SIZE = (60, 100)


def points(*rows: tuple[float, float, int]) -> PointPrompt:
    return PointPrompt(
        target_id=1, points_px=np.array([row[:2] for row in rows]), point_labels=np.array([row[2] for row in rows])
    )


def logits(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (15, 25)) -> Tensor:
    """Return one query for each box x1, y1, x2, y2 in cells of a map at a quarter of ``SIZE``."""
    maps = torch.full((len(boxes), *size), -9.0)
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        maps[row, y1:y2, x1:x2] = 9.0
    return maps


def test_a_click_becomes_a_disc_and_a_place() -> None:
    size = (480, 640)
    region = locate(points((320, 100, 1)), size)
    rows, columns = np.nonzero(region.mask)
    radius = round(POINT_RADIUS * 640)
    assert (rows.min(), rows.max()) == (100 - radius, 100 + radius)
    assert (columns.min(), columns.max()) == (320 - radius, 320 + radius)
    np.testing.assert_allclose(region.points, [[320.5 / 640, 100.5 / 480]])
    assert region.shape is None and region.box is None


@pytest.mark.parametrize("place", [(0, 0), (99, 59), (99.9, 59.9)])
def test_clicks_on_the_border_are_inside(place: tuple[float, float]) -> None:
    assert locate(points((*place, 1)), SIZE).mask.any()


@pytest.mark.parametrize("place", [(-0.1, 5), (100, 5), (5, 60), (5, -1), (1e9, 1e9)])
def test_clicks_outside_are_refused(place: tuple[float, float]) -> None:
    with pytest.raises(PromptError, match=r"click at \(.*\) is outside the image of 100x60 pixels"):
        locate(points((*place, 1)), SIZE)


def test_negative_clicks_cut_the_present_mask() -> None:
    current = np.zeros(SIZE, bool)
    current[10:50, 10:90] = True
    region = locate(points((20, 30, 0)), SIZE, current)
    assert region.shape is not None and not region.mask[30, 20] and region.mask[30, 80]
    assert not (region.mask & ~current).any()
    with pytest.raises(PromptError, match="has no mask now"):
        locate(points((20, 30, 0)), SIZE)
    tiny = np.zeros(SIZE, bool)
    tiny[30, 20] = True
    with pytest.raises(PromptError, match="leave nothing of the target"):
        locate(points((20, 30, 0)), SIZE, tiny)


def test_a_box_is_clipped_to_the_image_or_refused() -> None:
    region = locate(BoxPrompt(box_px=np.array([-20.0, 10.5, 50.0, 500.0])), SIZE)
    assert region.box == pytest.approx((0, 10.5 / 60, 0.5, 1))
    assert region.mask[10:, :50].all() and not region.mask[:10].any() and not region.mask[:, 50:].any()
    with pytest.raises(PromptError, match="outside the image of 100x60"):
        locate(BoxPrompt(box_px=np.array([100.0, 0.0, 120.0, 20.0])), SIZE)
    thin = locate(BoxPrompt(box_px=np.array([99.2, 59.2, 99.4, 59.4])), SIZE)
    assert thin.mask.sum() == 1 and thin.mask[59, 99]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(PromptError, match="mask prompt is 9x8, the image 100x60"):
        locate(MaskPrompt(mask=np.ones((8, 9), bool)), SIZE)


def test_points_score_the_query_under_them_and_against_negative_ones() -> None:
    queries = logits((0, 0, 10, 15), (12, 0, 25, 15), (0, 0, 25, 15))
    score = overlap(locate(points((10, 30, 1)), SIZE), queries)
    assert score.tolist() == pytest.approx([1, 0, 1], abs=1e-3)
    score = overlap(locate(points((10, 30, 1), (80, 30, 0)), SIZE), queries)
    assert score.tolist() == pytest.approx([1, -1, 0], abs=1e-3)


def test_a_box_scores_by_the_iou_of_boxes() -> None:
    queries = torch.cat([logits((5, 5, 15, 10), (0, 0, 25, 15), (10, 5, 20, 10)), torch.full((1, 15, 25), -1.0)])
    score = overlap(locate(BoxPrompt(box_px=np.array([20.0, 20.0, 60.0, 40.0])), SIZE), queries)
    assert score.tolist() == pytest.approx([1, 50 / 375, 1 / 3, 0], abs=1e-5)


def test_a_thin_scribble_still_overlaps() -> None:
    mask = np.zeros(SIZE, bool)
    mask[30, 20:60] = True
    queries = logits((5, 7, 15, 8), (18, 0, 25, 5))
    score = overlap(locate(MaskPrompt(mask=mask), SIZE), queries)
    assert score.tolist() == pytest.approx([1, 0])


def test_mask_iou_by_hand() -> None:
    a = torch.zeros(2, 2, 4, dtype=torch.bool)
    a[0, 0] = True
    other = torch.zeros(2, 4, dtype=torch.bool)
    other[0, 2:] = other[1, 2:] = True
    assert mask_iou(a, other).tolist() == pytest.approx([2 / 6, 0])
    assert mask_iou(a[1:], a[1]).tolist() == [0]

"""Region prompts: which points are drawn, what is read there."""

from __future__ import annotations

import pytest
import torch

from x2sam_ros.errors import ModelError, PromptError
from x2sam_ros.model.language_config import RegionConfig
from x2sam_ros.model.regions import RegionSampler, draw_points, space_to_depth


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_few_pixels_come_in_raster_order_then_repeat() -> None:
    mask = torch.zeros(1, 8, 10, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 5, 1] = mask[0, 5, 7] = True
    points = draw_points(mask, 16, seeded())
    expected = torch.tensor([[2 / 8, 3 / 10], [5 / 8, 1 / 10], [5 / 8, 7 / 10]])
    torch.testing.assert_close(points[0, :3], expected)
    assert {tuple(p) for p in points[0].tolist()} == {tuple(p) for p in expected.tolist()}


def test_many_pixels_give_distinct_points_inside() -> None:
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[0, 4:20, 8:24], mask[1, :, :16] = True, True
    points = draw_points(mask, 64, seeded())
    for region, drawn in zip(mask, points):
        rows, columns = (drawn * 32).round().long().unbind(-1)
        assert region[rows, columns].all()
        assert len(set(zip(rows.tolist(), columns.tolist()))) == 64
    torch.testing.assert_close(points, draw_points(mask, 64, seeded()))
    assert not torch.equal(points, draw_points(mask, 64, seeded(1)))


def test_an_empty_region_is_refused() -> None:
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(PromptError, match="region 1"):
        draw_points(mask, 4)


def test_tokens_read_the_map_at_the_points() -> None:
    """A map that holds its own coordinates gives the mean coordinates of each group of points."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 9), indexing="ij")
    maps = torch.stack([torch.stack([rows, columns], -1), torch.zeros(5, 9, 2)])
    points = torch.rand(3, 8, 2, generator=seeded())
    tokens = RegionSampler(RegionConfig(num_sample_point=8, pooling_kernel=4))(maps, points, torch.tensor([0, 1, 0]))
    assert tokens.shape == (3, 2, 2)
    torch.testing.assert_close(tokens[[0, 2]], points[[0, 2]].reshape(2, 2, 4, 2).mean(2))
    assert not tokens[1].any()


def test_space_to_depth_keeps_each_block_together() -> None:
    features = torch.arange(4 * 6).reshape(1, 4, 6, 1)
    folded = space_to_depth(features, 2)
    assert folded.shape == (1, 2, 3, 4)
    assert folded[0, 1, 2].tolist() == [16, 17, 22, 23]
    with pytest.raises(ModelError, match="blocks of 4"):
        space_to_depth(features, 4)

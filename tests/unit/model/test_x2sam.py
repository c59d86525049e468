"""What the whole network adds to its parts: pictures that carry the mask encoder's features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.model.networks import nano, nano_tokenizer
from x2sam_ros.errors import ModelError
from x2sam_ros.model.config import preset
from x2sam_ros.model.x2sam import X2SAM

GRIDS = {"square": (1, 16, 16), "wide": (1, 6, 16), "tall clip": (3, 12, 8)}


def drawn(grid: tuple[int, int, int], pictures: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return patches, grids and one stage map for each frame pair, all random."""
    generator = torch.Generator().manual_seed(0)
    steps, rows, columns = grid
    patches = torch.randn(
        pictures * steps * rows * columns, nano().config.language.vision.patch_dim, generator=generator
    )
    channels = nano().segmentor.encoder.stage_channels[nano().config.region.region_stage]
    return patches, torch.tensor([grid] * pictures), torch.randn(pictures * steps, 8, 8, channels, generator=generator)


def at_stage(maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return stage outputs of which only the one that is read has features."""
    nothing = maps.new_zeros(len(maps), 1, 1, 1)
    return tuple(maps if stage == nano().config.region.region_stage else nothing for stage in range(4))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_token_carries_what_lies_in_its_cell(grid: tuple[int, int, int]) -> None:
    """What is added is linear interpolation of the projected map, written out here for each token."""
    patches, grids, maps = drawn(grid, pictures=2)
    model, merge = nano(), nano().config.language.vision.spatial_merge_size
    plain, seen = model.language.encode_image(patches, grids), model.encode_picture(patches, grids, at_stage(maps))
    steps, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    added = (seen.embeds - plain.embeds).view(2 * steps, rows, columns, -1)
    projected = model.picture_projector(maps)
    for step, row, column in ((0, 0, 0), (2 * steps - 1, rows - 1, columns - 1), (steps, rows // 2, 1)):
        y, x = (row + 0.5) * 8 / rows - 0.5, (column + 0.5) * 8 / columns - 0.5
        y, x = min(max(y, 0.0), 7.0), min(max(x, 0.0), 7.0)
        y0, x0 = min(int(y), 6), min(int(x), 6)
        corners = projected[step, y0 : y0 + 2, x0 : x0 + 2]
        weights = torch.tensor([[(1 - y + y0) * (1 - x + x0), (1 - y + y0) * (x - x0)], [(y - y0) * (1 - x + x0), 0.0]])
        weights[1, 1] = (y - y0) * (x - x0)
        expected = (weights[..., None] * corners).sum((0, 1))
        torch.testing.assert_close(added[step, row, column], expected, atol=1e-5, rtol=1e-4)
    assert seen.counts == plain.counts and all(map(torch.equal, seen.deepstack, plain.deepstack))


def test_features_of_too_few_frames_are_refused() -> None:
    patches, grids, maps = drawn(GRIDS["tall clip"])
    for stages, seen in (((), 0), (tuple(maps[:2] for _ in range(4)), 2)):
        with pytest.raises(ModelError, match=f"saw {seen} frames, the pictures have 3 frame pairs"):
            nano().encode_picture(patches, grids, stages)


def test_the_published_network_has_no_such_part() -> None:
    config = preset("nano")
    model = X2SAM(replace(config, region=replace(config.region, picture_features=False)), nano_tokenizer())
    assert not [name for name, _ in model.named_parameters() if name.startswith("picture_projector")]
    assert not preset("release").region.picture_features
    patches, grids, _ = drawn(GRIDS["wide"])
    torch.testing.assert_close(
        model.encode_picture(patches, grids).embeds, model.language.encode_image(patches, grids).embeds
    )

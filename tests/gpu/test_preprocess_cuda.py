"""Preprocessing on a GPU gives, bit for bit, what the CPU gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam_ros.engine.preprocess import clip_patches, mask_encoder_pixels, picture_patches, resize_region
from x2sam_ros.engine.resample import Arithmetic, Filter, resize_levels
from x2sam_ros.model.config import RESAMPLE_MODES, RESIZE_MODES
from x2sam_ros.model.language_config import LanguageConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch finds no CUDA device"),
]


def frames(count: int, height: int = 270, width: int = 480) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("arithmetic", ["pil", "torch"])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(128, 128), (96, 1000), (600, 64), (1, 1)])
def test_levels(size: tuple[int, int], kind: Filter, arithmetic: Arithmetic) -> None:
    planes = torch.from_numpy(frames(2)).permute(0, 3, 1, 2)
    expected = resize_levels(planes, size, kind, arithmetic)
    with torch.autocast("cuda", torch.bfloat16):
        found = resize_levels(planes.cuda(), size, kind, arithmetic)
    assert found.is_cuda and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("resample", RESAMPLE_MODES)
@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_mask_encoder_input(resize: str, resample: str) -> None:
    expected = mask_encoder_pixels(frames(3), 256, "cpu", resize, resample)
    assert torch.equal(mask_encoder_pixels(frames(3), 256, "cuda", resize, resample).cpu(), expected)


def test_language_input() -> None:
    for cut in (picture_patches, clip_patches):
        (expected, expected_grid), (found, grid) = (cut(frames(3), LanguageConfig(), d) for d in ("cpu", "cuda"))
        assert found.is_cuda and torch.equal(found.cpu(), expected)
        assert torch.equal(grid, expected_grid)


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_regions(resize: str) -> None:
    masks = frames(3)[..., 0] > 200
    masks[1] = False
    masks[2] = False
    masks[2, 101, 333] = True
    expected = resize_region(masks, 64, "cpu", resize)
    assert torch.equal(resize_region(masks, 64, "cuda", resize).cpu(), expected)
    assert expected[2].sum() == 1 and not expected[1].any()

"""Resizing level for level: against PIL, against torch's kernel on the CPU, and these two against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from x2sam_ros.engine.resample import Filter, resize_levels, resize_nearest, resize_portably

SIZES = [
    # height, width and what they become: down, up, odd, one axis only, one pixel, elongated
    ((480, 640), (128, 128)),
    ((640, 480), (96, 128)),
    ((100, 150), (96, 160)),
    ((48, 64), (128, 128)),
    ((101, 67), (53, 91)),
    ((33, 65), (64, 64)),
    ((50, 70), (50, 33)),
    ((50, 70), (21, 70)),
    ((50, 70), (50, 70)),
    ((1, 1), (32, 32)),
    ((37, 23), (1, 1)),
    ((1, 400), (32, 64)),
    ((400, 2), (64, 32)),
    ((3, 1000), (2, 7)),
    ((1000, 3), (7, 2)),
    ((257, 255), (256, 256)),
    ((720, 1280), (32, 32)),
]
SAMPLING: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def pictures(size: tuple[int, int]) -> list[np.ndarray]:
    """Return noise, which takes all levels, and black and white, which overshoots."""
    noise = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    return [noise, (noise > 127).astype(np.uint8) * 255]


def planes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)[None].permute(0, 3, 1, 2)


def resized_by_pil(image: np.ndarray, size: tuple[int, int], kind: Filter) -> np.ndarray:
    """Resize axis by axis, in Pillow 13's order: older ones always go across first."""
    height, width = size
    down_first = (rows := image.shape[0] - height) > 0 and rows > 2 * (image.shape[1] - width)
    between = (image.shape[1], height) if down_first else (width, image.shape[0])
    picture = Image.fromarray(image).resize(between, SAMPLING[kind])
    return np.asarray(picture.resize((width, height), SAMPLING[kind]))


def random_sizes(count: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    exponents = np.random.default_rng(11).uniform(0, 8, (count, 4))
    return [((h, w), (oh, ow)) for h, w, oh, ow in (2**exponents).astype(int).tolist()]


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("before", "after"), [*SIZES, *random_sizes(40)])
def test_it_is_what_pil_makes(before: tuple[int, int], after: tuple[int, int], kind: Filter) -> None:
    for image in pictures(before):
        found = resize_levels(planes(image), after, kind, "pil")
        np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy(), resized_by_pil(image, after, kind))


def test_the_order_of_the_axes_is_that_of_pillow_13() -> None:
    if int(Image.__version__.partition(".")[0]) < 13:
        pytest.skip(f"Pillow {Image.__version__} always resizes across first")
    image = pictures((160, 150))[0]
    for size in ((96, 160), (64, 96), (150, 64), (159, 150), (158, 149), (157, 149), (160, 20)):
        whole = np.asarray(Image.fromarray(image).resize((size[1], size[0]), SAMPLING["bicubic"]))
        np.testing.assert_array_equal(resized_by_pil(image, size, "bicubic"), whole)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("before", "after"), [*SIZES, *random_sizes(40)])
def test_the_portable_way_is_torchs_kernel(before: tuple[int, int], after: tuple[int, int], kind: Filter) -> None:
    for image in pictures(before):
        expected = F.interpolate(planes(image), size=after, mode=kind, antialias=True)
        assert torch.equal(resize_portably(planes(image), after, kind, "torch"), expected)
        assert torch.equal(resize_levels(planes(image), after, kind, "torch"), expected)


@pytest.mark.parametrize(("before", "after"), [*SIZES, *random_sizes(40)])
def test_torch_is_within_one_level_of_pil(before: tuple[int, int], after: tuple[int, int]) -> None:
    for image in pictures(before):
        found = resize_levels(planes(image), after, "bilinear", "torch").int()
        assert (found - resize_levels(planes(image), after, "bilinear", "pil").int()).abs().max() <= 1


@pytest.mark.parametrize(("before", "after"), [*SIZES, *random_sizes(40)])
def test_nearest_is_what_pil_takes(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = pictures(before)[0][..., 0]
    expected = np.asarray(Image.fromarray(image).resize((after[1], after[0]), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_nearest(torch.from_numpy(image), after).numpy(), expected)


def test_a_batch_is_its_pictures_one_by_one() -> None:
    batch = torch.cat([planes(image) for image in pictures((90, 70))] * 2)
    together = resize_levels(batch, (64, 96), "bicubic", "pil")
    for row, image in zip(together, batch):
        assert torch.equal(row[None], resize_levels(image[None].contiguous(), (64, 96), "bicubic", "pil"))


def test_working_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = planes(pictures((90, 70))[0])
    expected = resize_levels(image, (64, 96), "bicubic", "pil")
    for values in (1, 90 * 3 * 7, 10_000):
        monkeypatch.setattr("x2sam_ros.engine.resample._CHUNK_VALUES", values)
        assert torch.equal(resize_levels(image, (64, 96), "bicubic", "pil"), expected)


def test_it_is_exact_where_products_are_rounded() -> None:
    image = planes(pictures((90, 70))[0])
    expected = resize_levels(image, (64, 96), "bicubic", "pil")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_levels(image, (64, 96), "bicubic", "pil"), expected)

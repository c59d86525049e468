"""V-VGD's drawing rules, and that the same seed draws the same everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from x2sam_ros.truth.shown_regions import REGION_KINDS, deepest_point, draw_region, pieces_of

HEIGHT, WIDTH = 120, 160
SEEDS = [f"{number}" for number in range(20)]


def two_pieces() -> np.ndarray:
    """A square with a hole, and a bar that touches the right border."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:80, 30:90] = True
    mask[45:55, 55:65] = False
    mask[95:105, 120:160] = True
    return mask


def digest() -> str:
    drawn = [draw_region(two_pieces(), kind, seed) for kind in REGION_KINDS for seed in SEEDS]
    return hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest()


def test_pieces_are_8_connected_and_larger_than_five_pixels() -> None:
    mask = np.zeros((20, 20), bool)
    mask[0, :5] = True  # five pixels: too small
    mask[3:6, 3:6] = np.eye(3, dtype=bool)
    mask[6:9, 6:9] = np.eye(3, dtype=bool)
    piece, *others = pieces_of(mask)
    assert not others
    assert piece[:4] == (3, 3, 9, 9) and piece.row == piece.column == 5.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_point_is_a_disc_of_radius_10_on_the_object_near_the_centre_of_each_piece(seed: str) -> None:
    mask = two_pieces()
    drawn = draw_region(mask, "point", seed)
    rows, columns = np.nonzero(drawn[:95, :110])
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    y, x = np.ogrid[:95, :110]
    assert np.array_equal(drawn[:95, :110], (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= 100)
    assert mask[int(centre[0]), int(centre[1])]
    assert max(abs(centre[0] - 49.5), abs(centre[1] - 59.5)) <= 30.5  # half of the box's shorter side
    assert drawn[86:115, 110:].any()  # the other piece, cut off by the border


@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_is_filled_and_nine_to_eleven_tenths_of_the_piece(seed: str) -> None:
    drawn = draw_region(two_pieces(), "box", seed)[:95, :110]
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    assert drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert all(53 <= len(side) <= 67 for side in (rows, columns))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scribble_is_a_stroke_of_eleven_pixels_through_each_piece(seed: str) -> None:
    mask = np.zeros((300, 300), bool)
    mask[100:200, 100:200] = True
    drawn = draw_region(mask, "scribble", seed)
    rows, columns = np.nonzero(drawn)
    assert 50 <= np.ptp(columns) <= 120 + 10  # the box is 0.5 to 1.2 times the piece's, and the brush adds its radius
    thickness = drawn[:, columns.min() + 20 : columns.max() - 20].sum(0)
    assert thickness.min() >= 11
    assert rows.min() >= 100 - 10 - 20 - 5 and rows.max() <= 200 + 10 + 20 + 5
    assert len(pieces_of(drawn)) == 1


def test_a_mask_is_blurred_and_taken_above_its_mean() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    x = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (x / 2.0) ** 2)
    kernel /= kernel.sum()
    blurred = np.apply_along_axis(np.convolve, 0, mask.astype(float), kernel, "same")
    blurred = np.apply_along_axis(np.convolve, 1, blurred, kernel, "same")
    assert np.array_equal(draw_region(mask, "mask", ""), blurred > blurred.mean())


@pytest.mark.parametrize("kind", REGION_KINDS)
def test_what_cannot_be_drawn_is_shown_by_its_mask(kind: str) -> None:
    tiny, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    tiny[4, 4] = True
    assert draw_region(tiny, kind, "").any()
    assert kind == "mask" or np.array_equal(draw_region(tiny, kind, ""), tiny)
    assert draw_region(full, kind, "").any()


def test_draws_depend_on_the_seed_alone() -> None:
    assert not np.array_equal(draw_region(two_pieces(), "point", "a"), draw_region(two_pieces(), "point", "b"))
    command = f"from {__name__.rpartition('.')[2]} import digest; print(digest())"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(_places())}
        said = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
        )
        assert said.stdout.strip() == digest()


def _places() -> list[str]:
    here = os.path.dirname(os.path.abspath(__file__))
    return [here, os.path.abspath(os.path.join(here, *[os.pardir] * 3))]


def test_the_deepest_point_is_farthest_from_edge_and_border() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, 20:] = True
    x, y = deepest_point(mask)
    assert 4 <= y <= 15 and x in (24, 25)
    mask[:] = False
    mask[19, 29] = True
    assert deepest_point(mask) == (29, 19)

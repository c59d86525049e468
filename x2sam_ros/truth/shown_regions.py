"""What a person would draw to show an object: V-VGD's point, scribble, box and mask, by the published rules.

Every rule draws at random; the draws depend on a seed in words alone, so that they are the same in every process and on
every machine.

Source: X2SAM, the generator of its visual prompts. There the draws are not seeded, and what cannot be drawn is left
out.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from x2sam_ros.types import BoolArray

REGION_KINDS = ("point", "scribble", "box", "mask")

MIN_PIECE_PX = 5
"""Connected pieces of an object with at most this many pixels are not pointed at."""

_POINT_RADIUS_PX, _BRUSH_RADIUS_PX = 10, 5
_TRIES = 1000
_MASK_SIGMA_PX = 2.0


class Piece(NamedTuple):
    """A connected piece of a mask: its box, last row and column excluded, and its centre, pixels."""

    top: int
    left: int
    bottom: int
    right: int
    row: float
    column: float


def pieces_of(mask: BoolArray) -> list[Piece]:
    """Return the pieces (8-connected) of more than ``MIN_PIECE_PX`` pixels, from the top left on."""
    _, _, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = (
        Piece(int(top), int(left), int(top + height), int(left + width), float(row), float(column))
        for (left, top, width, height, area), (column, row) in zip(stats[1:], centres[1:])
        if area > MIN_PIECE_PX
    )
    return sorted(found)  # OpenCV does not promise an order


def draw_region(mask: BoolArray, kind: str, seed: str) -> BoolArray:
    """Draw what shows an object.

    - point: a disc of radius 10 around a pixel of the object, near the centre of the piece;
    - scribble: a wavy diagonal, 11 wide, through a box of 0.5 to 1.2 times the piece's that overlaps it by half;
    - box: the piece's box times 0.9 to 1.1, filled;
    - mask: the object blurred with sigma 2, where that is above its mean.

    Point, scribble and box are drawn for each piece and united. They may leave the object, as a person's do.

    Args:
        mask: bool (H, W), the object; it must have a pixel.
        kind: one of ``REGION_KINDS``.
        seed: everything that tells this drawing from others.

    Returns:
        bool (H, W); the mask itself where the rule draws nothing, as on an object of a few pixels.
    """
    rng = random.Random(seed)  # of a text it takes the SHA-512, never Python's hash
    if kind == "mask":
        # The blur keeps the sum, since it reflects at the borders: the mask's mean is the blurred one's, but exact.
        drawn = gaussian_filter(mask.astype(np.float64), _MASK_SIGMA_PX) > mask.mean()
    else:
        drawn = np.zeros(mask.shape, np.bool_)
        for piece in pieces_of(mask):
            {"point": _draw_point, "scribble": _draw_scribble, "box": _draw_box}[kind](drawn, piece, mask, rng)
        radius = {"point": _POINT_RADIUS_PX, "scribble": _BRUSH_RADIUS_PX}.get(kind, 0)
        drawn = _thickened(drawn, radius) if radius else drawn
    return drawn if drawn.any() else mask.copy()


def deepest_point(mask: BoolArray) -> tuple[int, int]:
    """Return x, y of the pixel farthest from the mask's edge, where a person would click; the image's border is one."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x) - 1, int(y) - 1


def _draw_point(drawn: BoolArray, piece: Piece, mask: BoolArray, rng: random.Random) -> None:
    reach = 0.5 * min(piece.bottom - piece.top, piece.right - piece.left)
    for _ in range(_TRIES):
        angle = rng.uniform(0, 2 * math.pi)
        row = int(piece.row + rng.uniform(0, reach) * math.cos(angle))
        column = int(piece.column + rng.uniform(0, reach) * math.sin(angle))
        row = min(max(row, piece.top), piece.bottom - 1)
        column = min(max(column, piece.left), piece.right - 1)
        if mask[row, column]:
            drawn[row, column] = True
            return


def _draw_scribble(drawn: BoolArray, piece: Piece, mask: BoolArray, rng: random.Random) -> None:
    height, width = mask.shape
    box = _scribbled_box(piece, height, width, rng)
    if box is None:
        return
    top, left, bottom, right = box
    corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
    start = int(4 * rng.random())
    (from_row, from_column), (to_row, to_column) = corners[start], corners[3 - start]
    count = max(abs(to_row - from_row), abs(to_column - from_column)) + 1
    along = np.linspace(0, 1, count)
    amplitude, waves, phase = rng.uniform(10, 20), rng.uniform(0.2, 1), rng.uniform(0, 2 * math.pi)
    rows = np.rint(from_row + along * (to_row - from_row)) + amplitude * np.sin(2 * math.pi * waves * along + phase)
    columns = np.rint(from_column + along * (to_column - from_column))
    drawn[np.clip(rows, 0, height - 1).astype(int), np.clip(columns, 0, width - 1).astype(int)] = True


def _scribbled_box(piece: Piece, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int] | None:
    for _ in range(_TRIES):
        tall = (piece.bottom - piece.top) * rng.uniform(0.5, 1.2)
        wide = (piece.right - piece.left) * rng.uniform(0.5, 1.2)
        top, left = max(0, int(piece.row - tall / 2)), max(0, int(piece.column - wide / 2))
        bottom, right = min(height, int(piece.row + tall / 2)), min(width, int(piece.column + wide / 2))
        if _box_iou((top, left, bottom, right), piece[:4]) >= 0.5:
            return top, left, bottom, right
    return None


def _box_iou(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the IoU of boxes (top, left, bottom, right) whose last row and column count, as published."""
    shared = max(0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    shared *= max(0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    areas = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other))
    return shared / (sum(areas) - shared)


def _draw_box(drawn: BoolArray, piece: Piece, mask: BoolArray, rng: random.Random) -> None:
    more = (rng.uniform(0.9, 1.1) - 1) / 2
    down, across = (piece.bottom - piece.top) * more, (piece.right - piece.left) * more
    rows = slice(max(0, int(piece.top - down)), int(piece.bottom + down))
    drawn[rows, max(0, int(piece.left - across)) : int(piece.right + across)] = True


def _thickened(drawn: BoolArray, radius: int) -> BoolArray:
    """Put a disc on every pixel that is set."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.dilate(drawn.astype(np.uint8), disc).astype(np.bool_)

"""Run-length masks: lossless, column-major, the order of pycocotools' uncompressed counts.

A mask is read column by column, each column from top to bottom. ``counts`` are the lengths of the runs,
zeros and ones in turn, beginning with zeros: the first count is 0 when the top left pixel is set. Counts
add up to height * width. Messages carry the runs inside the mask's tight box, which is smaller still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from x2sam_ros.types import BoolArray

Counts = npt.NDArray[np.uint32]

_MOST_GROUPS = 7
"""Groups of five bits that a run of 32 bits needs at most."""


class BoxRle(NamedTuple):
    """A mask as runs inside its tight box: x, y, width, height in pixels; all zero for an empty mask."""

    x: int
    y: int
    width: int
    height: int
    counts: Counts


def encode_rle(mask: BoolArray) -> Counts:
    """Encode a mask as run lengths.

    Args:
        mask: bool (H, W).

    Returns:
        uint32 (R,), zeros first; empty when the mask has no pixels.
    """
    height, width = mask.shape
    if mask.size == 0:
        return np.zeros(0, np.uint32)
    # Changes are searched row by row, as the pixels lie in memory, and the few found are sorted into column
    # order: about five times faster than copying the transposed mask first.
    pixels = np.ascontiguousarray(mask, dtype=np.bool_)
    first_row = np.empty(width, np.bool_)
    first_row[0] = pixels[0, 0]
    np.not_equal(pixels[0, 1:], pixels[-1, :-1], out=first_row[1:])
    rows, columns = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), width)
    inside = columns * height + rows + 1
    starts = np.sort(np.concatenate([np.flatnonzero(first_row) * height, inside]))
    return np.diff(starts, prepend=0, append=height * width).astype(np.uint32)


def decode_rle(counts: npt.ArrayLike, height: int, width: int) -> BoolArray:
    """Decode run lengths into a bool (height, width) mask.

    Raises:
        FrameError: the counts do not add up to height * width.
    """
    runs = np.array(counts, dtype=np.int64)
    _check(runs, height, width)
    mask = np.zeros((height, width), np.bool_)
    if runs[1::2].any():
        # Only the columns from the first pixel to the last are unpacked.
        before, after = runs[0] // height, runs[-1] // height if len(runs) % 2 else 0
        runs[0] -= before * height
        runs[-1] -= after * height
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(-1, height)
        mask[:, before : width - after] = cv2.transpose(columns.view(np.uint8)).view(np.bool_)  # fast, unlike numpy's
    return mask


def _check(runs: npt.NDArray[np.int64], height: int, width: int) -> None:
    total = int(runs.sum())
    if total != height * width or (runs < 0).any():
        raise FrameError(f"run lengths add up to {total} pixels, the mask is {width}x{height}: {height * width}")


def mask_to_box_rle(mask: BoolArray) -> BoxRle:
    """Encode a bool (H, W) mask as run lengths inside its tight box."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return BoxRle(0, 0, 0, 0, np.zeros(0, np.uint32))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return BoxRle(left, top, right - left, bottom - top, encode_rle(mask[top:bottom, left:right]))


def box_rle_to_mask(box_rle: BoxRle, image_size: tuple[int, int]) -> BoolArray:
    """Decode run lengths inside a box into a bool mask of ``image_size`` = (height, width).

    Raises:
        FrameError: the box leaves the image, or the counts do not fill the box.
    """
    x, y, width, height, counts = box_rle
    if min(x, y, width, height) < 0 or x + width > image_size[1] or y + height > image_size[0]:
        raise FrameError(f"mask box {x},{y} {width}x{height} leaves the {image_size[1]}x{image_size[0]} image")
    mask = np.zeros(image_size, np.bool_)
    mask[y : y + height, x : x + width] = decode_rle(counts, height, width)
    return mask


def to_coco(counts: npt.ArrayLike, height: int, width: int) -> dict[str, Any]:
    """Convert run lengths to pycocotools' compressed form: ``{"size": [height, width], "counts": bytes}``.

    Source: COCO's mask API. From the fourth run on, the difference to the run before the last one is written, in
    groups of five bits, the lowest first; the sixth bit says that another group follows.
    """
    runs = np.asarray(counts, dtype=np.int64).reshape(-1)
    rest, groups = runs.copy(), []
    rest[3:] -= runs[1:-2]
    open_ = np.ones(len(rest), np.bool_)
    while open_.any():
        low = rest & 31
        rest >>= 5
        more = open_ & (rest != np.where(low & 16, -1, 0))
        groups.append(np.where(open_, 48 + (low | more * 32), 0))
        open_ = more
    written = np.stack(groups, axis=1).ravel() if groups else np.zeros(0, np.int64)
    return {"size": [height, width], "counts": written[written > 0].astype(np.uint8).tobytes()}


def from_coco(rle: Mapping[str, Any]) -> Counts:
    """Convert pycocotools' compressed form to run lengths (of the whole image, not of a box).

    Raises:
        FrameError: they are damaged, or do not add up to the image. pycocotools takes runs that end early for a whole
            mask, and hangs or crashes over others.
    """
    (height, width), written = rle["size"], rle["counts"]
    codes = np.frombuffer(written.encode() if isinstance(written, str) else written, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(codes) - 1 or lengths.max() > _MOST_GROUPS:
        raise FrameError(f"run lengths of {width}x{height} pixels are damaged: {written[:40]!r}")
    starts = ends - lengths + 1
    runs = np.add.reduceat((codes & 31) << 5 * (np.arange(len(codes)) - np.repeat(starts, lengths)), starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    _check(runs, height, width)
    return runs.astype(np.uint32)

"""Growing masks by a disk, 64 pixels at a time."""

from __future__ import annotations

from math import isqrt

import numpy as np
import numpy.typing as npt

from x2sam_ros.types import BoolArray

_WORD = "<u8"
_WORD_BITS = 64

_Words = npt.NDArray[np.uint64]


def dilate_disk(mask: BoolArray, radius_px: int) -> BoolArray:
    """Mark every pixel whose centre lies within a distance of a marked one.

    Pixels are packed into bits, so the time depends on the size and the radius and not on what the mask shows.

    Args:
        mask: bool (H, W).
        radius_px: 0 or more; the disk is ``x**2 + y**2 <= radius_px**2``.

    Returns:
        bool (H, W).
    """
    height, width = mask.shape
    # The unused bits behind each row are as many as anything is shifted by: no row runs over into the next.
    row_words = -(-(width + radius_px) // _WORD_BITS)
    packed = np.zeros((height, row_words * _WORD_BITS // 8), np.uint8)
    packed[:, : -(-width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    bits: _Words = packed.view(_WORD)
    wide, grown, reach = bits.copy(), np.zeros_like(bits), 0
    for rows_away in range(radius_px, 0, -1):
        reach = _widen(wide, bits, reach, isqrt(radius_px**2 - rows_away**2))
        grown[rows_away:] |= wide[:-rows_away]
        grown[:-rows_away] |= wide[rows_away:]
    _widen(wide, bits, reach, radius_px)
    grown |= wide
    unpacked = np.unpackbits(grown.view(np.uint8), axis=1, count=width, bitorder="little")
    return unpacked.view(np.bool_)


def _widen(wide: _Words, bits: _Words, reach: int, wanted: int) -> int:
    """Grow ``wide``, which holds ``bits`` and ``reach`` columns around, to ``wanted`` columns; return ``wanted``."""
    target, source = wide.reshape(-1), bits.reshape(-1)
    for columns in range(reach + 1, wanted + 1):
        words, rest = divmod(columns, _WORD_BITS)
        last = len(source) - words
        target[words:] |= source[:last] << np.uint64(rest)
        target[:last] |= source[words:] >> np.uint64(rest)
        if rest:
            back, last = np.uint64(_WORD_BITS - rest), max(last - 1, 0)
            target[words + 1 :] |= source[:last] >> back
            target[:last] |= source[words + 1 :] << back
    return wanted

"""What the tests of reading queries share: queries whose masks are columns of a small map."""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_ros.engine.select import Candidates

SIZE = (8, 16)


def masks(*columns: tuple[int, int]) -> Tensor:
    """Return one query for each (first, last) range of columns of an 8 x 16 map."""
    maps = torch.full((len(columns), *SIZE), -5.0)
    for row, (first, last) in enumerate(columns):
        maps[row, :, first:last] = 5.0
    return maps


def candidates(probs: list[list[float]], *columns: tuple[int, int]) -> Candidates:
    return Candidates(torch.tensor(probs), masks(*columns))

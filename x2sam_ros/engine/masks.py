"""From the network's mask maps to masks of the image: where the image lies in a map, enlarging, who wins a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.engine.preprocess import scaled_size
from x2sam_ros.engine.select import Candidates
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.model.segmentor import StepOutput

MASK_STRIDE = 4
"""Pixels of the mask encoder's square per cell of a mask map."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the mask encoder's square: in its upper left corner, or all over it.

    Args:
        image_size: (height, width) of the image, pixels.
        side: side of the square, pixels.
        extent: (height, width) of the image in the square, pixels of the square.
    """

    image_size: tuple[int, int]
    side: int
    extent: tuple[int, int]

    @classmethod
    def of(cls, image_size: tuple[int, int], config: SegmentorConfig) -> Placement:
        """Return the placement of an image of (height, width) pixels."""
        return cls(image_size, config.image_size, scaled_size(*image_size, config.image_size, config.resize))

    @property
    def cells(self) -> tuple[int, int]:
        """(height, width) of the part of a mask map that shows the image, cells."""
        return math.ceil(self.extent[0] / MASK_STRIDE), math.ceil(self.extent[1] / MASK_STRIDE)

    def candidates(self, output: StepOutput, row: int, num_labels: int) -> Candidates:
        """Return one prompt's queries over the image, without what pads the batch or the picture.

        Args:
            output: the network's answer.
            row: the prompt.
            num_labels: how many labels it has.

        Raises:
            ModelError: the network answered with NaN.
        """
        height, width = self.cells
        return Candidates.read(_own_classes(output, row, num_labels), output.mask_logits[row, :, :height, :width])

    def exact_candidates(self, output: StepOutput, row: int, num_labels: int) -> Candidates:
        """Return the same at the image's size, enlarged in the two steps of the published evaluation."""
        square = F.interpolate(
            output.mask_logits[row][None].float(), size=(self.side, self.side), mode="bilinear", align_corners=False
        )[0]
        found = Candidates.read(_own_classes(output, row, num_labels), square)
        return found.resized(self.image_size, self.extent)

    def enlarge(self, logits: Tensor) -> Tensor:
        """Resize maps to the image.

        Args:
            logits: float (N, h, w), of ``cells``, or at the image's size already.

        Returns:
            float32 (N, H, W).
        """
        cells, planes = tuple(logits.shape[-2:]), logits[None].float()
        if cells == self.image_size:
            return planes[0]
        inside = tuple(length / (count * MASK_STRIDE) for length, count in zip(self.extent, cells))
        if inside == (1.0, 1.0):
            return F.interpolate(planes, size=self.image_size, mode="bilinear", align_corners=False)[0]
        # the image ends inside the last cells
        rows, columns = (
            (torch.arange(length, device=planes.device) + 0.5) / length * share * 2 - 1
            for length, share in zip(self.image_size, inside)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]
        return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _own_classes(output: StepOutput, row: int, num_labels: int) -> Tensor:
    """Return the scores of a prompt's own labels and of the background, (Q, num_labels + 1)."""
    classes = output.class_logits[row]
    return torch.cat([classes[:, :num_labels], classes[:, -1:]], dim=1)


def strongest(logits: Tensor) -> Tensor:
    """Give each pixel to the mask with the highest logit: float (N, H, W) to bool (N, H, W), one True per pixel."""
    owner = logits.argmax(0)
    return owner == torch.arange(len(logits), device=logits.device).view(-1, 1, 1)

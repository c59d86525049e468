"""Tiny inputs of the published criterion, and what it answers.

The numbers were made once by running the functions of wanghao9610/X2SAM at revision 5b0b106
(segmentors/mask2former/modeling_mask2former.py: Mask2FormerLoss with its matcher, float32 on a CPU) on `tiny`, with the
published weights, 48 points, and ``torch.manual_seed`` of the layer's number before each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

POINTS = 48
FEW = 1
"""Queries of the case with more objects than queries."""

TERMS = {
    "sampled": ((2.340905, 3.228531, 3.257502), (2.838955, 2.799442, 2.795385), (7.882327, 2.413426, 2.360693)),
    "dense": ((2.340905, 2.382618, 2.756799), (2.838955, 1.58864, 2.188291), (7.882327, 1.149384, 1.770296)),
}
"""Class, bce and dice of each layer; dense with ``use_sample_point`` off."""

ALL_LAYERS = 24.89822
"""The dense loss of the three layers, the first two as auxiliary predictions."""

FEW_QUERIES = (1.583637, 2.591341, 2.192047)
NO_CLASSES = (2.382618, 2.756799)
NO_OBJECT = (4.505363, 0.0, 0.0)
"""The first layer with `FEW` queries, without class logits, and with every label -1; the first two dense."""

Layer = tuple[Tensor, Tensor]


def wave(*shape: int, step: float) -> Tensor:
    """Return numbers in -1 to 1 that are the same everywhere."""
    count = torch.tensor(shape).prod()
    return torch.sin(torch.arange(1, int(count) + 1, dtype=torch.float64) * step).view(shape).float()


def tiny() -> tuple[list[Layer], Tensor, Tensor]:
    """Return three layers' class logits (2, 5, 4) and mask logits (2, 5, 8, 8), labels (2, 2), masks (2, 2, 16, 16).

    The second prompt has a phrase fewer, and one object where the first has two. Objects go to queries in order, so
    that points are drawn for them in the published order.
    """
    masks = torch.zeros(2, 2, 16, 16)
    masks[0, 0, 2:9, 1:8] = 1
    masks[0, 1, 7:15, 9:16] = 1
    masks[1, 0, 4:11, 3:14] = 1
    coarse = torch.nn.functional.avg_pool2d(masks, 2)
    layers = []
    for index in range(3):
        classes = 3 * wave(2, 5, 4, step=1.7 + index)
        classes[1, :, 2] = -1e6
        logits = 2 * wave(2, 5, 8, 8, step=2.3 + index)
        logits[0, 1] += (2 + index) * (coarse[0, 0] - 0.5)
        logits[0, 3] += (2 + index) * (coarse[0, 1] - 0.5)
        logits[1, 2] += (2 + index) * (coarse[1, 0] - 0.5)
        layers.append((classes, logits))
    return layers, torch.tensor([[0, 2], [1, -1]]), masks

"""Scenes drawn on a GPU are those that torch draws on the CPU."""

from __future__ import annotations

import pytest
import torch

from x2sam_ros.training.scenes import KINDS, lay_out
from x2sam_ros.training.scenes.render_torch import Canvas, draw, resize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch finds no CUDA device"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_labels(kind: str) -> None:
    canvas = Canvas.of([lay_out(seed, 4, 128, 128, kind=kind, aspect=4 / 3) for seed in range(8)])
    (frames, labels), (wanted, truth) = draw(canvas.to("cuda")), draw(canvas)
    again = draw(canvas.to("cuda"))
    assert frames.is_cuda and torch.equal(frames, again[0]) and torch.equal(labels, again[1])
    assert (labels.cpu() != truth).float().mean() < 1e-4
    assert ((frames.cpu().int() - wanted.int()).abs() > 1).float().mean() < 1e-3
    shown = resize(frames, (160, 192)).cpu().int() - resize(frames.cpu(), (160, 192)).int()
    assert shown.abs().max() <= 1

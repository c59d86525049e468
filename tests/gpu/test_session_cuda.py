"""The session on a GPU gives what it gives on the CPU; in bfloat16, nearly so."""

from __future__ import annotations

import pytest
import torch

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.session import Session
from x2sam_ros.training.scenes import generate_clip
from x2sam_ros.types import BoolArray, ClassListPrompt, Frame

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch finds no CUDA device"),
]


def masks_of(device: str, dtype: str) -> BoolArray:
    session = Session(load_model("nano", device, dtype))
    session.submit(ClassListPrompt(classes=("circle", "square", "triangle", "star", "cross")))
    clip = generate_clip(7, 6, 240, 320)
    union = [session.step(Frame(image, index, index)).masks.any(axis=0) for index, image in enumerate(clip.frames)]
    return torch.stack([torch.from_numpy(mask) for mask in union]).numpy()


@pytest.mark.parametrize(("dtype", "agreement"), [("float32", 0.999), ("bfloat16", 0.98)])
def test_gpu_agrees_with_cpu(dtype: str, agreement: float) -> None:
    expected, found = masks_of("cpu", "float32"), masks_of("cuda", dtype)
    assert expected.any()
    assert (expected == found).mean() > agreement

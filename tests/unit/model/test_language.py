"""Which attention is used where."""

from __future__ import annotations

import importlib.machinery

import pytest
import torch

from tests.unit.model.networks import new_nano
from x2sam_ros.model import language
from x2sam_ros.model.language import attention_implementation

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
PACKAGE = importlib.machinery.ModuleSpec("flash_attn", None)


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "capability", "expected"),
    [
        (CUDA, torch.bfloat16, True, (9, 0), "flash_attention_2"),
        (CUDA, torch.float16, True, (8, 0), "flash_attention_2"),
        (CUDA, torch.bfloat16, False, (9, 0), "sdpa"),
        (CUDA, torch.float32, True, (9, 0), "sdpa"),
        (CUDA, torch.float16, True, (7, 5), "sdpa"),
        (CPU, torch.bfloat16, True, (9, 0), "sdpa"),
    ],
)
def test_attention_is_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    installed: bool,
    capability: tuple[int, int],
    expected: str,
) -> None:
    monkeypatch.setattr(language, "find_spec", lambda name: PACKAGE if installed and name == "flash_attn" else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention_implementation(device, dtype) == expected


def test_both_towers_use_the_choice() -> None:
    model = new_nano()
    towers = (model.language.text, model.language.visual)
    for tower in towers:
        tower.set_attn_implementation("eager")
    model.language.choose_attention()
    configs = [model.language.text.layers[0].self_attn.config, model.language.visual.blocks[0].attn.config]
    assert {config._attn_implementation for config in configs} == {attention_implementation(CPU, torch.float32)}

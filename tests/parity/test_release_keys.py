"""The published release's tensor list, name by name and size by size, against the ``release`` preset."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.shared_data import PARITY
from x2sam_ros.checkpoint.names import LORA_A, LORA_B, our_name
from x2sam_ros.checkpoint.official_config import config_from_official
from x2sam_ros.model.config import preset
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

KEYS = PARITY / "release_keys"

pytestmark = pytest.mark.skipif(not KEYS.is_dir(), reason=f"no release_keys in {PARITY}; set X2SAM_PARITY")


def test_every_tensor_has_its_place() -> None:
    with torch.device("meta"):
        model = X2SAM(preset("release"), train_tokenizer(["any"], 300))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for line in (KEYS / "keys.txt").read_text().splitlines():
        official, shape = line.split()[:2]
        name = our_name(official)
        if name is not None and not name.endswith((LORA_A, LORA_B)):
            found[name] = tuple(int(side) for side in shape.split("x"))
    assert found == expected


def test_the_preset_is_the_published_configuration() -> None:
    official = json.loads((KEYS / "assumed_configs.json").read_text())
    rows = json.loads((KEYS / "summary.json").read_text())["special_token_ids"]
    language = {"qwen3_vl": official["qwen3_vl_4b_instruct"], "len_tokenizer": max(rows.values()) + 1}
    segmentor = {
        "sam2": official["sam2.1_hiera_large_with_x2sam_overrides"],
        "mask2former": official["mask2former_swin_large_coco_panoptic_with_x2sam_overrides"],
    }
    assert replace(config_from_official(language, segmentor), preset="release") == preset("release")

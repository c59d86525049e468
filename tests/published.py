"""Checkpoints in the published layout: the parity fixtures' tiny network, and a small one with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.shared_data import parity_folder
from x2sam_ros.checkpoint.load import write_settings
from x2sam_ros.checkpoint.names import DROPPED, comes_from_base, official_name, takes_lora
from x2sam_ros.model.config import preset
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

WRAPPER = "vlm.base_model.model."
HEAD, UNUSED = DROPPED
PADDING_ROWS = 7
Table = dict[str, Tensor]


def write_tiny(folder: Path) -> tuple[Path, Path]:
    """Write the parity fixtures' network as it would be published; return the export and its base model."""
    full, segmentor = parity_folder("tiny_full"), parity_folder("tiny_segmentor")
    folder.mkdir(parents=True, exist_ok=True)
    export = load_file(full / "checkpoint_delta.safetensors")
    export |= {f"segmentor.{name}": value for name, value in load_file(segmentor / "weights.safetensors").items()}
    torch.save(export, folder / "pytorch_model.bin")
    tables = [json.loads((place / "config.json").read_text()) for place in (full, segmentor)]
    (folder / "config.json").write_text(json.dumps({**tables[0], **tables[1]}))
    return folder, full / "base_vlm.safetensors"


@cache
def small_model() -> X2SAM:
    """Return a small network with random weights; do not change it."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Segment the red circle."] * 3, 400)
    config = preset("nano")
    text = replace(config.language.text, vocab_size=len(tokenizer))
    return X2SAM(replace(config, language=replace(config.language, text=text), preset="small"), tokenizer).eval()


def wrapped(name: str) -> str:
    """Return the name one of our tensors has in a published file with LoRA adapters, its own weights left aside."""
    return official_name(name).replace("vlm.", WRAPPER, 1)


def default_export(model: X2SAM, rank: int = 2) -> Table:
    """Return what the published code saves by default: LoRA factors and whatever else was trained."""
    table: Table = {}
    for name, value in model.state_dict().items():
        stem = wrapped(name).removesuffix(".weight")
        if takes_lora(name):
            table[f"{stem}.lora_A.default.weight"] = torch.randn(rank, value.shape[1])
            table[f"{stem}.lora_B.default.weight"] = torch.randn(value.shape[0], rank)
        elif not comes_from_base(name):
            table[wrapped(name)] = value.clone()
    table[WRAPPER + HEAD] = table[wrapped("language.text.embed_tokens.weight")].clone()
    table[UNUSED] = torch.randn(2, 8)
    return table


def base_model(model: X2SAM) -> Table:
    """Return the base vision-language model: more rows, mergers of its own, no wrapper around the names."""
    table: Table = {}
    for name, value in model.state_dict().items():
        if name.startswith("language."):
            own = value.clone() if comes_from_base(name) else torch.randn_like(value)
            if name.endswith("embed_tokens.weight"):
                own = torch.cat([own, torch.randn(PADDING_ROWS, own.shape[1])])
            table[official_name(name).removeprefix("vlm.")] = own
    return table


def full_file(model: X2SAM, export: Table) -> Table:
    """Return what the published code saves with its full-model option: base weights beside the factors."""
    table = dict(export)
    for name, value in model.state_dict().items():
        if comes_from_base(name):
            stem = wrapped(name).removesuffix(".weight")
            table[f"{stem}.base_layer.weight" if takes_lora(name) else wrapped(name)] = value.clone()
    return table


def merged(model: X2SAM, export: Table, scale: float) -> Table:
    """Return the state that a conversion must give."""
    state = dict(model.state_dict())
    for name in filter(takes_lora, state):
        stem = wrapped(name).removesuffix(".weight")
        product = export[f"{stem}.lora_B.default.weight"].float() @ export[f"{stem}.lora_A.default.weight"].float()
        state[name] = state[name].float() + scale * product
    return state


def write_folder(folder: Path, table: Table, model: X2SAM | None = None) -> Path:
    """Write tensors, and a model's configuration and tokenizer if one is given, as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in table.items()}, folder / "model.safetensors")
    if model is not None:
        write_settings(model.config, model.tokenizer, folder)
    return folder

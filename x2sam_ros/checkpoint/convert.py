"""Published checkpoints into ours: rename, merge LoRA, shrink the embedding table, check every size."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from x2sam_ros.checkpoint.names import EMBEDDING, LORA_A, LORA_B, our_name
from x2sam_ros.errors import CheckpointError
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.model.x2sam import X2SAM

MAX_NAMED = 10
"""Tensors an error names before it only counts."""


def convert_official(
    sources: Iterable[Mapping[str, Tensor]],
    config: X2SAMConfig,
    tokenizer: Tokenizer,
    lora_scale: float,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Turn published tensors into the state dict of ``X2SAM(config, tokenizer)``.

    Args:
        sources: tables of tensors by published name; a later one replaces the tensors of an earlier one, so the base
            vision-language model comes first and the export second. A full export needs no base.
        config: the network to fill.
        tokenizer: its tokenizer.
        lora_scale: factor of the LoRA products, alpha / r.
        dtype: type of the result; sums are done in float32.

    Raises:
        CheckpointError: tensors are unknown, missing, or of another size; the first ten are named.
    """
    tensors: dict[str, Tensor] = {}
    for source in sources:
        for official, tensor in source.items():
            name = our_name(official)
            if name is not None:
                tensors[name] = tensor
    merged = _merge_lora(tensors, lora_scale)
    if EMBEDDING in merged:
        # The base model's table is padded beyond the tokenizer; the published one is cut to it.
        merged[EMBEDDING] = merged[EMBEDDING][: config.language.text.vocab_size]
    with torch.device("meta"):
        expected = X2SAM(config, tokenizer).state_dict()
    check_state(expected, merged, "published checkpoint")
    return {name: tensor.to(dtype).contiguous() for name, tensor in merged.items()}


def _merge_lora(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Add scale x B A to each weight that has factors, in float32."""
    merged = {name: tensor for name, tensor in tensors.items() if not name.endswith((LORA_A, LORA_B))}
    for name, lora_a in tensors.items():
        if not name.endswith(LORA_A):
            continue
        stem = name[: -len(LORA_A)]
        weight, lora_b = stem + ".weight", tensors.get(stem + LORA_B)
        if lora_b is None or weight not in merged:
            absent = stem + LORA_B if lora_b is None else weight
            raise CheckpointError(
                f"checkpoint has {name} but not {absent}; give the base vision-language model as the first source"
            )
        product = lora_b.float() @ lora_a.float()
        if product.shape != merged[weight].shape:
            raise CheckpointError(
                f"LoRA factors of {weight} give {tuple(product.shape)}, the weight is {tuple(merged[weight].shape)}"
            )
        merged[weight] = merged[weight].float() + scale * product
    return merged


def check_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Compare names and sizes.

    Raises:
        CheckpointError: they differ; the first ten tensors are named.
    """
    complaints = [f"unknown {name}" for name in found if name not in expected]
    for name, tensor in expected.items():
        if name not in found:
            complaints.append(f"missing {name}")
        elif found[name].shape != tensor.shape:
            complaints.append(f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}")
    if complaints:
        rest = f" and {len(complaints) - MAX_NAMED} more" if len(complaints) > MAX_NAMED else ""
        raise CheckpointError(f"{what} does not fit the network: {'; '.join(complaints[:MAX_NAMED])}{rest}")


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read a safetensors file, a folder of them, or a PyTorch file without running anything in it.

    Args:
        path: ``*.safetensors``, a folder with at least one, or ``*.pth`` / ``*.pt`` / ``*.bin``.
        prefix: put before every name, for files that hold one part of the network.

    Raises:
        CheckpointError: the file is missing, corrupt, or of another kind.
    """
    files: Sequence[Path] = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"no checkpoint at {path}; expected a file, or a folder with *.safetensors in it")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update({prefix + name: tensor for name, tensor in _read_file(file).items()})
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot read {path}: {reason}; fetch the file again") from error
    table = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(table, dict) or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise CheckpointError(f"{path} holds no table of tensors; expected a state dict")
    return dict(table)

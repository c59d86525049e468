"""A safetensors file written tensor by tensor, for networks that are larger than memory should hold twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from x2sam_ros.checkpoint.source import TensorInfo

ALIGNMENT = 64
"""Bytes that tensors are aligned to where their sizes allow it, so that a mapped file is as good as memory."""

CHUNK_VALUES = 1 << 20
"""Values that are converted and written at once."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(
    path: Path,
    infos: Mapping[str, TensorInfo],
    values: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a safetensors file of any size in little memory; return its SHA-256 in hexadecimal.

    Args:
        path: the file, overwritten where it exists.
        infos: name, size and type of each tensor.
        values: gives a tensor's values in order, in pieces of any size; called once per name.
        metadata: texts for the header.

    Source: the layout of the safetensors format, https://github.com/huggingface/safetensors.
    """
    names = sorted(infos, key=lambda name: (*_misalignment(infos[name]), name))
    header = _header(names, infos, metadata or {})
    digest = hashlib.sha256(header)
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            written = 0
            for piece in values(name):
                raw = piece.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
                digest.update(raw)
                written += file.write(raw)
            if written != infos[name].nbytes:
                raise RuntimeError(f"{name} has {written} bytes, its header says {infos[name].nbytes}")
    return digest.hexdigest()


def _misalignment(info: TensorInfo) -> tuple[bool, int]:
    """Order tensors so that the odd ones, which misalign what follows, come last, and of these the wide types first."""
    return info.nbytes % ALIGNMENT > 0, -info.dtype.itemsize


def _header(names: list[str], infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in names:
        end = begin + infos[name].nbytes
        dtype, shape = _DTYPES[infos[name].dtype], list(infos[name].shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's values flat and in order, a bounded number at a time."""
    yield from tensor.detach().reshape(-1).split(CHUNK_VALUES)

"""Our safetensors files are those of the format's own library, value by value, and aligned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from x2sam_ros.checkpoint import writer
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.checkpoint.writer import ALIGNMENT, pieces, write_safetensors


def test_the_library_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHUNK_VALUES", 7)
    table = {
        "even": torch.randn(32),
        "more": torch.randn(2, 48).half(),
        "odd": torch.randn(5, dtype=torch.float64).half(),
        "wide": torch.randn(3, 11),
        "count": torch.tensor(12),
        "empty": torch.zeros(0, 4),
        "brain": torch.randn(3, 3).bfloat16().T,
        "flags": torch.tensor([True, False, True]),
    }
    infos = {name: TensorInfo.of(value) for name, value in table.items()}
    path = tmp_path / "ours.safetensors"
    digest = write_safetensors(path, infos, lambda name: pieces(table[name]), {"note": "ä"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    read = load_file(path)
    assert read.keys() == table.keys()
    for name, value in table.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"note": "ä"}
    aligned = {name for name, value in read.items() if value.nbytes and value.data_ptr() % ALIGNMENT == 0}
    assert aligned >= {"even", "more"} and len(aligned) <= 3, "the odd ones come after them"
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % ALIGNMENT == 0


def test_too_few_values_are_noticed(tmp_path: Path) -> None:
    infos = {"a": TensorInfo((3,), torch.float32)}
    with pytest.raises(RuntimeError, match="a has 8 bytes, its header says 12"):
        write_safetensors(tmp_path / "a.safetensors", infos, lambda name: [torch.zeros(2)])

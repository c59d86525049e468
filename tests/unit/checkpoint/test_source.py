"""Tensor files: every kind is read the same, lazily; damaged and dangerous ones are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from x2sam_ros.checkpoint import source
from x2sam_ros.checkpoint.source import TensorInfo, TensorSource, map_tensors, open_source, weight_files
from x2sam_ros.errors import CheckpointError

A, B = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16)


def write(path: Path, table: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(table, dict)
        save_file(table, path)
    else:
        torch.save(table, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pt", "a.pth"])
def test_every_kind_of_file_is_listed_and_read(tmp_path: Path, name: str) -> None:
    opened = open_source(write(tmp_path / name, {"a": A, "b": B}))
    assert opened.infos == {"a": TensorInfo((2, 3), torch.float32), "b": TensorInfo((4,), torch.bfloat16)}
    assert opened.infos["b"].nbytes == 8
    assert torch.equal(opened.read("a"), A) and torch.equal(opened.read("b"), B)


def test_wrapped_and_old_pytorch_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "wrapped.pth", {"state_dict": {"a": A}, "epoch": 3})
    assert torch.equal(open_source(tmp_path / "wrapped.pth").read("a"), A)
    torch.save({"a": A}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(open_source(tmp_path / "old.pth").read("a"), A)


def mapped(file: Path) -> bool:
    return str(file) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_files_are_mapped_and_let_go(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_source(write(tmp_path / name, {"a": A, "b": B}))
    value = opened.read("a")
    assert mapped(tmp_path / name)
    monkeypatch.setattr(source, "WINDOW_BYTES", 0)
    first = value.data_ptr()
    second = opened.read("a")
    assert second.data_ptr() != first and torch.equal(value, second), "a full window is closed, its tensors live on"
    del opened, value, second
    assert not mapped(tmp_path / name)


def test_shards_are_found_by_index(tmp_path: Path) -> None:
    write(tmp_path / "x-00001-of-00002.safetensors", {"a": A})
    write(tmp_path / "x-00002-of-00002.safetensors", {"b": B})
    write(tmp_path / "unrelated.bin", {"c": A})
    weights = {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert set(open_source(tmp_path).infos) == {"a", "b"}


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, indexed: bool) -> None:
    names = [f"pytorch_model-{i:05d}-of-00003.bin" for i in (1, 2, 3)]
    write(tmp_path / names[0], {"a": A})
    write(tmp_path / names[2], {"c": A})
    if indexed:
        index = {"weight_map": dict(zip("abc", names))}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 1 of its files: pytorch_model-00002-of-00003\.bin"):
        open_source(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"cannot read .*index\.json"):
        weight_files(tmp_path)


def test_an_index_does_not_lead_outside(tmp_path: Path) -> None:
    write(tmp_path / "secret.safetensors", {"a": A})
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "m.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside"):
        open_source(inside)


def test_doubled_names_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": A})
    write(tmp_path / "two.safetensors", {"a": A.clone(), "b": B})
    assert set(open_source(tmp_path).infos) == {"a", "b"}
    for other in (A + 1, A.half(), A.view(3, 2)):
        write(tmp_path / "two.safetensors", {"a": other})
        with pytest.raises(CheckpointError, match=r"a has different values in .*one\.safetensors and .*two"):
            open_source(tmp_path)


def test_two_kinds_side_by_side_are_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": A})
    write(tmp_path / "two.bin", {"a": A})
    with pytest.raises(CheckpointError, match=r"holds both one\.safetensors and two\.bin"):
        open_source(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        open_source(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        open_source(tmp_path / "absent")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("kept", [0, 5, 100, 2_000])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, name: str, kept: int) -> None:
    path = write(tmp_path / name, {"a": torch.randn(50, 50)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"cannot read .*{name}: .*fetch the file again") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [True, False])
def test_damage_anywhere_is_refused_in_one_line(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.bin"
    torch.save({"a": torch.randn(6, 6), "b": torch.arange(9)}, path, _use_new_zipfile_serialization=not legacy)
    whole, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for kept in rng.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[kept % len(whole)] ^= 0x5A
        for data in (whole[:kept], bytes(damaged)):
            path.write_bytes(data)
            try:
                open_source(path)
            except CheckpointError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 40


class Payload:
    """Would create a file when unpickled, and do no harm."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"import pathlib; pathlib.Path({str(self.marker)!r}).touch()",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.bin", "raw.bin", "raw.pth", "raw.safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_payload_is_refused_and_never_runs(tmp_path: Path, name: str, nested: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    table: dict[str, object] = {"weight": torch.ones(2), "extra": Payload(marker)}
    table = {"state_dict": table} if nested else table
    if name.startswith("raw"):
        path.write_bytes(pickle.dumps(table))
    else:
        torch.save(table, path)
    with pytest.raises(CheckpointError, match=r"is refused|cannot read") as caught:
        open_source(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    if name.startswith("evil"):
        assert "exec', and loading that would run code" in str(caught.value)


@pytest.mark.parametrize(
    "table", [[A], {"a": 3.0}, {"state_dict": [A]}, A, {"a": A.to_sparse()}, {"a": A.to("meta")}], ids=repr
)
def test_only_plain_tensors_are_read(tmp_path: Path, table: object) -> None:
    with pytest.raises(CheckpointError, match=r"no table of tensors|only plain tensors|cannot read"):
        map_tensors(write(tmp_path / "odd.pth", table))


def test_errors_name_ten_and_count_the_rest(tmp_path: Path) -> None:
    index = {"weight_map": {str(i): f"m{i:02d}.bin" for i in range(14)}}
    (tmp_path / "m.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 14 .*m00\.bin;.*; m09\.bin and 4 more"):
        weight_files(tmp_path)


def test_values_of_a_source_are_those_of_its_files(tmp_path: Path) -> None:
    tables: list[dict[str, Tensor]] = [{f"{i}.{j}": torch.randn(7) for j in range(5)} for i in range(3)]
    opened = TensorSource([write(tmp_path / f"{i}.safetensors", table) for i, table in enumerate(tables)])
    for table in tables:
        for name, value in table.items():
            assert torch.equal(opened.read(name), value)

"""Tensor files, opened lazily: names, sizes and types at once, values by memory map and one tensor at a time."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from x2sam_ros.errors import CheckpointError

MAX_NAMED = 10
"""Tensors, files or folders an error names before it only counts."""

WINDOW_BYTES = 1 << 28
"""Bytes of mapped files that may stay in memory; beyond them the maps are closed and opened anew."""

SAFETENSORS, PYTORCH = (".safetensors",), (".bin", ".pt", ".pth")
_ZIP_MAGIC = b"PK\x03\x04"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)$")


@dataclass(frozen=True)
class TensorInfo:
    """Size and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """Describe a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes the values take."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorSource:
    """The tensors of some files. ``infos`` lists them; ``read`` returns one, mapped from its file.

    Args:
        files: safetensors or PyTorch files; a name may occur in several if its values are the same.

    Raises:
        CheckpointError: a file cannot be read or holds more than tensors, or a name has different values.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.infos: dict[str, TensorInfo] = {}
        self._file_of: dict[str, Path] = {}
        self._maps: dict[Path, Mapping[str, Tensor]] = {}
        self._touched = 0
        for file in self.files:
            found = self._map(file)
            self._check_duplicates(file, found)
            for name, tensor in found.items():
                self.infos.setdefault(name, TensorInfo.of(tensor))
                self._file_of.setdefault(name, file)

    def read(self, name: str, keep: bool = False) -> Tensor:
        """Return a tensor; its pages are read when its values are.

        Args:
            name: the tensor.
            keep: whether it is kept, mapped as it is; one that is copied is best let go before the next is read.
        """
        if self._touched > WINDOW_BYTES:
            self._maps = {file: found for file, found in self._maps.items() if not _can_map(file)}
            self._touched = 0
        self._touched += 0 if keep else self.infos[name].nbytes
        return self._map(self._file_of[name])[name]

    def _map(self, file: Path) -> Mapping[str, Tensor]:
        if file not in self._maps:
            self._maps[file] = map_tensors(file)
        return self._maps[file]

    def _check_duplicates(self, file: Path, found: Mapping[str, Tensor]) -> None:
        for name in found.keys() & self.infos.keys():
            if TensorInfo.of(found[name]) != self.infos[name] or not torch.equal(found[name], self.read(name)):
                raise CheckpointError(
                    f"{name} has different values in {self._file_of[name]} and {file}; "
                    "keep the files of one checkpoint in the folder, or pass one file"
                )


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Open a file of tensors without running anything in it; values are read from the file when they are used.

    Args:
        path: ``*.safetensors``, or ``*.bin`` / ``*.pt`` / ``*.pth``. PyTorch files from before 1.6 cannot be mapped
            and are loaded whole.

    Raises:
        CheckpointError: the file is missing, corrupt, or holds more than tensors.
    """
    try:
        loaded = load_file(path) if path.suffix in SAFETENSORS else _load_pytorch(path)
    # damaged bytes make the readers raise a dozen kinds, struct.error among them
    except Exception as error:
        raise CheckpointError(f"cannot read {path}: {_first_sentence(error)}; fetch the file again") from error
    table = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(table, dict) or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise CheckpointError(f"{path} holds no table of tensors; expected a state dict")
    for name, tensor in table.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{name} in {path} is sparse, quantised or empty; only plain tensors can be read")
    return {name: tensor.detach() for name, tensor in table.items()}


def _load_pytorch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the pickle's protocol, which weights_only checks by itself
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_map(path))
        except UnpicklingError as error:
            text = str(error)
            if "Unsupported" not in text and "GLOBAL" not in text:
                raise
            named = re.search(r"GLOBAL (\S+)", text)
            what = f"'{named[1]}'" if named else "Python objects"
            raise CheckpointError(
                f"{path} is refused: besides tensors it holds {what}, and loading that would run code; "
                "ask its author for a file of tensors alone, best as safetensors"
            ) from error


def _can_map(path: Path) -> bool:
    if path.suffix in SAFETENSORS:
        return True
    with path.open("rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def _first_sentence(error: Exception) -> str:
    text = "the file ends too early" if isinstance(error, EOFError) else str(error).strip()
    return text.splitlines()[0].split(". ")[0] if text else type(error).__name__


def open_source(path: Path) -> TensorSource:
    """Open a file, or the checkpoint in a folder: its index, its safetensors files, or its PyTorch files.

    Raises:
        CheckpointError: there is no such checkpoint, a shard is missing, or two kinds of files lie side by side.
    """
    return TensorSource([path] if path.is_file() else weight_files(path))


def weight_files(folder: Path) -> list[Path]:
    """Return the tensor files of a folder.

    Raises:
        CheckpointError: there are none, a shard is missing, or it is not clear which files belong together.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint at {folder.absolute()}; expected a file of tensors or a folder with some")
    indices = sorted(folder.glob("*.index.json"), key=lambda path: (".safetensors." not in path.name, path.name))
    if indices:
        return _indexed_files(indices[0])
    mapped, pickled = _with_suffix(folder, SAFETENSORS), _with_suffix(folder, PYTORCH)
    if mapped and pickled:
        raise CheckpointError(
            f"{folder} holds both {mapped[0].name} and {pickled[0].name}; pass the file that you mean instead"
        )
    files = mapped or pickled
    if not files:
        raise CheckpointError(
            f"no checkpoint in {folder.absolute()}; expected files ending in {', '.join(SAFETENSORS + PYTORCH)}"
        )
    _check_shards(folder, files)
    return files


def holds_tensors(folder: Path) -> bool:
    """Tell whether a folder has tensor files of any kind in it."""
    return bool(_with_suffix(folder, SAFETENSORS + PYTORCH))


def _with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {index}: {_first_sentence(error)}; fetch the file again") from error
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {shorten(outside)}")
    _refuse_missing(index.parent, [name for name in names if not (index.parent / name).is_file()])
    return [index.parent / name for name in names]


def _check_shards(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a folder that lacks shards its other files' names speak of."""
    present, missing = {file.name for file in files}, []
    for file in files:
        match = _SHARD.match(file.stem)
        if match:
            stem, digits, total = match[1], len(match[2]), int(match[3])
            names = (f"{stem}-{i:0{digits}d}-of-{match[3]}{file.suffix}" for i in range(1, total + 1))
            missing += [name for name in names if name not in present and name not in missing]
    _refuse_missing(folder, missing)


def _refuse_missing(folder: Path, missing: Sequence[str]) -> None:
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of its files: {shorten(missing)}; fetch them")


def shorten(items: Iterable[str]) -> str:
    """Join the first ten items and count the rest."""
    listed = list(items)
    rest = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return "; ".join(listed[:MAX_NAMED]) + rest

"""Values of the engine as JSON that names tensors, and back, by a list of known types: nothing is ever unpickled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.motion import BoxMotion
from x2sam_ros.engine.region import Region
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.track import Member, Target
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    GroundingStatus,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    TargetState,
    Task,
    TextPrompt,
)

_PROMPTS = (TextPrompt, CaptionPrompt, ClassListPrompt, PointPrompt, BoxPrompt, MaskPrompt, RegionsPrompt)
_VALUES = (Region, Reply, PromptCondition, MemoryEntry, MemoryRecord, Member, Target, BoxMotion)
_ENUMS = (Task, TargetState, GroundingStatus)
_CLASSES: dict[str, Any] = {kind.__name__: kind for kind in (*_PROMPTS, *_VALUES, *_ENUMS)}

_CLASS = "class"
"""Key of what a JSON object stands for; no field can have this name."""

_TENSOR, _ARRAY, _MASK = "tensor", "array", "mask"


class Damage(Exception):
    """What was packed cannot be had back; says why."""


def checksum(name: str, tensor: Tensor) -> int:
    """Return the CRC-32 of a host tensor's name, type, shape and values."""
    head = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(raw_bytes(tensor), zlib.crc32(head))


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the values of a host tensor as they lie in memory."""
    values = tensor.detach().contiguous()
    # not reshape: it keeps the stride of a lone value or of none, which need not be 1
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8).numpy().data


class Packer:
    """Turn values into JSON; their tensors and arrays are copied to ``tensors``, each once however often it occurs.

    A packed value must live as long as the packer: what occurs twice is told by its identity.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def pack(self, value: Any, path: str) -> Any:
        """Return a value as JSON has it.

        Args:
            value: None, a number, a text, an array, a tensor, one of the engine's values, or a tuple of such.
            path: where it belongs, which names its tensors.

        Raises:
            TypeError: it is something else.
        """
        name = type(value).__name__
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, tuple):
            return [self.pack(item, f"{path}.{index}") for index, item in enumerate(value)]
        if isinstance(value, Tensor):
            return {_CLASS: _TENSOR, "name": self._put(value, value, path)}
        if isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.ndim == 2:
            runs = torch.from_numpy(encode_rle(value).astype(np.int64))
            return {_CLASS: _MASK, "name": self._put(value, runs, path), "size": list(value.shape)}
        if isinstance(value, np.ndarray):
            return {_CLASS: _ARRAY, "name": self._put(value, torch.from_numpy(value.copy()), path)}
        if _CLASSES.get(name) is not type(value):
            raise TypeError(f"{path} is of type {name}, which is not among those of engine/packing.py; add it there")
        if isinstance(value, Enum):
            return {_CLASS: name, "value": value.value}
        return {_CLASS: name, **{f.name: self.pack(getattr(value, f.name), f"{path}.{f.name}") for f in fields(value)}}

    def _put(self, value: object, tensor: Tensor, path: str) -> str:
        """Keep a tensor that holds a value, unless the value is kept already; return its name."""
        name = self._names.setdefault(id(value), path)
        if name == path:
            self.tensors[path] = tensor.detach().to("cpu", copy=True).contiguous()
        return name


class Unpacker:
    """Turn JSON of a ``Packer`` back into values; what was one tensor is one tensor again.

    Args:
        read: returns a tensor by its name, on the host.
        checksums: of the tensors, by name.
        device: where tensors go; arrays stay on the host.
    """

    def __init__(self, read: Callable[[str], Tensor], checksums: Mapping[str, int], device: torch.device) -> None:
        self._read, self._checksums, self._device = read, checksums, device
        self._known: dict[str, Any] = {}

    def unpack(self, data: Any) -> Any:
        """Return the value of ``pack``'s answer.

        Raises:
            Damage: a tensor is missing, damaged or holds NaN, or the values do not make what they should.
        """
        if isinstance(data, list):
            return tuple(self.unpack(item) for item in data)
        if not isinstance(data, dict):
            return data
        kind = data.get(_CLASS)
        if kind in (_TENSOR, _ARRAY, _MASK):
            if data["name"] not in self._known:
                self._known[data["name"]] = self._restore(kind, data)
            return self._known[data["name"]]
        if kind not in _CLASSES:
            raise Damage(f"it holds a '{kind}', which this version does not know")
        values = {name: self.unpack(item) for name, item in data.items() if name != _CLASS}
        try:
            return _CLASSES[kind](**values)
        except (TypeError, ValueError) as error:  # errors of prompts are ValueErrors
            raise Damage(f"its {kind} is not valid: {error}") from error

    def _restore(self, kind: str, data: Mapping[str, Any]) -> Any:
        name = data["name"]
        try:
            tensor = self._read(name)
        except Exception as error:  # the reader of the file has errors of its own
            raise Damage(f"tensor {name} cannot be read: {error}") from error
        if checksum(name, tensor) != self._checksums.get(name):
            raise Damage(f"tensor {name} does not match its checksum")
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise Damage(f"tensor {name} holds values that are not numbers (NaN)")
        # a copy: what is read may be mapped from the file, which would stay open for as long
        if kind == _TENSOR:
            return tensor.to(self._device, copy=True)
        array = tensor.numpy().copy()
        return decode_rle(array, *data["size"]) if kind == _MASK else array

"""What becomes of each published tensor, decided and checked on names and sizes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from x2sam_ros.checkpoint.names import (
    DROPPED,
    EMBEDDING,
    LORA_A,
    LORA_B,
    bare_name,
    comes_from_base,
    is_adapted,
    is_language,
    is_published,
    our_name,
    takes_lora,
)
from x2sam_ros.checkpoint.source import TensorInfo, shorten
from x2sam_ros.errors import CheckpointError

Origin = Literal["export", "base"]
Infos = Mapping[str, TensorInfo]

REPLACED = "replaced by the export's"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Part:
    """A published tensor: whose, and its name there."""

    origin: Origin
    name: str


@dataclass(frozen=True)
class Entry:
    """A tensor to write: its weight, copied (and cut to size), or with the product of its LoRA factors added."""

    info: TensorInfo
    weight: Part
    factors: tuple[Part, Part] | None = None


@dataclass(frozen=True)
class Plan:
    """What a conversion does.

    Args:
        entries: our tensors by name.
        dropped: reason of each published tensor that goes nowhere.
    """

    entries: dict[str, Entry]
    dropped: dict[Part, str]

    @property
    def merged(self) -> int:
        """How many weights get LoRA factors."""
        return sum(entry.factors is not None for entry in self.entries.values())

    @property
    def copied(self) -> int:
        """How many tensors are taken as they are."""
        return len(self.entries) - self.merged

    def used(self, origin: Origin) -> Counter[str]:
        """Count the published tensors of one origin as ``copied``, ``merged`` and ``dropped``."""
        counts = Counter({"copied": 0, "merged": 0, "dropped": 0})
        for entry in self.entries.values():
            parts = (entry.weight, *(entry.factors or ()))
            counts["merged" if entry.factors else "copied"] += sum(part.origin == origin for part in parts)
        counts["dropped"] += sum(part.origin == origin for part in self.dropped)
        return counts


@dataclass
class _Sorted:
    """The tensors of one source by our name, and what is wrong with them."""

    origin: Origin
    infos: Infos
    names: dict[str, str] = field(default_factory=dict)
    dropped: dict[Part, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def part(self, ours: str) -> Part | None:
        return Part(self.origin, self.names[ours]) if ours in self.names else None

    def info(self, ours: str) -> TensorInfo:
        return self.infos[self.names[ours]]


def plan_conversion(expected: Infos, export: Infos, base: Infos | None = None, network: str = "the network") -> Plan:
    """Decide where each tensor of ours comes from and what becomes of each published one.

    Args:
        expected: the network's tensors, with the types they shall have.
        export: the published tensors of X2SAM.
        base: those of its base vision-language model, where the export does not hold them itself.
        network: what the expected sizes are those of, for the error.

    Raises:
        CheckpointError: tensors are unknown, missing, doubled or of another size; the first ten are named.
    """
    ours = _sort("export", export, expected)
    below = _sort("base", base or {}, expected)
    problems = [*ours.problems, *below.problems]
    entries: dict[str, Entry] = {}
    for name, info in expected.items():
        source = ours if name in ours.names or not comes_from_base(name) else below
        weight = source.part(name)
        if weight is None:
            problems.append(f"missing {name}")
            continue
        factors = _factors(name, weight, ours, problems)
        problems += _misfits(name, info, source.info(name))
        entries[name] = Entry(info, weight, factors)
        if factors is not None:
            problems += _factor_misfits(name, info, ours)
    if problems:
        raise CheckpointError(f"the checkpoint does not fit {network}: {shorten(problems)}")
    dropped = {**ours.dropped, **below.dropped}
    replaced = (below.part(name) for name in below.names if name in ours.names)
    dropped.update({part: REPLACED for part in replaced if part is not None})
    return Plan(entries, dropped)


def _sort(origin: Origin, infos: Infos, expected: Infos) -> _Sorted:
    """Give each published tensor its name here, or the reason why it has none."""
    result, where = _Sorted(origin, infos), " in the base model" if origin == "base" else ""
    for official in infos:
        name = our_name(official)
        if name is None:
            result.dropped[Part(origin, official)] = DROPPED[bare_name(official)]
        elif not _is_known(name, expected, lora=origin == "export"):
            result.problems.append(f"unknown {official}{where}")
        elif name in result.names:
            result.problems.append(f"{official} and {result.names[name]} are the same tensor{where}")
        else:
            result.names[name] = official
    return result


def _is_known(name: str, expected: Infos, lora: bool) -> bool:
    if lora and name.endswith((LORA_A, LORA_B)):
        name = name.removesuffix(LORA_A).removesuffix(LORA_B) + ".weight"
        return takes_lora(name) and name in expected
    return name in expected


def _factor_names(name: str) -> tuple[str, str]:
    stem = name.removesuffix(".weight")
    return stem + LORA_A, stem + LORA_B


def _missing_factors(name: str, export: _Sorted) -> list[str]:
    """Name the absent LoRA factors of a weight that X2SAM adapted."""
    return [f"missing {factor}" for factor in _factor_names(name) if takes_lora(name) and factor not in export.names]


def _factors(name: str, weight: Part, export: _Sorted, problems: list[str]) -> tuple[Part, Part] | None:
    """Return the LoRA factors of a weight; a weight that was adapted must have both."""
    if not takes_lora(name):
        return None
    lora_a, lora_b = (export.part(factor) for factor in _factor_names(name))
    if lora_a is not None and lora_b is not None:
        return lora_a, lora_b
    if lora_a is not None or lora_b is not None or weight.origin == "base" or is_adapted(weight.name):
        problems += _missing_factors(name, export)
    return None


def _misfits(name: str, expected: TensorInfo, found: TensorInfo) -> list[str]:
    wanted = expected.shape
    if expected.dtype.is_floating_point != found.dtype.is_floating_point or (
        found.dtype.is_floating_point and found.dtype not in _FLOATS
    ):
        return [f"{name} is {found.dtype}, which cannot be read as {expected.dtype}"]
    if name == EMBEDDING and found.shape[1:] == wanted[1:] and found.shape[0] >= wanted[0]:
        return []  # rows beyond the vocabulary are padding, and are cut
    return [] if found.shape == wanted else [f"{name} is {found.shape}, expected {wanted}"]


def _factor_misfits(name: str, expected: TensorInfo, export: _Sorted) -> list[str]:
    a, b = (export.info(factor).shape for factor in _factor_names(name))
    if len(a) == len(b) == 2 and a[0] == b[1] and (b[0], a[1]) == expected.shape:
        return []
    return [f"LoRA factors of {name} are {a} and {b}, the weight is {expected.shape}"]


def check_is_export(names: Iterable[str], where: str) -> None:
    """Refuse what is no X2SAM checkpoint before anything else is looked for.

    Raises:
        CheckpointError: a name is of another layout, or the language side or the segmentor is absent.
    """
    listed = list(names)
    unknown = [f"unknown {name}" for name in listed if not is_published(name)]
    if unknown:
        raise CheckpointError(f"{where} is not in the published layout: {shorten(unknown)}")
    ours = [name for name in map(our_name, listed) if name is not None]
    if not any(is_language(name) for name in ours):
        raise CheckpointError(
            f"{where} holds no language side; it may be the file of an earlier training stage, or a segmentor alone; "
            "pass the final checkpoint"
        )
    if all(is_language(name) for name in ours):
        raise CheckpointError(f"{where} holds no segmentor; pass the X2SAM export, and the base model as --base")


def needs_base(names: Iterable[str]) -> bool:
    """Tell from names alone whether an export leaves the unchanged weights to its base model."""
    return not any(
        is_language(name) and comes_from_base(name) and not name.endswith((LORA_A, LORA_B))
        for name in map(our_name, names)
        if name is not None
    )

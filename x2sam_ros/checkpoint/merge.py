"""The values of a planned conversion: read, merged, cast and checked piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from x2sam_ros.checkpoint.names import EMBEDDING, HEAD, bare_name, our_name
from x2sam_ros.checkpoint.plan import Entry, Origin, Part, Plan
from x2sam_ros.checkpoint.source import TensorSource, shorten
from x2sam_ros.checkpoint.writer import pieces
from x2sam_ros.errors import CheckpointError


class PlannedValues:
    """The tensors that a plan makes, one at a time and in pieces; call it with a name.

    Args:
        plan: what to make of what.
        sources: the files, by origin.
        scale: factor of the LoRA products.
    """

    def __init__(self, plan: Plan, sources: Mapping[Origin, TensorSource], scale: float) -> None:
        self._plan, self._sources, self._scale = plan, sources, scale
        self._damaged: Counter[str] = Counter()
        self._too_large: dict[str, float] = {}

    def __call__(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor's values flat and in order, of the planned type."""
        entry = self._plan.entries[name]
        for piece in pieces(self.tensor(entry)):
            cast = piece.to(entry.info.dtype)
            if not bool(torch.isfinite(cast).all()):
                self._note(name, piece, cast)
            yield cast

    def tensor(self, entry: Entry) -> Tensor:
        """Return what a planned tensor is made of, before it is cast; sums are done in float32."""
        weight = self._read(entry.weight)
        if entry.factors is None:
            return weight if weight.shape == entry.info.shape else weight[: entry.info.shape[0]]
        lora_a, lora_b = (self._read(part).float() for part in entry.factors)
        return (lora_b @ lora_a).mul_(self._scale).add_(weight)

    def _read(self, part: Part) -> Tensor:
        return self._sources[part.origin].read(part.name)

    def _note(self, name: str, piece: Tensor, cast: Tensor) -> None:
        finite = torch.isfinite(piece)
        self._damaged[name] += int((~finite).sum())
        lost = finite & ~torch.isfinite(cast)
        if bool(lost.any()):
            largest = float(piece[lost].abs().max())
            self._too_large[name] = max(largest, self._too_large.get(name, 0.0))

    def check(self) -> None:
        """Complain about what was wrong with the values given so far.

        Raises:
            CheckpointError: some are NaN or infinite, or the type cannot hold them; the first ten tensors are named.
        """
        damaged = +self._damaged
        if damaged:
            named = shorten(f"{name} ({count})" for name, count in damaged.items())
            raise CheckpointError(
                f"{sum(damaged.values())} values of {len(damaged)} tensors are NaN or infinite: {named}; "
                "fetch the files again"
            )
        if self._too_large:
            name, *_ = self._too_large
            dtype = str(self._plan.entries[name].info.dtype).removeprefix("torch.")
            named = shorten(f"{name} (up to {largest:.3g})" for name, largest in self._too_large.items())
            raise CheckpointError(f"{dtype} cannot hold the values of {named}; convert to bfloat16 or float32")

    def check_head(self) -> None:
        """Compare the export's output head with the embedding table that takes its place.

        Raises:
            CheckpointError: they differ.
        """
        source = self._sources["export"]
        table = next((name for name in source.infos if our_name(name) == EMBEDDING), None)
        for name in (name for name in source.infos if bare_name(name) == HEAD):
            same = table is not None and source.infos[name] == source.infos[table]
            if not same or not all(map(torch.equal, pieces(source.read(name)), pieces(source.read(str(table))))):
                raise CheckpointError(
                    f"{name} is not the embedding table {table}; only networks whose output head is tied are supported"
                )

"""What ``x2sam eval`` is given, opened: data sets, and any number of bags as one of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from x2sam_ros.bag.storage import is_bag
from x2sam_ros.errors import ConfigError, TruthError, X2SamError
from x2sam_ros.truth.dataset import Dataset, Sequence
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.sequences import FailedSequence, usable

BAG_LAYOUT = "bag"


@dataclass(frozen=True)
class Input:
    """A data set and how it was opened: the same paths, layout and options open it again, perhaps beside others."""

    dataset: Dataset
    paths: tuple[str, ...] = ()
    layout: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def open_inputs(paths: Listed[Path], layout: str | None, **options: Any) -> list[Input]:
    """Open data sets; bags that are given one by one become one data set, so that they have numbers together.

    Args:
        paths: of data sets and bags.
        layout, options: of all of them, as ``open_dataset`` takes them.

    Raises:
        TruthError: one holds no ground truth that can be read; of several bags, all of them.
        ConfigError: an input is given twice.
    """
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice; give each input once")
    paths = [path.absolute() for path in paths]  # predictions name their images, and are read from anywhere
    bags = [path for path in paths if layout in (None, BAG_LAYOUT) and is_bag(path)]
    if len(bags) < 2:
        bags = []
    opened = _bags(bags, options) if bags else []
    for path in paths:
        if path not in bags:
            dataset = open_dataset(path, layout, **options)
            opened.append(Input(dataset, (str(path),), layout or "", options))
    return _with_own_names(opened)


def chosen(inputs: Listed[Input], names: Listed[str], limit: int | None) -> list[Input]:
    """Return the inputs with only some of their sequences.

    Args:
        inputs: what was opened.
        names: of sequences; () for all.
        limit: most sequences of each input.

    Raises:
        TruthError: no input has a sequence of that name.
        ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit} sequences, expected 1 or more")
    known = {sequence.name for item in inputs for sequence in item.dataset.sequences}
    for name in names:
        if name not in known:
            some = ", ".join(sorted(known)[:10])
            raise TruthError(f"no input has a sequence {name!r:.80}; there are {len(known)}: {some}")
    found = []
    for item in inputs:
        kept = [sequence for sequence in item.dataset.sequences if not names or sequence.name in names]
        if kept:
            found.append(replace(item, dataset=replace(item.dataset, sequences=tuple(kept[:limit]))))
    return found


def _bags(paths: Listed[Path], options: Mapping[str, Any]) -> list[Input]:
    """Open bags; those whose labels mean the same are one data set, with those that cannot be opened."""
    alike: dict[Any, list[tuple[Path, Dataset]]] = {}
    failed: list[tuple[Path, Sequence]] = []
    for path in paths:
        try:
            dataset = open_dataset(path, BAG_LAYOUT, **options)
        except X2SamError as error:
            failed.append((path, FailedSequence(path.name, TruthError(str(error)))))
        else:
            alike.setdefault((dataset.kind, dataset.categories), []).append((path, dataset))
    pairs = [*failed, *((path, one) for each in alike.values() for path, item in each for one in item.sequences)]
    _tell_apart(pairs)
    usable((sequence for _, sequence in pairs), "the bags")
    given = tuple(str(path) for path in paths)
    joined = (_joined(each, () if number else failed) for number, each in enumerate(alike.values()))
    return [Input(dataset, given, BAG_LAYOUT, options) for dataset in joined]


def _tell_apart(pairs: Listed[tuple[Path, Sequence]]) -> None:
    """Put the folder of a bag in front of its name where another bag has the same."""
    names = Counter(sequence.name for _, sequence in pairs)
    for path, sequence in pairs:
        if names[sequence.name] > 1:
            sequence.name = "/".join([*path.resolve().parent.parts[1:], sequence.name])


def _joined(opened: Listed[tuple[Path, Dataset]], failed: Listed[tuple[Path, Sequence]]) -> Dataset:
    sequences = (*(one for _, dataset in opened for one in dataset.sequences), *(one for _, one in failed))
    digest = hashlib.sha256("".join(dataset.fingerprint for _, dataset in opened).encode())
    return replace(opened[0][1], name=f"{len(sequences)} bags", sequences=sequences, fingerprint=digest.hexdigest())


def _with_own_names(inputs: list[Input]) -> list[Input]:
    """Call data sets of one name by their paths, and bags that are joined by theirs."""
    names = Counter(item.dataset.name for item in inputs)
    return [item if names[item.dataset.name] == 1 else _with_own_name(item) for item in inputs]


def _with_own_name(item: Input) -> Input:
    name = item.paths[0] if len(item.paths) == 1 else ", ".join(one.name for one in item.dataset.sequences)
    return replace(item, dataset=replace(item.dataset, name=name))

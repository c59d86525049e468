"""What is to be evaluated: cells, and how the method of each is opened in whatever process runs it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import PurePath
from typing import Any, Protocol

import x2sam_ros
from x2sam_ros.checkpoint.load import load_model, read_device, weights_sha256
from x2sam_ros.engine.clip import Mode
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.errors import ConfigError, TruthError, X2SamError
from x2sam_ros.evaluation.baselines import copy_first, optical_flow
from x2sam_ros.evaluation.inputs import Input
from x2sam_ros.evaluation.methods import Method, X2SamMethod, evaluated_config
from x2sam_ros.evaluation.prompting import PROMPTS, PlannedPrompt, make_prompts
from x2sam_ros.evaluation.results import Cell
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.truth.dataset import Dataset, Sequence

BASELINES = {"copy_first": copy_first, "optical_flow": optical_flow}
_NO_FILE_NAME = re.compile(r"[^\w.-]+")


class Shelf:
    """Keep the model that was loaded last, since cells of one checkpoint are run one after the other."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._model: X2SAM | None = None

    def model(self, checkpoint: str, device: str, dtype: str, weights: str) -> X2SAM:
        """Load a model, unless it is the one that is there; arguments and errors are those of ``load_model``."""
        key = (checkpoint, device, dtype, weights)
        if self._model is None or self._key != key:
            self._model = None  # before the next one takes its memory
            self._model, self._key = load_model(*key), key
        return self._model


class Opener(Protocol):
    """How a method is opened; it travels to other processes.

    The first four are those of ``Cell``.
    """

    @property
    def method(self) -> str:
        """What results call it."""

    @property
    def checkpoint(self) -> str:
        """Where its weights are."""

    @property
    def memory_policy(self) -> str:
        """Which frames it remembers."""

    @property
    def mode(self) -> str:
        """How it goes through a sequence."""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the method's weights, '' where it has none."""

    def settings(self) -> dict[str, Any]:
        """Return every setting that the answers depend on, by dotted name, as JSON can hold it."""

    def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
        """Open the method for the sequences of a dataset; it is there until the end of the ``with``."""


@dataclass(frozen=True)
class BaselineOpener:
    """Open one of ``BASELINES``."""

    method: str
    checkpoint: str = ""
    memory_policy: str = ""
    mode: str = ""
    weights_sha256: str = ""

    def settings(self) -> dict[str, Any]:
        """Return nothing: a baseline has no settings."""
        return {}

    def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
        """Open the baseline."""
        return nullcontext(BASELINES[self.method](dataset.categories))


@dataclass(frozen=True)
class X2SamOpener:
    """Open the session; what can be found wrong without loading the model is found when this is made.

    Args:
        checkpoint: preset, folder or hub id.
        memory_policy: name of the plugin.
        mode: "stream" or "clip".
        device, dtype, weights: see ``load_model``.
        official_quirks: read masks as the published evaluation does.

    Raises:
        ConfigError, CheckpointError, PluginError: there is no such checkpoint, device or policy.
    """

    checkpoint: str
    memory_policy: str
    mode: Mode
    device: str
    dtype: str
    weights: str
    official_quirks: bool = False
    method: str = X2SamMethod.name

    def __post_init__(self) -> None:
        read_device(self.device)
        open_policy(self.memory_policy, evaluated_config())
        _ = self.weights_sha256

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the checkpoint's weights."""
        return weights_sha256(self.checkpoint)

    def settings(self) -> dict[str, Any]:
        """Return the engine's settings and how the weights are used."""
        engine = asdict(evaluated_config(self.official_quirks))
        own = {"device": self.device, "dtype": self.dtype, "weights": self.weights}
        return {**{f"engine.{name}": value for name, value in engine.items()}, **own}

    def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
        """Open the session's method.

        Raises:
            ConfigError, CheckpointError: as ``load_model``.
        """
        model = shelf.model(self.checkpoint, self.device, self.dtype, self.weights)
        config = evaluated_config(self.official_quirks)
        return nullcontext(X2SamMethod(model, config, self.memory_policy, self.mode))


@dataclass(frozen=True)
class CellPlan:
    """A cell that is to be run.

    Args:
        cell: what results call it.
        dataset: ground truth; sequences that are not in it are not run.
        opener: opens the method.
        seed: of prompts that are drawn.
        official_quirks: name classes and score as the published evaluation does, mistakes included.
        truth_paths, truth_layout, truth_options: how the dataset was opened.
    """

    cell: Cell
    dataset: Dataset
    opener: Opener
    seed: int = 0
    official_quirks: bool = False
    truth_paths: tuple[str, ...] = ()
    truth_layout: str = ""
    truth_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder of the cell below the results: readable, and another one for every other cell."""
        cell = self.cell
        checkpoint = PurePath(cell.checkpoint).name
        parts = (cell.dataset, cell.method, checkpoint, cell.memory_policy, cell.prompt, cell.mode)
        readable = "_".join(_NO_FILE_NAME.sub("-", part)[:40] for part in parts if part)
        digest = hashlib.sha256(json.dumps(asdict(cell)).encode()).hexdigest()
        return f"cells/{readable}-{digest[:8]}"

    def prompts(self, sequence: Sequence) -> tuple[PlannedPrompt, ...]:
        """Return the prompts of a sequence.

        Raises:
            X2SamError: it has no images, or no prompt can be made.
        """
        sequence.frames()  # where it has none, that is what is wrong
        kind, categories = self.dataset.kind, self.dataset.categories
        return make_prompts(
            sequence, kind, self.cell.prompt, categories, seed=self.seed, official_quirks=self.official_quirks
        )

    def truth(self) -> dict[str, Any]:
        """Return how the dataset is opened again, as JSON can hold it."""
        options, fingerprint = dict(self.truth_options), self.dataset.fingerprint
        return {"paths": self.truth_paths, "layout": self.truth_layout, "options": options, "fingerprint": fingerprint}

    def settings(self) -> dict[str, Any]:
        """Return every setting that the results depend on, by dotted name."""
        own = {
            "seed": self.seed,
            "official_quirks": self.official_quirks,
            "weights_sha256": self.opener.weights_sha256,
            "truth_fingerprint": self.dataset.fingerprint,
            "version": x2sam_ros.__version__,
        }
        given = {f"truth.{name}": value for name, value in self.truth_options.items()}
        named = {f"cell.{item.name}": getattr(self.cell, item.name) for item in fields(self.cell)}
        settings: dict[str, Any] = json.loads(json.dumps({**named, **given, **self.opener.settings(), **own}))
        return settings


def plan_cells(
    inputs: Listed[Input], openers: Listed[Opener], prompts: Listed[str], seed: int = 0, official_quirks: bool = False
) -> list[CellPlan]:
    """Combine inputs, methods and prompts.

    Args:
        inputs: data sets.
        openers: methods.
        prompts: kinds of prompts; () takes the first that each kind of data set has.
        seed, official_quirks: as in ``CellPlan``.

    Raises:
        ConfigError: a data set has no such prompt, or a combination is asked for twice.
    """
    plans = []
    for item in inputs:
        dataset = item.dataset
        for opener in openers:
            for prompt in prompts or PROMPTS[dataset.kind][:1]:
                check_prompt(dataset, prompt)
                cell = Cell(
                    dataset=dataset.name,
                    kind=dataset.kind.value,
                    method=opener.method,
                    checkpoint=opener.checkpoint,
                    memory_policy=opener.memory_policy,
                    prompt=prompt,
                    mode=opener.mode,
                )
                plans.append(
                    CellPlan(cell, dataset, opener, seed, official_quirks, item.paths, item.layout, item.options)
                )
    for cell, count in Counter(plan.cell for plan in plans).items():
        if count > 1:
            said = ", ".join(str(part) for part in asdict(cell).values() if part)
            raise ConfigError(f"the same is asked for twice: {said}; give each option once")
    return plans


def check_prompt(dataset: Dataset, prompt: str) -> None:
    """Raise ConfigError where a kind of prompt cannot be made from the ground truth of a dataset."""
    if prompt not in PROMPTS[dataset.kind]:
        raise ConfigError(
            f"{dataset.name} is of kind {dataset.kind.value}, for which there is no prompt {prompt!r}; "
            f"expected one of: {', '.join(PROMPTS[dataset.kind])}"
        )


def check_truth(plan: CellPlan) -> None:
    """Find out whether prompts can be made from the ground truth of any sequence, which is cheap if the first fits.

    Raises:
        TruthError: of none; the first case is named. Single sequences that do not fit are reported by the run.
    """
    first: X2SamError | None = None
    dataset = plan.dataset
    for sequence in dataset.sequences:
        try:
            plan.prompts(sequence)
            return
        except X2SamError as error:
            first = first or error
    if first is None:
        raise TruthError(f"{dataset.name} holds no sequence; give a data set or bag with ground truth")
    raise TruthError(f"the ground truth of {dataset.name} fits none of its {len(dataset.sequences)} sequences: {first}")

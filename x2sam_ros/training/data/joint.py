"""Several sources as one stream of batches, which goes on where it was left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Any, get_args

import numpy as np
from rich.console import Console
from torch.utils.data import Dataset

from x2sam_ros.errors import ConfigError, TruthError, X2SamError, plain
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.training.data.collate import Prepared, Preparer, collate_prepared
from x2sam_ros.training.data.sample import MediaKind
from x2sam_ros.training.data.sampler import JointSampler, Place, Planned, Share, balanced_weights
from x2sam_ros.training.data.sources import Source, SourceConfig, open_training_source
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.training.feed import NumberedSources, SourceBatch

_FREE = ("epochs", "tries", "workers")
"""Settings that change no batch."""


@dataclass(frozen=True)
class JointSettings:
    """How sources are joined.

    Args:
        seed: of order, wording and everything else that is drawn.
        epochs: how often the sources are gone through.
        parts: batches for one step of the optimiser, by media; as published, one of pictures or four of clips.
        balance: small sources come more often, see ``balanced_weights``; 0 for as often as their weights say.
        canonical_share: how often a question has the form that the task head uses.
        clip_share: share of the batches of clips in which the language model is shown the whole clip, not its first
            frame alone.
        tries: samples in a row of one source that may be unreadable before training stops; each is replaced by another
            one, drawn at random.
        workers: processes that read ahead; 0 reads in this one.
    """

    seed: int = 0
    epochs: int = 1
    parts: Mapping[str, int] = field(default_factory=lambda: {"image": 1, "video": 4})
    balance: float = 0.1
    canonical_share: float = 0.5
    clip_share: float = 1.0
    tries: int = 10
    workers: int = 2

    def __post_init__(self) -> None:
        """Raise ConfigError where a value makes no sense."""
        least = {"seed": 0, "epochs": 1, "balance": 0, "tries": 1, "workers": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {low}")
        for name in ("canonical_share", "clip_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share from 0 to 1")
        if any(media not in get_args(MediaKind) or parts < 1 for media, parts in self.parts.items()):
            raise ConfigError(f"parts are {dict(self.parts)}, expected at least 1 for some of {get_args(MediaKind)}")


class JointSources(NumberedSources):
    """Batches of several sources, one source a batch; see ``feed.Sources``.

    Whatever is drawn depends on seed, epoch, source and sample alone: any worker and any interruption give the same.

    Args:
        configs: the sources.
        model: the network the batches are for.
        tokenizer: its tokenizer.
        settings: how they are joined.
        rank, world: this process and how many there are.
        training: see ``open_training_source``.

    Raises:
        TruthError: a source cannot be used.
        ConfigError: two sources have the same name, or a setting is given that a source has no use for.
    """

    def __init__(
        self,
        configs: Sequence[SourceConfig],
        model: X2SAMConfig,
        tokenizer: Tokenizer,
        settings: JointSettings | None = None,
        rank: int = 0,
        world: int = 1,
        training: bool = True,
    ) -> None:
        self.settings = JointSettings() if settings is None else settings
        wording = Wording(model.language.templates, self.settings.canonical_share)
        self.sources = [open_training_source(config, wording, training) for config in configs]
        check_names(self.sources)
        weights = [1.0] * len(self.sources)
        if self.settings.balance:
            weights = balanced_weights([len(source.samples) for source in self.sources], self.settings.balance)
        shares = [
            Share(source.lengths, source.config.batch, self.parts_of(source.name), weight * source.config.weight)
            for source, weight in zip(self.sources, weights)
        ]
        sampler = JointSampler(shares, self.settings.seed, rank, world)
        reader = _Reader(self.sources, Preparer(model, tokenizer), self.settings, model)
        super().__init__(_Epochs(reader, sampler, self.settings.epochs), self.settings.workers)

    def parts_of(self, source: str) -> int:
        """Return how many batches of a source make one step."""
        found = next(one for one in self.sources if one.name == source)
        return int(self.settings.parts.get(found.media, 1))

    def tell(self, console: Console) -> None:
        """Print what was left out when the sources were opened."""
        for source in self.sources:
            for line in source.problems.lines(f"source {source.name}: "):
                console.print(plain(line), markup=False)

    def describe(self) -> dict[str, Any]:
        """Return what the batches are made from, by number, since the order of sources makes another run.

        Where samples are read from does not count, what they are does.
        """
        about = {
            f"source {number}": {
                **{key: value for key, value in asdict(source.config).items() if key not in ("path", "media")},
                "name": source.name,
                "regions": list(source.config.regions),
                "span": list(source.config.span),
                "sequences": list(source.config.sequences),
                "fingerprint": source.fingerprint,
                "samples": len(source.samples),
            }
            for number, source in enumerate(self.sources, 1)
        }
        settings = {key: value for key, value in asdict(self.settings).items() if key not in _FREE}
        return {"settings": settings, "sources": about}


def check_names(sources: Sequence[Source]) -> None:
    """Raise ConfigError where two sources have the same name."""
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"sources need names of their own, got {', '.join(names)}; give each a name")


class _Reader:
    """Reads the samples of a batch; one that cannot be read is replaced by another of its source, drawn at random."""

    def __init__(
        self, sources: Sequence[Source], preparer: Preparer, settings: JointSettings, model: X2SAMConfig
    ) -> None:
        self._sources, self._preparer, self._settings = sources, preparer, settings
        self._merge = model.language.vision.spatial_merge_size

    def read(self, planned: Planned, epoch: int, position: int) -> SourceBatch:
        source, problems = self._sources[planned.source], list[str]()
        draw = self._draw(epoch, planned.source, position)
        whole_clip = bool(draw.random() < self._settings.clip_share)
        found = [self._sample(planned.source, place, epoch, whole_clip, problems) for place in planned.places]
        batch = collate_prepared([prepared for _, prepared in found], self._merge)
        names = tuple(name for name, _ in found)
        return SourceBatch(source.name, batch, names, source.shares_phrases, tuple(problems))

    def _draw(self, *numbers: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._settings.seed, *numbers]))

    def _sample(
        self, number: int, place: Place, epoch: int, whole_clip: bool, problems: list[str]
    ) -> tuple[str, Prepared]:
        source, tries = self._sources[number], self._settings.tries
        for attempt, chosen in enumerate(islice(self._tried(number, place, epoch), tries)):
            sample = source.samples[chosen]
            draw = self._draw(epoch, number, place.sample, place.copy, attempt)
            where = f"source {source.name}: {sample.name}"
            try:
                shown = sample.read(draw)
                prepared = self._preparer.prepare(shown, whole_clip)
            except X2SamError as error:
                problems.append(f"{where}: {error}")
                continue
            problems += [f"{where}: {problem}" for problem in shown.problems]
            return sample.name, prepared
        raise TruthError(
            f"{tries} samples of a source in a row could not be read, the last one: {problems[-1]}; mend them or leave "
            f"them out of the source, or give more tries than {tries}"
        )

    def _tried(self, number: int, place: Place, epoch: int) -> Iterator[int]:
        """Yield the sample of a place, then those of its source at random, over and over.

        Neighbours are often damaged together; the sample itself, drawn otherwise, may show what is asked for.
        """
        yield place.sample
        draw = self._draw(epoch, number, place.sample, place.copy)
        yield from cycle(draw.permutation(len(self._sources[number].samples)).tolist())


class _Epochs(Dataset[SourceBatch]):
    """The batches of one epoch after the other; workers go on from epoch to epoch."""

    def __init__(self, reader: _Reader, sampler: JointSampler, epochs: int) -> None:
        self._reader, self._sampler, self._epochs = reader, sampler, epochs
        self._drawn: tuple[int, list[Planned]] = (-1, [])

    def __len__(self) -> int:
        return self._sampler.batches_per_epoch() * self._epochs

    def __getitem__(self, index: int) -> SourceBatch:
        epoch, position = divmod(index, self._sampler.batches_per_epoch())
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._sampler.epoch(epoch)
        return self._reader.read(self._drawn[1][position], epoch, position)

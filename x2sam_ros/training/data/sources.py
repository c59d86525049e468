"""Sources of samples: a dataset of truth/ or a file of chats, a task, how often it is drawn, and how many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np

from x2sam_ros.bag.media import read_image
from x2sam_ros.bag.source import Problems, open_source
from x2sam_ros.errors import ConfigError, TruthError, X2SamError
from x2sam_ros.training.data.asking import Asking, AskingRules, Seen, asking_of
from x2sam_ros.training.data.sample import Asked, Draw, MediaKind, Sample, Shown
from x2sam_ros.training.data.wording import Wording
from x2sam_ros.truth import dataset as truth
from x2sam_ros.truth.chat import Chat, is_chat, open_chat
from x2sam_ros.truth.dataset import Expression
from x2sam_ros.truth.files import fingerprint
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.part import part_of, places_within, some_sequences
from x2sam_ros.truth.shown_regions import REGION_KINDS
from x2sam_ros.types import Frame, Task, Uint8Array

_PICTURE_TOKENS = 300
"""Tokens of a picture of 640x480, and of a pair of frames, on the language side."""

_LETTERS_PER_TOKEN = 4
_FRAME_PAIR = 2

_OF_CHATS = ("path", "name", "media", "weight", "batch", "frames", "sequences")
"""Settings that mean something for chats."""

_BLANK = (32, 32)
"""Size (height, width) of what stands for the picture of a chat about none, pixels."""


@dataclass(frozen=True)
class SourceConfig:
    """One source of a recipe.

    Args:
        path: the dataset: whatever ``open_dataset`` opens, or a JSON of chats.
        name: what logs call it; '' for the dataset's own name. Unique in a recipe.
        layout, split, topic, label_topic: as for ``open_dataset``; without a split, that of training where it is
            learnt from, that of validation where it is held out.
        media: folder of the pictures of chats; '' for that of the JSON.
        task: what is asked, as refseg; '' for what the kind of ground truth suggests.
        weight: how often each of its samples comes in an epoch; 0.5 takes every second one, each epoch others.
        batch: samples a batch.
        frames: frames a sample, 1 for pictures.
        max_stride: annotated frames between two of a clip, at most.
        prompts: expressions a sample, each a prompt of its own.
        phrases: classes or regions a prompt, at most.
        regions: how objects are pointed at.
        span: from which share of each sequence's annotated images to which, so that an end of it can be held out.
        sequences: from which share of the sequences, or chats, to which, likewise.

    Raises:
        ConfigError: a number below its least, an unknown task or kind of region.
    """

    path: str
    name: str = ""
    layout: str | None = None
    split: str | None = None
    topic: str | None = None
    label_topic: str | None = None
    media: str = ""
    task: str = ""
    weight: float = 1.0
    batch: int = 1
    frames: int = 1
    max_stride: int = 1
    prompts: int = 1
    phrases: int = 128
    regions: tuple[str, ...] = REGION_KINDS
    span: tuple[float, float] = (0.0, 1.0)
    sequences: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for key in ("batch", "frames", "max_stride", "prompts", "phrases"):
            if getattr(self, key) < 1:
                raise ConfigError(f"source {self.name or self.path}: {key} is {getattr(self, key)}, expected 1 or more")
        if not self.weight > 0:
            raise ConfigError(f"source {self.name or self.path}: weight is {self.weight}, expected more than 0")
        if self.task and self.task not in [task.value for task in Task]:
            raise ConfigError(f"source {self.name or self.path}: no task is called {self.task!r}")
        for key, (first, last) in (("span", self.span), ("sequences", self.sequences)):
            if not 0 <= first < last <= 1:
                raise ConfigError(
                    f"source {self.name or self.path}: {key} is {(first, last)}, expected a part of 0 to 1"
                )
        strange = [kind for kind in self.regions if kind not in REGION_KINDS]
        if strange or not self.regions:
            raise ConfigError(
                f"source {self.name or self.path}: regions are {self.regions}, expected some of {REGION_KINDS}"
            )


@dataclass(frozen=True)
class Source:
    """Samples of one kind: same task, same number of frames, same number of prompts.

    Args:
        name: unique in a recipe.
        config: how it was opened.
        task: what is asked.
        media: pictures or clips.
        samples: all of them, in the dataset's order.
        fingerprint: of its annotations, hexadecimal.
        problems: what could not be used, counted, the first ones in words.
    """

    name: str
    config: SourceConfig
    task: Task
    media: MediaKind
    samples: tuple[Sample, ...]
    fingerprint: str
    problems: Problems = field(default_factory=Problems)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample, about."""
        return [sample.length for sample in self.samples]

    @property
    def shares_phrases(self) -> bool:
        """Whether the phrases of a picture's prompts are choices of each other, as published for expressions."""
        return self.task in (Task.REFSEG, Task.REASEG) and self.config.prompts > 1


def open_training_source(config: SourceConfig, wording: Wording, training: bool = True) -> Source:
    """Open a source: structure is checked, and clips are counted; pixels are read when a sample is.

    Sequences that cannot be used, as those shorter than a clip, are left out and counted in ``problems``.

    Args:
        config: what, and how.
        wording: in which words it is asked about.
        training: which of several splits is meant where none is given, that of training or that of validation.

    Raises:
        TruthError: nothing there, of no known layout, or not one sample can be made of it.
        ConfigError: a setting is given that chats, or this layout, have no use for.
    """
    path = Path(config.path)
    if is_chat(path):
        return _open_chats(path, config, wording)
    dataset = open_dataset(
        path,
        config.layout,
        split=config.split,
        topic=config.topic,
        label_topic=config.label_topic,
        training=training,
    )
    rules = AskingRules(Task(config.task) if config.task else None, config.prompts, config.phrases, config.regions)
    asking = asking_of(dataset, rules, wording)
    name, problems = config.name or dataset.name, Problems()
    samples: list[Sample] = []
    for sequence in some_sequences(dataset, config.sequences):
        try:
            samples += _samples_of(sequence, name, config, asking)
        except X2SamError as error:
            problems.add(f"source {name}: {sequence.name} left out: {error}")
    media: MediaKind = "image" if config.frames == 1 else "video"
    return _checked(Source(name, config, asking.task, media, tuple(samples), dataset.fingerprint, problems))


def _checked(source: Source) -> Source:
    if not source.samples:
        reason = source.problems.messages[0] if source.problems.messages else "it holds nothing to ask about"
        raise TruthError(f"source {source.name} gives no sample: {reason}")
    return source


def _samples_of(sequence: truth.Sequence, name: str, config: SourceConfig, asking: Asking) -> list[Sample]:
    places = places_within(sequence, config.span)
    if len(places) < config.frames:
        raise TruthError(
            f"it has {len(places)} annotated frames, a clip needs {config.frames}; take fewer frames a sample"
        )
    items = asking.items(sequence)
    if not items:
        raise TruthError("it has no expression")
    media: MediaKind = "image" if config.frames == 1 else "video"
    pictures = -(-config.frames // _FRAME_PAIR)
    parts = 1 if asking.first(sequence) is not None else len(places) // _reach(config.frames, 1)
    return [
        Sample(
            name,
            f"{sequence.name}, clip {part}, item {number}",
            asking.task,
            media,
            _PICTURE_TOKENS * pictures + asking.words(item) // _LETTERS_PER_TOKEN + 1,
            partial(_read, _Clip(sequence, places, part, parts, config), asking, item),
        )
        for part in range(parts)
        for number, item in enumerate(items)
    ]


def _reach(frames: int, stride: int) -> int:
    return (frames - 1) * stride + 1


@dataclass(frozen=True)
class _Clip:
    """A clip that begins in part ``part`` of ``parts`` of where one can; ``places`` are the annotated images."""

    sequence: truth.Sequence
    places: tuple[int, ...]
    part: int
    parts: int
    config: SourceConfig

    def draw(self, first: int | None, draw: Draw) -> tuple[int, ...]:
        """Draw the places of the frames; backwards in time where too few come after the one to begin with."""
        frames, count = self.config.frames, len(self.places)
        if first is not None:
            return self._from(first)
        longest = min(self.config.max_stride, (count - 1) // max(frames - 1, 1)) or 1
        stride = int(draw.integers(1, longest + 1))
        starts = count - _reach(frames, stride) + 1  # need not be a multiple of the parts, so that two may share one
        start = min(int((self.part + draw.random()) * starts / self.parts), starts - 1)
        return tuple(self.places[start + k * stride] for k in range(frames))

    def _from(self, first: int) -> tuple[int, ...]:
        frames = self.config.frames
        after = [place for place in self.places if place >= first]
        before = [place for place in reversed(self.places) if place <= first]
        chosen = (after if len(after) >= frames else before)[:frames]
        if len(chosen) < frames or chosen[0] != first:
            raise TruthError(f"image {first}, which the prompt is on, does not begin {frames} annotated frames")
        return tuple(chosen)


def _read(clip: _Clip, asking: Asking, item: tuple[Expression, ...], draw: Draw) -> Shown:
    """Read a clip with its truth, and ask about it."""
    places = clip.draw(asking.first(clip.sequence), draw)
    problems = Problems()
    source = clip.sequence.frames()
    found = {frame.frame_index: frame for frame in source.pick(set(places), problems)}
    if missing := [place for place in places if place not in found]:
        raise TruthError(problems.messages[0] if problems.messages else f"image {missing[0]} cannot be read")
    frames = [found[place] for place in places]
    truths = [clip.sequence.truth(frame) for frame in frames]
    seen = Seen(clip.sequence, tuple(one for one in truths if one is not None), source.num_images == 1)
    if len(seen.truths) < len(frames):
        raise TruthError(f"image {places[truths.index(None)]} has no annotation")
    gaps = np.abs(np.diff(places)) if len(places) > 1 else np.ones(1)
    stride, asked = max(1, int(np.median(gaps))), asking.ask(seen, item, draw)
    return Shown(_stacked(frames), asked, asking.ignored(seen), stride, problems=_told(asking.lost(seen)))


def _told(lost: Sequence[int]) -> tuple[str, ...]:
    if not lost:
        return ()
    count = f"{len(lost)}, the first is of object {lost[0]}"
    return (f"empty masks left out: {count}; draw them, or take them out of the annotations",)


def _stacked(frames: Sequence[Frame]) -> Uint8Array:
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise TruthError(f"its frames have different sizes (height, width): {sizes[:5]}; export them in one size")
    return np.stack([frame.image for frame in frames])


def _open_chats(path: Path, config: SourceConfig, wording: Wording) -> Source:
    """Open chats about pictures and about nothing, or those about clips; the others are left out.

    Raises:
        ConfigError: a setting is given that only datasets have a use for.
    """
    _check_chats(config)
    found = open_chat(path, Path(config.media) if config.media else None)
    name, problems = config.name or found.name, Problems()
    media: MediaKind = "image" if config.frames == 1 else "video"
    for message in found.problems:
        problems.add(message)
    samples = []
    for chat in part_of(found.chats, config.sequences):
        if (chat.video is None) != (media == "image"):
            about = "no clip" if chat.video is None else "a clip"
            problems.add(f"source {name}: chat {chat.name} left out: it is about {about}")
            continue
        letters = sum(len(words) for turn in chat.turns for words in turn)
        pictures = 0 if chat.image is None and chat.video is None else -(-config.frames // _FRAME_PAIR)
        length = _PICTURE_TOKENS * pictures + letters // _LETTERS_PER_TOKEN + 1
        samples.append(
            Sample(name, chat.name, Task.CHAT, media, length, partial(_read_chat, chat, config.frames, wording))
        )
    return _checked(Source(name, config, Task.CHAT, media, tuple(samples), fingerprint(path), problems))


def _check_chats(config: SourceConfig) -> None:
    """Raise ConfigError where a setting of a source of chats has no meaning for them."""
    plain = SourceConfig(config.path)
    given = [one.name for one in fields(config) if getattr(config, one.name) != getattr(plain, one.name)]
    strange = [name for name in given if name not in _OF_CHATS]
    if config.task == Task.CHAT.value:
        strange.remove("task")
    if strange:
        raise ConfigError(
            f"source {config.name or config.path} holds chats, which have no {', no '.join(strange)}; leave them away, "
            f"chats have {', '.join(_OF_CHATS)}"
        )


def _read_chat(chat: Chat, frames: int, wording: Wording, draw: Draw) -> Shown:
    """Read what a chat is about; of a clip as many frames as asked for, evenly spread."""
    asked = (Asked(wording.canonical(Task.CHAT), turns=chat.turns),)
    if chat.image is not None:
        return Shown(read_image(chat.image)[None], asked)
    if chat.video is None:
        return Shown(np.zeros((1, *_BLANK, 3), np.uint8), asked, is_blank=True)
    source = open_source(chat.video)
    count = source.num_images
    if count is None or count < frames:
        raise TruthError(f"{chat.video} has {count} frames, a clip needs {frames}; take fewer frames a sample")
    places = np.linspace(0, count - 1, frames).round().astype(int).tolist()
    picked = list(source.pick(set(places)))
    if len(picked) < frames:
        raise TruthError(f"{chat.video}: {len(picked)} of {frames} frames could be read")
    return Shown(_stacked(picked), asked, stride=max(1, count // frames))

"""The one kind of sample that every source gives, whatever its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from x2sam_ros.errors import TruthError
from x2sam_ros.model.template import Template
from x2sam_ros.rle import Counts, decode_rle
from x2sam_ros.types import BoolArray, Task, Uint8Array

MediaKind = Literal["image", "video"]

Draw = np.random.Generator
"""Where everything that is left to chance comes from."""


@dataclass(frozen=True)
class Wanted:
    """One mask that a prompt asks for.

    Args:
        phrase: which of the prompt's phrases or regions it answers.
        runs: run lengths of the whole image (``rle``), one for each frame; all zeros where it is absent.
    """

    phrase: int
    runs: tuple[Counts, ...]


@dataclass(frozen=True)
class Asked:
    """One prompt about what a sample shows, with its answer.

    Args:
        template: the words around it; its answer is our own, so control tokens in it mean what they say.
        phrases: what is looked for, or, with ``caption``, what of it has masks.
        regions: run lengths of what is pointed at on the first frame, instead of phrases.
        wanted: the masks; phrases that nothing answers are absent.
        caption: a description that the model is to write, plain text.
        spans: start and end of each phrase in the caption, in order.
        turns: questions and answers in words alone, instead of all else.

    Raises:
        TruthError: what cannot belong together.
    """

    template: Template
    phrases: tuple[str, ...] = ()
    regions: tuple[Counts, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    caption: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    turns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        given = [bool(part) for part in (self.phrases, self.regions, self.turns)]
        if sum(given) != 1:
            raise TruthError(
                f"a prompt needs phrases, regions or turns, and one of them only; got {len(self.phrases)} phrases, "
                f"{len(self.regions)} regions, {len(self.turns)} turns"
            )
        empty = [phrase for phrase in self.phrases if not phrase.strip()]
        if empty:
            raise TruthError(f"{len(empty)} of {len(self.phrases)} phrases have no words")
        last = max((one.phrase for one in self.wanted), default=-1)
        if last >= self.num_phrases or min((one.phrase for one in self.wanted), default=0) < 0:
            raise TruthError(f"a mask answers phrase {last} of {self.num_phrases}; count from 0")
        ends = [0, *(bound for span in self.spans for bound in span), len(self.caption)]
        if self.caption and (len(self.spans) != len(self.phrases) or ends != sorted(ends)):
            raise TruthError(f"{len(self.phrases)} phrases need spans in order within the caption, got {self.spans}")

    @property
    def num_phrases(self) -> int:
        """Phrases or regions of the prompt."""
        return len(self.phrases) + len(self.regions)


@dataclass(frozen=True)
class Shown:
    """What a sample is when it has been read.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        asked: the prompts, all about these frames.
        ignore: run lengths of what nobody annotated, one for each frame, or None.
        stride: camera frames between two of the frames.
        is_blank: the prompts are chats about nothing; the frames only stand where others have some.
        problems: what of its annotations was left out, in words.

    Raises:
        TruthError: a mask has not one run of the frames' size for each frame, or masks are asked for of nothing.
    """

    frames: Uint8Array
    asked: tuple[Asked, ...]
    ignore: tuple[Counts | None, ...] = ()
    stride: int = 1
    is_blank: bool = False
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.dtype != np.uint8 or not len(self.frames) or self.frames.shape[3] != 3:
            raise TruthError(f"frames must be uint8 (T, H, W, 3), got {self.frames.dtype} {self.frames.shape}")
        if not self.asked or self.stride < 1:
            raise TruthError(f"a sample needs a prompt and a stride above 0, got {len(self.asked)} and {self.stride}")
        if self.is_blank and not all(prompt.turns for prompt in self.asked):
            raise TruthError("a prompt for masks needs frames that it is about")
        count, pixels = len(self.frames), self.size[0] * self.size[1]
        rows = [one.runs for prompt in self.asked for one in prompt.wanted]
        if any(len(runs) != count for runs in (*rows, *([self.ignore] if self.ignore else []))):
            raise TruthError(f"masks of {sorted({len(runs) for runs in rows})} frames do not fit {count} frames")
        regions = [prompt.regions for prompt in self.asked]
        for run in (run for runs in (*rows, self.ignore, *regions) for run in runs if run is not None):
            if int(run.sum()) != pixels:
                raise TruthError(f"run lengths of {int(run.sum())} pixels do not fit frames of {pixels}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames, pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    def mask(self, runs: Counts) -> BoolArray:
        """Decode run lengths to bool (H, W)."""
        return decode_rle(runs, *self.size)


@dataclass(frozen=True)
class Sample:
    """One sample, cheap to make: pixels and masks are read when they are asked for.

    Args:
        source: name of the source it is of.
        name: of the sequence and what of it, for messages.
        task: what is asked.
        media: one picture or a clip.
        length: how many tokens it has, about: words at their usual length, pictures at their usual size. Samples are
            sorted by it.
        read: reads it; what is left to chance, as wording and order, is drawn from the generator.

    Raises:
        TruthError: a name is missing, or the length is not above 0.
    """

    source: str
    name: str
    task: Task
    media: MediaKind
    length: int
    read: Callable[[Draw], Shown]

    def __post_init__(self) -> None:
        if not self.source or not self.name or self.length < 1:
            raise TruthError(
                f"a sample needs source, name and length, got {self.source!r}, {self.name!r}, {self.length}"
            )

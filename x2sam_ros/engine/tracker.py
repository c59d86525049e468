"""The frame work on groups: encode a frame once, segment it for all of them as one batch, read, remember.

Knows neither prompts that wait nor ids: a ``Session`` does. The language lane catches up with a tracker of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.finest import finest_maps
from x2sam_ros.engine.grounding import pixel_values
from x2sam_ros.engine.mask_memory import entry_row, merge_memories
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.observation import observe
from x2sam_ros.engine.preprocess import at_side
from x2sam_ros.engine.search import astray, find_again
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.stepper import Stepper
from x2sam_ros.engine.track import Group, Reading, Target
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, Uint8Array

Admit = Callable[[Group], int | None]
"""Gives a new target of a group its id, or None where there is no room for it."""


class Stopwatch:
    """Adds up the wall time of stages, in milliseconds.

    Args:
        awaited: the GPU whose work is waited for around each stage; None times the host, which on a GPU only launches.
    """

    def __init__(self, awaited: torch.device | None = None) -> None:
        self.timings_ms: dict[str, float] = {}
        self._awaited = awaited

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + (time.perf_counter() - started) * 1e3

    def _wait(self) -> None:
        if self._awaited is not None and self._awaited.type == "cuda":
            torch.cuda.synchronize(self._awaited)


class Seen:
    """A frame as the network sees it: encoded, and decoded to pixels at most once for each kind of group.

    Args:
        frame: the picture.
        features: the mask encoder's view of it.
        decode: runs the pixel decoder; told whether for groups that have no memory yet.
        encode: encodes it at the model's own side, where ``features`` are smaller.
    """

    def __init__(
        self,
        frame: Frame,
        features: ImageFeatures,
        decode: Callable[[bool], PixelFeatures],
        encode: Callable[[], ImageFeatures] | None = None,
    ) -> None:
        self.frame, self.features = frame, features
        self._decode, self._encode = decode, encode
        self._pixels: dict[bool, PixelFeatures] = {}

    def pixels(self, first: bool) -> PixelFeatures:
        """Return the decoded pixels for groups that see it as their first frame, or for those with a memory."""
        if first not in self._pixels:
            self._pixels[first] = self._decode(first)
        return self._pixels[first]

    @cached_property
    def native(self) -> ImageFeatures:
        """The mask encoder's view at the model's own side, which the language side was trained on."""
        return self.features if self._encode is None else self._encode()


class Tracker:
    """Bring groups from frame to frame. Holds no group itself, so several trackers may share a model.

    Args:
        model: the network.
        config: thresholds and caps.
        may_compile: see ``Stepper``.

    Raises:
        ConfigError: the model cannot see frames at ``input_side``.
    """

    def __init__(self, model: X2SAM, config: EngineConfig, may_compile: bool = True) -> None:
        self._model, self._config = model, config
        self._square = at_side(model.config.segmentor, config.input_side)
        self._stepper = Stepper(model.segmentor, config, may_compile)
        self.watch = Stopwatch()

    @property
    def fault(self) -> str:
        """Why the network is not compiled though it was asked for; "" otherwise."""
        return self._stepper.fault

    def encode(self, frame: Frame) -> Seen:
        """Run the mask encoder on a frame.

        Raises:
            FrameError: the picture cannot be used.
        """
        stepper, side = self._stepper, self._square.image_size
        with self.watch.timed("preprocess"):
            values = pixel_values(self._model, frame.image, side)
        with self.watch.timed("encode"):
            features = stepper.encode(values)
        return Seen(
            frame,
            features,
            lambda first: stepper.decode_pixels(features, first),
            None if side == self._model.config.segmentor.image_size else lambda: self._native(frame),
        )

    def _native(self, frame: Frame) -> ImageFeatures:
        return self._model.segmentor.encode_image(pixel_values(self._model, frame.image))

    def begin(self, seen: Seen, groups: Sequence[Group], admit: Admit) -> None:
        """Segment a frame for new groups, which see it as their first.

        Args:
            seen: the frame their prompts were given on.
            groups: at least one.
            admit: asked for each target they find.

        Raises:
            PluginError: a task head gave an invalid answer.
            ModelError: the network answered with NaN.
        """
        self._step(seen, groups, admit, prompted=True)

    def advance(self, seen: Seen, groups: Sequence[Group], admit: Admit) -> None:
        """Segment a frame for groups that have a memory; see ``begin``."""
        self._step(seen, groups, admit, prompted=False)

    def search(self, seen: Seen, groups: Sequence[Group], others: Sequence[Target]) -> None:
        """Look for lost targets of groups that have been brought to a frame, as if their prompts were given on it.

        Where one is found, the frame as it is seen without memory is what the group remembers of it.

        Args:
            seen: the frame.
            groups: at least one.
            others: the session's targets; their places are taken where they are seen.

        Raises:
            ModelError: the network answered with NaN.
        """
        with self.watch.timed("search"):
            output, found = self._without_memory(seen, groups)
            again = [find_again(group, found[row], others, self._config) for row, group in enumerate(groups)]
            rows = [row for row, targets in enumerate(again) if targets]
            if not rows:
                return
            entry = self._stepper.write(seen.pixels(first=True), _rows(output, rows))
            for position, row in enumerate(rows):
                only = replace(groups[row], targets={target.target_id: target for target in again[row]})
                record = observe(only, found[row], seen.frame, prompted=False)
                groups[row].memory.replace(record, entry_row(entry, position))

    def place(self, frame: Frame) -> Placement:
        """Return where a frame lies in the network's square."""
        return Placement.of(frame.size, self._square)

    def _step(self, seen: Seen, groups: Sequence[Group], admit: Admit, prompted: bool) -> None:
        with self.watch.timed("pixel_decode"):
            pixels = seen.pixels(first=prompted)
        with self.watch.timed("segment"):
            condition = PromptCondition.merge([group.condition for group in groups])
            memory, finest, every = None, None, self._config.finest_refresh
            if not prompted:
                now = seen.frame.frame_index, seen.frame.stamp_ns
                memory = merge_memories([group.memory for group in groups], *now)
                if every > 1:
                    finest = finest_maps(self._stepper, pixels, memory, groups, seen.frame.frame_index, every)
            output = self._stepper.step(pixels, condition, memory, finest)
        with self.watch.timed("select"):
            found = [self._candidates(seen.frame, group, output, row) for row, group in enumerate(groups)]
            readings = [group.read(candidates, self._config, prompted) for group, candidates in zip(groups, found)]
            lost = astray(
                groups, readings, self._config, lambda rows: self._read_alone(seen, [groups[row] for row in rows])
            )
            for row, (group, reading) in enumerate(zip(groups, readings)):
                self._take(group, reading.without(lost.get(row, ())), admit)
        with self.watch.timed("remember"):
            observed = [observe(group, candidates, seen.frame, prompted) for group, candidates in zip(groups, found)]
            # what led to another object, and shows nothing else, would lead there again
            records = {row: record for row, record in enumerate(observed) if record.seen or row not in lost}
            self._remember(groups, records, pixels, output)

    def _without_memory(self, seen: Seen, groups: Sequence[Group]) -> tuple[StepOutput, list[Candidates]]:
        """Segment a frame for groups as if their prompts were given on it."""
        condition = PromptCondition.merge([group.condition for group in groups])
        output = self._stepper.step(seen.pixels(first=True), condition)
        return output, [self._candidates(seen.frame, group, output, row) for row, group in enumerate(groups)]

    def _read_alone(self, seen: Seen, groups: Sequence[Group]) -> list[Reading]:
        """Read a frame as if the groups had no memory; of their targets nothing, where there is no room to look."""
        found: list[Candidates] = []
        with suppress(torch.OutOfMemoryError):
            _, found = self._without_memory(seen, groups)
        if not found:
            return [Reading({}, (), prompted=False)] * len(groups)
        return [group.read(candidates, self._config, prompted=False) for group, candidates in zip(groups, found)]

    def _candidates(self, frame: Frame, group: Group, output: StepOutput, row: int) -> Candidates:
        place = self.place(frame)
        read = place.exact_candidates if self._config.official_quirks else place.candidates
        return read(output, row, len(group.labels))

    def _take(self, group: Group, reading: Reading, admit: Admit) -> None:
        """Bring a group's targets to what was read; new ones are added while they are admitted."""
        for choice in group.take(reading, self._config):
            target_id = admit(group)
            if target_id is None:
                break
            target = Target(target_id, "")
            group.name(target, choice.class_index)
            target.see(choice, self._config, reading.prompted)
            group.targets[target_id] = target
        group.vain_frames = 0 if group.targets else group.vain_frames + 1

    def _remember(
        self, groups: Sequence[Group], records: Mapping[int, MemoryRecord], pixels: PixelFeatures, output: StepOutput
    ) -> None:
        """Store the frame in the memory of every group that is due, and that found something or still looks."""
        due = {
            row: record
            for row, record in records.items()
            if groups[row].is_alive(self._config) and groups[row].memory.is_due(record.frame_index, record.stamp_ns)
        }
        if not due:
            return
        if len(due) < len(groups):
            output = _rows(output, list(due))
        entry = self._stepper.write(pixels, output)
        for position, (row, record) in enumerate(due.items()):
            groups[row].memory.store(record, entry_row(entry, position))


def _rows(output: StepOutput, rows: Sequence[int]) -> StepOutput:
    """Return what a memory is written from, of some groups."""
    return replace(output, class_logits=output.class_logits[rows], mask_logits=output.mask_logits[rows])


def arithmetic(model: X2SAM, config: EngineConfig) -> torch.autocast:
    """Multiply in bfloat16 when asked to, and in the weights' own type when that is a short one."""
    weights = model.bg_embeds.weight.dtype
    short = weights is not torch.float32
    dtype = weights if short else torch.bfloat16
    return torch.autocast(model.device.type, dtype=dtype, enabled=short or config.autocast)


def encode_frame(model: X2SAM, image: Uint8Array, config: EngineConfig) -> ImageFeatures:
    """Return the mask encoder's view of a frame, uint8 (H, W, 3), as a session sees it; for prompts asked elsewhere."""
    with arithmetic(model, config):
        features: ImageFeatures = model.segmentor.encode_image(pixel_values(model, image))
        return features

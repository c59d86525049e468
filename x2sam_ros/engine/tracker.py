"""The frame work on groups: encode a frame once, segment it for all of them as one batch, read, remember.

Knows neither prompts that wait nor ids: a ``Session`` does. The language lane catches up with a tracker of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.grounding import pixel_values
from x2sam_ros.engine.mask_memory import entry_row, merge_memories
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.observation import observe
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, Uint8Array

Admit = Callable[[Group], int | None]
"""Gives a new target of a group its id, or None where there is no room for it."""


class Stopwatch:
    """Adds up the wall time of stages, in milliseconds; on a GPU launches are timed, not the work."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        started = time.perf_counter()
        yield
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + (time.perf_counter() - started) * 1e3


class Seen:
    """A frame as the network sees it: encoded, and decoded to pixels at most once for each kind of group.

    Args:
        frame: the picture.
        features: the mask encoder's view of it.
        decode: runs the pixel decoder; told whether for groups that have no memory yet.
    """

    def __init__(self, frame: Frame, features: ImageFeatures, decode: Callable[[bool], PixelFeatures]) -> None:
        self.frame, self.features = frame, features
        self._decode = decode
        self._pixels: dict[bool, PixelFeatures] = {}

    def pixels(self, first: bool) -> PixelFeatures:
        """Return the decoded pixels for groups that see it as their first frame, or for those with a memory."""
        if first not in self._pixels:
            self._pixels[first] = self._decode(first)
        return self._pixels[first]


class Tracker:
    """Bring groups from frame to frame. Holds no group itself, so several trackers may share a model.

    Args:
        model: the network.
        config: thresholds and caps.
    """

    def __init__(self, model: X2SAM, config: EngineConfig) -> None:
        self._model, self._config = model, config
        self.watch = Stopwatch()

    def encode(self, frame: Frame) -> Seen:
        """Run the mask encoder on a frame.

        Raises:
            FrameError: the picture cannot be used.
        """
        segmentor = self._model.segmentor
        with self.watch.timed("preprocess"):
            values = pixel_values(self._model, frame.image)
        with self.watch.timed("encode"):
            features = segmentor.encode_image(values)
        return Seen(frame, features, lambda first: segmentor.decode_pixels(features, first=first))

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

    def place(self, frame: Frame) -> Placement:
        """Return where a frame lies in the network's square."""
        return Placement.of(frame.size, self._model.config.segmentor)

    def _step(self, seen: Seen, groups: Sequence[Group], admit: Admit, prompted: bool) -> None:
        with self.watch.timed("pixel_decode"):
            pixels = seen.pixels(first=prompted)
        with self.watch.timed("segment"):
            condition = PromptCondition.merge([group.condition for group in groups])
            memory = None
            if not prompted:
                now = seen.frame.frame_index, seen.frame.stamp_ns
                memory = merge_memories([group.memory for group in groups], *now)
            output = self._model.segmentor.step(pixels, condition, memory)
        with self.watch.timed("select"):
            found = [self._candidates(seen.frame, group, output, row) for row, group in enumerate(groups)]
            for group, candidates in zip(groups, found):
                self._read(group, candidates, prompted, admit)
        with self.watch.timed("remember"):
            records = [observe(group, candidates, seen.frame, prompted) for group, candidates in zip(groups, found)]
            self._remember(groups, records, pixels, output)

    def _candidates(self, frame: Frame, group: Group, output: StepOutput, row: int) -> Candidates:
        place = self.place(frame)
        read = place.exact_candidates if self._config.official_quirks else place.candidates
        return read(output, row, len(group.labels))

    def _read(self, group: Group, found: Candidates, prompted: bool, admit: Admit) -> None:
        """Bring what a group's queries show to its targets; new ones are added while they are admitted."""
        for choice in group.read(found, self._config, prompted):
            target_id = admit(group)
            if target_id is None:
                break
            target = Target(target_id, "")
            group.name(target, choice.class_index)
            target.see(choice, self._config)
            group.targets[target_id] = target
        group.vain_frames = 0 if group.targets else group.vain_frames + 1

    def _remember(
        self, groups: Sequence[Group], records: Sequence[MemoryRecord], pixels: PixelFeatures, output: StepOutput
    ) -> None:
        """Store the frame in the memory of every group that is due, and that found something or still looks."""
        due = [
            row
            for row, (group, record) in enumerate(zip(groups, records))
            if group.is_alive(self._config) and group.memory.is_due(record.frame_index, record.stamp_ns)
        ]
        if not due:
            return
        if len(due) < len(groups):
            output = replace(output, class_logits=output.class_logits[due], mask_logits=output.mask_logits[due])
        entry = self._model.segmentor.write_memory(pixels, output)
        for position, row in enumerate(due):
            groups[row].memory.store(records[row], entry_row(entry, position))


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

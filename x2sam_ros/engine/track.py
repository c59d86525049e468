"""What a session remembers of its prompts and targets between frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.motion import MAX_STEPS, BoxMotion
from x2sam_ros.engine.region import Region
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import HISTORY, ReadContext, TaskHead, Track, checked_read
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.types import ClassListPrompt, PointPrompt, Prompt, TargetState

SIZES = 10
"""Newest masks whose sizes are known, to tell what is usual."""


def is_seen(choice: Choice, config: EngineConfig) -> bool:
    """Tell whether a choice is sure enough, and has a pixel; the published evaluation is never unsure."""
    sure = config.official_quirks or choice.score >= config.score_threshold
    return sure and bool((choice.logits > 0).any())


@dataclass
class Target:
    """One followed object.

    Args:
        target_id: stable for the target's life.
        label: what it is called: the phrase, the class, or "object <id>".
        class_index: the label of its conversation that it answers.
        logits: float (h, w) on the newest frame, or None while it is not seen.
        last_mask: bool (h, w), where it was last seen.
        history: its newest masks of which the head was sure, with their scores, at most ``HISTORY``.
        motion: the path of its box; None until it has been seen.
        sizes: shares of the image its newest masks covered, at most ``SIZES``.
    """

    target_id: int
    label: str
    class_index: int = 0
    state: TargetState = TargetState.TENTATIVE
    score: float = 0.0
    logits: Tensor | None = None
    last_mask: Tensor | None = None
    history: tuple[tuple[Tensor, float], ...] = ()
    seen_frames: int = 0
    missed_frames: int = 0
    motion: BoxMotion | None = None
    sizes: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its masks, each counted once."""
        masks = (self.logits, self.last_mask, *(mask for mask, _ in self.history))
        return sum({id(x): x.numel() * x.element_size() for x in masks if x is not None}.values())

    def see(self, choice: Choice, config: EngineConfig) -> None:
        """Take over what was found on this frame; too unsure or empty counts as a miss."""
        if not is_seen(choice, config):
            self.miss(config, choice.score)
            return
        self.logits, self.last_mask, self.score = choice.logits.clone(), choice.logits > 0, choice.score
        if choice.score > config.score_threshold:
            self.history = (*self.history, (self.last_mask, self.score))[-HISTORY:]
        self.seen_frames, self.missed_frames = self.seen_frames + 1, 0
        confirmed = self.seen_frames >= config.confirm_frames
        self.state = TargetState.TRACKED if confirmed else TargetState.TENTATIVE

    def miss(self, config: EngineConfig, score: float = 0.0) -> None:
        """Count a frame on which the target was not found."""
        self.logits, self.score = None, score
        self.missed_frames += 1
        self.state = TargetState.LOST if self.missed_frames >= config.lost_frames else TargetState.OCCLUDED

    def track(self, size: tuple[int, int]) -> Track:
        """Return what a head may know of it, masks at ``size``, which changes with the image's."""
        assert self.last_mask is not None  # a target begins by being seen
        history = tuple((_resized(mask, size), score) for mask, score in self.history)
        return Track(self.class_index, _resized(self.last_mask, size), history, self.missed_frames, self._drift())

    def _drift(self) -> tuple[float, float]:
        """Return how far it should be on the next frame from where it was last seen, in shares of the image."""
        if self.motion is None:
            return 0.0, 0.0
        steps = min(self.missed_frames + 1, MAX_STEPS)
        return self.motion.speed[0] * steps, self.motion.speed[1] * steps


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a bool (h, w) mask at another size, by the nearest cell."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0] > 0


@dataclass
class Group:
    """One conversation: a prompt's condition, its memory, and the targets it found.

    Args:
        head: reads targets from the queries.
        labels: a name for each phrase or region.
        stuff: which of the labels are stuff; with any, its targets' masks do not overlap.
        regions: the clicks, boxes or masks of the prompt.
        clicks: clicks given so far, so that later ones refine them.
        reply: what the language model said.
        vain_frames: frames on which nothing was found, until something is.
    """

    prompt: Prompt
    head: TaskHead
    condition: PromptCondition
    memory: MaskMemory
    labels: tuple[str, ...]
    stuff: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    clicks: PointPrompt | None = None
    reply: Reply = field(default_factory=Reply)
    targets: dict[int, Target] = field(default_factory=dict)
    vain_frames: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the condition, the memory, the regions and the targets' masks."""
        regions = sum(region.mask.nbytes for region in self.regions)
        targets = sum(target.nbytes for target in self.targets.values())
        return self.condition.nbytes + self.memory.nbytes + regions + targets

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the condition, the memory and the targets."""
        yield from (x for x in vars(self.condition).values() if isinstance(x, Tensor))
        yield from (x for entry in self.memory.entries for x in entry.embeds)
        for target in self.targets.values():
            masks = (target.logits, target.last_mask, *(mask for mask, _ in target.history))
            yield from (x for x in masks if x is not None)

    def rest(self, config: EngineConfig) -> None:
        """Forget what belongs to a stream that has ended; targets are lost until the prompt is asked again."""
        self.memory.clear()
        for target in self.targets.values():
            target.history, target.motion, target.sizes = (), None, ()
            target.missed_frames = max(target.missed_frames, config.lost_frames)
            target.miss(config)

    def is_looking(self, config: EngineConfig) -> bool:
        """Tell whether a class list that has found nothing yet still looks for it."""
        return isinstance(self.prompt, ClassListPrompt) and 0 < self.vain_frames < config.lost_frames

    def is_alive(self, config: EngineConfig) -> bool:
        """Tell whether it follows something, or still looks for it."""
        return bool(self.targets) or self.is_looking(config)

    def shift(self, frames: int) -> None:
        """Add a number to every frame index it holds, where a stream is counted anew."""
        self.memory.shift(frames)
        for target in self.targets.values():
            if target.motion is not None:
                target.motion = replace(target.motion, frame_index=target.motion.frame_index + frames)

    def name(self, target: Target, class_index: int) -> None:
        """Let a target answer one of the labels."""
        target.class_index = class_index
        target.label = self.labels[class_index] or target.label or f"object {target.target_id}"

    def read(self, found: Candidates, config: EngineConfig, prompted: bool) -> list[Choice]:
        """Bring one frame to the group's targets.

        A target being refined takes the best of what its new prompt found, wherever it was before.

        Args:
            found: the group's queries.
            config: thresholds.
            prompted: whether the prompt was given on this frame.

        Returns:
            What belongs to no target so far, the surest first.

        Raises:
            PluginError: the task head gave an invalid answer.
        """
        known = list(self.targets.values())
        size = found.mask_logits.shape[-2], found.mask_logits.shape[-1]
        context = ReadContext(
            labels=self.labels,
            stuff=self.stuff,
            regions=self.regions,
            prompted=prompted,
            tracks=() if prompted else tuple(target.track(size) for target in known),
            score_threshold=config.score_threshold,
            official_quirks=config.official_quirks,
        )
        choices = checked_read(self.head, found, context)
        if prompted and self.regions and not config.official_quirks:
            # a person pointed at it: it is there, whatever the class head thinks
            choices = tuple(replace(c, score=max(c.score, config.score_threshold)) for c in choices)
        continued = {choice.track: choice for choice in reversed(choices) if choice.track is not None}
        new = [choice for choice in choices if choice.track is None]
        if prompted and known and new:
            continued[0] = new.pop(0)
            self.name(known[0], continued[0].class_index)
        for index, target in enumerate(known):
            if index in continued:
                target.see(continued[index], config)
            else:
                target.miss(config)
        return [choice for choice in new if is_seen(choice, config)]

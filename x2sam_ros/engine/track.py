"""What a session remembers of its prompts and targets between frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


RIVAL_SHARE = 0.3
"""Rivalry from which a target is not the only one of its look."""


def is_seen(
    choice: Choice, config: EngineConfig, confidence: float, prompted: bool = False, tracked: bool = False
) -> bool:
    """Tell whether a choice is sure enough of its class and its mask; the published evaluation is never unsure.

    Args:
        choice: what was found.
        config: ``mask_score_threshold``. With a ``score_threshold`` of 0 whatever has a pixel is seen.
        confidence: what its class needs.
        prompted: whether it was asked for on this frame, where a faint mask will do.
        tracked: whether it continues a tracked target.
    """
    solid = choice.mask_score
    if config.official_quirks or not config.score_threshold:
        return solid > 0
    needed = config.mask_score_kept if tracked else config.mask_score_threshold
    return choice.score >= confidence and solid > 0 and (prompted or solid >= needed)


@dataclass
class Target:
    """One followed object.

    It is tentative until it has been seen on ``confirm_frames``, then tracked. While it is tracked ``keep_threshold``
    is enough to be seen; to begin, or to be found again, takes ``score_threshold``. Not seen it is occluded, and lost
    after ``lost_frames``. A lost one that is found is tentative until it is confirmed anew, and lost again if not.

    Args:
        target_id: stable for the target's life.
        label: what it is called: the phrase, the class, or "object <id>".
        class_index: the label of its conversation that it answers.
        logits: float (h, w) on the newest frame, or None while it is not seen.
        last_mask: bool (h, w), where it was last seen.
        history: its newest masks of which the head was sure, with their scores, at most ``HISTORY``.
        seen_frames: frames on which it was seen since it began, or since it was found again after it was lost.
        missed_frames: frames since it was last seen for certain: a lost one that is found keeps its number until it
            is confirmed.
        motion: the path of its box; None until it has been seen.
        sizes: shares of the image its newest masks covered, at most ``SIZES``.
        missed_before: what ``missed_frames`` was when it was last seen.
        rivalry: how often something else looked like it while it was seen, 0 to 1, newer frames weighing more.
        last_seen_ns: stamp of the newest frame on which it was seen.
        seen_before_ns: what ``last_seen_ns`` was before that frame.
        refused: bool (h, w), what was lately taken for it and is not; None once it is seen.
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
    rivalry: float = 0.0
    missed_before: int = 0
    last_seen_ns: int = 0
    seen_before_ns: int = 0
    refused: Tensor | None = None

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """Its masks, some of them twice."""
        masks = (self.logits, self.last_mask, self.refused, *(mask for mask, _ in self.history))
        return tuple(x for x in masks if x is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of its masks, each counted once."""
        return sum({id(x): x.numel() * x.element_size() for x in self.masks}.values())

    def threshold(self, config: EngineConfig) -> float:
        """Return the confidence from which it counts as seen."""
        return config.confidence_kept if self.state is TargetState.TRACKED else config.score_threshold

    def would_see(self, choice: Choice, config: EngineConfig, prompted: bool = False) -> bool:
        """Tell whether what was found on this frame is enough; see ``see``."""
        confidence = config.score_threshold if prompted else self.threshold(config)
        return is_seen(choice, config, confidence, prompted, self.state is TargetState.TRACKED)

    def see(self, choice: Choice, config: EngineConfig, prompted: bool = False) -> None:
        """Take over what was found on this frame; too unsure or empty counts as a miss.

        Args:
            choice: what was found.
            config: thresholds.
            prompted: whether it begins here, so that what it was before does not count.
        """
        if not self.would_see(choice, config, prompted):
            self.miss(config, choice.score)
            return
        self.missed_before, self.refused = self.missed_frames, None
        self.logits, self.last_mask, self.score = choice.logits.clone(), choice.logits > 0, choice.score
        if choice.score > config.score_threshold:
            self.history = (*self.history, (self.last_mask, self.score))[-HISTORY:]
        self.seen_frames = 1 if self.state is TargetState.LOST else self.seen_frames + 1
        confirmed = self.seen_frames >= config.confirm_frames
        if confirmed or self.missed_frames < config.lost_frames:
            self.missed_frames = 0
        self.state = TargetState.TRACKED if confirmed else TargetState.TENTATIVE

    def miss(self, config: EngineConfig, score: float = 0.0) -> None:
        """Count a frame on which the target was not found."""
        self.logits, self.score = None, score
        self.missed_frames += 1
        self.state = TargetState.LOST if self.missed_frames >= config.lost_frames else TargetState.OCCLUDED

    def vanish(self, config: EngineConfig) -> None:
        """Count the frame as a miss after all: nothing of its mask is left at the image's size."""
        self.missed_frames, self.last_seen_ns = self.missed_before, self.seen_before_ns
        self.miss(config)

    def track(self, size: tuple[int, int], config: EngineConfig) -> Track:
        """Return what a head may know of it, masks at ``size``, which changes with the image's."""
        assert self.last_mask is not None  # a target begins by being seen
        return Track(
            class_index=self.class_index,
            mask=_resized(self.last_mask, size),
            history=tuple((_resized(mask, size), score) for mask, score in self.history),
            missed=self._unseen_frames,
            drift=self._drift(),
            threshold=self.threshold(config),
            extent=max(self.sizes, default=0.0),
            has_rivals=self.rivalry >= RIVAL_SHARE,
        )

    @property
    def _unseen_frames(self) -> int:
        return self.missed_frames if self.logits is None else 0

    def _drift(self) -> tuple[float, float]:
        """Return how far it should be on the next frame from where it was last seen, in shares of the image."""
        if self.motion is None:
            return 0.0, 0.0
        steps = min(self._unseen_frames + 1, MAX_STEPS)
        return self.motion.speed[0] * steps, self.motion.speed[1] * steps


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a bool (h, w) mask at another size, by the nearest cell."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0] > 0


@dataclass(frozen=True)
class Member:
    """One of the prompts of a merged conversation, which has a label and at most one target.

    Args:
        prompt: what was asked.
        clicks: its clicks so far.
        tokens: its region as the language model read it, float (1, K, D); None for words.
        begins: whether it was asked on the conversation's first frame; the others were continued there.
    """

    prompt: Prompt
    clicks: PointPrompt | None = None
    tokens: Tensor | None = None
    begins: bool = True


@dataclass(frozen=True)
class Reading:
    """What one frame shows of a group, before its targets are brought there.

    Args:
        continued: what each target is, by its id; whatever is left out is not seen.
        new: what belongs to no target so far, the surest first.
        prompted: whether the prompt was given on this frame.
    """

    continued: Mapping[int, Choice]
    new: Sequence[Choice]
    prompted: bool

    def without(self, target_ids: Sequence[int]) -> Reading:
        """Return the same with some targets not seen."""
        return replace(self, continued={i: choice for i, choice in self.continued.items() if i not in target_ids})


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
        at: number of the buffered frame that it was brought to; -1 where that is another session's.
        members: the prompts of a merged conversation, one for each label; () where ``prompt`` is the only one. The
            label of a member without a target is not looked for.
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
    at: int = -1
    members: tuple[Member, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the condition, the memory, the regions and the targets' masks."""
        regions = sum(region.mask.nbytes for region in self.regions)
        tokens = sum(x.numel() * x.element_size() for x in self._tokens)
        targets = sum(target.nbytes for target in self.targets.values())
        kept = 0 if self.memory.finest is None else self.memory.finest.nbytes
        return self.condition.nbytes + self.memory.nbytes + kept + regions + tokens + targets

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the condition, the memory and the targets."""
        yield from (x for x in vars(self.condition).values() if isinstance(x, Tensor))
        yield from (x for entry in self.memory.entries for x in entry.embeds)
        if self.memory.finest is not None:
            yield self.memory.finest.added
        yield from self._tokens
        for target in self.targets.values():
            yield from target.masks

    @property
    def _tokens(self) -> Iterator[Tensor]:
        yield from (member.tokens for member in self.members if member.tokens is not None)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids of the prompts whose targets it follows; '' for one without."""
        if not self.members:
            return (self.prompt.prompt_id,)
        return tuple(self.prompt_of(target).prompt_id for target in self.targets.values())

    def prompt_of(self, target: Target) -> Prompt:
        """Return the prompt that one of its targets is the answer to."""
        return self.members[target.class_index].prompt if self.members else self.prompt

    def clicks_of(self, target: Target) -> PointPrompt | None:
        """Return the clicks on one of its targets so far."""
        return self.members[target.class_index].clicks if self.members else self.clicks

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

    def shift(self, frames: int, ns: int = 0) -> None:
        """Add to every frame index and to every stamp it holds, where a stream is counted anew."""
        self.memory.shift(frames, ns)
        for target in self.targets.values():
            target.last_seen_ns = max(0, target.last_seen_ns + ns)  # no stamp is negative
            if target.motion is not None:
                target.motion = replace(target.motion, frame_index=target.motion.frame_index + frames)

    def name(self, target: Target, class_index: int) -> None:
        """Let a target answer one of the labels."""
        target.class_index = class_index
        target.label = self.labels[class_index] or target.label or f"object {target.target_id}"

    def read(self, found: Candidates, config: EngineConfig, prompted: bool) -> Reading:
        """Read from one frame what continues the group's targets, and what is new.

        A target being refined takes the best of what its new prompt found, wherever it was before.

        Args:
            found: the group's queries.
            config: thresholds.
            prompted: whether the prompt was given on this frame.

        Raises:
            PluginError: the task head gave an invalid answer.
        """
        known = list(self.targets.values())
        followed = [target for target in known if not (prompted and self._begins(target.class_index))]
        size = found.mask_logits.shape[-2], found.mask_logits.shape[-1]
        context = ReadContext(
            labels=self.labels,
            stuff=self.stuff,
            regions=self.regions,
            prompted=prompted,
            tracks=tuple(target.track(size, config) for target in followed),
            score_threshold=config.score_threshold,
            official_quirks=config.official_quirks,
        )
        choices = checked_read(self.head, found, context)
        if prompted and self.regions and not config.official_quirks:
            # a person pointed at it: it is there, whatever the class head thinks
            sure = config.score_threshold
            choices = tuple(replace(c, score=max(c.score, sure)) if self._begins(c.class_index) else c for c in choices)
        continued = {followed[c.track].target_id: c for c in reversed(choices) if c.track is not None}
        new = [choice for choice in choices if choice.track is None]
        if self.members:
            new = [choice for choice in new if prompted and self._begins(choice.class_index)]
        if prompted:
            for target in known:
                row = next((row for row, choice in enumerate(new) if self._answers(target, choice)), None)
                if row is not None and target.target_id not in continued:
                    continued[target.target_id] = new.pop(row)
        return Reading(continued, new, prompted)

    def take(self, reading: Reading, config: EngineConfig) -> list[Choice]:
        """Bring the group's targets to the frame that was read.

        Returns:
            What belongs to no target so far, the surest first.
        """
        prompted = reading.prompted
        for target in self.targets.values():
            choice = reading.continued.get(target.target_id)
            if choice is None:
                target.miss(config)
                continue
            if choice.track is None:
                self.name(target, choice.class_index)
            target.see(choice, config, prompted and self._begins(target.class_index))
        return [choice for choice in reading.new if is_seen(choice, config, config.score_threshold, prompted)]

    def _begins(self, class_index: int) -> bool:
        """Tell whether a label is asked for on the conversation's first frame, rather than continued there."""
        return not self.members or self.members[class_index].begins

    def _answers(self, target: Target, choice: Choice) -> bool:
        return not self.members or target.class_index == choice.class_index

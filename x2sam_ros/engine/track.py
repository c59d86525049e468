"""What a session remembers of its prompts and targets between frames."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.region import Region
from x2sam_ros.engine.select import Choice
from x2sam_ros.engine.task_head import Selection
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.types import PointPrompt, Prompt, TargetState


@dataclass
class Target:
    """One followed object.

    Args:
        target_id: stable for the target's life.
        label: what it is called: the phrase, the class, or "object <id>".
        class_index: the phrase of its conversation that it answers.
        logits: float (h, w) at stride 4 on the newest frame, or None while it is not seen.
        last_mask: bool (h, w), where it was last seen.
    """

    target_id: int
    label: str
    class_index: int = 0
    state: TargetState = TargetState.TENTATIVE
    score: float = 0.0
    logits: Tensor | None = None
    last_mask: Tensor | None = None
    seen_frames: int = 0
    missed_frames: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the two masks."""
        return sum(x.numel() * x.element_size() for x in (self.logits, self.last_mask) if x is not None)

    def see(self, choice: Choice, config: EngineConfig) -> None:
        """Take over what was found on this frame; too unsure or empty counts as a miss."""
        mask = choice.logits > 0
        if choice.score < config.score_threshold or not bool(mask.any()):
            self.miss(config, choice.score)
            return
        self.logits, self.last_mask, self.score = choice.logits.clone(), mask, choice.score
        self.seen_frames, self.missed_frames = self.seen_frames + 1, 0
        confirmed = self.seen_frames >= config.confirm_frames
        self.state = TargetState.TRACKED if confirmed else TargetState.TENTATIVE

    def miss(self, config: EngineConfig, score: float = 0.0) -> None:
        """Count a frame on which the target was not found."""
        self.logits, self.score = None, score
        self.missed_frames += 1
        self.state = TargetState.LOST if self.missed_frames >= config.lost_frames else TargetState.OCCLUDED


@dataclass
class Group:
    """One conversation: a prompt's condition, its memory, and the targets it found.

    Args:
        selection: how targets are read from the queries.
        labels: a name for each phrase.
        region: the click, box or mask, until its frame was segmented.
        clicks: clicks given so far, so that later ones refine them.
    """

    prompt: Prompt
    selection: Selection
    condition: PromptCondition
    memory: MaskMemory
    labels: tuple[str, ...]
    region: Region | None = None
    clicks: PointPrompt | None = None
    targets: dict[int, Target] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the condition, the memory and the targets' masks."""
        return self.condition.nbytes + self.memory.nbytes + sum(target.nbytes for target in self.targets.values())

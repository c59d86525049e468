"""The ways to follow N targets that ``x2sam bench`` compares, all on the same network and by the same rules.

All are made of ``Session``: what differs is how many there are, what is asked of each, and when it forgets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from x2sam_ros.config import CLIP_LENGTH, EngineConfig, NodeConfig
from x2sam_ros.engine.grounding import Picture
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, TaskHead
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import arithmetic
from x2sam_ros.evaluation.bench_model import BenchModel
from x2sam_ros.evaluation.bench_scene import BenchScene
from x2sam_ros.evaluation.hardware import wait_for
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.template import Template
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import ClassListPrompt, FrameResult, Prompt, TargetState, Task, TextPrompt, Uint8Array

TASK = Task.REFSEG.value
FOLLOWED = (TargetState.TENTATIVE, TargetState.TRACKED)
CONDITION_TOKENS = 4
"""Phrase tokens of a random condition, about as many as a colour and a shape have."""

SURE = 6.0
"""Logit of a pixel of the masks that stand for those of random weights."""


@dataclass(frozen=True)
class Stepped:
    """What a frame took.

    Args:
        total_ms: all of it, with the device waited for.
        language_ms: what of it was spent on language passes.
        stages_ms: the frame's stages, where there is one session.
        followed: targets that are seen.
    """

    total_ms: float
    language_ms: float = 0.0
    stages_ms: Mapping[str, float] | None = None
    followed: int = 0


class Runner(Protocol):
    """One way to follow a number of targets through a scene."""

    variant: str
    targets: int

    @property
    def nbytes(self) -> int:
        """Bytes held for the targets from one frame to the next."""
        ...

    def step(self, scene: BenchScene, index: int) -> Stepped:
        """Follow the targets to the next frame; they are asked for on the first."""
        ...


@dataclass(frozen=True)
class Share:
    """A session and the targets it is asked for, a prompt each, in words."""

    session: Session
    phrases: tuple[str, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts in the order of the targets."""
        return tuple(TextPrompt(text=phrase) for phrase in self.phrases)


class SessionRunner:
    """Sessions side by side.

    Args:
        variant: its name in tables.
        opened: the network.
        shares: the sessions, each with its share of the targets.
        clip_length: frames after which everything is forgotten and asked again with the next clip shown, as the
            published evaluation does; 0: asked once, on the first frame.
        config: of the sessions.
    """

    def __init__(
        self,
        variant: str,
        opened: BenchModel,
        shares: Sequence[Share],
        config: EngineConfig,
        clip_length: int = 0,
    ) -> None:
        self.variant, self.targets = variant, sum(len(item.phrases) for item in shares)
        self._opened, self._shares, self._config = opened, shares, config
        self._clip_length = clip_length
        self.results: tuple[FrameResult, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes the sessions hold for their targets."""
        return sum(item.session.nbytes for item in self._shares)

    def step(self, scene: BenchScene, index: int) -> Stepped:
        """Step every session, one after the other; see ``Runner``."""
        device = self._opened.model.device
        begins = index % self._clip_length == 0 if self._clip_length else index == 0
        clip = scene.clip(index) if begins and self._clip_length else None
        frame = scene.frame(index)
        wait_for(device)
        started = time.perf_counter()
        language_ms = sum(self._ask(item, scene.image(index), clip) for item in self._shares if begins)
        self.results = tuple(item.session.step(frame) for item in self._shares)
        wait_for(device)
        total_ms = (time.perf_counter() - started) * 1e3
        stages = [result.timings_ms for result in self.results]
        return Stepped(
            total_ms=total_ms,
            language_ms=language_ms + sum(spent.get("language", 0.0) for spent in stages),
            stages_ms=stages[0] if len(stages) == 1 else None,
            followed=sum(state in FOLLOWED for result in self.results for state in result.states),
        )

    def _ask(self, item: Share, image: Uint8Array, clip: Uint8Array | None) -> float:
        """Ask for a session's targets; return the milliseconds of language passes that were made here."""
        if self._clip_length:
            item.session.reset(restart_ids=False)
        if not self._opened.is_random:
            for prompt in item.prompts:
                item.session.submit(prompt, clip)
            return 0.0
        started = time.perf_counter()
        merged = self._config.conversations == "merged"
        for prompt in (ClassListPrompt(classes=item.phrases, task=TASK),) if merged else item.prompts:
            if self._opened.has_language:
                _understand(self._opened, prompt, image if clip is None else clip, self._config)
            item.session.begin(_random_group(self._opened, prompt, self._config))
        wait_for(self._opened.model.device)
        return (time.perf_counter() - started) * 1e3


def separate(opened: BenchModel, scene: BenchScene, targets: int) -> SessionRunner:
    """Return the session as it is meant: a conversation for each target, all in one batch."""
    return _together("separate", opened, scene, targets)


def merged(opened: BenchModel, scene: BenchScene, targets: int) -> SessionRunner:
    """Return the session with one conversation for all targets, which share memory and decoder; no phrase twice."""
    return _together("merged", opened, scene, targets)


def _together(policy: str, opened: BenchModel, scene: BenchScene, targets: int) -> SessionRunner:
    config = replace(_config(opened, targets), conversations=policy)
    phrases = (scene.phrase(target) for target in range(targets))
    share = Share(Session(opened.model, config), tuple(dict.fromkeys(phrases) if policy == "merged" else phrases))
    return SessionRunner(policy, opened, [share], config)


def naive(opened: BenchModel, scene: BenchScene, targets: int) -> SessionRunner:
    """Return the plain way: a session for each target, which share nothing."""
    return _one_by_one("naive", opened, scene, targets, 0)


def per_clip(opened: BenchModel, scene: BenchScene, targets: int) -> SessionRunner:
    """Return the published way: each target by itself, and everything anew with every clip of ``CLIP_LENGTH`` frames.

    Within a clip the published code, too, runs the mask encoder and the pixel decoder once for each frame.
    """
    return _one_by_one("per clip", opened, scene, targets, CLIP_LENGTH)


def _one_by_one(variant: str, opened: BenchModel, scene: BenchScene, targets: int, clip_length: int) -> SessionRunner:
    config = _config(opened, targets)
    items = [Share(Session(opened.model, config), (scene.phrase(target),)) for target in range(targets)]
    return SessionRunner(variant, opened, items, config, clip_length)


def _config(opened: BenchModel, targets: int) -> EngineConfig:
    """Return the defaults, with room for the targets."""
    default = EngineConfig()
    return replace(
        default,
        autocast=opened.dtype is not torch.float32,
        exact_timings=True,
        max_merged=max(default.max_merged, targets),
        max_targets=max(default.max_targets, targets),
        max_pending_prompts=max(default.max_pending_prompts, targets),
    )


@dataclass(frozen=True)
class _KeptHead:
    """Reads as another head does, and then says that every label is where it always was.

    Random weights find nothing that lasts; so the targets live, and the reading is paid for.
    """

    inner: TaskHead

    @property
    def task(self) -> str:
        return self.inner.task

    @property
    def templates(self) -> Mapping[str, Template]:
        return self.inner.templates

    def request(self, prompt: Prompt) -> ConversationRequest:
        return self.inner.request(prompt)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        self.inner.read(found, context)
        tracks = {track.class_index: position for position, track in enumerate(context.tracks)}
        height, width = found.mask_logits.shape[1:]
        logits = torch.full((height, width), -SURE, device=found.mask_logits.device)
        logits[height // 4 : height // 2, width // 4 : width // 2] = SURE
        return [Choice(0, label, 1.0, logits, tracks.get(label)) for label in range(len(context.labels))]


def _random_group(opened: BenchModel, prompt: Prompt, config: EngineConfig) -> Group:
    """Return what a language pass would have made of a prompt, with noise for what it would have understood."""
    model = opened.model
    labels = prompt.classes if isinstance(prompt, ClassListPrompt) else (getattr(prompt, "text", ""),)
    width, count = model.config.segmentor.decoder.hidden, len(labels)

    def noise(rows: int) -> torch.Tensor:
        return torch.randn(1, rows, width, device=model.device, dtype=opened.dtype)

    def real(rows: int) -> torch.Tensor:
        return torch.ones(1, rows, dtype=torch.bool, device=model.device)

    tokens = CONDITION_TOKENS * count
    condition = PromptCondition(noise(count + 1), real(count + 1), noise(tokens), real(tokens), noise(1))
    head = _KeptHead(installed_plugins().task_head(TASK)())
    return Group(prompt, head, condition, MaskMemory(open_policy(NodeConfig.memory_policy, config)), labels)


@torch.inference_mode()
def _understand(opened: BenchModel, prompt: Prompt, shown: Uint8Array, config: EngineConfig) -> None:
    """Make the language pass of a prompt about a frame, uint8 (H, W, 3), or a clip (T, H, W, 3)."""
    model = opened.model
    head: TaskHead = installed_plugins().task_head(TASK)()
    request = head.request(prompt)
    with arithmetic(model, config):
        picture = Picture(model, shown)
        template = head.templates[model.config.language.templates]
        asked = model.conversations.build(template, picture.media, phrases=request.phrases)
        model.understand(asked, picture.vision)

"""The streaming session: frames and prompts in, targets with masks out. Time and memory live here.

One session serves one camera stream and belongs to one thread; several may share a model.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.engine.grounding import Grounder, Picture, View, pixel_values
from x2sam_ros.engine.mask_memory import entry_row, merge_memories
from x2sam_ros.engine.masks import Placement, strongest
from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.reply import grounding_of
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import ConfigError, FrameError, PluginError, PromptError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    BoolArray,
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    Prompt,
    TargetState,
    Uint8Array,
)

REMEMBERED_PROMPT_IDS = 1_024
"""Prompt ids a session remembers to tell a repeated one; older ids may be used again."""

MAX_TARGET_ID = 65_535
"""Target ids fit a 16-bit label image; after the last one numbering starts again at 1."""

MAX_CLIP_FRAMES = 128
"""Most frames of a clip that a prompt may come with."""


@dataclass(frozen=True)
class _Submitted:
    """A prompt that waits, with the clip that the language model is to be shown."""

    prompt: Prompt
    clip: Uint8Array | None


class Session:
    """Follow targets through one camera stream.

    Args:
        model: the network; sessions may share it.
        config: thresholds and caps.
        memory_policy: name of the memory policy plugin.

    Raises:
        PluginError: there is no policy of that name.
    """

    def __init__(
        self, model: X2SAM, config: EngineConfig | None = None, memory_policy: str = NodeConfig.memory_policy
    ) -> None:
        self._model = model
        self._config = EngineConfig() if config is None else config
        policy = installed_plugins().memory_policy(memory_policy)(self._config)
        self._grounder = Grounder(model, policy, self._config)
        self._pending: deque[_Submitted] = deque()  # at most config.max_pending_prompts
        self._prompt_ids: deque[str] = deque(maxlen=REMEMBERED_PROMPT_IDS)
        self._groups: list[Group] = []  # each counts as one target at least, so at most config.max_targets
        self._understood: list[Group] = []  # at most config.max_targets
        self._opening: list[Group] = []  # groups of this frame's prompts; empty between frames
        self._next_target_id = 1
        self._timings: dict[str, float] = {}

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets, seen now or not, ascending."""
        return tuple(sorted(target_id for group in (*self._groups, *self._opening) for target_id in group.targets))

    @property
    def nbytes(self) -> int:
        """Bytes held for the targets: conditions, memories, regions and newest masks."""
        return sum(group.nbytes for group in self._groups)

    def submit(self, prompt: Prompt, clip: Uint8Array | None = None) -> None:
        """Queue a prompt; it is carried out on the next frame, whose result holds its grounding.

        Args:
            prompt: what is asked. Its regions lie on the next frame, with or without a clip.
            clip: uint8 (T, H, W, 3), RGB: what the language model is shown in place of the next frame, as a video of
                one frame per second. The published evaluation shows it the clip that is to be segmented.

        Raises:
            PromptError: its id is taken, too many prompts are waiting, or the clip is none.
        """
        if clip is not None:
            _check_clip(clip)
        if prompt.prompt_id and prompt.prompt_id in self._prompt_ids:
            raise PromptError(f"prompt id '{prompt.prompt_id}' is taken; give every prompt an id of its own")
        if len(self._pending) >= self._config.max_pending_prompts:
            raise PromptError(
                f"{len(self._pending)} prompts are waiting, at most {self._config.max_pending_prompts} may; "
                "send prompts more slowly, or check that images arrive"
            )
        if prompt.prompt_id:
            self._prompt_ids.append(prompt.prompt_id)
        self._pending.append(_Submitted(prompt, clip))

    def begin(self, group: Group) -> None:
        """Queue a prompt that is understood already: its targets begin on the next frame, whose result reports them.

        Args:
            group: what a ``Grounder`` made of it.

        Raises:
            PromptError: there is no room for its targets.
        """
        if full := self._full():
            raise PromptError(full)
        self._understood.append(group)

    def remove(self, target_id: int) -> None:
        """Forget a target at once.

        Raises:
            PromptError: there is no such target.
        """
        self._group_of(target_id).targets.pop(target_id)
        self._drop_empty()

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        """Forget a prompt at once, whether it waits, still looks for something, or has targets.

        Returns:
            The targets that were forgotten with it.

        Raises:
            PromptError: there is no such prompt.
        """
        groups = [group for group in self._groups if group.prompt.prompt_id == prompt_id]
        known = groups or any(item.prompt.prompt_id == prompt_id for item in self._pending)
        if not prompt_id or not known:
            raise PromptError(f"there is no prompt '{prompt_id}' that waits, looks or has targets")
        self._pending = deque(item for item in self._pending if item.prompt.prompt_id != prompt_id)
        self._groups = [group for group in self._groups if group.prompt.prompt_id != prompt_id]
        return tuple(sorted(target_id for group in groups for target_id in group.targets))

    def reset(self, restart_ids: bool = True) -> None:
        """Forget all targets, waiting prompts and used prompt ids.

        Args:
            restart_ids: whether target ids start at 1 again, or new targets get new ids.
        """
        self._pending.clear()
        self._prompt_ids.clear()
        self._groups, self._understood, self._opening = [], [], []
        if restart_ids:
            self._next_target_id = 1

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame for every target, after carrying out the waiting prompts on it.

        A prompt that cannot be carried out is answered with a rejected grounding; it never raises here. Of several
        prompts that refine one target, one is carried out on each frame.

        Raises:
            FrameError: the picture cannot be used; nothing is changed.
            PluginError: the memory policy or a task head gave an invalid answer.
            ModelError: the network answered with NaN.
        """
        self._timings, self._opening = {}, []
        started = time.perf_counter()
        groundings = self._segment(frame) if self._groups or self._pending or self._understood else []
        with self._timed("postprocess"):
            seen, masks = self._masks(frame)
        self._timings["total"] = (time.perf_counter() - started) * 1e3
        return FrameResult(
            stamp_ns=frame.stamp_ns,
            frame_index=frame.frame_index,
            frame_id=frame.frame_id,
            image_size=frame.size,
            masks=masks,
            scores=np.array([target.score for target in seen], dtype=np.float32),
            labels=tuple(target.label for target in seen),
            target_ids=np.array([target.target_id for target in seen], dtype=np.int64),
            states=tuple(target.state for target in seen),
            groundings=tuple(groundings),
            timings_ms=dict(self._timings),
        )

    def _segment(self, frame: Frame) -> list[Grounding]:
        """Bring every target to this frame and carry out the waiting prompts; without either there is nothing to do."""
        with arithmetic(self._model, self._config):
            with self._timed("preprocess"):
                pixels = pixel_values(self._model, frame.image)
            with self._timed("encode"):
                features = self._model.segmentor.encode_image(pixels)
            groundings = self._ground(frame, features) if self._pending or self._understood else []
            if self._groups:
                groundings += self._advance(frame, features, self._groups)
            if self._opening:
                groundings += self._begin(frame, features, self._opening)
        return groundings

    def _ground(self, frame: Frame, features: ImageFeatures) -> list[Grounding]:
        """Understand the waiting prompts, opening a group for each; return what was rejected, or answered in words."""
        answered: list[Grounding] = []
        postponed: list[_Submitted] = []
        with self._timed("language"):
            shown = Counter(id(item.clip) for item in self._pending)
            pictures: dict[int, Picture] = {}
            if shown[id(None)]:  # what is wrong with the frame is no prompt's fault
                pictures[id(None)] = Picture(self._model, frame.image, shown[id(None)], features)
            self._opening, self._understood = self._understood, []
            while self._pending:
                item = self._pending.popleft()
                if any(item.prompt.target_id in group.targets for group in self._opening):
                    postponed.append(item)  # its target is being refined on this very frame
                    continue
                try:
                    if item.clip is not None and id(item.clip) not in pictures:
                        pictures[id(item.clip)] = Picture(self._model, item.clip, shown[id(item.clip)])
                    view = View(frame.size, features, pictures[id(item.clip)])
                    answered += self._open(item.prompt, frame, view)
                except (PromptError, PluginError, ConfigError, FrameError) as error:
                    answered.append(grounding_of(item.prompt, frame, GroundingStatus.REJECTED, str(error)))
        self._pending.extend(postponed)
        return answered

    def _open(self, prompt: Prompt, frame: Frame, view: View) -> list[Grounding]:
        """Make the group of one prompt, or return its answer in words; a refined target moves in, keeping its id."""
        if prompt.target_id is None:
            asked, full = self._grounder.ask(prompt, view), self._full()
            if full and asked.request.wants_masks:
                raise PromptError(full)
        else:
            old, full = self._group_of(prompt.target_id), ""
            target, place = old.targets[prompt.target_id], self._place(frame)
            current = place.enlarge(target.track(place.cells).mask[None].float() - 0.5)[0] > 0
            asked = self._grounder.ask(prompt, view, old.clicks, current.cpu().numpy())
        opened = self._grounder.ground(asked, view.picture)
        if not isinstance(opened, Group):
            return [grounding_of(prompt, frame, opened.status, opened.message, reply=opened)]
        if full:
            return [grounding_of(prompt, frame, opened.reply.status, full, reply=opened.reply)]
        if prompt.target_id is not None:
            opened.targets[prompt.target_id] = replace(target)
            opened.name(opened.targets[prompt.target_id], 0)
            old.targets.pop(prompt.target_id)
            self._drop_empty()
        self._opening.append(opened)
        return []

    def _full(self) -> str:
        """Return why no target can be added; '' while there is room."""
        followed, most = self._followed(), self._config.max_targets
        if followed < most:
            return ""
        return f"{followed} targets are followed, at most {most} may be; remove one or raise max_targets"

    def _advance(self, frame: Frame, features: ImageFeatures, groups: list[Group]) -> list[Grounding]:
        """Segment the frame for groups that have a memory; report class lists that found their first, or give up."""
        with self._timed("pixel_decode"):
            pixels = self._model.segmentor.decode_pixels(features, first=False)
        with self._timed("segment"):
            condition = PromptCondition.merge([group.condition for group in groups])
            memory = merge_memories([group.memory for group in groups], frame.frame_index)
            output = self._model.segmentor.step(pixels, condition, memory)
        answers = []
        with self._timed("select"):
            for row, group in enumerate(groups):
                looked = not group.targets
                self._read(group, self._candidates(frame, group, output, row), prompted=False)
                if looked and (group.targets or not group.is_looking(self._config)):
                    answers.append(self._found(group, frame))
        self._remember(frame, groups, pixels, output, prompted=False)
        self._drop_empty()
        return answers

    def _begin(self, frame: Frame, features: ImageFeatures, groups: list[Group]) -> list[Grounding]:
        """Segment the frame for new groups, which see it as their first; keep what found something or still looks."""
        with self._timed("pixel_decode"):
            pixels = self._model.segmentor.decode_pixels(features, first=True)
        with self._timed("segment"):
            output = self._model.segmentor.step(pixels, PromptCondition.merge([g.condition for g in groups]))
        answers = []
        with self._timed("select"):
            for row, group in enumerate(groups):
                self._read(group, self._candidates(frame, group, output, row), prompted=True)
                answers.append(self._found(group, frame))
        self._remember(frame, groups, pixels, output, prompted=True)
        self._groups, self._opening = [*self._groups, *groups], []
        self._drop_empty()
        return answers

    def _place(self, frame: Frame) -> Placement:
        return Placement.of(frame.size, self._model.config.segmentor)

    def _candidates(self, frame: Frame, group: Group, output: StepOutput, row: int) -> Candidates:
        place = self._place(frame)
        read = place.exact_candidates if self._config.official_quirks else place.candidates
        return read(output, row, len(group.labels))

    def _read(self, group: Group, found: Candidates, prompted: bool) -> None:
        """Bring what a group's queries show to its targets; new ones are added up to the cap.

        At the cap a new one takes the place of the group's longest lost target, or else is not followed.
        """
        for choice in group.read(found, self._config, prompted):
            if self._followed(besides=group) + len(group.targets) >= self._config.max_targets:
                lost = [target for target in group.targets.values() if target.state is TargetState.LOST]
                if not lost:
                    break
                del group.targets[max(lost, key=lambda target: target.missed_frames).target_id]
            self._add(group, choice)
        group.vain_frames = 0 if group.targets else group.vain_frames + 1

    def _add(self, group: Group, choice: Choice) -> None:
        target = Target(self._next_id(), "")
        group.name(target, choice.class_index)
        target.see(choice, self._config)
        group.targets[target.target_id] = target

    def _remember(
        self, frame: Frame, groups: list[Group], pixels: PixelFeatures, output: StepOutput, prompted: bool
    ) -> None:
        with self._timed("remember"):
            entry = self._model.segmentor.write_memory(pixels, output)
            for row, group in enumerate(groups):
                if not self._is_alive(group):
                    continue
                seen = [t for t in group.targets.values() if t.logits is not None]
                covered = [float((t.logits > 0).float().mean()) for t in seen if t.logits is not None]
                record = MemoryRecord(
                    frame_index=frame.frame_index,
                    stamp_ns=frame.stamp_ns,
                    score=max((t.score for t in seen), default=0.0),
                    mask_fraction=min(1.0, sum(covered)),
                    prompted=prompted,
                )
                group.memory.store(record, entry_row(entry, row))

    def _found(self, group: Group, frame: Frame) -> Grounding:
        """Report what a group found on this frame."""
        targets = [target for target in group.targets.values() if target.logits is not None]
        status, message = GroundingStatus.OK, group.reply.message
        if not targets:
            status, message = group.reply.status, "nothing in the image fits the prompt"
            if group.is_looking(self._config):
                message += f"; it is looked for on the next {self._config.lost_frames - group.vain_frames} images"
            elif group.vain_frames > 1:
                status, message = GroundingStatus.REMOVED, f"nothing in {group.vain_frames} images fits the prompt"
            message = "; ".join(filter(None, (message, group.reply.message)))
        return grounding_of(
            group.prompt, frame, status, message, reply=group.reply, labels=group.labels, targets=targets
        )

    def _masks(self, frame: Frame) -> tuple[list[Target], BoolArray]:
        """Return all targets, ascending by id, and their masks at the image's size; unseen ones have an empty one."""
        targets = sorted((t for g in self._groups for t in g.targets.values()), key=lambda t: t.target_id)
        masks = np.zeros((len(targets), *frame.size), dtype=bool)
        rows = [row for row, target in enumerate(targets) if target.logits is not None]
        if rows:
            logits = torch.stack([t.logits for t in targets if t.logits is not None])
            planes = self._place(frame).enlarge(logits - float(np.log(self._odds())))
            inside = planes > 0
            for group in self._groups:
                own = [i for i, row in enumerate(rows) if group.stuff and targets[row].target_id in group.targets]
                if own:
                    inside[own] &= strongest(planes[own])
            masks[rows] = inside.cpu().numpy()
        for row in rows:
            if not masks[row].any():  # a lone weak cell can vanish between the image's pixels
                targets[row].miss(self._config)
        return targets, masks

    def _odds(self) -> float:
        threshold = min(max(self._config.mask_threshold, 1e-6), 1 - 1e-6)
        return threshold / (1 - threshold)

    def _is_alive(self, group: Group) -> bool:
        return bool(group.targets) or group.is_looking(self._config)

    def _drop_empty(self) -> None:
        self._groups = [group for group in self._groups if self._is_alive(group)]

    def _group_of(self, target_id: int) -> Group:
        for group in self._groups:
            if target_id in group.targets:
                return group
        known = ", ".join(map(str, self.target_ids)) or "none"
        raise PromptError(f"there is no target {target_id}; targets: {known}")

    def _followed(self, besides: Group | None = None) -> int:
        """Count targets, and one for each group that has yet to find its own; ``besides`` is left out."""
        groups = [g for g in (*self._groups, *self._understood, *self._opening) if g is not besides]
        return sum(max(1, len(group.targets)) for group in groups)

    def _next_id(self) -> int:
        taken = set(self.target_ids)
        while self._next_target_id in taken:
            self._next_target_id = self._next_target_id % MAX_TARGET_ID + 1
        chosen = self._next_target_id
        self._next_target_id = chosen % MAX_TARGET_ID + 1
        return chosen

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to the frame's timings; on a GPU launches are timed, not the work."""
        started = time.perf_counter()
        yield
        self._timings[stage] = self._timings.get(stage, 0.0) + (time.perf_counter() - started) * 1e3


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


def _check_clip(clip: Uint8Array) -> None:
    """Raise PromptError where a clip is no stack of RGB pictures, or is too long."""
    shape, dtype = np.shape(clip), getattr(clip, "dtype", type(clip))
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
        raise PromptError(f"clip must be uint8 (frames, H, W, 3) RGB with at least one pixel, got {dtype} {shape}")
    if shape[0] > MAX_CLIP_FRAMES:
        raise PromptError(f"clip has {shape[0]} frames, at most {MAX_CLIP_FRAMES} are accepted; leave some out")

"""The streaming session: frames and prompts in, targets with masks out. Time and memory live here.

One session serves one camera stream and belongs to one thread; several may share a model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.engine.grounding import Grounder, Picture, query_of
from x2sam_ros.engine.mask_memory import entry_row, merge_memories
from x2sam_ros.engine.memory_policy import MemoryRecord
from x2sam_ros.engine.preprocess import mask_encoder_pixels
from x2sam_ros.engine.select import Candidates, best_query, instances, match_tracks
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import ConfigError, PluginError, PromptError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import BoolArray, Frame, FrameResult, Grounding, GroundingStatus, Prompt, TargetState

REMEMBERED_PROMPT_IDS = 1_024
"""Prompt ids a session remembers to tell a repeated one; older ids may be used again."""

MAX_TARGET_ID = 65_535
"""Target ids fit a 16-bit label image; after the last one numbering starts again at 1."""


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
        self._grounder = Grounder(model, policy)
        self._pending: deque[Prompt] = deque()  # at most config.max_pending_prompts
        self._prompt_ids: deque[str] = deque(maxlen=REMEMBERED_PROMPT_IDS)
        self._groups: list[Group] = []  # each holds at least one target, so at most config.max_targets
        self._opening: list[Group] = []  # groups of this frame's prompts; empty between frames
        self._next_target_id = 1
        self._timings: dict[str, float] = {}

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all targets, seen now or not, ascending."""
        return tuple(sorted(target_id for group in (*self._groups, *self._opening) for target_id in group.targets))

    @property
    def nbytes(self) -> int:
        """Bytes of tensors held for the targets: conditions, memories and newest masks."""
        return sum(group.nbytes for group in self._groups)

    def submit(self, prompt: Prompt) -> None:
        """Queue a prompt; it is carried out on the next frame, whose result holds its grounding.

        Raises:
            PromptError: its id is taken, or too many prompts are waiting.
        """
        if prompt.prompt_id and prompt.prompt_id in self._prompt_ids:
            raise PromptError(f"prompt id '{prompt.prompt_id}' is taken; give every prompt an id of its own")
        if len(self._pending) >= self._config.max_pending_prompts:
            raise PromptError(
                f"{len(self._pending)} prompts are waiting, at most {self._config.max_pending_prompts} may; "
                "send prompts more slowly, or check that images arrive"
            )
        if prompt.prompt_id:
            self._prompt_ids.append(prompt.prompt_id)
        self._pending.append(prompt)

    def remove(self, target_id: int) -> None:
        """Forget a target at once.

        Raises:
            PromptError: there is no such target.
        """
        self._group_of(target_id).targets.pop(target_id)
        self._groups = [group for group in self._groups if group.targets]

    def reset(self) -> None:
        """Forget all targets, waiting prompts and used prompt ids; target ids start at 1 again."""
        self._pending.clear()
        self._prompt_ids.clear()
        self._groups, self._opening = [], []
        self._next_target_id = 1

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame for every target, after carrying out the waiting prompts on it.

        A prompt that cannot be carried out is answered with a rejected grounding; it never raises here. Of several
        prompts that refine one target, one is carried out on each frame.

        Raises:
            FrameError: the picture cannot be used; nothing is changed.
            PluginError: the memory policy gave an invalid answer.
        """
        self._timings, self._opening = {}, []
        started = time.perf_counter()
        groundings = self._segment(frame) if self._groups or self._pending else []
        with self._timed("postprocess"):
            seen, masks = self._masks(frame.size)
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
        with self._arithmetic():
            with self._timed("preprocess"):
                side = self._model.config.segmentor.image_size
                pixel_values = mask_encoder_pixels(frame.image, side, self._model.device)
            with self._timed("encode"):
                features = self._model.segmentor.encode_image(pixel_values)
            groundings = self._ground(frame, features)
            if self._groups:
                self._advance(frame, features, self._groups)
            if self._opening:
                groundings += self._begin(frame, features, self._opening)
        return groundings

    def _arithmetic(self) -> torch.autocast:
        """Multiply in bfloat16 when asked to, and in the weights' own type when that is a short one."""
        weights = self._model.bg_embeds.weight.dtype
        short = weights is not torch.float32
        dtype = weights if short else torch.bfloat16
        return torch.autocast(self._model.device.type, dtype=dtype, enabled=short or self._config.autocast)

    def _ground(self, frame: Frame, features: ImageFeatures) -> list[Grounding]:
        """Understand the waiting prompts, opening a group for each; return what was rejected."""
        rejected: list[Grounding] = []
        postponed: list[Prompt] = []
        if not self._pending:
            return rejected
        with self._timed("language"):
            picture = self._grounder.look(frame.image)
            while self._pending:
                prompt = self._pending.popleft()
                if any(prompt.target_id in group.targets for group in self._opening):
                    postponed.append(prompt)  # its target is being refined on this very frame
                    continue
                try:
                    self._opening.append(self._open(prompt, frame, features, picture))
                except (PromptError, PluginError, ConfigError) as error:
                    rejected.append(_answer(prompt, frame, GroundingStatus.REJECTED, message=str(error)))
        self._pending.extend(postponed)
        return rejected

    def _open(self, prompt: Prompt, frame: Frame, features: ImageFeatures, picture: Picture) -> Group:
        """Make the group of one prompt; a refined target moves into it, keeping its id."""
        if prompt.target_id is None:
            followed = self._followed()
            if followed >= self._config.max_targets:
                raise PromptError(
                    f"{followed} targets are followed, at most {self._config.max_targets} may be; "
                    "remove one or raise max_targets"
                )
            return self._grounder.ground(prompt, frame.size, features, picture)
        old = self._group_of(prompt.target_id)
        target = old.targets[prompt.target_id]
        current = None if target.last_mask is None else _upsample(target.last_mask.float() - 0.5, frame.size)
        group = self._grounder.ground(prompt, frame.size, features, picture, old.clicks, current)
        group.targets[target.target_id] = replace(target, label=group.labels[0] or target.label, class_index=0)
        old.targets.pop(target.target_id)
        self._groups = [g for g in self._groups if g.targets]
        return group

    def _advance(self, frame: Frame, features: ImageFeatures, groups: list[Group]) -> None:
        """Segment the frame for groups that have a memory."""
        with self._timed("pixel_decode"):
            pixels = self._model.segmentor.decode_pixels(features, first=False)
        with self._timed("segment"):
            condition = PromptCondition.merge([group.condition for group in groups])
            memory = merge_memories([group.memory for group in groups], frame.frame_index)
            output = self._model.segmentor.step(pixels, condition, memory)
        with self._timed("select"):
            for row, group in enumerate(groups):
                found = Candidates.read(output.class_logits[row], output.mask_logits[row])
                if group.selection == "per_class_instances":
                    self._follow_instances(group, found)
                else:
                    target = next(iter(group.targets.values()))
                    target.see(best_query(found, None, target.last_mask), self._config)
        self._remember(frame, groups, pixels, output, prompted=False)

    def _begin(self, frame: Frame, features: ImageFeatures, groups: list[Group]) -> list[Grounding]:
        """Segment the frame for new groups, which see it as their first; keep those that found something."""
        with self._timed("pixel_decode"):
            pixels = self._model.segmentor.decode_pixels(features, first=True)
        with self._timed("segment"):
            output = self._model.segmentor.step(pixels, PromptCondition.merge([g.condition for g in groups]))
        answers = []
        for row, group in enumerate(groups):
            found = Candidates.read(output.class_logits[row], output.mask_logits[row])
            if group.selection == "per_class_instances":
                self._follow_instances(group, found)
            else:
                self._begin_one(group, found)
            answers.append(self._found(group, frame))
        self._remember(frame, groups, pixels, output, prompted=True)
        self._groups += [group for group in groups if group.targets]
        self._opening = []
        return answers

    def _begin_one(self, group: Group, found: Candidates) -> None:
        """Find the one target of a text, click, box or mask; a refined target stays even when it is not found."""
        choice = best_query(found, group.region, None)
        if group.region is not None:
            # the person pointed at it: it is there, whatever the class head thinks
            choice = replace(choice, score=max(choice.score, self._config.score_threshold))
        refined = next(iter(group.targets.values()), None)
        target = refined or Target(self._next_id(), group.labels[0])
        target.see(choice, self._config)
        if refined is None and target.logits is not None:
            target.label = target.label or f"object {target.target_id}"
            group.targets[target.target_id] = target
        group.region = None

    def _follow_instances(self, group: Group, found: Candidates) -> None:
        """Match the detected instances to the group's targets; new ones are added up to the cap.

        At the cap a new one takes the place of the group's longest lost target, or else is not followed.
        """
        choices = instances(found, self._config.score_threshold)
        known = [target for target in group.targets.values() if target.last_mask is not None]
        matched = match_tracks(choices, [(t.class_index, t.last_mask) for t in known if t.last_mask is not None])
        for index, target in enumerate(known):
            if index in matched:
                target.see(choices[matched[index]], self._config)
            else:
                target.miss(self._config)
        for row, choice in enumerate(choices):
            if row in matched.values():
                continue
            if self._followed(besides=group) + len(group.targets) >= self._config.max_targets:
                lost = [target for target in group.targets.values() if target.state is TargetState.LOST]
                if not lost:
                    break
                del group.targets[max(lost, key=lambda target: target.missed_frames).target_id]
            target = Target(self._next_id(), group.labels[choice.class_index], choice.class_index)
            target.label = target.label or f"object {target.target_id}"
            target.see(choice, self._config)
            group.targets[target.target_id] = target

    def _remember(
        self, frame: Frame, groups: list[Group], pixels: PixelFeatures, output: StepOutput, prompted: bool
    ) -> None:
        with self._timed("remember"):
            entry = self._model.segmentor.write_memory(pixels, output)
            for row, group in enumerate(groups):
                if not group.targets:
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
        targets = [target for target in group.targets.values() if target.logits is not None]
        if not targets:
            message = "nothing in the image fits the prompt"
            return _answer(group.prompt, frame, GroundingStatus.NO_TARGET, message=message)
        return replace(
            _answer(group.prompt, frame, GroundingStatus.OK),
            phrases=self._grounder.phrases(group, targets),
            target_ids=tuple(target.target_id for target in targets),
        )

    def _masks(self, size: tuple[int, int]) -> tuple[list[Target], BoolArray]:
        """Return all targets, ascending by id, and their masks at the image's size; unseen ones have an empty one."""
        targets = sorted((t for g in self._groups for t in g.targets.values()), key=lambda t: t.target_id)
        masks = np.zeros((len(targets), *size), dtype=bool)
        rows = [row for row, target in enumerate(targets) if target.logits is not None]
        if rows:
            logits = torch.stack([t.logits for t in targets if t.logits is not None])
            masks[rows] = _upsample(logits - float(np.log(self._odds())), size)
        for row in rows:
            if not masks[row].any():  # a lone weak cell can vanish between the image's pixels
                targets[row].miss(self._config)
        return targets, masks

    def _odds(self) -> float:
        threshold = min(max(self._config.mask_threshold, 1e-6), 1 - 1e-6)
        return threshold / (1 - threshold)

    def _group_of(self, target_id: int) -> Group:
        for group in self._groups:
            if target_id in group.targets:
                return group
        known = ", ".join(map(str, self.target_ids)) or "none"
        raise PromptError(f"there is no target {target_id}; targets: {known}")

    def _followed(self, besides: Group | None = None) -> int:
        """Count targets, and one for each group that has yet to find its own; ``besides`` is left out."""
        groups = [group for group in (*self._groups, *self._opening) if group is not besides]
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


def _upsample(logits: Tensor, size: tuple[int, int]) -> BoolArray:
    """Resize float (N, h, w) or (h, w) to the image and return where it is positive, bool (N, H, W) or (H, W)."""
    planes = logits[None, None] if logits.ndim == 2 else logits[None]
    resized = F.interpolate(planes.float(), size=size, mode="bilinear", align_corners=False)[0] > 0
    masks: BoolArray = resized.cpu().numpy()
    return masks[0] if logits.ndim == 2 else masks


def _answer(prompt: Prompt, frame: Frame, status: GroundingStatus, message: str = "") -> Grounding:
    return Grounding(
        prompt_id=prompt.prompt_id, status=status, query=query_of(prompt), message=message, stamp_ns=frame.stamp_ns
    )

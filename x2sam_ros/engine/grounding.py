"""The slow lane: a prompt and the picture it refers to become a condition, once per prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import PolicyGuard
from x2sam_ros.engine.preprocess import at_side, clip_patches, mask_encoder_pixels, picture_patches, resize_region
from x2sam_ros.engine.region import Region, locate
from x2sam_ros.engine.reply import Reply, judge_answer
from x2sam_ros.engine.task_head import ConversationRequest, TaskHead
from x2sam_ros.engine.track import Group
from x2sam_ros.errors import ConfigError, PluginError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.conversation import Answer, Conversation, Media
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.generation import Generated
from x2sam_ros.model.language import Prefix, VisionFeatures
from x2sam_ros.model.template import Template
from x2sam_ros.model.tokenizer import PHRASE_END, PHRASE_START
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    MAX_CLICKS,
    BoolArray,
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    Prompt,
    RegionsPrompt,
    Uint8Array,
)

POINT_SEED = 0
"""Seed of the points drawn from a region, so that the same prompt gives the same answer."""


class Picture:
    """A frame or a clip as the language model sees it, for any number of prompts.

    Args:
        model: the network.
        shown: uint8 (H, W, 3), a frame, or (T, H, W, 3), a clip.
        num_prompts: how many prompts are about it.
        features: the mask encoder's view of the frame, where it is known already.

    Raises:
        FrameError: it is too elongated.
    """

    def __init__(
        self, model: X2SAM, shown: Uint8Array, num_prompts: int = 1, features: ImageFeatures | None = None
    ) -> None:
        cut = picture_patches if shown.ndim == 3 else clip_patches
        patches, grid = cut(shown, model.config.language, model.device)
        self._model, self._num_prompts = model, num_prompts
        stages: tuple[Tensor, ...] = ()
        if model.config.region.picture_features:
            if features is None:
                pairs = shown if shown.ndim == 3 else shown[:: model.config.language.vision.temporal_patch_size]
                features = model.segmentor.encode_image(pixel_values(model, pairs))
            stages = features.stages
        self.vision: VisionFeatures = model.encode_picture(patches, grid, stages)
        steps = int(grid[0, 0])
        self.media = Media(self.vision.counts[0] // steps, None if shown.ndim == 3 else steps)

    @cached_property
    def prefix(self) -> Prefix | None:
        """What several conversations about it begin with, read once; None for a single one, read in one pass."""
        return self._model.prefix(self.media, self.vision) if self._num_prompts > 1 else None


def pixel_values(model: X2SAM, images: Uint8Array, side: int = 0) -> Tensor:
    """Return uint8 frames (H, W, 3) or (N, H, W, 3) as the network's mask encoder reads them, float (N, 3, S, S).

    Args:
        model: the network.
        images: RGB.
        side: S, pixels; 0 for the model's own.
    """
    config = at_side(model.config.segmentor, side)
    return mask_encoder_pixels(images, config.image_size, model.device, config.resize, config.resample)


@dataclass(frozen=True)
class View:
    """What a prompt is about.

    Args:
        size: (height, width) of the frame it is given on, pixels.
        features: the mask encoder's view of that frame, from which regions are read.
        picture: what the language model is shown: that frame, or a clip.
    """

    size: tuple[int, int]
    features: ImageFeatures
    picture: Picture


@dataclass(frozen=True)
class Question:
    """A prompt in words.

    Args:
        prompt: what was asked.
        head: serves its task.
        request: what the head made of it.
        conversation: with its answer where that is fixed.
        regions: its clicks, boxes or masks.
        clicks: those of its target so far.
        tokens: the regions for the language model, float (R, K, D); None without any.
    """

    prompt: Prompt
    head: TaskHead
    request: ConversationRequest
    conversation: Conversation
    regions: tuple[Region, ...] = ()
    clicks: PointPrompt | None = None
    tokens: torch.Tensor | None = None


class Grounder:
    """Run the language pass of prompts. Holds no state of its own.

    Args:
        model: the network.
        policy: the memory policy of new conversations.
        config: how long an answer may be.
    """

    def __init__(self, model: X2SAM, policy: PolicyGuard, config: EngineConfig) -> None:
        self._model, self.policy, self._config = model, policy, config

    def ask(
        self, prompt: Prompt, view: View, clicks: PointPrompt | None = None, current: BoolArray | None = None
    ) -> Question:
        """Put a prompt into words, and its regions into tokens.

        Args:
            prompt: what is asked.
            view: the frame it is asked on.
            clicks: earlier clicks of the target being refined.
            current: bool (H, W), its present mask.

        Raises:
            PromptError: the prompt does not fit the image or its task.
            PluginError: no head serves the task, or it contradicts itself.
            ConfigError: the task cannot be put into the words the model was trained with.
        """
        head: TaskHead = installed_plugins().task_head(prompt.task_name)()
        request = head.request(prompt)
        conversation = self._converse(head, request, view)
        if not request.num_regions:
            return Question(prompt, head, request, conversation)
        regions, clicks = _place(prompt, view.size, clicks, current)
        tokens = self._region_tokens(regions, view.features)
        return Question(prompt, head, request, conversation, regions, clicks, tokens)

    def together(self, questions: Sequence[Question], view: View) -> Question:
        """Return several prompts of one task on one frame as one question, with the labels of all, in order."""
        first, requests = questions[0], [question.request for question in questions]
        request = replace(
            first.request,
            phrases=tuple(phrase for request in requests for phrase in request.phrases),
            num_regions=sum(request.num_regions for request in requests),
            labels=tuple(label for request in requests for label in request.labels),
        )
        tokens = [question.tokens for question in questions if question.tokens is not None]
        return replace(
            first,
            request=request,
            conversation=self._converse(first.head, request, view),
            regions=tuple(region for question in questions for region in question.regions),
            tokens=torch.cat(tokens) if tokens else None,
        )

    def _converse(self, head: TaskHead, request: ConversationRequest, view: View) -> Conversation:
        template = request.template or _template(head, self._model.config.language.templates)
        return self._model.conversations.build(
            template, view.picture.media, phrases=request.phrases, regions=request.num_regions, text=request.text
        )

    def ground(
        self,
        asked: Question,
        picture: Picture,
        cancelled: Callable[[], bool] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Group | Reply:
        """Understand one prompt.

        Args:
            asked: the prompt in words.
            picture: what it was put into words for.
            cancelled: asked before each token of an answer that the language model writes; True ends it there.
            on_text: called with each new piece of such an answer.

        Returns:
            A group without targets; only the reply where the answer points at nothing.

        Raises:
            PromptError: the prompt is longer than the model can read.
            PluginError: the task head named too many labels, or too few.
        """
        if not asked.conversation.answer_ids:
            return self.answered(
                asked,
                self._model.generate(
                    asked.conversation,
                    picture.vision,
                    asked.tokens,
                    picture.prefix,
                    max_new_tokens=self._config.max_answer_tokens,
                    on_text=on_text,
                    cancelled=cancelled,
                ),
            )
        return self._group(asked, *self._force(asked, picture))

    def answered(self, asked: Question, generated: Generated) -> Group | Reply:
        """Read an answer that the language model wrote; see ``ground``."""
        reply = self._judge(asked, generated.conversation, generated.answer, generated.finish)
        return self._group(asked, generated.condition(self._model), reply)

    def _group(self, asked: Question, condition: PromptCondition | None, reply: Reply) -> Group | Reply:
        """Return the group of an understood prompt, or only the reply where nothing is to be segmented."""
        if condition is None:
            return reply
        labels = tuple(text for text, _, _ in reply.spans) or asked.request.labels
        if len(labels) != condition.num_phrases:
            raise PluginError(
                f"task head '{asked.head.task}' named {len(labels)} labels for {condition.num_phrases} phrases; "
                "report it to the head's author"
            )
        return Group(
            asked.prompt,
            asked.head,
            condition,
            MaskMemory(self.policy),
            labels,
            asked.request.stuff,
            asked.regions,
            asked.clicks,
            reply,
        )

    def _force(self, asked: Question, picture: Picture) -> tuple[PromptCondition | None, Reply]:
        """Read a prompt whose answer is known; an answer that marks phrases of its own counts as said."""
        conversation = asked.conversation
        answer = self._model.conversations.read_answer(conversation.answer_ids)
        reply = Reply(answer.text, answer.phrases) if answer.phrases else Reply()
        if not answer.num_seg or not conversation.num_phrases:
            return None, self._judge(asked, conversation, answer)
        condition = self._model.understand(conversation, picture.vision, asked.tokens, picture.prefix)
        return condition, reply

    def _judge(self, asked: Question, conversation: Conversation, answer: Answer, finish: str = "stop") -> Reply:
        ids, control = conversation.answer_ids, self._model.tokenizer.control_ids
        markers = ids.count(control[PHRASE_START]), ids.count(control[PHRASE_END])
        return judge_answer(answer, markers, finish, asked.request.wants_masks, asked.conversation.num_phrases)

    def _region_tokens(self, regions: Sequence[Region], features: ImageFeatures) -> torch.Tensor:
        square = self._model.config.segmentor
        generator = torch.Generator().manual_seed(POINT_SEED)
        maps = self._model.region_maps(features.stages)
        masks = resize_region(np.stack([region.mask for region in regions]), square.image_size, resize=square.resize)
        return self._model.region_tokens(maps, masks, generator=generator)


def _template(head: TaskHead, wording: str) -> Template:
    template = head.templates.get(wording)
    if template is None:
        known = ", ".join(sorted(head.templates)) or "none"
        raise ConfigError(
            f"task '{head.task}' has no wording '{wording}', which this checkpoint was trained with (it has: {known}); "
            "use another task or another checkpoint"
        )
    return template


def _place(
    prompt: Prompt, size: tuple[int, int], clicks: PointPrompt | None, current: BoolArray | None
) -> tuple[tuple[Region, ...], PointPrompt | None]:
    """Place the regions of a prompt; a click adds to those of the target's earlier clicks that still hold."""
    if isinstance(prompt, RegionsPrompt):
        return tuple(locate(region, size) for region in prompt.regions), None
    if isinstance(prompt, (BoxPrompt, MaskPrompt)):
        return (locate(prompt, size),), None
    if not isinstance(prompt, PointPrompt):
        raise PluginError(f"the head of task '{prompt.task_name}' reads regions from a {type(prompt).__name__}")
    region = locate(prompt, size, current)
    if clicks is None or current is None:
        return (region,), prompt
    points, labels = clicks.points_px, np.asarray(clicks.point_labels)
    # The object may have moved since: a click holds while the target's mask agrees with it.
    x, y = points.astype(int).T
    inside = (x < size[1]) & (y < size[0])
    holds = inside & (current[y.clip(max=size[0] - 1), x.clip(max=size[1] - 1)] == (labels == 1))
    joined = replace(
        prompt,
        points_px=np.concatenate([points[holds], prompt.points_px])[-MAX_CLICKS:],
        point_labels=np.concatenate([labels[holds], np.asarray(prompt.point_labels)])[-MAX_CLICKS:],
    )
    # only negative clicks: what they leave of the mask says more than the earlier points
    return (locate(joined, size, current) if np.any(prompt.point_labels) else region,), joined

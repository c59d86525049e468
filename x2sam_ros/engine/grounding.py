"""The slow lane: a prompt and the picture it refers to become a condition, once per prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import MemoryPolicy
from x2sam_ros.engine.preprocess import picture_patches, resize_region
from x2sam_ros.engine.region import Region, locate
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PromptError
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.language import VisionFeatures
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    MAX_CLICKS,
    BoolArray,
    ClassListPrompt,
    Phrase,
    PointPrompt,
    Prompt,
    Task,
    TextPrompt,
    Uint8Array,
)

POINT_SEED = 0
"""Seed of the points drawn from a region, so that the same prompt gives the same answer."""


@dataclass(frozen=True)
class Picture:
    """A frame as the language model sees it."""

    vision: VisionFeatures
    media: Media


class Grounder:
    """Run the language pass of prompts. Holds no state of its own.

    Args:
        model: the network.
        policy: the memory policy of new conversations.
    """

    def __init__(self, model: X2SAM, policy: MemoryPolicy) -> None:
        self._model, self._policy = model, policy

    def look(self, image: Uint8Array) -> Picture:
        """Encode a frame for the language model, once for all prompts that refer to it."""
        patches, grid = picture_patches(image, self._model.config.language, self._model.device)
        vision = self._model.language.encode_image(patches, grid)
        return Picture(vision, Media(tokens_per_step=vision.counts[0]))

    def ground(
        self,
        prompt: Prompt,
        size: tuple[int, int],
        features: ImageFeatures,
        picture: Picture,
        clicks: PointPrompt | None = None,
        current: BoolArray | None = None,
    ) -> Group:
        """Understand one prompt.

        Args:
            prompt: what was asked.
            size: (height, width) of the image in pixels.
            features: the mask encoder's view of the image.
            picture: the language side's view.
            clicks: earlier clicks of the target being refined.
            current: bool (H, W), its present mask.

        Returns:
            A group without targets.

        Raises:
            PromptError: the prompt does not fit the image or its task.
            PluginError: no head serves the task.
        """
        head = installed_plugins().task_head(_task(prompt).value)()
        request = head.request(prompt)
        builder = self._model.conversations
        if request.num_regions:
            region, clicks = _region(prompt, size, clicks, current)
            conversation = builder.regions(request.task, request.num_regions, picture.media)
            tokens = self._region_tokens(region, features)
            labels: tuple[str, ...] = ("",)
        else:
            region, clicks, tokens = None, None, None
            conversation = builder.text(request.task, request.phrases, picture.media)
            labels = request.phrases
        condition = self._model.condition(self._model.collate([conversation]), picture.vision, [0], tokens)
        return Group(prompt, head.selection, condition, MaskMemory(self._policy), labels, region, clicks)

    def _region_tokens(self, region: Region, features: ImageFeatures) -> torch.Tensor:
        side = self._model.config.segmentor.image_size
        generator = torch.Generator().manual_seed(POINT_SEED)
        maps = self._model.region_maps(features.stages)
        return self._model.region_tokens(maps, resize_region(region.mask, side)[None], generator=generator)

    def phrases(self, group: Group, targets: list[Target]) -> tuple[Phrase, ...]:
        """Return the query's phrases with the targets each one found."""
        query, found, start = query_of(group.prompt), [], 0
        for index, label in enumerate(group.labels):
            if not label:
                continue
            position = query.find(label, start)
            if position < 0:  # a task head that puts prompts into words of its own
                continue
            start = position
            mine = [target for target in targets if target.class_index == index]
            found.append(
                Phrase(
                    label,
                    start,
                    start + len(label),
                    tuple(target.target_id for target in mine),
                    max((target.score for target in mine), default=0.0),
                )
            )
            start += len(label)
        return tuple(found)


def _task(prompt: Prompt) -> Task:
    """Return a prompt's task, which a caller may have given by name."""
    try:
        return Task(prompt.task)
    except ValueError as error:
        raise PromptError(f"unknown task {prompt.task!r}; tasks: {', '.join(task.value for task in Task)}") from error


def query_of(prompt: Prompt) -> str:
    """Return a prompt in words: its text, its classes joined by commas, or what kind of region it is."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    if isinstance(prompt, ClassListPrompt):
        return ", ".join(prompt.classes)
    return type(prompt).__name__.removesuffix("Prompt").lower()


def _region(
    prompt: Prompt, size: tuple[int, int], clicks: PointPrompt | None, current: BoolArray | None
) -> tuple[Region, PointPrompt | None]:
    """Place a region prompt; a click adds to those of the target's earlier clicks that still hold."""
    assert not isinstance(prompt, (TextPrompt, ClassListPrompt))  # its task head accepted it as a region
    if not isinstance(prompt, PointPrompt):
        return locate(prompt, size), None
    region = locate(prompt, size, current)
    if clicks is None or current is None:
        return region, prompt
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
    return (locate(joined, size, current) if np.any(prompt.point_labels) else region), joined

"""Training batches from generated clips: pictures, prompts in words and regions, and who is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from x2sam_ros.config import TrainConfig
from x2sam_ros.engine.preprocess import mask_encoder_pixels, picture_patches, picture_size
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.conversation import Conversation, ConversationBuilder, Media
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.training.scenes import (
    KINDS,
    Clip,
    absent_phrases,
    class_list,
    generate_clip,
    referring_phrases,
    region_prompt,
)
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, SIZES
from x2sam_ros.types import Task

FIRST_TRAINING_SEED = 1_000_000
"""Scenes of smaller seeds are held out: no training batch ever draws them."""

TRAINING_SEEDS = (FIRST_TRAINING_SEED, 2**62)
HELD_OUT_SEEDS = (0, FIRST_TRAINING_SEED)
"""First scene seed, and the one behind the last."""

ASPECTS = ((480, 640), (512, 512), (360, 640), (640, 480))
_ASPECT_ODDS = (0.5, 0.2, 0.2, 0.1)
_TEXT_ODDS = {"colour": 0.17, "shape": 0.25, "colour_shape": 0.2, "size": 0.18, "position": 0.14, "combo": 0.06}
_REGION_ODDS = {"point": 0.5, "box": 0.4, "scribble": 0.05, "mask": 0.05}
MASK_STRIDE = 4


@dataclass(frozen=True)
class PromptSample:
    """One prompt and its truth: ``classes`` has, for each object of the clip, the phrase it answers or -1."""

    conversation: Conversation
    classes: tuple[int, ...]
    region: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Batch:
    """I clips of T frames with P prompts each; N = I * P, the prompts of a clip side by side.

    Args:
        pixel_values: float (T, I, 3, S, S).
        patches, grid: the language side's view of each clip's first frame, (patches, 1536) and (I, 3).
        conversations: N prompts.
        regions: bool (R, S, S), region prompts in prompt order; region_rows: int64 (R,), the prompt of each.
        masks: float (T, N, M, S / 4, S / 4), share of each cell that a wanted object covers.
        labels: int64 (N, M), the phrase each wanted object answers; -1 where there is none.
        attributes: float (T, I, A, S / 4, S / 4), share of each cell by shape, colour and size.
        centres: float (N, 3), x and y of the first wanted object, and 1 where there is one.
        strides: int64 (N,), camera frames between two frames of the prompt's clip.
    """

    pixel_values: Tensor
    patches: Tensor
    grid: Tensor
    conversations: list[Conversation]
    regions: Tensor
    region_rows: Tensor
    masks: Tensor
    labels: Tensor
    attributes: Tensor
    centres: Tensor
    strides: Tensor


ATTRIBUTE_SIZES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)


class SceneBatches(Dataset[Batch]):
    """Batch ``i`` of a phase, made from its number alone: any order, any worker, any resumption gives the same.

    Args:
        config: the recipe.
        model: the network the batches are for.
        tokenizer: its tokenizer.
        phase: name of the phase.
        start, stop: number of the first batch, and of the one behind the last.
        seeds: scene seeds to draw from, the last left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: X2SAMConfig,
        tokenizer: Tokenizer,
        phase: str,
        start: int,
        stop: int,
        seeds: tuple[int, int] = TRAINING_SEEDS,
    ) -> None:
        self.config, self.model, self.phase, self.start, self.stop = config, model, phase, start, stop
        self.seeds = seeds
        self.shape = config.phase(phase)
        self.builder = ConversationBuilder(tokenizer, model.language.templates, model.language.phrase_markers)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        step = self.start + index
        phase_number = self.config.phases.index(self.phase)
        rng = np.random.Generator(np.random.PCG64([self.config.seed, phase_number, step]))
        height, width = ASPECTS[int(rng.choice(len(ASPECTS), p=_ASPECT_ODDS))]
        side = self.model.segmentor.image_size
        clips, strides = zip(*(self._clip(rng, side, width / height) for _ in range(self.shape.clips)))
        vision = self.model.language.vision
        factor = vision.patch_size * vision.spatial_merge_size
        picture = picture_size(height, width, factor, self.model.language.min_pixels, self.model.language.max_pixels)
        media = Media(tokens_per_step=picture[0] * picture[1] // factor**2)
        prompts = [
            sample for clip in clips for sample in sample_prompts(clip, rng, self.shape.prompts, self.builder, media)
        ]
        return collate_clips(clips, strides, prompts, picture, self.model)

    def _clip(self, rng: np.random.Generator, side: int, aspect: float) -> tuple[Clip, int]:
        """Draw a clip; return it and how many camera frames lie between two of its frames."""
        seed = int(rng.integers(*self.seeds))
        frames, stride = self.shape.frames, int(rng.integers(1, self.shape.max_stride + 1))
        kind = str(rng.choice(KINDS, p=self.config.kind_odds)) if frames > 1 else _still_kind(rng)
        clip = generate_clip(seed, (frames - 1) * stride + 1, side, side, kind=kind, aspect=aspect)
        return (every(clip, stride) if stride > 1 else clip), stride


def _still_kind(rng: np.random.Generator) -> str:
    return str(rng.choice(("plain", "twins", "distractors"), p=(0.65, 0.1, 0.25)))


def every(clip: Clip, stride: int) -> Clip:
    """Return every ``stride``-th frame of a clip."""
    objects = tuple(
        type(o)(**{**vars(o), "centre": o.centre[::stride], "radius": o.radius[::stride]}) for o in clip.objects
    )
    return Clip(clip.frames[::stride], clip.labels[::stride], clip.visible[::stride], objects, clip.kind, clip.target)


def sample_prompts(
    clip: Clip, rng: np.random.Generator, count: int, builder: ConversationBuilder, media: Media
) -> list[PromptSample]:
    """Draw ``count`` prompts about the clip's first frame: absent, class list, region, then referring phrases."""
    samples = []
    if count >= 4 or rng.random() < 0.15:
        absent = absent_phrases(clip, rng, 1)
        samples += [_text(builder, media, phrase.text, (), clip) for phrase in absent]
    if count >= 4 or rng.random() < 0.2:
        listed = class_list(clip, rng)
        samples.append(PromptSample(builder.text(Task.GENSEG, listed.names, media), tuple(listed.object_classes)))
    if count >= 4 or rng.random() < 0.4:
        samples += _region(clip, rng, builder, media)
    phrases: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for phrase in referring_phrases(clip, rng):
        phrases.setdefault(phrase.kind, []).append((phrase.text, phrase.object_indices))
    kinds = [kind for kind in _TEXT_ODDS if kind in phrases]
    odds = np.array([_TEXT_ODDS[kind] for kind in kinds])
    while len(samples) < count:
        if not kinds:
            samples += _region(clip, rng, builder, media) or [_text(builder, media, "the object", (), clip)]
            continue
        options = phrases[kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]]
        text, meant = options[int(rng.integers(len(options)))]
        samples.append(_text(builder, media, text, meant, clip))
    return samples[:count]


def _text(builder: ConversationBuilder, media: Media, text: str, meant: tuple[int, ...], clip: Clip) -> PromptSample:
    classes = tuple(0 if k in meant else -1 for k in range(len(clip.objects)))
    return PromptSample(builder.text(Task.REFSEG, [text], media), classes)


def _region(clip: Clip, rng: np.random.Generator, builder: ConversationBuilder, media: Media) -> list[PromptSample]:
    """Draw one region prompt; in X2SAM it means the category, so look-alikes of the object are wanted too."""
    visible = [k for k in range(len(clip.objects)) if (clip.labels[0] == k + 1).sum() > 24]
    if not visible:
        return []
    chosen = int(rng.choice(visible))
    kind = str(rng.choice(list(_REGION_ODDS), p=list(_REGION_ODDS.values())))
    region = region_prompt(clip, chosen, 0, rng, kind)
    me = clip.objects[chosen]
    classes = tuple(0 if (o.shape, o.colour) == (me.shape, me.colour) else -1 for o in clip.objects)
    return [PromptSample(builder.regions(Task.OBJSEG, 1, media), classes, region.mask)]


def collate_clips(
    clips: Sequence[Clip],
    strides: Sequence[int],
    prompts: list[PromptSample],
    picture: tuple[int, int],
    model: X2SAMConfig,
) -> Batch:
    """Turn clips and their prompts into tensors."""
    per_clip = len(prompts) // len(clips)
    frames = np.stack([clip.frames for clip in clips], axis=1)  # (T, I, S, S, 3)
    side = frames.shape[2]
    pixels = mask_encoder_pixels(frames.reshape(-1, side, side, 3), side)
    # the generator drew the scene squashed; the language side sees it in its true shape
    views = [cv2.resize(clip.frames[0], (picture[1], picture[0]), interpolation=cv2.INTER_AREA) for clip in clips]
    patches, grids = zip(*(picture_patches(np.ascontiguousarray(view), model.language) for view in views))
    wanted = [[k for k, c in enumerate(sample.classes) if c >= 0] for sample in prompts]
    slots = max([1, *map(len, wanted)])
    shares = [object_shares(clip) for clip in clips]
    masks = torch.zeros(len(frames), len(prompts), slots, side // MASK_STRIDE, side // MASK_STRIDE)
    labels = torch.full((len(prompts), slots), -1)
    centres = torch.zeros(len(prompts), 3)
    for row, (sample, ks) in enumerate(zip(prompts, wanted)):
        clip = clips[row // per_clip]
        for slot, k in enumerate(ks):
            masks[:, row, slot] = shares[row // per_clip][:, k + 1]
            labels[row, slot] = sample.classes[k]
        if ks:
            centres[row] = torch.tensor([*clip.objects[ks[0]].centre[0].tolist(), 1.0])
    regions = [(row, sample.region) for row, sample in enumerate(prompts) if sample.region is not None]
    return Batch(
        pixel_values=pixels.view(len(frames), len(clips), 3, side, side),
        patches=torch.cat(patches),
        grid=torch.cat(grids),
        conversations=[sample.conversation for sample in prompts],
        regions=torch.from_numpy(np.stack([r for _, r in regions])) if regions else torch.zeros(0, side, side).bool(),
        region_rows=torch.tensor([row for row, _ in regions], dtype=torch.int64),
        masks=masks,
        labels=labels,
        attributes=torch.stack([attribute_shares(c, s) for c, s in zip(clips, shares)], dim=1),
        centres=centres,
        strides=torch.tensor(strides).repeat_interleave(per_clip),
    )


def object_shares(clip: Clip) -> Tensor:
    """Return the share of each stride-4 cell that background and each object cover, float (T, K + 1, h, w)."""
    labels = torch.from_numpy(clip.labels.astype(np.int64))
    planes = torch.nn.functional.one_hot(labels, len(clip.objects) + 1).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(planes, MASK_STRIDE)


def attribute_shares(clip: Clip, shares: Tensor) -> Tensor:
    """Return the share of each cell by shape, colour and size, float (T, A, h, w); index 0 of each is background."""
    rows = []
    for names, values in (
        (SHAPES, [o.shape for o in clip.objects]),
        (COLOURS, [o.colour for o in clip.objects]),
        (SIZES, [o.size_name for o in clip.objects]),
    ):
        table = torch.zeros(len(names) + 1, len(clip.objects) + 1)
        table[0, 0] = 1.0
        for k, value in enumerate(values):
            table[names.index(value) + 1, k + 1] = 1.0
        rows.append(table)
    return torch.einsum("ak,tkhw->tahw", torch.cat(rows), shares)

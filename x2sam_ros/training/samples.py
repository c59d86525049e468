"""Training batches from generated clips: pictures, prompts in words and regions, and who is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Dataset

from x2sam_ros.config import TrainConfig
from x2sam_ros.engine.preprocess import clip_patches, clip_size, mask_encoder_pixels, picture_patches, picture_size
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.conversation import Conversation, ConversationBuilder, Media
from x2sam_ros.model.language_config import LanguageConfig, VisionConfig
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.training.prompts import PromptMaker, PromptSample
from x2sam_ros.training.scenes import KINDS, Clip, generate_clip
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, SIZES

FIRST_TRAINING_SEED = 1_000_000
"""Scenes of smaller seeds are held out: no training batch ever draws them."""

TRAINING_SEEDS = (FIRST_TRAINING_SEED, 2**62)
HELD_OUT_SEEDS = (0, FIRST_TRAINING_SEED)
"""First scene seed, and the one behind the last."""

ASPECTS = ((480, 640), (512, 512), (360, 640), (640, 480))
_ASPECT_ODDS = (0.5, 0.2, 0.2, 0.1)
MASK_STRIDE = 4


@dataclass(frozen=True)
class Batch:
    """I clips of T frames with P prompts each; N = I * P, the prompts of a clip side by side.

    Args:
        pixel_values: float (T, I, 3, S, S).
        patches, grid: the language side's view of each clip's first frame, or of the clip, (patches, 1536) and (I, 3).
        conversations: N prompts for masks.
        texts: questions for words alone, as many for each clip, those of a clip side by side.
        regions: bool (R, S, S), region prompts in prompt order; region_rows: int64 (R,), the prompt of each.
        masks: float (T, N, M, S / 4, S / 4), share of each cell that a wanted object covers.
        labels: int64 (N, M), the phrase each wanted object answers; -1 where there is none.
        attributes: float (T, I, A, S / 4, S / 4), share of each cell by shape, colour and size.
        centres: float (N, 3), x and y of the first wanted object, and 1 where there is one.
        strides: int64 (N,), camera frames between two frames of the prompt's clip.
        cells: float (V, A + 1), for each picture token of the language side in order, the share of its cell by shape,
            colour and size, and how many objects have their centre in it.
    """

    pixel_values: Tensor
    patches: Tensor
    grid: Tensor
    conversations: list[Conversation]
    texts: list[Conversation]
    regions: Tensor
    region_rows: Tensor
    masks: Tensor
    labels: Tensor
    attributes: Tensor
    centres: Tensor
    strides: Tensor
    cells: Tensor


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
        builder = ConversationBuilder(tokenizer, model.language.phrase_markers)
        self.maker = PromptMaker(builder, model.language.templates)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        step = self.start + index
        phase_number = self.config.phases.index(self.phase)
        rng = np.random.Generator(np.random.PCG64([self.config.seed, phase_number, step]))
        height, width = ASPECTS[int(rng.choice(len(ASPECTS), p=_ASPECT_ODDS))]
        side = self.model.segmentor.image_size
        whole_clip = self.shape.frames > 1 and rng.random() < self.config.clip_share
        # where nothing is followed, only what the language model is shown is drawn
        frames = self.shape.frames if whole_clip or self.phase != "words" else 1
        clips, strides = zip(*(self._clip(rng, side, width / height, frames) for _ in range(self.shape.clips)))
        view = LanguageView.of(height, width, frames if whole_clip else None, self.model.language)
        prompts = [p for clip in clips for p in self.maker.prompts(clip, rng, self.shape.prompts, view.media)]
        texts = [t for clip in clips for t in self.maker.texts(clip, rng, self.shape.texts, view.media)]
        return collate_clips(clips, strides, prompts, texts, view, self.model)

    def _clip(self, rng: np.random.Generator, side: int, aspect: float, frames: int) -> tuple[Clip, int]:
        """Draw a clip; return it and how many camera frames lie between two of its frames."""
        seed = int(rng.integers(*self.seeds))
        stride = int(rng.integers(1, self.shape.max_stride + 1))
        kind = str(rng.choice(KINDS, p=self.config.kind_odds)) if frames > 1 else _still_kind(rng)
        clip = generate_clip(seed, (frames - 1) * stride + 1, side, side, kind=kind, aspect=aspect)
        return (every(clip, stride) if stride > 1 else clip), stride


def _still_kind(rng: np.random.Generator) -> str:
    return str(rng.choice(("plain", "twins", "distractors"), p=(0.65, 0.1, 0.25)))


@dataclass(frozen=True)
class LanguageView:
    """How the language side is shown a clip: its first frame as a picture, or all frames as a video.

    Args:
        size: (height, width) of a picture there, pixels.
        frames: frames of the video; None for a picture.
        media: the same in tokens.
    """

    size: tuple[int, int]
    frames: int | None
    media: Media

    @classmethod
    def of(cls, height: int, width: int, frames: int | None, language: LanguageConfig) -> LanguageView:
        """Return the view of pictures of height x width pixels."""
        vision = language.vision
        factor = vision.patch_size * vision.spatial_merge_size
        if frames is None:
            size = picture_size(height, width, factor, language.min_pixels, language.max_pixels)
            return cls(size, None, Media(size[0] * size[1] // factor**2))
        limits = (language.video_min_pixels, language.video_max_pixels)
        size = clip_size(frames, height, width, factor, vision.temporal_patch_size, *limits)
        return cls(size, frames, Media(size[0] * size[1] // factor**2, -(-frames // vision.temporal_patch_size)))

    def patches(self, clip: Clip, language: LanguageConfig) -> tuple[Tensor, Tensor]:
        """Return patches and grid of a clip; the generator drew it squashed, here it has its true shape."""
        shown = [
            cv2.resize(frame, (self.size[1], self.size[0]), interpolation=cv2.INTER_AREA)
            for frame in clip.frames[: self.frames or 1]
        ]
        if self.frames is None:
            return picture_patches(np.ascontiguousarray(shown[0]), language)
        return clip_patches(np.stack(shown), language)

    def cells(self, clip: Clip, shares: Tensor, vision: VisionConfig) -> Tensor:
        """Return what each picture token shows, float (V, A + 1); see ``Batch.cells``.

        Args:
            clip: the clip.
            shares: float (T, A, h, w), its attributes.
            vision: sizes of the picture tower.
        """
        factor = vision.patch_size * vision.spatial_merge_size
        grid = (self.size[0] // factor, self.size[1] // factor)
        steps = torch.arange(0, self.frames or 1, vision.temporal_patch_size)
        attributes = adaptive_avg_pool2d(shares[steps], grid)  # (steps, A, rows, columns)
        centres = torch.zeros(len(steps), 1, *grid)
        for step, frame in enumerate(steps.tolist()):
            for k, item in enumerate(clip.objects):
                x, y = item.centre[frame].tolist()
                if clip.visible[frame, k] > 0 and 0 <= x < 1 and 0 <= y < 1:
                    centres[step, 0, int(y * grid[0]), int(x * grid[1])] += 1
        return torch.cat([attributes, centres], dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def every(clip: Clip, stride: int) -> Clip:
    """Return every ``stride``-th frame of a clip."""
    objects = tuple(
        type(o)(**{**vars(o), "centre": o.centre[::stride], "radius": o.radius[::stride]}) for o in clip.objects
    )
    return Clip(clip.frames[::stride], clip.labels[::stride], clip.visible[::stride], objects, clip.kind, clip.target)


def collate_clips(
    clips: Sequence[Clip],
    strides: Sequence[int],
    prompts: list[PromptSample],
    texts: list[Conversation],
    view: LanguageView,
    model: X2SAMConfig,
) -> Batch:
    """Turn clips and their prompts into tensors."""
    per_clip = len(prompts) // len(clips)
    frames = np.stack([clip.frames for clip in clips], axis=1)  # (T, I, S, S, 3)
    side = frames.shape[2]
    pixels = mask_encoder_pixels(frames.reshape(-1, side, side, 3), side)
    patches, grids = zip(*(view.patches(clip, model.language) for clip in clips))
    shares = [object_shares(clip) for clip in clips]
    attributes = [attribute_shares(clip, share) for clip, share in zip(clips, shares)]
    masks, labels = _wanted(prompts, [shares[row // per_clip] for row in range(len(prompts))])
    centres = torch.zeros(len(prompts), 3)
    for row, sample in enumerate(prompts):
        first = next((k for k, label in enumerate(sample.classes) if label >= 0), None)
        if first is not None:
            centres[row] = torch.tensor([*clips[row // per_clip].objects[first].centre[0].tolist(), 1.0])
    regions = [(row, region) for row, sample in enumerate(prompts) for region in sample.regions]
    return Batch(
        pixel_values=pixels.view(len(frames), len(clips), 3, side, side),
        patches=torch.cat(patches),
        grid=torch.cat(grids),
        conversations=[sample.conversation for sample in prompts],
        texts=texts,
        regions=torch.from_numpy(np.stack([r for _, r in regions])) if regions else torch.zeros(0, side, side).bool(),
        region_rows=torch.tensor([row for row, _ in regions], dtype=torch.int64),
        masks=masks,
        labels=labels,
        attributes=torch.stack(attributes, dim=1),
        centres=centres,
        strides=torch.tensor(strides).repeat_interleave(max(per_clip, 1)),
        cells=torch.cat([view.cells(clip, a, model.language.vision) for clip, a in zip(clips, attributes)]),
    )


def _wanted(prompts: Sequence[PromptSample], shares: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return masks (T, N, M, h, w) and labels (N, M) of what each prompt wants: objects, then the background."""
    wanted = []
    for sample in prompts:
        objects = [(k + 1, label) for k, label in enumerate(sample.classes) if label >= 0]
        wanted.append(objects + ([(0, sample.stuff)] if sample.stuff >= 0 else []))
    slots = max([1, *map(len, wanted)])
    frames, _, height, width = shares[0].shape if shares else (1, 0, 1, 1)
    masks, labels = torch.zeros(frames, len(prompts), slots, height, width), torch.full((len(prompts), slots), -1)
    for row, items in enumerate(wanted):
        for slot, (plane, label) in enumerate(items):
            masks[:, row, slot], labels[row, slot] = shares[row][:, plane], label
    return masks, labels


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

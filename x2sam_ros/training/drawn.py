"""What the clips of a batch show, in tensors: drawn by either renderer, and the truth that is learnt from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from x2sam_ros.engine.preprocess import clip_patches, clip_size, picture_patches, picture_size
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.language_config import LanguageConfig, VisionConfig
from x2sam_ros.training.scenes import render, render_torch
from x2sam_ros.training.scenes.layout import Layout
from x2sam_ros.training.scenes.render_torch import Canvas
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, SIZES

MASK_STRIDE = 4
ATTRIBUTE_SIZES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)

Scenes = Sequence[Layout] | Canvas
"""What is to be drawn: layouts by OpenCV on the host, a canvas by torch on the device it lies on."""


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

    def patches(self, shown: Tensor, language: LanguageConfig) -> tuple[Tensor, Tensor]:
        """Return patches, clip after clip, and grids of what is shown; see `Drawn`."""
        if self.frames is None:
            return picture_patches(shown[0], language, shown.device)
        return clip_patches(shown.transpose(0, 1), language, shown.device)

    def cells(self, labels: Tensor, things: Things, attributes: Tensor, vision: VisionConfig) -> Tensor:
        """Return what each picture token shows, float (V, A + 1); see ``Batch.cells``.

        Args:
            labels: uint8 (T, I, S, S).
            things: the clips' objects.
            attributes: float (T, I, A, h, w), shares of cells.
            vision: sizes of the picture tower.
        """
        factor = vision.patch_size * vision.spatial_merge_size
        rows, columns = self.size[0] // factor, self.size[1] // factor
        steps = list(range(0, self.frames or 1, vision.temporal_patch_size))
        place = things.centre[steps].to(labels.device)
        count, clips, objects = place.shape[:3]
        shares = adaptive_avg_pool2d(attributes[steps].flatten(0, 1), (rows, columns)).unflatten(0, (count, clips))
        seen = torch.stack([(labels[steps] == k + 1).flatten(2).any(2) for k in range(objects)], dim=2)
        inside = seen & ((place >= 0) & (place < 1)).all(-1)
        x, y = ((place[..., axis].double().clamp(0, 1) * n).long() for axis, n in enumerate((columns, rows)))
        cell = (y * columns + x).clamp_max(rows * columns - 1)
        centres = torch.zeros(count, clips, rows * columns, device=labels.device).scatter_add_(2, cell, inside.float())
        found = torch.cat([shares, centres.view(count, clips, 1, rows, columns)], dim=2)
        return found.permute(1, 0, 3, 4, 2).flatten(0, 3)


@dataclass(frozen=True)
class Drawn:
    """I clips of T frames, on the device they were drawn on.

    Args:
        frames: uint8 (T, I, S, S, 3).
        labels: uint8 (T, I, S, S); 0 is the background, k + 1 object k.
        shown: uint8 (F, I, h, w, 3), the first frames in the size that the language side is shown.
    """

    frames: Tensor
    labels: Tensor
    shown: Tensor


def draw(scenes: Scenes, view: LanguageView) -> Drawn:
    """Draw the clips of a batch."""
    shown = view.frames or 1
    if isinstance(scenes, Canvas):
        frames, labels = render_torch.draw(scenes)
        return Drawn(frames, labels, render_torch.resize(frames[:shown], view.size))
    clips = [render.draw(layout) for layout in scenes]
    pictures = np.stack([clip.frames for clip in clips], axis=1)
    size = view.size[::-1]
    small = [[cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in row] for row in pictures[:shown]]
    labels_of = np.stack([clip.labels for clip in clips], axis=1)
    return Drawn(*(torch.from_numpy(x) for x in (pictures, labels_of, np.array(small))))


@dataclass(frozen=True)
class Things:
    """What is true of the objects of I clips, on the host; K is the most that one of them has.

    Args:
        kinds: float (I, A, K + 1), 1 where the background, or an object, is of a shape, a colour and a size; index 0
            of each is the background's.
        centre: float (T, I, K, 2), x and y relative to the picture.
    """

    kinds: Tensor
    centre: Tensor

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> Things:
        """Read what is true of the objects."""
        most = max(len(layout.objects) for layout in layouts)
        kinds = torch.zeros(len(layouts), sum(ATTRIBUTE_SIZES), most + 1)
        centre = torch.zeros(len(layouts[0].gains), len(layouts), most, 2)
        starts = np.cumsum([0, *ATTRIBUTE_SIZES[:-1]]).tolist()
        kinds[:, starts, 0] = 1.0
        for i, layout in enumerate(layouts):
            for k, item in enumerate(layout.objects):
                own = (SHAPES.index(item.shape), COLOURS.index(item.colour), SIZES.index(item.size_name))
                kinds[i, [start + 1 + index for start, index in zip(starts, own)], k + 1] = 1.0
                centre[:, i, k] = torch.from_numpy(item.centre)
        return cls(kinds, centre)


def object_shares(labels: Tensor, objects: int) -> Tensor:
    """Return the share of each stride-4 cell that background and each object cover.

    Args:
        labels: uint8 (T, I, S, S).
        objects: most objects of a clip, K.

    Returns:
        float (T, I, K + 1, S / 4, S / 4).
    """
    return torch.stack([avg_pool2d((labels == k).float(), MASK_STRIDE) for k in range(objects + 1)], dim=2)


def attribute_shares(shares: Tensor, things: Things) -> Tensor:
    """Return the share of each cell by shape, colour and size, float (T, I, A, h, w), from `object_shares`."""
    return torch.einsum("iak,tikhw->tiahw", things.kinds.to(shares.device), shares)

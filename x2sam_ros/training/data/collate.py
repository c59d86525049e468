"""From samples that have been read to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from x2sam_ros.engine.preprocess import (
    clip_patches,
    mask_encoder_pixels,
    picture_patches,
    resize_region,
    scaled_size,
)
from x2sam_ros.errors import TruthError
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.conversation import REGION_PLACEHOLDER, Conversation, ConversationBuilder, Media
from x2sam_ros.model.template import SHORT_ANSWER
from x2sam_ros.model.tokenizer import PHRASE_END, PHRASE_START, TURN_END, Tokenizer
from x2sam_ros.training.data.sample import Asked, Shown
from x2sam_ros.training.drawn import MASK_STRIDE
from x2sam_ros.training.samples import Batch
from x2sam_ros.types import BoolArray


@dataclass(frozen=True)
class Prepared:
    """One sample as tensors, with P prompts for masks about T frames, or one chat.

    Args:
        pixels: float (T, 3, S, S).
        patches, grid: the language side's view, (patches, 1536) and (1, 3).
        conversations, texts: prompts for masks, and chats.
        regions: bool (R, S, S); region_rows: the prompt of each, R values.
        masks: float (T, P, M, h, w); labels: int64 (P, M); see ``Batch``.
        ignore: bool (T, h, w).
        stride: camera frames between two frames.
    """

    pixels: Tensor
    patches: Tensor
    grid: Tensor
    conversations: list[Conversation]
    texts: list[Conversation]
    regions: Tensor
    region_rows: list[int]
    masks: Tensor
    labels: Tensor
    ignore: Tensor
    stride: int


class Preparer:
    """Prepare samples for one network.

    Args:
        model: its configuration.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: X2SAMConfig, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._builder = ConversationBuilder(tokenizer, model.language.phrase_markers)

    def prepare(self, shown: Shown, whole_clip: bool = True) -> Prepared:
        """Turn a sample into tensors.

        Args:
            shown: what was read.
            whole_clip: whether the language model is shown all frames; else it sees the first as a picture.

        Raises:
            TruthError: it has more tokens than the network has positions.
        """
        settings, side = self._model.segmentor, self._model.segmentor.image_size
        language, is_clip = self._model.language, len(shown.frames) > 1 and whole_clip
        view = clip_patches(shown.frames, language) if is_clip else picture_patches(shown.frames[0], language)
        media = None if shown.is_blank else self._media(view[1], is_clip)
        asked = [one for one in shown.asked if not one.turns]
        masks, labels = self._masks(shown, asked)
        areas = [(row, shown.mask(runs)) for row, one in enumerate(asked) for runs in one.regions]
        regions = [resize_region(area, side, resize=settings.resize) for _, area in areas]
        ignored = [None if runs is None else shown.mask(runs) for runs in shown.ignore or [None] * len(shown.frames)]
        empty = np.zeros(shown.size, np.bool_)
        return Prepared(
            mask_encoder_pixels(shown.frames, side, resize=settings.resize, resample=settings.resample),
            *view,
            [self._checked(self._prompt(one, media)) for one in asked],
            [self._chat(one, media) for one in shown.asked if one.turns],
            torch.stack(regions) if regions else torch.zeros(0, side, side, dtype=torch.bool),
            [row for row, _ in areas],
            masks,
            labels,
            torch.stack([self._shares(empty if area is None else area) > 0.5 for area in ignored]),
            shown.stride,
        )

    def _media(self, grid: Tensor, is_clip: bool) -> Media:
        steps, rows, columns = grid[0].tolist()
        return Media(rows * columns // self._model.language.vision.spatial_merge_size**2, steps if is_clip else None)

    def _checked(self, conversation: Conversation) -> Conversation:
        regions = int((conversation.input_ids == REGION_PLACEHOLDER).sum())
        length = len(conversation.input_ids) + regions * (self._model.region.tokens_per_region - 1)
        limit = self._model.language.text.max_position_embeddings
        if length > limit:
            raise TruthError(f"it has {length} tokens, the network reads at most {limit}; take fewer phrases a prompt")
        return conversation

    def _prompt(self, asked: Asked, media: Media | None) -> Conversation:
        """Return a prompt for masks with its answer."""
        if not asked.caption:
            return self._builder.build(
                asked.template, media, phrases=asked.phrases, regions=len(asked.regions), answer=asked.template.answer
            )
        prompt = self._builder.build(replace(asked.template, answer=None), media)
        control, end = self._tokenizer.control_ids, 0
        ids: list[int] = []
        for start, stop in asked.spans:
            ids += self._tokenizer.encode_plain(asked.caption[end:start])
            phrase = self._tokenizer.encode_plain(asked.caption[start:stop])
            ids += [control[PHRASE_START], *phrase, control[PHRASE_END]]
            end = stop
        ids += self._tokenizer.encode_plain(f"{asked.caption[end:]} ")
        return self._answered(prompt, [*ids, *self._tokenizer.encode_template(SHORT_ANSWER)])

    def _chat(self, asked: Asked, media: Media | None) -> Conversation:
        """Return a chat of as many turns as the network has positions for, every answer of which is learnt."""
        limit = self._model.language.text.max_position_embeddings
        whole: Conversation | None = None
        for question, answer in asked.turns:
            if whole is None:
                prompt = self._builder.build(replace(asked.template, answer=None), media, text=question)
                earlier: tuple[tuple[int, int], ...] = ()
            else:
                prompt = self._builder.follow_up(whole, question)
                earlier = (*whole.earlier, (whole.answer_start, len(whole.input_ids) - whole.separators))
            longer = replace(self._answered(prompt, self._tokenizer.encode_plain(answer)), earlier=earlier)
            if len(longer.input_ids) > limit:
                break
            whole = longer
        if whole is None:
            raise TruthError(f"its first answer ends behind the {limit} tokens that the network reads")
        return whole

    def _answered(self, prompt: Conversation, answer: Sequence[int]) -> Conversation:
        """Return a prompt with its answer, the end of the turn and the line break behind it."""
        separator = self._tokenizer.encode_plain("\n")
        ids = [*answer, self._tokenizer.control_ids[TURN_END], *separator]
        return replace(self._builder.answered(prompt, ids), separators=len(separator))

    def _masks(self, shown: Shown, asked: list[Asked]) -> tuple[Tensor, Tensor]:
        """Return masks (T, P, M, h, w) and labels (P, M)."""
        slots = max([1, *(len(one.wanted) for one in asked)])
        cells = self._model.segmentor.image_size // MASK_STRIDE
        masks = torch.zeros(len(shown.frames), len(asked), slots, cells, cells)
        labels = torch.full((len(asked), slots), -1)
        for row, one in enumerate(asked):
            for slot, wanted in enumerate(one.wanted):
                labels[row, slot] = wanted.phrase
                for frame, runs in enumerate(wanted.runs):
                    if len(runs) > 1:  # a single run is an empty mask
                        masks[frame, row, slot] = self._shares(shown.mask(runs))
        return masks, labels

    def _shares(self, mask: BoolArray) -> Tensor:
        """Return the share of each cell of the mask encoder's square that a mask covers, float (h, w)."""
        settings, side = self._model.segmentor, self._model.segmentor.image_size
        height, width = scaled_size(mask.shape[0], mask.shape[1], side, settings.resize)
        scaled = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        square = np.pad(scaled, ((0, side - height), (0, side - width)))
        cells = side // MASK_STRIDE
        return torch.from_numpy(square.reshape(cells, MASK_STRIDE, cells, MASK_STRIDE).mean((1, 3)))


def collate_prepared(samples: Sequence[Prepared], merge: int) -> Batch:
    """Stack samples of one source; their prompts lie side by side.

    Args:
        samples: with the same number of frames and of prompts.
        merge: side of the square of patches that become one picture token.

    Raises:
        TruthError: their numbers of frames or prompts differ.
    """
    shapes = {(len(one.pixels), len(one.conversations), len(one.texts), int(one.grid[0, 0])) for one in samples}
    if len(shapes) != 1:
        raise TruthError(f"samples of one batch have different (frames, prompts, chats, steps): {sorted(shapes)}")
    ((frames, prompts, _, _),) = shapes
    slots, cells = max(one.labels.shape[1] for one in samples), samples[0].masks.shape[-1]
    ignore = torch.stack([one.ignore for one in samples], dim=1).repeat_interleave(prompts, dim=1)
    tokens = sum(len(one.patches) for one in samples) // merge**2
    return Batch(
        pixel_values=torch.stack([one.pixels for one in samples], dim=1),
        patches=torch.cat([one.patches for one in samples]),
        grid=torch.cat([one.grid for one in samples]),
        conversations=[said for one in samples for said in one.conversations],
        texts=[said for one in samples for said in one.texts],
        regions=torch.cat([one.regions for one in samples]),
        region_rows=torch.tensor(list(_region_rows(samples, prompts)), dtype=torch.int64),
        masks=torch.cat([_padded(one.masks, 2, slots, 0.0) for one in samples], dim=1),
        labels=torch.cat([_padded(one.labels, 1, slots, -1) for one in samples]),
        attributes=torch.zeros(frames, len(samples), 0, cells, cells),
        centres=torch.zeros(len(samples) * prompts, 3),
        strides=torch.tensor([one.stride for one in samples for _ in range(prompts)], dtype=torch.int64),
        cells=torch.zeros(tokens, 0),
        ignore=ignore if ignore.any() else None,
    )


def _region_rows(samples: Sequence[Prepared], prompts: int) -> Iterator[int]:
    for number, one in enumerate(samples):
        yield from (number * prompts + row for row in one.region_rows)


def _padded(values: Tensor, dim: int, size: int, value: float) -> Tensor:
    """Append ``value`` along a dimension until it has ``size`` entries."""
    shape = list(values.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([values, values.new_full(shape, value)], dim=dim)

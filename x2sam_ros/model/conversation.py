"""Prompts as conversations: the words around a user's phrases, as token ids, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_ros.errors import ConfigError, ModelError, PromptError
from x2sam_ros.model.tokenizer import (
    PHRASE_END,
    PHRASE_START,
    SEG_TOKEN,
    TURN_END,
    TURN_START,
    VISION_END,
    VISION_START,
    Tokenizer,
)
from x2sam_ros.types import Task

IMAGE_PLACEHOLDER, REGION_PLACEHOLDER = -1000, -400
"""Ids that stand for one picture token and for one region; negative, so no vocabulary id can collide."""

NO_PHRASE = -1
"""Phrase and segmentation id of every token outside of them."""

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Template:
    """One question and its answer; ``{phrases}`` and ``{media}`` are filled in, ``<SEG>`` is a control token."""

    question: str
    answer: str


_OFFICIAL_ANSWER = "Sure, it is <SEG>."
_OFFICIAL_REFER = Template(
    "Can you highlight the {phrases} in this {media} with a segmentation mask? Please output the segmentation mask.",
    _OFFICIAL_ANSWER,
)
_OFFICIAL_REASON = Template("{phrases} Please output the corresponding segmentation mask.", _OFFICIAL_ANSWER)
_OFFICIAL_CLASSES, _OFFICIAL_REGIONS = (
    Template(
        f"Could you create segmentation masks for this {{media}} according to the specified {things}: {{phrases}}? "
        "Please create the segmentation masks.",
        _OFFICIAL_ANSWER,
    )
    for things in ("categories", "regions")
)
_SHORT_REFER, _SHORT_CLASSES = Template("Segment {phrases}.", "<SEG>."), Template("Classes {phrases}.", "<SEG>.")
_SHORT_REGIONS = Template("Regions {phrases}.", "<SEG>.")

TEMPLATES: dict[str, dict[Task, Template]] = {
    "official": {
        Task.REFSEG: _OFFICIAL_REFER,
        Task.REASEG: _OFFICIAL_REASON,
        Task.GENSEG: _OFFICIAL_CLASSES,
        Task.OVSEG: _OFFICIAL_CLASSES,
        Task.INTSEG: _OFFICIAL_REGIONS,
        Task.OBJSEG: _OFFICIAL_REGIONS,
        Task.VGDSEG: _OFFICIAL_REGIONS,
    },
    "short": {
        Task.REFSEG: _SHORT_REFER,
        Task.REASEG: _SHORT_REFER,
        Task.GENSEG: _SHORT_CLASSES,
        Task.OVSEG: _SHORT_CLASSES,
        Task.INTSEG: _SHORT_REGIONS,
        Task.OBJSEG: _SHORT_REGIONS,
        Task.VGDSEG: _SHORT_REGIONS,
    },
}
"""Prompt template sets by name; a checkpoint's configuration names the one it was trained with."""


@dataclass(frozen=True)
class Media:
    """What a prompt shows: one picture, or a clip of frame pairs.

    Args:
        tokens_per_step: picture tokens of the picture, or of each frame pair.
        steps: frame pairs of a clip; None for a picture.
        seconds: time of each frame pair; 1, 2, ... where none is known, as the published weights were trained.
    """

    tokens_per_step: int
    steps: int | None = None
    seconds: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """The word the templates use."""
        return "image" if self.steps is None else "video"


@dataclass(frozen=True)
class Conversation:
    """A tokenised prompt and answer; a region is still one token here.

    Args:
        input_ids: int64 (L,), with ``IMAGE_PLACEHOLDER`` and ``REGION_PLACEHOLDER``.
        cond_ids: int64 (L,), index of the phrase a token belongs to, ``NO_PHRASE`` outside.
        seg_ids: int64 (L,), 0 at ``<SEG>``, ``NO_PHRASE`` elsewhere.
        answer_start: index of the answer's first token.
    """

    input_ids: IdArray
    cond_ids: IdArray
    seg_ids: IdArray
    answer_start: int

    @property
    def num_phrases(self) -> int:
        """Phrases (or regions) of the prompt."""
        return int(self.cond_ids.max(initial=NO_PHRASE)) + 1


class ConversationBuilder:
    """Put prompts into words. Knows nothing of pixels: a picture is a number of tokens.

    Args:
        tokenizer: the checkpoint's tokenizer.
        templates: name of the template set.
        phrase_markers: whether ``<p>`` and ``</p>`` count as part of a phrase.

    Raises:
        ConfigError: there is no template set of that name.
    """

    def __init__(self, tokenizer: Tokenizer, templates: str = "official", phrase_markers: bool = True) -> None:
        if templates not in TEMPLATES:
            raise ConfigError(f"template set {templates!r} is unknown; there are: {', '.join(sorted(TEMPLATES))}")
        self._tokenizer = tokenizer
        self._templates = TEMPLATES[templates]
        self._phrase_markers = phrase_markers

    def text(self, task: Task, phrases: Sequence[str], media: Media, template: Template | None = None) -> Conversation:
        """Ask for phrases or classes; each is plain text, whatever it looks like.

        Args:
            task: which template to use when none is given.
            phrases: what to look for, in order.
            media: the picture or clip.
            template: question and answer instead of the set's.

        Raises:
            PromptError: there is no phrase, or one has no token.
            ConfigError: the template set does not know the task.
        """
        encoded = [self._tokenizer.encode_plain(phrase) for phrase in phrases]
        empty = [phrase for phrase, ids in zip(phrases, encoded) if not ids]
        if not encoded or empty:
            raise PromptError(f"prompt {task.value} got no text in {list(phrases)!r}; name what to look for")
        return self._build(task, encoded, media, template)

    def regions(self, task: Task, count: int, media: Media, template: Template | None = None) -> Conversation:
        """Ask for ``count`` regions, whose features replace the ``REGION_PLACEHOLDER`` tokens.

        Raises:
            PromptError: count is not positive.
            ConfigError: the template set does not know the task.
        """
        if count < 1:
            raise PromptError(f"prompt {task.value} needs at least one region, got {count}")
        return self._build(task, [(REGION_PLACEHOLDER,)] * count, media, template)

    def _build(
        self, task: Task, phrases: Sequence[tuple[int, ...]], media: Media, template: Template | None
    ) -> Conversation:
        template = template or self._templates.get(task)
        if template is None:
            known = ", ".join(sorted(t.value for t in self._templates))
            raise ConfigError(f"task {task.value} has no prompt template; there are: {known}")
        encode = self._tokenizer.encode_template
        before, found, after = template.question.replace("{media}", media.name).partition("{phrases}")
        if not found:
            raise ConfigError(f"prompt template {template.question!r} has no {{phrases}}")
        head = (*encode(f"{TURN_START}user\n"), *self._media_ids(media), *encode(before))
        tail = encode(f"{after}{TURN_END}\n{TURN_START}assistant\n")
        answer = encode(f"{template.answer}{TURN_END}\n")
        middle, middle_cond = self._phrase_ids(phrases)

        input_ids = np.array([*head, *middle, *tail, *answer], dtype=np.int64)
        cond_ids = np.full(len(input_ids), NO_PHRASE, dtype=np.int64)
        cond_ids[len(head) : len(head) + len(middle)] = middle_cond
        seg_ids = np.where(input_ids == self._tokenizer.control_ids[SEG_TOKEN], 0, NO_PHRASE)
        if (seg_ids == 0).sum() != 1:
            raise ConfigError(f"answer {template.answer!r} must hold <SEG> exactly once")
        return Conversation(input_ids, cond_ids, seg_ids, len(input_ids) - len(answer))

    def _phrase_ids(self, phrases: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
        """Return ids and phrase index of ``<p>phrase</p>, <p>phrase</p>``."""
        start, end = (self._tokenizer.control_ids[token] for token in (PHRASE_START, PHRASE_END))
        comma = self._tokenizer.encode_template(", ")
        ids: list[int] = []
        cond: list[int] = []
        for index, phrase in enumerate(phrases):
            if index:
                ids += comma
                cond += [NO_PHRASE] * len(comma)
            marker = index if self._phrase_markers else NO_PHRASE
            ids += [start, *phrase, end]
            cond += [marker, *[index] * len(phrase), marker]
        return ids, cond

    def _media_ids(self, media: Media) -> tuple[int, ...]:
        """Return the ids of the picture, or of the clip's timestamps and frame pairs."""
        control = self._tokenizer.control_ids
        picture = (control[VISION_START], *[IMAGE_PLACEHOLDER] * media.tokens_per_step, control[VISION_END])
        if media.steps is None:
            return picture
        seconds = media.seconds or tuple(float(step + 1) for step in range(media.steps))
        if len(seconds) != media.steps:
            raise PromptError(f"clip of {media.steps} frame pairs got {len(seconds)} timestamps")
        stamps = (self._tokenizer.encode_template(f"<{second:.1f} seconds>") for second in seconds)
        return tuple(token for stamp in stamps for token in (*stamp, *picture))


@dataclass(frozen=True)
class TokenBatch:
    """B conversations, padded on the right, regions expanded; with every index the network needs.

    Args:
        input_ids: int64 (B, L), placeholders negative, padding 0.
        attention_mask: int64 (B, L), 1 where real; None where nothing is padded.
        image_positions: int64 (I,), flat positions (row x L + column) of picture tokens, row after row.
        region_positions: int64 (R,), the same for region tokens.
        cond_ids: int64 (B, L), phrase of each token, ``NO_PHRASE`` outside.
        token_index: int64 (B, T), columns of the phrase tokens, phrase after phrase, padding 0.
        token_mask: bool (B, T), True where real.
        seg_index: int64 (B,), column of ``<SEG>``.
        num_phrases: int64 (B,), phrases per row.
        images_per_row: picture tokens per row, B values on the host.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    image_positions: Tensor
    region_positions: Tensor
    cond_ids: Tensor
    token_index: Tensor
    token_mask: Tensor
    seg_index: Tensor
    num_phrases: Tensor
    images_per_row: tuple[int, ...]

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the same batch on ``device``."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def collate(conversations: Sequence[Conversation], tokens_per_region: int = 1) -> TokenBatch:
    """Pad conversations to one length and expand each region to ``tokens_per_region`` tokens.

    Raises:
        ModelError: there is no conversation.
    """
    if not conversations:
        raise ModelError("cannot collate an empty list of conversations")
    expanded = [_expand_regions(conversation, tokens_per_region) for conversation in conversations]
    length = max(len(ids) for ids, _, _ in expanded)
    shape = (len(expanded), length)
    input_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    cond_ids, seg_ids = np.full(shape, NO_PHRASE, np.int64), np.full(shape, NO_PHRASE, np.int64)
    for row, (ids, cond, seg) in enumerate(expanded):
        input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        cond_ids[row, : len(ids)], seg_ids[row, : len(ids)] = cond, seg

    # A stable sort by phrase puts the phrase tokens first, phrase after phrase, in reading order.
    token_counts = (cond_ids != NO_PHRASE).sum(1)
    width = int(token_counts.max())
    sort_key = np.where(cond_ids == NO_PHRASE, np.iinfo(np.int64).max, cond_ids)
    token_mask = np.arange(width) < token_counts[:, None]
    token_index = np.argsort(sort_key, axis=1, kind="stable")[:, :width] * token_mask
    return TokenBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=None if mask.all() else torch.from_numpy(mask),
        image_positions=torch.from_numpy(np.flatnonzero(input_ids == IMAGE_PLACEHOLDER)),
        region_positions=torch.from_numpy(np.flatnonzero(input_ids == REGION_PLACEHOLDER)),
        cond_ids=torch.from_numpy(cond_ids),
        token_index=torch.from_numpy(token_index),
        token_mask=torch.from_numpy(token_mask),
        seg_index=torch.from_numpy((seg_ids == 0).argmax(1)),
        num_phrases=torch.from_numpy(cond_ids.max(1) + 1),
        images_per_row=tuple((input_ids == IMAGE_PLACEHOLDER).sum(1).tolist()),
    )


def _expand_regions(conversation: Conversation, tokens_per_region: int) -> tuple[IdArray, IdArray, IdArray]:
    """Return ids, phrase ids and segmentation ids with each region repeated."""
    ids = conversation.input_ids
    is_region = ids == REGION_PLACEHOLDER
    if tokens_per_region == 1 or not is_region.any():
        return ids, conversation.cond_ids, conversation.seg_ids
    repeats = np.where(is_region, tokens_per_region, 1)
    return ids.repeat(repeats), conversation.cond_ids.repeat(repeats), conversation.seg_ids.repeat(repeats)

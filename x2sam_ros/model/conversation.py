"""Prompts as conversations: the words around a user's phrases, as token ids, and batches of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_ros.errors import ConfigError, ModelError, PromptError
from x2sam_ros.model.template import Template
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

_SLOT = re.compile(r"(\{phrases\}|\{text\})")
_SPACES = re.compile(r"\s+")

_TO_USER, _TO_ANSWER = f"{TURN_START}user\n", f"{TURN_END}\n{TURN_START}assistant\n"
_Part = str | tuple[Sequence[int], int]
"""A piece of a prompt: plain words, or tokens with the phrase that they belong to."""

IMAGE_PLACEHOLDER, REGION_PLACEHOLDER = -1000, -400
"""Ids that stand for one picture token and for one region; negative, so no vocabulary id can collide."""

NO_PHRASE = -1
"""Phrase and segmentation id of every token outside of them."""

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Media:
    """What a prompt shows: one picture, or a clip of frame pairs.

    Args:
        tokens_per_step: picture tokens of the picture, or of each frame pair.
        steps: frame pairs of a clip; None for a picture.
    """

    tokens_per_step: int
    steps: int | None = None

    @property
    def name(self) -> str:
        """The word the templates use."""
        return "image" if self.steps is None else "video"


@dataclass(frozen=True)
class Conversation:
    """A tokenised prompt, with or without its answer; a region is still one token here.

    Args:
        input_ids: int64 (L,), with ``IMAGE_PLACEHOLDER`` and ``REGION_PLACEHOLDER``.
        cond_ids: int64 (L,), index of the phrase a token belongs to, ``NO_PHRASE`` outside. Phrases of the answer
            replace those of the question.
        seg_ids: int64 (L,), 0 at ``<SEG>``, ``NO_PHRASE`` elsewhere.
        answer_start: index of the answer's first token; L where it is still to be written.
        separators: tokens behind the answer, which nobody writes: the line break between two turns.
        earlier: start and end of the answers of earlier turns, of a chat that is learnt from as a whole.
    """

    input_ids: IdArray
    cond_ids: IdArray
    seg_ids: IdArray
    answer_start: int
    separators: int = 0
    earlier: tuple[tuple[int, int], ...] = ()

    @property
    def num_phrases(self) -> int:
        """Phrases (or regions) of the prompt, or of the answer where that has its own."""
        return int(self.cond_ids.max(initial=NO_PHRASE)) + 1

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The answer's tokens, the end of the turn included."""
        return tuple(self.input_ids[self.answer_start : len(self.input_ids) - self.separators].tolist())

    def after(self, start: int) -> Conversation:
        """Return what follows the first ``start`` tokens."""
        ids = (self.input_ids[start:], self.cond_ids[start:], self.seg_ids[start:])
        return Conversation(*ids, max(self.answer_start - start, 0), self.separators)


@dataclass(frozen=True)
class Answer:
    """What the language model said, for people: markers and control tokens taken out.

    Args:
        text: the words.
        phrases: text, start and end of each marked phrase; ``text[start:end]`` is the phrase.
        num_seg: how often it said ``<SEG>``.
    """

    text: str
    phrases: tuple[tuple[str, int, int], ...]
    num_seg: int


class ConversationBuilder:
    """Put prompts into words. Knows nothing of pixels: a picture is a number of tokens.

    Args:
        tokenizer: the checkpoint's tokenizer.
        phrase_markers: whether ``<p>`` and ``</p>`` count as part of a phrase.
    """

    def __init__(self, tokenizer: Tokenizer, phrase_markers: bool = True) -> None:
        self._tokenizer = tokenizer
        self._phrase_markers = phrase_markers

    def build(
        self,
        template: Template,
        media: Media | None,
        *,
        phrases: Sequence[str] = (),
        regions: int = 0,
        text: str = "",
        answer: str | None = None,
    ) -> Conversation:
        """Put one prompt into words.

        Args:
            template: question and answer.
            media: the picture or clip; None for a question without one.
            phrases: what to look for, in order; plain text, whatever it looks like.
            regions: how many regions to ask for instead; their features replace the ``REGION_PLACEHOLDER`` tokens.
            text: the user's words for ``{text}``; plain text.
            answer: instead of the template's; trusted, as that one is.

        Raises:
            PromptError: a slot of the question has nothing to fill it, or a phrase has no token.
            ConfigError: the question lacks the slot of what was given, or the answer has several ``<SEG>``.
        """
        slots: dict[str, list[_Part]] = {
            "{phrases}": self._phrases(phrases, regions),
            "{text}": [text] if text.strip() else [],
        }
        question = template.question if media is None else template.question.replace("{media}", media.name)
        missing = [slot for slot, filled in slots.items() if filled and slot not in question]
        if missing:
            raise ConfigError(f"prompt template {template.question!r} has no {' and no '.join(missing)}")
        parts = self._opening(media)
        for piece in _SLOT.split(question):
            if piece in slots and not slots[piece]:
                raise PromptError(f"the prompt has nothing for {piece} of {template.question!r}; name what to look for")
            parts += slots[piece] if piece in slots else self._trusted(piece)
        prompt = self._write([*parts, *self._trusted(_TO_ANSWER)])
        answer = template.answer if answer is None else answer
        if answer is None:
            return prompt
        separator = self._encode("\n")
        whole = self.answered(prompt, [*self._encode(f"{answer}{TURN_END}"), *separator])
        if (whole.seg_ids == 0).sum() > 1:
            raise ConfigError(f"answer {answer!r} must hold <SEG> at most once")
        return replace(whole, separators=len(separator))

    def opening(self, media: Media) -> Conversation:
        """Return what every prompt on a picture or clip begins with, token for token."""
        return self._write(self._opening(media))

    def answered(self, prompt: Conversation, ids: Sequence[int]) -> Conversation:
        """Return a prompt with its answer; phrases marked in the answer replace those of the question.

        Args:
            prompt: a conversation whose answer is still to be written.
            ids: the answer's tokens; a ``<p>`` without its ``</p>`` marks nothing.
        """
        cond = prompt.cond_ids.tolist()
        marked = self._marked(ids)
        if marked:
            cond = [NO_PHRASE] * len(cond)
        answer_cond = [NO_PHRASE] * len(ids)
        for index, (start, end) in enumerate(marked):
            inside = slice(start, end + 1) if self._phrase_markers else slice(start + 1, end)
            answer_cond[inside] = [index] * len(answer_cond[inside])
        length = len(prompt.input_ids)
        whole = self._conversation([*prompt.input_ids.tolist(), *ids], [*cond, *answer_cond], seg_from=length)
        return replace(whole, answer_start=length)

    def follow_up(self, conversation: Conversation, text: str) -> Conversation:
        """Return the next turn of a chat, its answer still to be written; earlier phrases are no longer asked for.

        Args:
            conversation: an answered one.
            text: the user's words; plain text.

        Raises:
            PromptError: the text has no token.
        """
        if not text.strip():
            raise PromptError("the question is empty; type what you want to know")
        before = conversation.input_ids.tolist()
        closing = self._encode(f"{TURN_END}\n")
        if tuple(before[-len(closing) :]) != closing:
            before += closing[1:] if before[-1:] == [closing[0]] else closing
        turn = self._write([*self._trusted(_TO_USER), text, *self._trusted(_TO_ANSWER)])
        whole = [*before, *turn.input_ids.tolist()]
        return self._conversation(whole, [NO_PHRASE] * len(whole), seg_from=len(before))

    def read_answer(self, ids: Sequence[int]) -> Answer:
        """Return an answer's words with the places of its phrases; white space is collapsed."""
        control, marked = self._tokenizer.control_ids, self._marked(ids)
        opens = {start: index for index, (start, _) in enumerate(marked)}
        closes = {end: index for index, (_, end) in enumerate(marked)}
        names = set(control.values())
        text, run, bounds = "", [], [[0, 0] for _ in opens]
        for position, token in enumerate([*ids, control[TURN_END]]):
            if token not in names:
                run.append(int(token))
                continue
            text = _joined(text, self._tokenizer.decode(run))
            run = []
            if position in opens:
                bounds[opens[position]][0] = len(text)
            if position in closes:
                bounds[closes[position]][1] = len(text)
        spans = []
        for start, end in bounds:
            inner = text[start:end]
            start += len(inner) - len(inner.lstrip())
            spans.append((inner.strip(), start, start + len(inner.strip())))
        return Answer(text.rstrip(), tuple(spans), list(ids).count(control[SEG_TOKEN]))

    def _marked(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the positions of each ``<p>`` and its ``</p>``, of those that have words between them."""
        start_id, end_id = (self._tokenizer.control_ids[token] for token in (PHRASE_START, PHRASE_END))
        spans, start = [], None
        for position, token in enumerate(ids):
            if token == start_id:
                start = position
            elif token == end_id and start is not None:
                if self._words(ids[start + 1 : position]).strip():
                    spans.append((start, position))
                start = None
        return spans

    def _words(self, ids: Sequence[int]) -> str:
        control = set(self._tokenizer.control_ids.values())
        return self._tokenizer.decode([token for token in ids if token not in control])

    def _conversation(self, ids: Sequence[int], cond: Sequence[int], seg_from: int = 0) -> Conversation:
        """Return a conversation without an answer; only ``<SEG>`` from position ``seg_from`` on counts."""
        input_ids = np.array(ids, dtype=np.int64)
        seg_ids = np.where(input_ids == self._tokenizer.control_ids[SEG_TOKEN], 0, NO_PHRASE)
        seg_ids[:seg_from] = NO_PHRASE
        return Conversation(input_ids, np.array(cond, dtype=np.int64), seg_ids, len(input_ids))

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._tokenizer.encode_template(text)

    def _trusted(self, text: str) -> list[_Part]:
        """Return our own words as parts: control tokens mean what they say."""
        return [p if isinstance(p, str) else ((p,), NO_PHRASE) for p in self._tokenizer.split_template(text)]

    def _opening(self, media: Media | None) -> list[_Part]:
        """Return the start of the user's turn with its picture, or its clip's timestamps and frame pairs."""
        parts = self._trusted(_TO_USER)
        if media is None:
            return parts
        control = self._tokenizer.control_ids
        picture = (control[VISION_START], *[IMAGE_PLACEHOLDER] * media.tokens_per_step, control[VISION_END])
        if media.steps is None:
            return [*parts, (picture, NO_PHRASE)]
        # a frame pair each second, as the published weights were trained, whatever the clip's rate
        for second in range(1, media.steps + 1):
            parts += [f"<{second}.0 seconds>", (picture, NO_PHRASE)]
        return parts

    def _phrases(self, phrases: Sequence[str], regions: int) -> list[_Part]:
        """Return the parts of ``<p>phrase</p>, <p>phrase</p>``."""
        if phrases and regions:
            raise PromptError(f"a prompt names phrases or regions, got {len(phrases)} phrases and {regions} regions")
        empty = [phrase for phrase in phrases if not phrase.strip()]
        if empty:
            raise PromptError(f"{len(empty)} of the phrases {list(phrases)!r} have no text; name what to look for")
        encoded = [self._tokenizer.encode_plain(phrase) for phrase in phrases] or [(REGION_PLACEHOLDER,)] * regions
        start, end = (self._tokenizer.control_ids[token] for token in (PHRASE_START, PHRASE_END))
        parts: list[_Part] = []
        for index, ids in enumerate(encoded):
            marker = index if self._phrase_markers else NO_PHRASE
            parts += [", "] if index else []
            parts += [((start,), marker), (ids, index), ((end,), marker)]
        return parts

    def _write(self, parts: Sequence[_Part]) -> Conversation:
        """Return the parts as a conversation without an answer.

        Words that meet are encoded together, ours and the user's, as the published code encodes the finished sentence.
        """
        ids: list[int] = []
        cond: list[int] = []
        words = ""
        for part in [*parts, ((), NO_PHRASE)]:
            if isinstance(part, str):
                words += part
                continue
            plain, (tokens, phrase) = self._tokenizer.encode_plain(words), part
            words = ""
            ids += [*plain, *tokens]
            cond += [NO_PHRASE] * len(plain) + [phrase] * len(tokens)
        return self._conversation(ids, cond)


def _joined(text: str, more: str) -> str:
    """Append words, white space collapsed: a marker between two spaces leaves one."""
    more = _SPACES.sub(" ", more)
    return text + (more.lstrip() if not text or text.endswith(" ") else more)


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
        seg_index: int64 (B,), column of the last ``<SEG>``, the one that has read all phrases; 0 without one.
        has_seg: B values on the host, rows that say ``<SEG>``.
        answer_mask: bool (B, L), True at the answer's tokens.
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
    has_seg: tuple[bool, ...]
    answer_mask: Tensor
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
    shape = (len(expanded), max(len(row.input_ids) for row in expanded))
    input_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    cond_ids, seg_ids = np.full(shape, NO_PHRASE, np.int64), np.full(shape, NO_PHRASE, np.int64)
    answer = np.zeros(shape, bool)
    for row, conversation in enumerate(expanded):
        real = len(conversation.input_ids)
        input_ids[row, :real], mask[row, :real] = conversation.input_ids, 1
        cond_ids[row, :real], seg_ids[row, :real] = conversation.cond_ids, conversation.seg_ids
        answer[row, conversation.answer_start : real - conversation.separators] = True
        for start, end in conversation.earlier:
            answer[row, start:end] = True

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
        seg_index=torch.from_numpy((np.arange(shape[1]) * (seg_ids == 0)).max(1)),
        has_seg=tuple((seg_ids == 0).any(1).tolist()),
        answer_mask=torch.from_numpy(answer),
        num_phrases=torch.from_numpy(cond_ids.max(1) + 1),
        images_per_row=tuple((input_ids == IMAGE_PLACEHOLDER).sum(1).tolist()),
    )


def _expand_regions(conversation: Conversation, tokens_per_region: int) -> Conversation:
    """Return the conversation with each region's token repeated."""
    is_region = conversation.input_ids == REGION_PLACEHOLDER
    if tokens_per_region == 1 or not is_region.any():
        return conversation
    repeats = np.where(is_region, tokens_per_region, 1)
    return Conversation(
        conversation.input_ids.repeat(repeats),
        conversation.cond_ids.repeat(repeats),
        conversation.seg_ids.repeat(repeats),
        int(repeats[: conversation.answer_start].sum()),
        conversation.separators,
        tuple((int(repeats[:start].sum()), int(repeats[:end].sum())) for start, end in conversation.earlier),
    )

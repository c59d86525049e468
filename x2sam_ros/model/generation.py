"""Answers written token by token: greedy, streamed, bounded, and ready to be asked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.conversation import Answer, Conversation, ConversationBuilder
from x2sam_ros.model.language import Prefix, VisionFeatures
from x2sam_ros.model.tokenizer import TEXT_END, TURN_END

if TYPE_CHECKING:
    from x2sam_ros.model.x2sam import X2SAM

STOP_TOKENS = (TURN_END, TEXT_END)
"""Control tokens that end an answer."""

MAX_NEW_TOKENS = EngineConfig.max_answer_tokens
"""Tokens after which an answer is cut."""

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"

Finish = Literal["stop", "length", "cancelled"]
"""Why an answer ended: it was complete, it reached the limit, or the caller had enough."""


@dataclass(frozen=True)
class Generated:
    """An answer the language model wrote.

    Args:
        conversation: the prompt with its answer, for ``ConversationBuilder.follow_up``.
        answer: the answer in words; row i of the condition belongs to phrase i of the answer, where that has any.
        finish: why it ended.
        prefix: everything that was read, for the next turn; the answer's last token was written but not read.
    """

    conversation: Conversation
    answer: Answer
    finish: Finish
    prefix: Prefix

    @property
    def hidden(self) -> Tensor:
        """States of all tokens read, float (1, L, D), before the final norm."""
        return self.prefix.hidden

    def condition(self, model: X2SAM) -> PromptCondition | None:
        """Return what steers the masks, or None where the answer has no ``<SEG>`` or nothing names a phrase.

        Of several ``<SEG>`` the last counts, which has read the most. One that is the very last token of a cut answer
        was never read, so it does not count.
        """
        read = self.prefix.conversation
        if read.num_phrases == 0 or not (read.seg_ids == 0).any():
            return None
        return model.condition_from_states(model.collate([read]), self.hidden)


@torch.no_grad()
def generate(
    model: X2SAM,
    conversation: Conversation,
    vision: VisionFeatures | None = None,
    region_tokens: Tensor | None = None,
    prefix: Prefix | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    stop_tokens: Sequence[str] = STOP_TOKENS,
    on_text: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    choose: Callable[[Tensor], int] | None = None,
) -> Generated:
    """Let the language model write the answer.

    Args:
        model: the network.
        conversation: a prompt without an answer.
        vision, region_tokens, prefix: see ``X2SAM.states``.
        max_new_tokens: tokens after which the answer is cut; so is one that fills the network's positions.
        stop_tokens: control tokens that end the answer.
        on_text: called with each new piece of the answer's text as soon as its characters are complete; the pieces
            together are ``answer.text``.
        cancelled: asked before each token; True ends the answer there.
        choose: picks the next token from its logits, float (V,); by default the likeliest.

    Raises:
        PromptError: the conversation is too long, or already has its answer.
        ConfigError: there is no such stop token, or ``max_new_tokens`` is less than 1.
        ModelError: as ``X2SAM.states``.
    """
    stops = _stop_ids(model, stop_tokens)
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    if conversation.answer_ids:
        raise PromptError("the conversation already has its answer; ask on with follow_up before generating again")
    cache = DynamicCache() if prefix is None else prefix.cache()
    states = [model.states([conversation], vision, region_tokens, prefix, cache)]
    limit = min(max_new_tokens, model.config.language.text.max_position_embeddings - states[0].shape[1])
    voice = _Voice(model.conversations, on_text)
    answer: list[int] = []
    finish: Finish = "length"
    while len(answer) < limit:
        if cancelled is not None and cancelled():
            finish = "cancelled"
            break
        if answer:
            states.append(model.language.step(answer[-1], cache))
        # the embedding table may have more rows than the vocabulary has tokens
        logits = model.language.logits(states[-1][0, -1])[: len(model.tokenizer)]
        answer.append(int(logits.argmax()) if choose is None else choose(logits))
        if answer[-1] in stops:
            finish = "stop"
            break
        voice.say(answer)
    voice.say(answer, last=True)
    builder = model.conversations
    read = builder.answered(conversation, answer[:-1])
    heard = Prefix.of(read, torch.cat(states, dim=1), cache, vision if prefix is None else prefix.vision or vision)
    # a phrase that ends with the unread token has no state, so it is none
    said = replace(builder.read_answer(answer), phrases=builder.read_answer(answer[:-1]).phrases)
    return Generated(builder.answered(conversation, answer), said, finish, heard)


def _stop_ids(model: X2SAM, stop_tokens: Sequence[str]) -> set[int]:
    known = model.tokenizer.control_ids
    unknown = [token for token in stop_tokens if token not in known]
    if unknown:
        raise ConfigError(f"unknown stop tokens {unknown}; there are: {', '.join(known)}")
    return {known[token] for token in stop_tokens}


class _Voice:
    """Hands on an answer's text while it is written."""

    def __init__(self, builder: ConversationBuilder, on_text: Callable[[str], None] | None) -> None:
        self._builder, self._on_text, self._said = builder, on_text, 0

    def say(self, ids: Sequence[int], last: bool = False) -> None:
        """Hand on what is new in the answer so far; bytes of a character wait until it is whole."""
        if self._on_text is None:
            return
        text = self._builder.read_answer(ids).text
        if not last:
            text = text.rstrip(_HALF_CHARACTER).rstrip()
        if len(text) > self._said:
            self._on_text(text[self._said :])
            self._said = len(text)

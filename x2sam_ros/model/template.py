"""The words around a user's words: what a prompt asks the language model, and what the answer looks like."""

from __future__ import annotations

from dataclasses import dataclass

TEMPLATE_SETS: tuple[str, ...] = ("official", "short")
"""Wordings a checkpoint can have been trained with: the published one, and the nano model's shorter one."""

OFFICIAL_ANSWER, SHORT_ANSWER = "Sure, it is <SEG>.", "<SEG>."
"""What the language model is made to say in each set."""


@dataclass(frozen=True)
class Template:
    """One question and its answer.

    Args:
        question: with the slots ``{phrases}`` (the marked phrases or regions), ``{text}`` (the user's words, unmarked)
            and ``{media}`` (image or video), each at most once.
        answer: what the language model is made to say, so that one pass over the prompt is enough; control tokens such
            as ``<SEG>`` mean what they say. None where it writes the answer itself.
    """

    question: str
    answer: str | None

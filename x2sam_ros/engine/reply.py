"""What became of a prompt, in words: the language model's reply, and the grounding that reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from x2sam_ros.model.conversation import Answer
from x2sam_ros.types import (
    ClassListPrompt,
    Frame,
    Grounding,
    GroundingStatus,
    Phrase,
    Prompt,
    PromptBase,
    RegionsPrompt,
    TextPrompt,
)

if TYPE_CHECKING:
    from x2sam_ros.config import EngineConfig
    from x2sam_ros.engine.track import Group, Target

Span = tuple[str, int, int]
"""A phrase with its start and end."""


@dataclass(frozen=True)
class Reply:
    """What the language model said.

    Args:
        text: its words; '' where the task has a fixed answer, which tells a person nothing.
        spans: the phrases it marked, ``text[start:end]`` each; () where those of the query were asked for.
        status: how the prompt ends where there is nothing to segment.
        message: what is wrong with the answer, '' where nothing is.
    """

    text: str = ""
    spans: tuple[Span, ...] = ()
    status: GroundingStatus = GroundingStatus.NO_TARGET
    message: str = ""


def judge_answer(answer: Answer, markers: tuple[int, int], finish: str, wants_masks: bool, asked: int = 0) -> Reply:
    """Read an answer that the language model wrote.

    Args:
        answer: what it said.
        markers: how many ``<p>`` and how many ``</p>`` it has.
        finish: why it ended: "stop", "length" or "cancelled".
        wants_masks: whether an answer without masks leaves the prompt unfulfilled.
        asked: phrases of the question, which count where the answer marks none.
    """
    remarks = []
    if finish != "stop":
        remarks.append("is cut off; raise max_answer_tokens" if finish == "length" else "was cancelled")
    if wants_masks or answer.num_seg:
        lost, ends = (count - len(answer.phrases) for count in markers)
        if not answer.num_seg:
            remarks.append("has no <SEG>, so it points at nothing")
        if answer.num_seg > 1:
            remarks.append(f"has {answer.num_seg} <SEG>, of which the last counts")
        if lost:
            remarks.append(f"has {lost} <p> without </p> or without words")
        if ends > lost:
            remarks.append(f"has {ends - max(lost, 0)} </p> without <p>")
        if not answer.phrases and not asked:
            remarks.append("marks no phrase")
    status = GroundingStatus.NO_TARGET if wants_masks else GroundingStatus.OK
    message = f"the answer {', '.join(remarks)}" if remarks else ""
    return Reply(answer.text, answer.phrases, status, message)


def query_of(prompt: PromptBase) -> str:
    """Return a prompt in words: its text, its names joined by commas, or what kind of prompt it is."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    if isinstance(prompt, ClassListPrompt):
        return ", ".join(prompt.classes)
    if isinstance(prompt, RegionsPrompt):
        return ", ".join(_region_names(prompt))
    return type(prompt).__name__.removesuffix("Prompt").lower()


def _region_names(prompt: RegionsPrompt) -> tuple[str, ...]:
    return prompt.labels or tuple(query_of(region) for region in prompt.regions)


def grounding_of(
    prompt: Prompt,
    frame: Frame,
    status: GroundingStatus,
    message: str = "",
    *,
    reply: Reply | None = None,
    labels: Sequence[str] = (),
    targets: Sequence[Target] = (),
) -> Grounding:
    """Report what became of a prompt.

    Args:
        prompt: what was asked.
        frame: the frame it was carried out on.
        status, message: how it ended.
        reply: what the language model said.
        labels: the names that were looked for.
        targets: what was found.
    """
    reply, query = reply or Reply(), query_of(prompt)
    names = _region_names(prompt) if isinstance(prompt, RegionsPrompt) else labels
    return Grounding(
        prompt_id=prompt.prompt_id,
        status=status,
        query=query,
        response=reply.text,
        phrases=tuple(_phrases(reply.spans or _spans(query, names), targets)),
        target_ids=tuple(target.target_id for target in targets),
        message=message,
        stamp_ns=frame.stamp_ns,
    )


def report_of(group: Group, frame: Frame, config: EngineConfig, targets: Sequence[Target] | None = None) -> Grounding:
    """Report what a group found on a frame.

    Args:
        group: the prompt.
        frame: the frame it was carried out on.
        config: how long a class list looks for its first target.
        targets: what it found; by default what it sees now.
    """
    if targets is None:
        targets = [target for target in group.targets.values() if target.logits is not None]
    status, message = GroundingStatus.OK, group.reply.message
    if not targets:
        status, message = group.reply.status, "nothing in the image fits the prompt"
        if group.is_looking(config):
            message += f"; it is looked for on the next {config.lost_frames - group.vain_frames} images"
        elif group.vain_frames > 1:
            status, message = GroundingStatus.REMOVED, f"nothing in {group.vain_frames} images fits the prompt"
        message = "; ".join(filter(None, (message, group.reply.message)))
    return grounding_of(group.prompt, frame, status, message, reply=group.reply, labels=group.labels, targets=targets)


def _spans(query: str, labels: Iterable[str]) -> Iterator[Span]:
    """Find the labels in the query, one after the other; a label that a task head put into its own words has none."""
    position = 0
    for label in labels:
        start = query.find(label, position) if label else -1
        if start >= 0:
            position = start + len(label)
        yield label, start, position


def _phrases(spans: Iterable[Span], targets: Sequence[Target]) -> Iterator[Phrase]:
    for index, (text, start, end) in enumerate(spans):
        if start < 0:
            continue
        mine = [target for target in targets if target.class_index == index]
        ids = tuple(target.target_id for target in mine)
        yield Phrase(text, start, end, ids, max((target.score for target in mine), default=0.0))

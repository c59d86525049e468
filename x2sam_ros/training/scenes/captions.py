"""Captions of a picture, with the objects that each of their phrases means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.clip import Clip
from x2sam_ros.training.scenes.view import View

_MAX_PHRASES = 3


@dataclass(frozen=True)
class CaptionPhrase:
    """A part of a caption, ``text[start:end]``, and the objects it means."""

    start: int
    end: int
    object_indices: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """A sentence about a picture and its phrases in the order of the text."""

    text: str
    phrases: tuple[CaptionPhrase, ...]


def noun_phrase(colour: str, shape: str, count: int) -> str:
    """Return "a red circle", "an orange square" or "two red circles"."""
    if count > 1:
        return f"{words.number_word(count)} {colour} {words.PLURALS[shape]}"
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def joined_caption(parts: Sequence[str], relation: str) -> tuple[str, list[int]]:
    """Return "<part> <relation> <part> and <part>" for one to three parts, and where each part starts."""
    text, starts = "", []
    for part, joint in zip(parts, ("", f" {relation} ", " and ")):
        starts.append(len(text) + len(joint))
        text += joint + part
    return text, starts


def caption(clip: Clip, rng: np.random.Generator, frame_index: int = 0) -> Caption | None:
    """Describe the clear objects of a frame, large before medium before small, then left to right; None without any.

    Objects of the same colour and shape are one phrase at the place of the first of them; three phrases at most.
    The relation is that of the first objects of the first two phrases along the axis that parts them most.

    Args:
        clip: The clip.
        rng: Not drawn from: a picture has one caption, so that it can be learned and scored.
        frame_index: The frame to describe.
    """
    view = View.of(clip, frame_index)
    groups: dict[tuple[str, str], list[int]] = {}
    for k in sorted(view.clear, key=lambda k: (-words.SIZES.index(clip.objects[k].size_name), view.visible_centre(k))):
        me = clip.objects[k]
        groups.setdefault((me.colour, me.shape), []).append(k)
    members = list(groups.values())[:_MAX_PHRASES]
    if not members:
        return None
    parts = [noun_phrase(*key, len(ks)) for key, ks in zip(groups, members)]
    relation = _relation(view, members[0][0], members[1][0]) if len(members) > 1 else ""
    text, starts = joined_caption(parts, relation)
    phrases = (CaptionPhrase(at, at + len(part), tuple(ks)) for at, part, ks in zip(starts, parts, members))
    return Caption(text, tuple(phrases))


def _relation(view: View, a: int, b: int) -> str:
    """Return the canonical word for where ``a`` lies seen from ``b``, by what is visible of them."""
    (ax, ay), (bx, by) = view.visible_centre(a), view.visible_centre(b)
    if abs(ax - bx) >= abs(ay - by):
        return words.RELATIONS["left" if ax < bx else "right"][0]
    return words.RELATIONS["top" if ay < by else "bottom"][0]

"""LLaVA-style chat: a JSON (or JSON lines) of conversations about a picture, a clip or nothing.

Each record has ``conversations``, a list of ``{"from": "human" | "gpt", "value": text}``, and may have an ``image`` (a
file, or a list of one) or a ``video`` (a file, or a folder of images), relative to a folder of media. ``<image>`` and
``<video>`` in the words stand where the media belongs, which here is always the beginning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2sam_ros.errors import TruthError, told
from x2sam_ros.truth.files import forget_json, read_json
from x2sam_ros.truth.sequences import MALFORMED

_PLACES = ("<image>", "<video>")
_HUMAN, _MODEL = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True)
class Chat:
    """One conversation.

    Args:
        name: unique in its file.
        turns: question and answer, in order.
        image, video: what it is about; at most one of them.

    Raises:
        TruthError: it has no turn, or a question or an answer is empty.
    """

    name: str
    turns: tuple[tuple[str, str], ...]
    image: Path | None = None
    video: Path | None = None

    def __post_init__(self) -> None:
        if not self.turns:
            raise TruthError(f"chat {self.name} has no question with an answer")
        if any(not words.strip() for turn in self.turns for words in turn):
            raise TruthError(f"chat {self.name} has an empty question or answer")
        if self.image is not None and self.video is not None:
            raise TruthError(f"chat {self.name} has an image and a video, expected one of them")


@dataclass(frozen=True)
class ChatSet:
    """The conversations of a file, and what is wrong with those that were left out.

    Args:
        name: what reports call it.
        chats: in the file's order.
        problems: one line for each record that could not be used.
    """

    name: str
    chats: tuple[Chat, ...]
    problems: tuple[str, ...] = ()


def is_chat(path: Path) -> bool:
    """Tell whether a file holds chats."""
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        return False
    if path.suffix == ".jsonl":
        return True
    said = read_json(path)
    return isinstance(said, list) and bool(said) and isinstance(said[0], dict) and "conversations" in said[0]


def open_chat(path: Path, media: Path | None = None) -> ChatSet:
    """Read a file of chats.

    Args:
        path: JSON or JSON lines.
        media: folder that images and videos are relative to; None for the file's own.

    Raises:
        TruthError: it is damaged, or not one record can be used.
    """
    folder, chats, problems = path.parent if media is None else media, [], []
    for number, record in enumerate(_records(path)):
        try:
            chats.append(_read(record, f"{record.get('id', '')}#{number}", folder))
        except MALFORMED as error:
            problems.append(f"{path}: record {number} has another structure ({told(error)})")
        except TruthError as error:
            problems.append(f"{path}: record {number}: {error}")
    if not chats:
        raise TruthError(problems[0] if problems else f"{path} holds no chat")
    return ChatSet(path.stem, tuple(chats), tuple(problems))


def _records(path: Path) -> list[Any]:
    if path.suffix != ".jsonl":
        said = read_json(path)
        forget_json()  # kept by whoever asked what the file is; it may fill gigabytes
        if not isinstance(said, list):
            raise TruthError(f"{path} is no list of chats, got {type(said).__name__}")
        return said
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise TruthError(f"{path} cannot be read: {error}; copy it again") from error


def _read(record: Mapping[str, Any], name: str, folder: Path) -> Chat:
    turns: list[tuple[str, str]] = []
    asked: str | None = None
    image, video = _file(record.get("image"), folder), _file(record.get("video"), folder)
    for said in record["conversations"]:
        words = said["value"]
        for place in _PLACES:
            if place in words and image is None and video is None:
                raise TruthError(f"it says {place} and names no file; expected one under image or video")
            words = words.replace(place, "")
        if said["from"] in _HUMAN:
            asked = words.strip()
        elif said["from"] in _MODEL:
            if asked is not None:  # an answer to nothing is left out, as in the published code
                turns.append((asked, words.strip()))
            asked = None
        else:
            raise TruthError(f"{said['from']!r} speaks, expected human or gpt")
    return Chat(name, tuple(turns), image, video)


def _file(said: Any, folder: Path) -> Path | None:
    if isinstance(said, list):
        if len(said) > 1:
            raise TruthError(f"{len(said)} pictures in one chat, expected one")
        said = said[0] if said else None
    return folder / said if said else None

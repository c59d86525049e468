"""The byte-level BPE tokenizer: text to ids, with control tokens only where our own templates put them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from x2sam_ros.errors import CheckpointError, PromptError

SEG_TOKEN, PHRASE_START, PHRASE_END = "<SEG>", "<p>", "</p>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
TEXT_END = "<|endoftext|>"
CONTROL_TOKENS = (
    TEXT_END,
    TURN_START,
    TURN_END,
    VISION_START,
    VISION_END,
    SEG_TOKEN,
    PHRASE_START,
    PHRASE_END,
)
"""Control tokens every tokenizer of this project has; the last three are X2SAM's own."""

_PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's split into words before the merges (Source: Qwen2 tokenizer.json)."""

_CACHED_TEXTS = 8_192


class Tokenizer:
    """Turn text into token ids and back. Holds no state besides a bounded cache of encoded texts.

    Args:
        plain: a byte-level BPE without any added token.
        control_ids: id of each control token; must hold ``CONTROL_TOKENS``.

    Raises:
        CheckpointError: a control token has no id.
    """

    def __init__(self, plain: tokenizers.Tokenizer, control_ids: Mapping[str, int]) -> None:
        missing = [token for token in CONTROL_TOKENS if token not in control_ids]
        if missing:
            raise CheckpointError(f"tokenizer lacks the control tokens {', '.join(missing)}; convert it again")
        self._plain = plain
        self.control_ids = dict(control_ids)
        longest_first = sorted(control_ids, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(re.escape(token) for token in longest_first) + ")")
        self.encode_plain = lru_cache(maxsize=_CACHED_TEXTS)(self._encode_plain)
        self.encode_template = lru_cache(maxsize=_CACHED_TEXTS)(self._encode_template)

    def __len__(self) -> int:
        return max(max(self.control_ids.values()) + 1, self._plain.get_vocab_size())

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        """Encode a user's text; nothing in it, not even ``<SEG>``, becomes a control token."""
        try:
            return tuple(self._plain.encode(text, add_special_tokens=False).ids)
        except TypeError as error:  # half of a surrogate pair, as Python reads bytes that are no UTF-8
            raise PromptError(f"text {text!r} is not valid Unicode; send it as UTF-8") from error

    def _encode_template(self, text: str) -> tuple[int, ...]:
        """Encode our own text, in which control tokens mean what they say."""
        pieces = self.split_template(text)
        encoded = (self.encode_plain(piece) if isinstance(piece, str) else (piece,) for piece in pieces)
        return tuple(token for ids in encoded for token in ids)

    def split_template(self, text: str) -> tuple[int | str, ...]:
        """Split our own text at its control tokens, which become ids; the words between them stay words."""
        pieces = (piece for piece in self._control_pattern.split(text) if piece)
        return tuple(self.control_ids.get(piece, piece) for piece in pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; control tokens are spelled out, placeholders (negative ids) are left out."""
        names = {token_id: name for name, token_id in self.control_ids.items()}
        text, run = "", []
        for token in [*ids, -1]:
            if token >= 0 and token not in names:
                run.append(int(token))
                continue
            text += self._plain.decode(run) + names.get(int(token), "")
            run = []
        return text

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json`` in the format of the ``tokenizers`` library."""
        data = json.loads(self._plain.to_str())
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        ordered = sorted(self.control_ids.items(), key=lambda item: item[1])
        data["added_tokens"] = [{"id": token_id, "content": token, **flags} for token, token_id in ordered]
        path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    """Wrap merges in Qwen's normalisation and pre-split."""
    plain = tokenizers.Tokenizer(model)
    plain.normalizer = normalizers.NFC()
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plain.decoder = decoders.ByteLevel()
    return plain


def load_tokenizer(folder: Path, control_ids: Mapping[str, int] | None = None) -> Tokenizer:
    """Load ``tokenizer.json``, or else ``vocab.json`` and ``merges.txt``, from a folder.

    Args:
        folder: where the files lie.
        control_ids: control tokens the files do not name themselves; X2SAM's own are appended after the rest.

    Raises:
        CheckpointError: files are missing, corrupt, or lack control tokens.
    """
    single, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if single.is_file():
            data: dict[str, Any] = json.loads(single.read_text(encoding="utf-8"))
            found = {entry["content"]: int(entry["id"]) for entry in data.get("added_tokens", [])}
            data["added_tokens"], data["post_processor"] = [], None
            plain = tokenizers.Tokenizer.from_str(json.dumps(data))
        else:
            found = {}
            plain = _byte_level(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the Rust library raises bare Exception for missing and malformed files alike
        raise CheckpointError(
            f"cannot read a tokenizer in {folder}: {error}; expected tokenizer.json, or vocab.json and merges.txt"
        ) from error
    found.update(control_ids or {})
    for token in (SEG_TOKEN, PHRASE_START, PHRASE_END):
        found.setdefault(token, max(max(found.values(), default=-1) + 1, plain.get_vocab_size()))
    return Tokenizer(plain, found)


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a small tokenizer; the same corpus gives the same tokenizer.

    Args:
        corpus: texts as they will be encoded (templates without control tokens, phrases).
        vocab_size: upper bound of the number of ids, control tokens included; at least 256 + control tokens.
    """
    plain = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    plain.train_from_iterator(corpus, trainer)
    first = plain.get_vocab_size()
    return Tokenizer(plain, {token: first + index for index, token in enumerate(CONTROL_TOKENS)})

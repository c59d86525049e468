"""Configuration, tokenizer and LoRA scale of a published checkpoint, from the files that lie beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2sam_ros.checkpoint.official_config import RELEASE_LORA_SCALE, config_from_official, lora_scale
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import X2SAMConfig, from_dict, preset
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer

CONFIG_FILE = "config.json"
_ADAPTER_FILE, _TOKENIZER_CONFIG, _ADDED_TOKENS = "adapter_config.json", "tokenizer_config.json", "added_tokens.json"


@dataclass(frozen=True)
class Settings:
    """What the tensors of a checkpoint are built into.

    Args:
        config: the network.
        tokenizer: its tokenizer, X2SAM's tokens included.
        lora_scale: factor of the LoRA products.
        origin: where the configuration was found, for messages.
    """

    config: X2SAMConfig
    tokenizer: Tokenizer
    lora_scale: float
    origin: str


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer."""
    return _tokenizer_folder(folder) is not None


def read_settings(export: Path, base: Path | None = None) -> Settings:
    """Read what describes a published checkpoint; what the export does not say is the base model's or the release's.

    Args:
        export: the folder of the X2SAM export.
        base: the folder of its base vision-language model.

    Raises:
        CheckpointError: there is no tokenizer, or it has another number of tokens than the configuration says.
        ConfigError: a configuration is not supported.
    """
    own = _read_json(export / CONFIG_FILE)
    folder = next((found for found in map(_tokenizer_folder, (export, base)) if found), None)
    if folder is None:
        raise CheckpointError(
            f"no tokenizer in {export}{f' or {base}' if base else ''}; expected tokenizer.json, or vocab.json and "
            "merges.txt, as in the folder of the base model"
        )
    tokenizer = load_tokenizer(folder, {**_added_tokens(folder), **own.get("token_ids", {})})
    adapter = _read_json(export / _ADAPTER_FILE) or own.get("lora", {})
    scale = lora_scale({"lora": adapter}) if adapter else RELEASE_LORA_SCALE
    if "language" in own:  # our own table, as `export_official` writes it; its vocabulary may have spare rows
        return Settings(_read_own(own, export), tokenizer, scale, f"{CONFIG_FILE} of the export")
    config, origin = _published_config(own, base, len(tokenizer))
    rows = config.language.text.vocab_size
    if len(tokenizer) != rows:
        raise CheckpointError(f"the tokenizer in {folder} has {len(tokenizer)} tokens, expected {rows} ({origin})")
    return Settings(config, tokenizer, scale, origin)


def _read_own(table: dict[str, Any], export: Path) -> X2SAMConfig:
    try:
        return from_dict(table)
    except TypeError as error:
        raise ConfigError(f"cannot read {export / CONFIG_FILE}: {error}; fetch the file again") from error


def _published_config(own: Mapping[str, Any], base: Path | None, tokens: int) -> tuple[X2SAMConfig, str]:
    """Return the configuration in published terms, and where it was found."""
    if "qwen3_vl" in own:
        segmentor = own if "sam2" in own else None
        return config_from_official({"len_tokenizer": tokens, **own}, segmentor), f"{CONFIG_FILE} of the export"
    for table, name in ((own, "export"), (_read_json(base / CONFIG_FILE) if base else {}, "base model")):
        if "text_config" in table:
            config = config_from_official({"qwen3_vl": table, "len_tokenizer": tokens})
            return config, f"{CONFIG_FILE} of the {name}, and the release"
    return preset("release"), "the release"


def _read_json(path: Path) -> dict[str, Any]:
    """Return a file's table, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch the file again") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds no table of settings; fetch the file again")
    return table


def _tokenizer_folder(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    for place in (folder, folder / "tokenizer"):
        if (place / "tokenizer.json").is_file() or (place / "vocab.json").is_file():
            return place
    return None


def _added_tokens(folder: Path) -> dict[str, int]:
    """Return the tokens that vocab.json and merges.txt leave to other files."""
    try:
        listed = _read_json(folder / _TOKENIZER_CONFIG).get("added_tokens_decoder", {})
        named = {entry["content"]: int(token) for token, entry in listed.items()}
        return {**named, **{token: int(index) for token, index in _read_json(folder / _ADDED_TOKENS).items()}}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read the added tokens in {folder}: {error!r}; fetch its files again") from error

"""What lies beside the tensors: configuration, tokenizer and LoRA scale of an export and its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models

from x2sam_ros.checkpoint.official_config import RELEASE_LORA_SCALE
from x2sam_ros.checkpoint.settings import has_tokenizer, read_settings
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import preset

PLAIN, SPECIALS = 151_643, 26
"""Words and special tokens of the published base model's tokenizer."""

NAMED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL = [*NAMED, *(f"<|special_{i}|>" for i in range(SPECIALS - len(NAMED)))]


def write(folder: Path, name: str, table: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(table))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a tokenizer of the release's size."""
    words = Library(models.BPE(vocab={f"w{i}": i for i in range(PLAIN)}, merges=[]))
    added = [{"id": PLAIN + i, "content": token, "special": True} for i, token in enumerate(SPECIAL)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    table = {**json.loads(words.to_str()), "added_tokens": [{**entry, **flags} for entry in added]}
    return write(tmp_path / "base", "tokenizer.json", table)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    return tmp_path / "export"


def test_nothing_but_the_bases_tokenizer_means_the_release(export: Path, base: Path) -> None:
    settings = read_settings(export, base)
    assert settings.config == preset("release") and settings.origin == "the release"
    assert len(settings.tokenizer) == settings.config.language.text.vocab_size
    ids = settings.tokenizer.control_ids
    assert (ids["<SEG>"], ids["<p>"], ids["</p>"]) == (151_669, 151_670, 151_671)
    assert settings.lora_scale == RELEASE_LORA_SCALE


def test_the_base_models_configuration_counts(export: Path, base: Path) -> None:
    qwen: dict[str, Any] = {"model_type": "qwen3_vl", "text_config": {"hidden_size": 2560}, "vision_config": {}}
    write(base, "config.json", qwen)
    assert read_settings(export, base).config == preset("release")
    qwen["text_config"]["num_hidden_layers"] = 28
    write(base, "config.json", qwen)
    other = read_settings(export, base)
    assert other.config.language.text.num_hidden_layers == 28 and other.config.preset == "converted"
    assert other.config.segmentor == preset("release").segmentor
    write(base, "config.json", {**qwen, "tie_word_embeddings": False})
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        read_settings(export, base)


def test_the_exports_configuration_counts_more(export: Path, base: Path) -> None:
    write(base, "config.json", {"text_config": {"num_hidden_layers": 28}, "vision_config": {}})
    tables = {"qwen3_vl": {"text_config": {"num_hidden_layers": 30}, "vision_config": {}}, "x2sam": {}}
    tables["lora"] = {"r": 64, "lora_alpha": 64}
    settings = read_settings(write(export, "config.json", tables), base)
    assert settings.config.language.text.num_hidden_layers == 30
    assert settings.lora_scale == 1.0
    write(export, "adapter_config.json", {"r": 8, "lora_alpha": 32})
    assert read_settings(export, base).lora_scale == 4.0


def test_a_tokenizer_of_separate_files_is_read(export: Path) -> None:
    folder = export / "tokenizer"
    write(folder, "vocab.json", {"a": 0, "b": 1})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    write(folder, "added_tokens.json", {"<|endoftext|>": 2, "<|im_start|>": 3})
    decoder = {str(i + 4): {"content": token} for i, token in enumerate(NAMED[2:])}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert has_tokenizer(export)
    write(export, "config.json", {"qwen3_vl": {"text_config": {}, "vision_config": {}}})
    settings = read_settings(export)
    assert settings.tokenizer.control_ids["<SEG>"] == 7
    assert settings.config.language.text.vocab_size == 10


def test_a_tokenizer_of_another_size_is_refused(export: Path, base: Path) -> None:
    tables = {"qwen3_vl": {"text_config": {}, "vision_config": {}}, "len_tokenizer": 99}
    write(export, "config.json", tables)
    with pytest.raises(CheckpointError, match=r"has 151672 tokens, expected 99"):
        read_settings(export, base)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"added_tokens_decoder": [3], "r": "x", "language": 3, "<|a|>": []}'])
def test_broken_files_give_one_line(export: Path, base: Path, name: str, text: str) -> None:
    (export / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (export / name).write_text(text)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        read_settings(export, base)
    assert "\n" not in str(caught.value)


def test_no_tokenizer_anywhere(export: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer in .*export; expected tokenizer\.json"):
        read_settings(export)

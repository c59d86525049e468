"""The new task of docs/plugins.md: one file, built in or in a distribution of its own, and it works."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import x2sam_ros.default_plugins.task_heads as built_in_heads
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.task_head import ReadContext, Track, checked_read
from x2sam_ros.errors import PluginError
from x2sam_ros.model.conversation import ConversationBuilder, Media
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.plugins import TASK_HEADS, PluginManager, load_plugins
from x2sam_ros.testing import check_task_head
from x2sam_ros.types import TextPrompt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/plugins.md").read_text(), re.DOTALL | re.MULTILINE)
    (source,) = (block for block in blocks if "x2sam_task_heads" in block)
    return source


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the package of the heads look for its files in a copy of its folder."""
    copy = tmp_path / "task_heads"
    shutil.copytree(Path(built_in_heads.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(built_in_heads, "__path__", [str(copy)])
    monkeypatch.delitem(sys.modules, f"{built_in_heads.__name__}.biggest", raising=False)
    return copy


def check_it_works(plugins: PluginManager) -> None:
    check_task_head("biggest", plugins.task_head("biggest"))
    head = plugins.task_head("biggest")()
    request = head.request(TextPrompt(text="red cup", task="biggest"))
    tokenizer = train_tokenizer(["Classes red cup.", "user\nassistant\n"] * 5, 400)
    asked = ConversationBuilder(tokenizer).build(head.templates["short"], Media(4), phrases=request.phrases)
    assert asked.num_phrases == 1 and (asked.seg_ids == 0).sum() == 1

    maps = torch.full((3, 8, 8), -5.0)
    maps[0, :2], maps[1, 2:7], maps[2, 7:] = 5.0, 5.0, 5.0
    found = Candidates(torch.tensor([[0.9], [0.7], [0.1]]), maps)
    (choice,) = checked_read(head, found, ReadContext(request.labels))
    assert (choice.query, choice.track) == (1, None) and request.labels == ("biggest red cup",)
    small = (Track(0, maps[0] > 0),)
    (choice,) = checked_read(head, found, ReadContext(request.labels, tracks=small, prompted=False))
    assert (choice.query, choice.track) == (0, 0)


def test_as_a_file_among_the_built_in_heads(example: str, folder: Path) -> None:
    before = set(load_plugins().names(TASK_HEADS))
    (folder / "biggest.py").write_text(example)
    plugins = load_plugins()
    assert set(plugins.names(TASK_HEADS)) == before | {"biggest"}
    check_it_works(plugins)


def test_as_a_distribution_of_its_own(example: str, make_distribution: Callable[..., Path]) -> None:
    make_distribution("acme_biggest", example)
    check_it_works(load_plugins())


def test_two_files_for_one_task_are_named(example: str, folder: Path) -> None:
    (folder / "biggest.py").write_text(example.replace('return {"biggest"', 'return {"refseg"'))
    with pytest.raises(PluginError, match="refseg offers the task 'refseg', which another file offers"):
        load_plugins().task_head("genseg")

"""Damaged saved sessions: one damaged target costs only itself, and no damage is ever loaded unnoticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.saved_sessions import contents, follow, prompts, rewrite, stream, trained
from tests.unit.engine.sessions import ScriptedHead, click, drawn, text, use_heads
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import PromptError, SavedSessionError
from x2sam_ros.types import ClassListPrompt


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the file of a session with a text, a click and a drawn target on random weights."""
    session, _ = follow(nano(), frames(3), text(), click(), drawn(), score_threshold=0.0)
    session.save(tmp_path / "session")
    return tmp_path / "session"


# ---- one damaged target


def not_a_number(name: str) -> Callable[[Any, dict[str, torch.Tensor]], None]:
    return lambda _, tensors: tensors[name].view(-1)[3:4].fill_(float("nan"))


def smaller(name: str) -> Callable[[Any, dict[str, torch.Tensor]], None]:
    return lambda _, tensors: tensors.update({name: tensors[name][..., :-1].contiguous()})


def as_float(name: str) -> Callable[[Any, dict[str, torch.Tensor]], None]:
    return lambda _, tensors: tensors.update({name: tensors[name].float()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (not_a_number("groups.1.targets.2.logits"), "tensor groups.1.targets.2.logits holds values that are not num"),
        (not_a_number("groups.1.entries.0.embeds.1"), "its prompt is damaged: tensor groups.1.entries.0.embeds.1 hol"),
        (not_a_number("groups.1.condition.seg_embeds"), "its prompt is damaged: tensor groups.1.condition.seg_e"),
        (smaller("groups.1.entries.2.embeds.0"), "its prompt is damaged: memory 2 is .*, expected "),
        (smaller("groups.1.condition.cond_embeds"), "its condition is .*, expected "),
        (as_float("groups.1.targets.2.last_mask"), "a mask of it is not bool"),
        (lambda _, tensors: tensors.pop("groups.1.targets.2.last_mask"), "last_mask cannot be read"),
        (lambda content, _: content["groups"][1]["records"].pop(), "it has 2 records of 3 memories, at most 5"),
        (lambda content, _: content["groups"][1]["targets"][0].update(class_index=1), "for label 1 of 1"),
        (lambda content, _: content["groups"][1]["targets"][0].update(last_mask=None), "a mask of it is not bool"),
        (lambda content, _: content["groups"][1]["targets"][0].update(hat=1), "its Target is not valid: .*'hat'"),
        (lambda content, _: content["groups"][1]["fields"].update(labels=[]), "its condition is "),
    ],
)
def test_one_damaged_target_costs_only_itself(
    saved: Path, change: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Session.load(saved, nano(), EngineConfig(score_threshold=0.0))
    rewrite(saved, change)
    rest = Session.load(saved, nano(), EngineConfig(score_threshold=0.0))
    assert rest.target_ids == (1, 3) and len(rest.left_out) == 1
    assert re.match(f"target 2 \\('object 2'\\) is left out: .*{words}", rest.left_out[0])
    assert rest.left_out[0].endswith("; give its prompt again") and rest.left_out[0] in caplog.text
    frame = frames(1, seed=3)[0]
    result, expected = rest.step(frame), whole.step(frame)
    assert np.array_equal(result.masks, expected.masks[[0, 2]])
    rest.submit(click())
    with pytest.raises(PromptError, match="prompt id 'text' is taken"):
        rest.submit(text())


def test_a_damaged_target_of_many_leaves_the_others_their_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_heads(monkeypatch, ScriptedHead([(0, (2, 12, 2, 12), 0.9), (1, (16, 30, 16, 30), 0.8)]))
    session, _ = follow(nano(), frames(3), ClassListPrompt("list", classes=("cup", "fork")))
    session.save(tmp_path / "session")
    rewrite(tmp_path / "session", not_a_number("groups.0.targets.1.logits"))
    rest = Session.load(tmp_path / "session", nano())
    assert rest.target_ids == (2,) and "target 1 ('cup') is left out" in rest.left_out[0]
    rewrite(tmp_path / "session", not_a_number("groups.0.targets.2.logits"))
    rest = Session.load(tmp_path / "session", nano())
    assert rest.target_ids == () and len(rest.left_out) == 2 and rest.nbytes == 0


def test_a_damaged_list_without_targets_is_named(tmp_path: Path) -> None:
    session, _ = follow(nano(), frames(2), ClassListPrompt("list", classes=("cup",)), score_threshold=1.0)
    session.save(tmp_path / "session")
    rewrite(tmp_path / "session", not_a_number("groups.0.entries.0.embeds.0"))
    (sentence,) = Session.load(tmp_path / "session", nano()).left_out
    assert sentence.startswith("prompt 'list', which found nothing yet, is left out: tensor groups.0.entries.0")


# ---- damaged bytes


@pytest.fixture(scope="module")
def bytes_of_many(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a saved session of every kind of prompt; its model has a checkpoint, so loading is quick."""
    path = tmp_path_factory.mktemp("saved") / "session"
    follow(trained(), stream()[:3], *prompts().values())[0].save(path)
    return path.read_bytes()


def outcome(path: Path, whole: dict[str, Any]) -> str:
    """Load a file: "refused" or "left out", or else it must be as good as ``whole``."""
    try:
        session = Session.load(path, trained())
    except SavedSessionError as error:
        assert "\n" not in str(error)
        return "refused"
    if session.left_out:
        return "left out"
    session.save(path)
    assert contents(path)[0] == whole
    return "whole"


def test_every_flipped_bit_is_noticed(bytes_of_many: bytes, tmp_path: Path) -> None:
    path, draw = tmp_path / "session", np.random.default_rng(0)
    path.write_bytes(bytes_of_many)
    Session.load(path, trained()).save(path)
    whole = contents(path)[0]
    header = int.from_bytes(bytes_of_many[:8], "little") + 8
    places = [*range(12), *draw.integers(0, header, 80), *draw.integers(header, len(bytes_of_many), 40)]
    seen = set()
    for place in places:
        raw = bytearray(bytes_of_many)
        raw[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(raw)
        found = outcome(path, whole)
        assert found != "whole" or raw[place] in b" \t\n\r", f"byte {place} of {len(raw)}"
        assert found == "left out" or place < header
        seen.add(found)
    assert seen >= {"refused", "left out"}


def test_every_truncation_is_refused(bytes_of_many: bytes, tmp_path: Path) -> None:
    path, draw = tmp_path / "session", np.random.default_rng(0)
    lengths = [*range(10), *draw.integers(10, len(bytes_of_many), 30), len(bytes_of_many) - 1]
    for length in lengths:
        path.write_bytes(bytes_of_many[:length])
        assert outcome(path, {}) == "refused", length
    path.write_bytes(bytes_of_many + b"\0")
    assert outcome(path, {}) == "refused"


def test_holes_and_strange_stretches(bytes_of_many: bytes, tmp_path: Path) -> None:
    path, draw = tmp_path / "session", np.random.default_rng(0)
    for _ in range(30):
        raw = bytearray(bytes_of_many)
        start, length = draw.integers(len(raw)), draw.integers(1, 5000)
        size = len(raw[start : start + length])
        raw[start : start + length] = bytes(size) if draw.random() < 0.5 else draw.bytes(size)
        path.write_bytes(raw)
        assert raw == bytes_of_many or outcome(path, {}) in ("refused", "left out")

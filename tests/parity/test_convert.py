"""The tiny network, converted from the published layout end to end by ``x2sam convert``, against the written recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.published import WRAPPER, write_tiny
from tests.shared_data import parity_folder
from x2sam_ros.checkpoint.names import our_name
from x2sam_ros.checkpoint.source import open_source
from x2sam_ros.cli.main import main
from x2sam_ros.model.x2sam import X2SAM


def x2sam(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command line and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["x2sam", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def recipe() -> dict[str, Tensor]:
    """Return the network's tensors by the fixture's recipe, under published names without wrappers."""
    full, segmentor = parity_folder("tiny_full"), parity_folder("tiny_segmentor")
    lora = json.loads((full / "config.json").read_text())["lora"]
    table = {name: value.float() for name, value in load_file(full / "base_vlm.safetensors").items()}
    delta = load_file(full / "checkpoint_delta.safetensors")
    delta = {name.removeprefix(WRAPPER): value.float() for name, value in delta.items()}
    for name in delta:
        stem, _, kind = name.partition(".lora_")
        if kind.startswith("A"):
            product = delta[f"{stem}.lora_B.default.weight"] @ delta[name]
            table[f"{stem}.weight"] += lora["lora_alpha"] / lora["r"] * product
        elif not kind:
            table[name] = delta[name]
    masks = load_file(segmentor / "weights.safetensors")
    return {**table, **{f"segmentor.{name}": value.float() for name, value in masks.items()}}


def test_the_command_line_follows_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export, base = write_tiny(tmp_path / "published")
    ours = tmp_path / "ours"
    assert x2sam(monkeypatch, "convert", export, ours, "--base", base) == 0
    said = capsys.readouterr().out
    count = len(load_file(ours / "model.safetensors"))
    assert f"{count} tensors" in said and "pytorch_model.bin" in said and "float32" in said

    state = X2SAM.from_pretrained(ours).state_dict()
    expected = {our_name(name): value for name, value in recipe().items()}
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[str(name)], value, rtol=0, atol=1e-6, msg=str(name))

    manifest = json.loads((ours / "manifest.json").read_text())
    listed = manifest["published_tensors"]
    assert sum(listed["export"].values()) == len(open_source(export).infos)
    assert sum(listed["base"].values()) == len(open_source(base).infos)
    assert x2sam(monkeypatch, "convert", "--check", ours) == 0


def test_errors_are_one_line_and_exit_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export, base = write_tiny(tmp_path / "published")
    ours = tmp_path / "ours"
    weights = export / "pytorch_model.bin"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], b""):
        weights.write_bytes(damage)
        assert x2sam(monkeypatch, "convert", export, ours, "--base", base) == 2
    weights.write_bytes(whole)
    for arguments in (
        [export, ours, "--base", tmp_path / "absent"],
        [export, ours, "--base", base, "--dtype", "int8"],
        ["zzz", ours],
        [export],
        ["--check", export],
    ):
        assert x2sam(monkeypatch, "convert", *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 7 and all(line.startswith("error: ") for line in errors)
    assert not ours.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["published"]

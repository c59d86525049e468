"""What is measured: shipped weights, a folder, or published sizes with random weights, where memory allows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.bench_scenes import opened
from x2sam_ros.checkpoint.load import save_model
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation import bench_model
from x2sam_ros.evaluation.bench_model import GIB, open_bench_model, random_model, working_bytes
from x2sam_ros.model.config import preset
from x2sam_ros.model.int8 import quantise


def test_shipped_weights_and_folders_are_loaded(tmp_path: Path) -> None:
    assert not opened().is_random and opened().has_language and opened().notes == ()
    assert opened().parameters > 4_000_000 and opened().model.identity
    save_model(opened().model, tmp_path / "weights")
    assert open_bench_model(str(tmp_path / "weights"), "cpu", "float32", 1).parameters == opened().parameters


def test_too_large_is_refused_with_numbers_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "available_bytes", lambda device: 2 * GIB)
    monkeypatch.setattr(bench_model, "random_model", lambda *_: pytest.fail("built all the same"))
    with pytest.raises(
        ConfigError, match=r"'release' needs about \d+\.\d GiB \(.* for weights, .* for 16 targets\), and 2\.0"
    ):
        open_bench_model("release", "cpu", "float32", 16)
    monkeypatch.setattr(bench_model, "available_bytes", lambda device: 2**20)
    with pytest.raises(ConfigError, match="'nano' needs about"):
        open_bench_model("nano", "cpu", "float32", 4)


@pytest.mark.parametrize(("free", "has_language"), [(16 * GIB, False), (64 * GIB, True), (None, True)])
def test_the_language_side_is_left_out_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, free: int | None, has_language: bool
) -> None:
    asked: list[bool] = []

    def built(*arguments: object) -> object:
        asked.append(bool(arguments[-1]))
        return opened().model

    monkeypatch.setattr(bench_model, "available_bytes", lambda device: free)
    monkeypatch.setattr(bench_model, "random_model", built)
    found = open_bench_model("release", "cpu", "bfloat16", 1)
    assert asked == [has_language] and found.has_language is has_language and found.is_random
    assert "Random weights" in found.notes[0] and (len(found.notes) == 1) is has_language


def test_a_network_without_a_language_side_has_a_segmentor_only() -> None:
    config, tokenizer = opened().model.config, opened().model.tokenizer
    model = random_model(config, tokenizer, torch.device("cpu"), torch.bfloat16, has_language=False)
    assert {p.device.type for p in model.segmentor.parameters()} == {"cpu"} and model.device.type == "cpu"
    assert {p.device.type for p in model.language.parameters()} == {"meta"}
    assert model.segmentor.no_memory_embedding.dtype is torch.bfloat16


def test_working_memory_grows_with_targets_and_picture() -> None:
    nano, release = preset("nano").segmentor, preset("release").segmentor
    one, two = (working_bytes(release, targets, torch.float32) for targets in (1, 2))
    assert GIB < one < two < 2 * one
    assert working_bytes(nano, 1, torch.float32) < GIB / 10
    assert working_bytes(release, 1, torch.bfloat16) < one


def test_int8_weights_are_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = copy.deepcopy(opened().model)
    before = opened().parameters
    monkeypatch.setattr(bench_model, "random_model", lambda *_: rounded)
    monkeypatch.setattr(bench_model, "available_bytes", lambda device: None)
    monkeypatch.setattr(bench_model, "quantise", lambda segmentor: quantise(segmentor, 64 * 64))
    found = open_bench_model("release", "cpu", "float32", 1, "int8")
    assert found.parameters == before and "large layers have int8 weights" in found.notes[0]
    with pytest.raises(ConfigError, match="int8 are for float32"):
        open_bench_model("release", "cpu", "bfloat16", 1, "int8")


@pytest.mark.parametrize(
    ("name", "device", "dtype", "message"),
    [
        ("nothing", "cpu", "float32", "no checkpoint 'nothing'"),
        ("nano", "toaster", "float32", "unknown device"),
        ("release", "cpu", "int3", "unknown dtype"),
    ],
)
def test_bad_names_are_refused(name: str, device: str, dtype: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_bench_model(name, device, dtype, 1)

"""``x2sam bench`` as it is typed: tables, JSON and plot, and how it refuses what cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.replay.commands import Run, program_runner
from tests.unit.evaluation.bench_scenes import opened
from x2sam_ros.cli import bench as command
from x2sam_ros.evaluation.bench_report import VARIANTS, read_json

TINY = ("--targets", "1", "--size", "160x120", "--stream-frames", 50)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return program_runner(monkeypatch, capfd, "bench")


def test_bench_prints_tables_and_writes_json_and_plot(run: Run, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    results, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    code, out, err = run(*TINY, "--json", results, "--plot", picture, "--threads", threads)
    assert code == 0, err
    for title in ("Milliseconds per frame", "Times the frames per second", "Stages of separate", "One long stream"):
        assert title in out
    assert "nano, 5.0 million parameters" in out and f"wrote {results}" in out and f"wrote {picture}" in out
    found = read_json(results)
    assert found.variants == VARIANTS and found.targets == (1,) and found.image_size == (120, 160)
    assert picture.read_text().lstrip().startswith("<?xml")


def test_markdown_without_peers(run: Run) -> None:
    code, out, err = run(*TINY[:4], "--stream-frames", 0, "--no-peers", "--markdown")
    assert code == 0, err
    assert "| targets | separate | merged |" in out and "naive" not in out and "wrote" not in out


def test_what_is_not_as_it_seems_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from x2sam_ros.evaluation.bench_model import random_model

    real = opened()
    noise = random_model(real.model.config, real.model.tokenizer, real.model.device, real.dtype, has_language=False)
    monkeypatch.setattr(command, "_open", lambda *_: replace(real, model=noise, is_random=True, has_language=False))
    code, out, err = run(*TINY[:4], "--stream-frames", 0, "--no-peers")
    assert code == 0, err
    assert "Random weights" in out and "random conditions take the place of language passes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "1,two"], "--targets is '1,two', expected whole numbers"),
        (["--targets", ""], "expected whole numbers"),
        (["--targets", "0"], "expected numbers from 1"),
        (["--frames", "9"], "multiple of 8"),
        (["--size", "big"], "--size is 'big', expected WIDTHxHEIGHT"),
        (["--size", "0x480"], "each 32 to 4096"),
        (["--threads", "0"], "--threads is 0"),
        (["--model", "giant"], "no checkpoint 'giant'"),
        (["--device", "cuda:77"], "asks for CUDA"),
        (["--weights", "int4"], "weights is 'int4', expected one of exact, int8"),
        (["--weights", "int8", "--dtype", "bfloat16"], "weights int8 are for float32"),
        (["--plot", "plot.doc"], "use one of: .svg, .png"),
        (["--json", "{tmp}/nowhere/bench.json"], "there is no folder"),
        (["--targets", "256", "--model", "release"], "'release' needs about"),
    ],
)
def test_bad_input_is_one_line(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*(part.replace("{tmp}", str(tmp_path)) for part in arguments))
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err

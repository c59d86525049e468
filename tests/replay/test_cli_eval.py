"""``x2sam eval`` as it is typed, with the nano weights, on tiny bags: numbers, resuming, bad sequences, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.replay.commands import Run, nano, program_runner
from tests.unit.evaluation.tiny_bags import write_bag
from x2sam_ros.checkpoint import load
from x2sam_ros.cli.eval import LiveOpener
from x2sam_ros.cli.eval_inputs import reopen
from x2sam_ros.cli.eval_scenes import NUM_FRAMES
from x2sam_ros.evaluation import plan


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two good bags and one whose labels have another size than its images."""
    folder = tmp_path_factory.mktemp("bags")
    write_bag(folder / "one", num_frames=10)
    write_bag(folder / "two", seed=8)
    write_bag(folder / "wrong", label_scale=2)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(plan, "load_model", lambda *arguments: nano())
    return program_runner(monkeypatch, capfd, "eval")


def results_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_bags_are_scored_by_methods_and_modes_and_the_run_goes_on(bags: Path, tmp_path: Path, run: Run) -> None:
    asked = (bags / "one", bags / "two", "--out", tmp_path, "--prompt", "point")
    code, out, err = run(*asked, "--method", "x2sam", "--method", "copy_first", "--mode", "stream", "--mode", "clip")
    assert code == 0, err
    cells = results_of(tmp_path)["cells"]
    expected = [("x2sam", "stream", 64), ("x2sam", "clip", 64), ("copy_first", "", 0)]
    assert [(c["cell"]["method"], c["cell"]["mode"], len(c["weights_sha256"])) for c in cells] == expected
    for cell in cells:
        assert [s["num_frames"] for s in cell["sequences"]] == [10, 4]
        assert 0 < cell["metrics"]["J&F"] <= 1 and cell["cell"]["dataset"] == "2 bags"
    assert "copy_first" in out and f"wrote {tmp_path / 'report.html'}" in out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    one, two = (tmp_path / cells[0]["folder"] / "predictions" / f"{name}.json.gz" for name in ("one", "two"))
    stamp = two.stat().st_mtime_ns
    one.unlink()
    assert run(*asked)[0] == 0  # the default method and mode
    assert one.is_file() and two.stat().st_mtime_ns == stamp
    assert [c["metrics"]["J&F"] for c in results_of(tmp_path)["cells"]] == [cells[0]["metrics"]["J&F"]]


def test_a_bad_bag_is_listed_and_the_exit_code_tells(bags: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run(bags, "--out", tmp_path, "--method", "copy_first")
    assert code == 1 and "1 sequence failed" in err
    (cell,) = results_of(tmp_path)["cells"]
    errors = {s["sequence"]: s["error"] for s in cell["sequences"]}
    assert [name for name, error in errors.items() if error] == ["wrong"]
    assert "64x48" in errors["wrong"] and errors["wrong"] in " ".join(err.split())
    assert "2 of 3" in out and "wrong" in (tmp_path / "report.html").read_text()


def test_generated_suite_by_name(tmp_path: Path, run: Run) -> None:
    chosen = ("--limit", 1, "--stride", 4, "--method", "copy_first", "--prompt", "text")
    code, _, err = run("generated", "--out", tmp_path, *chosen)
    assert code == 0, err
    (cell,) = results_of(tmp_path)["cells"]
    assert cell["cell"]["dataset"] == "generated"
    assert [each["num_frames"] for each in cell["sequences"]] == [NUM_FRAMES // 4]
    assert reopen(tmp_path / cell["folder"]).fingerprint == cell["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("nowhere",), "nowhere does not exist"),
        (("{bags}/wrong",), "64x48"),
        (("{bags}/one", "--prompt", "caption"), "no prompt 'caption'"),
        (("{bags}/one", "--method", "magic"), "--method is 'magic'"),
        (("{bags}/one", "--mode", "image"), "--mode is 'image'"),
        (("{bags}/one", "--memory-policy", "elephant"), "elephant"),
        (("{bags}/one", "--preset", "giant"), "giant"),
        (("{bags}/one", "--device", "abacus"), "abacus"),
        (("{bags}/one", "--sequences", "three"), "no input has a sequence 'three'"),
        (("{bags}/one", "--workers", "0"), "workers is 0"),
        (("{bags}/one", "--live-node", "/x"), "need --live"),
        (("{bags}/one", "--live", "--workers", "2"), "one process"),
        (("{bags}/one", "--live", "--mode", "clip"), "mode of its own"),
        (("{bags}/one", "--layout", "scroll"), "scroll"),
        (("generated", "--split", "val"), "generated has no split"),
    ),
)
def test_mistakes_are_one_line_before_a_model_is_loaded(
    arguments: tuple[str, ...], message: str, bags: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(plan, "load_model", never)
    monkeypatch.setattr(load, "load_model", never)
    code, _, err = run(*(word.format(bags=bags) for word in arguments), "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and message in err, err


def test_a_live_node_is_started_with_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr("x2sam_ros.cli.eval_live.open_live", lambda folder, parameters: started.append(parameters))
    opener = LiveOpener(tmp_path, "nano", "fifo", "cpu", "float32", "exact", official_quirks=True)
    opener.open(None, None)  # type: ignore[arg-type]
    where = {"device": "cpu", "dtype": "float32", "weights": "exact", "memory_policy": "fifo"}
    assert started == [{"preset": "nano", **where, "engine.official_quirks": "true"}]
    assert opener.settings()["engine.max_targets"] == 16 and opener.settings()["engine.official_quirks"]
    assert LiveOpener(tmp_path, node="/x").settings() == {"node": "/x", "topic": None}


def test_help_names_what_is_taken_by_default(run: Run) -> None:
    code, said, _ = run("--help")
    words = " ".join(said.replace("│", " ").split())
    assert code == 0 and "x2sam by default" in words and "nano by default" in words and "--no-live" not in words

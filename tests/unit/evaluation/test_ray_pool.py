"""Workers of Ray find what one process finds, survive a worker's death, and are reached from this machine alone."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from x2sam_ros.cli.eval_scenes import draw_scene
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.evaluation.baselines import copy_first
from x2sam_ros.evaluation.inputs import Input
from x2sam_ros.evaluation.plan import BaselineOpener, X2SamOpener, plan_cells
from x2sam_ros.evaluation.predictions import read_predictions
from x2sam_ros.evaluation.ray_pool import RETRIES, RayPool
from x2sam_ros.evaluation.results import Results
from x2sam_ros.evaluation.runner import predictions_path, run_cells
from x2sam_ros.truth.dataset import Dataset, Kind, TrueObject
from x2sam_ros.truth.drawn import DrawnSequence

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def dataset() -> Dataset:
    objects = (TrueObject(1), TrueObject(2))
    names = (("plain", 3), ("twins", 4), ("plain", 5))
    return Dataset(
        "drawn",
        Kind.OBJECTS,
        tuple(DrawnSequence(f"{kind}-{seed}", partial(draw_scene, seed, kind, 3), objects) for kind, seed in names),
    )


def masks(results: Results, out: Path) -> dict[tuple[str, str], list[list[str]]]:
    found = {}
    for cell in results.cells:
        for sequence in cell.sequences:
            predictions = read_predictions(predictions_path(out / cell.folder, sequence.sequence))
            found[cell.folder, sequence.sequence] = [[m.rle for m in frame.masks] for frame in predictions.frames]
    return found


def listening() -> set[str]:
    """Return the addresses that processes of this machine listen on."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {fields[1] for fields in lines if fields[3] == "0A"}


def test_two_workers_equal_one_process_and_listen_to_nobody_else(tmp_path: Path, monkeypatch) -> None:
    openers = [X2SamOpener("nano", "fifo", "stream", "cpu", "float32", "exact"), BaselineOpener("copy_first")]
    plans = plan_cells([Input(dataset())], openers, ())
    one = run_cells(plans, tmp_path / "one")
    before, during = listening(), set()

    class Watched(RayPool):
        def run(self, plans, jobs):
            for outcome in super().run(plans, jobs):
                during.update(listening())
                yield outcome

    two = run_cells(plans, tmp_path / "two", pool=Watched(2))
    assert masks(two, tmp_path / "two") == masks(one, tmp_path / "one")
    for mine, other in zip(two.cells, one.cells):
        assert [s.sequence for s in mine.sequences] == [s.sequence for s in other.sequences]
        for name in ("J&F", "J", "F", "HOTA", "IDF1"):
            assert mine.metrics[name] == other.metrics[name]
    new = {address.split(":")[0] for address in during - before}
    local = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert new and new <= set(local)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_dead_worker_is_replaced_and_what_never_works_is_reported(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    class Fragile(BaselineOpener):
        def open(self, dataset, shelf):
            baseline = copy_first()

            class Method:
                name = "copy_first"

                def run(self, sequence, prompts, on_frame=lambda: None):
                    mark = marks / sequence.name
                    tries = int(mark.read_text()) if mark.exists() else 0
                    mark.write_text(str(tries + 1))
                    if sequence.name == "plain-3" and not tries:
                        os._exit(9)
                    if sequence.name == "twins-4":
                        raise OSError("the disk is away")
                    return baseline.run(sequence, prompts, on_frame)

            return nullcontext(Method())

    plans = plan_cells([Input(dataset())], [Fragile("copy_first")], ())
    first, second, third = run_cells(plans, tmp_path / "out", pool=RayPool(2)).cells[0].sequences
    assert not first.error and "run 2 times; before, its worker died" in first.notes[-1]
    assert second.error.startswith(f"failed {RETRIES + 1} times: ") and "the disk is away" in second.error
    assert (marks / "twins-4").read_text() == str(RETRIES + 1)
    assert not third.error


def test_what_ends_one_process_ends_the_pool(tmp_path: Path) -> None:
    class Missing(BaselineOpener):
        def open(self, dataset, shelf):
            raise CheckpointError("no such file")

    plans = plan_cells([Input(dataset())], [Missing("copy_first")], ())
    with pytest.raises(CheckpointError, match="no such file"):
        run_cells(plans, tmp_path, pool=RayPool(1))


def test_options_that_make_no_sense_are_refused(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="workers is 0"):
        RayPool(0)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        RayPool(2)

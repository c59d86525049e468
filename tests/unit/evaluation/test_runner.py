"""A run writes each sequence when it is through, goes on from there, and survives bad sequences."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.unit.evaluation.made_sequences import MadeSequence, columns, made_dataset
from x2sam_ros.errors import CheckpointError, ConfigError, TruthError
from x2sam_ros.evaluation.baselines import copy_first
from x2sam_ros.evaluation.inputs import Input
from x2sam_ros.evaluation.methods import Method
from x2sam_ros.evaluation.plan import BaselineOpener, CellPlan, Shelf, plan_cells
from x2sam_ros.evaluation.results_file import read_results
from x2sam_ros.evaluation.runner import Watch, failures, predictions_path, run_cells
from x2sam_ros.truth.dataset import Dataset, Kind, TrueFrame

GOOD = [{1: columns(0, 2)}, {1: columns(1, 3)}, {1: columns(2, 4)}]


class Damaged(MadeSequence):
    """Its third mask cannot be read: prompts can be made, and nothing can be scored."""

    def truth(self, frame) -> TrueFrame | None:
        if frame.frame_index == 2:
            raise TruthError(f"{self.name}, frame 2: damaged")
        return super().truth(frame)


def of(*sequences) -> Dataset:
    return made_dataset(Kind.OBJECTS, *sequences)


def good(name: str) -> MadeSequence:
    return MadeSequence(GOOD, name=name)


def plans(dataset: Dataset, *methods: str, seed: int = 0) -> list[CellPlan]:
    return plan_cells(
        [Input(dataset, ("here", "there"))], [BaselineOpener(m) for m in methods or ("copy_first",)], (), seed
    )


def watched() -> tuple[Watch, list[str]]:
    events: list[str] = []
    return (
        Watch(
            lambda plan, sequence: events.append(f"run {sequence}"),
            ends=lambda plan, result, resumed: events.append(f"{'had' if resumed else 'got'} {result.sequence}"),
        ),
        events,
    )


def test_cells_are_run_scored_and_written(tmp_path: Path) -> None:
    results = run_cells(plans(of(good("a"), good("deep/b")), "copy_first", "optical_flow"), tmp_path)
    read = read_results(tmp_path / "results.json")
    assert [(cell.cell, cell.metrics["J"]) for cell in read.cells] == [
        (cell.cell, cell.metrics["J"]) for cell in results.cells
    ]
    assert [cell.cell.method for cell in results.cells] == ["copy_first", "optical_flow"]
    for cell in results.cells:
        assert (cell.cell.mode, cell.cell.prompt, cell.truth_path, len(cell.sequences)) == ("", "mask", "here:there", 2)
        assert 0 < cell.metrics["J"] < 1
        assert predictions_path(tmp_path / cell.folder, "deep/b").is_file()
    assert results.configuration["seed"] == 0 and results.configuration["truth_fingerprint"] == "f" * 64
    assert results.environment["date"]


def test_an_interrupted_run_goes_on_without_repeating(tmp_path: Path) -> None:
    class Stopped(MadeSequence):
        def frames(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(plans(of(good("a"), good("b"), Stopped(GOOD, name="c"))), tmp_path)
    assert not (tmp_path / "results.json").exists()
    watch, events = watched()
    whole = plans(of(good("a"), good("b"), good("c")))
    score = tmp_path / whole[0].folder / "scores" / "b.json"
    score.write_text("{")  # as if it had stopped there
    results = run_cells(whole, tmp_path, watch=watch)
    assert events == ["had a", "run b", "got b", "run c", "got c"]
    alone = run_cells(whole, tmp_path / "other")
    for mine, other in zip(results.cells[0].sequences, alone.cells[0].sequences):
        assert mine.metrics["J"] == other.metrics["J"]
    watch, events = watched()
    again = run_cells(whole, tmp_path, watch=watch)
    assert again.cells[0].metrics == pytest.approx(results.cells[0].metrics, abs=0, nan_ok=True)
    assert events == ["had a", "had b", "had c"]


def test_damaged_predictions_are_made_again(tmp_path: Path) -> None:
    wanted = plans(of(good("a")))
    run_cells(wanted, tmp_path)
    path = predictions_path(tmp_path / wanted[0].folder, "a")
    path.write_bytes(path.read_bytes()[:-9])
    watch, events = watched()
    run_cells(wanted, tmp_path, watch=watch)
    assert events == ["run a", "got a"]


def test_another_configuration_is_refused_with_its_differences(tmp_path: Path) -> None:
    dataset = of(good("a"))
    run_cells(plans(dataset), tmp_path)
    with pytest.raises(ConfigError, match="seed was 0, is 4.*--overwrite"):
        run_cells(plans(dataset, seed=4), tmp_path)
    with pytest.raises(ConfigError, match="truth_fingerprint was 'fff"):
        run_cells(plans(replace(dataset, fingerprint="e" * 64)), tmp_path)
    watch, events = watched()
    run_cells(plans(dataset, seed=4), tmp_path, overwrite=True, watch=watch)
    assert events == ["run a", "got a"]
    (tmp_path / plans(dataset)[0].folder / "settings.json").write_text("[")
    with pytest.raises(ConfigError, match="settings.json is damaged"):
        run_cells(plans(dataset), tmp_path)


def test_bad_sequences_are_listed_and_the_others_count(tmp_path: Path) -> None:
    class Broken(MadeSequence):
        def frames(self):
            raise ZeroDivisionError("a bug")

    dataset = of(good("a"), Damaged(GOOD, name="b"), Broken(GOOD, name="c"), good("../d"), good("e"))
    results = run_cells(plans(dataset), tmp_path)
    failed = {sequence.sequence: sequence.error for _, sequence in failures(results)}
    assert failed["b"] == "b, frame 2: damaged" and "ZeroDivisionError: a bug" in failed["c"]
    assert "no name for a file" in failed["../d"] and list(failed) == ["b", "c", "../d"]
    alone = run_cells(plans(of(good("a"), good("e"))), tmp_path / "other")
    assert results.cells[0].metrics["J"] == alone.cells[0].metrics["J"]
    assert read_results(tmp_path / "results.json").cells[0].sequences[1].error == failed["b"]
    watch, events = watched()
    run_cells(plans(dataset), tmp_path, watch=watch)
    assert [event for event in events if event.startswith("run")] == ["run b", "run c", "run ../d"]


def test_ground_truth_that_fits_nowhere_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class NeverOpened(BaselineOpener):
        def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
            raise AssertionError("opened")

    never = [NeverOpened("copy_first")]
    empty = [MadeSequence([None, None], name=name) for name in "ab"]
    for dataset, message in ((of(*empty), "fits none of its 2 sequences: a has nothing"), (of(), "holds no sequence")):
        with pytest.raises(TruthError, match=message):
            run_cells(plan_cells([Input(dataset)], never, ()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_method_that_cannot_be_opened_ends_the_run_and_one_that_is_open_is_closed(tmp_path: Path) -> None:
    log: list[str] = []

    class Context(nullcontext):
        def __exit__(self, *error: object) -> None:
            log.append("closed")

    @dataclass(frozen=True)
    class Opener(BaselineOpener):
        def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
            log.append("opened")
            if self.checkpoint:
                raise CheckpointError("no such file")
            return Context(copy_first())

    wanted = plan_cells([Input(of(good("a"), good("b")))], [Opener("x"), Opener("x", "there")], ())
    with pytest.raises(CheckpointError, match="no such file"):
        run_cells(wanted, tmp_path)
    assert log == ["opened", "closed", "opened"]


def test_plans_refuse_prompts_that_the_kind_has_not_and_repetitions() -> None:
    with pytest.raises(ConfigError, match="kind objects.*no prompt 'caption'; expected one of: mask"):
        plan_cells([Input(of(good("a")))], [BaselineOpener("copy_first")], ["caption"])
    with pytest.raises(ConfigError, match="asked for twice: made, objects, copy_first, mask"):
        plans(of(good("a")), "copy_first", "copy_first")


def test_a_sequence_without_images_says_so_whatever_the_prompt(tmp_path: Path) -> None:
    class Empty(MadeSequence):
        def frames(self):
            raise TruthError(f"{self.name} has no frames")

    results = run_cells(plans(of(good("a"), Empty([], name="none"))), tmp_path)
    assert [each.error for _, each in failures(results)] == ["none has no frames"]


def test_plans_combine_everything_and_every_cell_has_a_folder_of_its_own() -> None:
    inputs = [Input(of(good("a")), ("one",)), Input(replace(of(good("a")), name="b/ä"), ("two",))]
    openers = [BaselineOpener("copy_first"), BaselineOpener("copy_first", "/old/nano"), BaselineOpener("optical_flow")]
    made = plan_cells(inputs, openers, ("mask", "box"), seed=3)
    assert len({plan.folder for plan in made}) == len(made) == 12
    assert made[2].folder.startswith("cells/made_copy_first_nano_mask-") and made[6].folder.startswith("cells/b-ä_")
    assert {plan.seed for plan in made} == {3} and made[6].truth_paths == ("two",)
    assert [plan.cell.prompt for plan in plan_cells(inputs, openers[:1], ())] == ["mask", "mask"]


def test_settings_file_tells_what_a_cell_is(tmp_path: Path) -> None:
    wanted = plans(of(good("a")))
    run_cells(wanted, tmp_path)
    settings = json.loads((tmp_path / wanted[0].folder / "settings.json").read_text())
    assert settings["cell.method"] == "copy_first" and settings == wanted[0].settings()

"""Which cells are compared, with what verdict, and what ``x2sam compare`` says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.evaluation.made_results import CELL, cell_result, made_results
from x2sam_ros.cli import main as program
from x2sam_ros.errors import ResultsError
from x2sam_ros.evaluation.compare import compare
from x2sam_ros.evaluation.results import Cell, SequenceResult
from x2sam_ros.evaluation.results_file import write_results

LOW, HIGH = {"a": 1, "b": 2, "c": 1, "d": 3}, {"a": 3, "b": 4, "c": 2, "d": 3}
NEW = replace(CELL, checkpoint="runs/new")


def pairs(a: list[Cell], b: list[Cell]) -> list[tuple[Cell, Cell]]:
    compared = compare(*(made_results(*(cell_result({"a": 1}, cell) for cell in cells)) for cells in (a, b)))
    return [(cells.a, cells.b) for cells in compared.cells]


def test_what_is_better_and_how_sure_that_is() -> None:
    (cells,) = compare(made_results(cell_result(LOW)), made_results(cell_result(HIGH, NEW))).cells
    found = {item.name: item for item in cells.numbers}
    assert cells.differs == ("checkpoint",) and cells.metric == "J&F"
    assert found["J"].difference == pytest.approx((2 + 2 + 1 + 0) / 16)
    assert found["J"].low > 0 and found["J"].verdict == "better"
    assert found["IDsw"].difference == 0 and found["IDsw"].verdict == ""
    assert cells.sequences[0].sequence == "d"  # the only one that gained nothing
    back = compare(made_results(cell_result(HIGH)), made_results(cell_result(LOW, NEW))).cells[0]
    assert {item.name: item.verdict for item in back.numbers}["J"] == "worse"


def test_only_sequences_of_both_count_and_the_others_are_listed() -> None:
    a = cell_result(LOW, CELL, SequenceResult("bad", error="no truth"))
    b = cell_result({"a": 1, "b": 2, "bad": 4, "z": 4}, NEW)
    (cells,) = compare(made_results(a), made_results(b)).cells
    assert cells.left_out == {
        "c": "only in A",
        "d": "only in A",
        "bad": "failed in A: no truth",
        "z": "only in B",
    }
    assert {item.name: item.difference for item in cells.numbers}["J"] == 0 and len(cells.sequences) == 2
    assert cells.notes == ()
    lonely = cell_result({"z": 1}, NEW, fingerprint="other", weights_sha256="1")
    (cells,) = compare(made_results(a), made_results(lonely)).cells
    assert not cells.sequences and not cells.numbers
    assert "ground truth" in cells.notes[0] and cells.notes[1].startswith("0 sequences in common")
    (cells,) = compare(made_results(a), made_results(cell_result(LOW, CELL, weights_sha256="1"))).cells
    assert cells.notes == ("nano has other weights in A than in B",)


def test_other_settings_are_told() -> None:
    a, b = (
        replace(
            made_results(cell_result(LOW, cell)), configuration={"cells/made.truth.stride": stride, "seed": 0, **one}
        )
        for cell, stride, one in ((CELL, 1, {"cell.method": "a", "gone": 1}), (NEW, 2, {"cell.method": "b"}))
    )
    assert compare(a, b).cells[0].notes == ("truth.stride is 1 in A, 2 in B",)
    assert compare(a, a).cells[0].notes == ()


def test_cells_find_their_partners() -> None:
    policy = replace(CELL, memory_policy="spread")
    baseline = replace(CELL, method="copy_first", checkpoint="", memory_policy="")
    assert pairs([CELL, policy], [policy, CELL]) == [(CELL, CELL), (policy, policy)]
    assert pairs([CELL, policy], [NEW]) == [(CELL, NEW)]  # not policy: two things would differ
    assert pairs([CELL], [NEW, baseline]) == [(CELL, NEW), (CELL, baseline)]
    both = replace(NEW, memory_policy="spread")
    other = replace(CELL, dataset="other")
    assert pairs([CELL, other], [both]) == [(CELL, both)]  # the only ones there
    point = replace(CELL, prompt="point")
    assert pairs([CELL], [point]) == [(CELL, point)]
    compared = compare(made_results(cell_result({"a": 1})), made_results(cell_result({"a": 1}), cell_result({}, point)))
    assert compared.only_in_b == (point,) and compared.only_in_a == ()
    with pytest.raises(ResultsError, match=r"A has made \(objects, box, stream\), B has other"):
        pairs([CELL], [other])


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(program.build_app(), ["compare", *arguments])
    if isinstance(result.exception, ResultsError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def test_the_command_prints_the_comparison_and_writes_it(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_results(made_results(cell_result(LOW)), tmp_path / "a.json")
    write_results(made_results(cell_result(HIGH, NEW, fingerprint="other")), tmp_path / "b" / "results.json")
    out = tmp_path / "out.json"
    code, said = run(str(tmp_path / "a.json"), str(tmp_path / "b"), "--json", str(out))
    assert code == 0
    for words in ("runs/new", "better", "J&F by sequence", "ground truth of A and of B", f"wrote {out}"):
        assert words in said
    written = json.loads(out.read_text())
    numbers = {item["name"]: item for item in written["cells"][0]["numbers"]}
    assert numbers["J"]["verdict"] == "better" and numbers["reacquired_s"]["a"] is None
    assert len(written["cells"][0]["sequences"]) == 4


def test_the_command_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    code, said = run(str(tmp_path / "a.json"), str(tmp_path / "a.json"))
    assert code == 2 and "a.json holds no results" in said

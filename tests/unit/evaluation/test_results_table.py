"""Results as tables: what cells have in common is said once, and what was not measured is a dash."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.evaluation.made_results import CELL, cell_result, made_results
from x2sam_ros.evaluation.report.values import NOTHING
from x2sam_ros.evaluation.results import Cell, SequenceResult
from x2sam_ros.evaluation.results_table import results_tables


def test_a_table_for_each_dataset_says_what_differs() -> None:
    flow = Cell("made", "objects", "optical_flow", "", "", "box", "")
    new = replace(CELL, checkpoint="/runs/new")
    cells = (cell_result({"a": 4}), cell_result({"a": 2}, new, SequenceResult("b", error="gone")))
    other = replace(cell_result({}, replace(CELL, dataset="other"), SequenceResult("b", error="gone")), metrics={})
    (title, header, rows), (second, short, failed) = results_tables(
        made_results(*cells, cell_result({"a": 0}, flow), other)
    )
    assert title == "made, box" and header[:5] == ("method", "checkpoint", "memory", "mode", "J&F")
    assert [row[:4] for row in rows] == [
        ("x2sam", "nano", "fifo", "stream"),
        ("x2sam", "new", "fifo", "stream"),
        ("optical_flow", NOTHING, NOTHING, NOTHING),
    ]
    assert [row[-1] for row in rows] == ["1 of 1", "1 of 2", "1 of 1"] and rows[0][header.index("J")] == "1.000"
    assert second == "other, nano, fifo, box, stream" and short == ("method", "sequences")
    assert failed == [("x2sam", "0 of 1")]


def test_checkpoints_of_one_name_have_their_paths() -> None:
    cells = (cell_result({"a": 4}, replace(CELL, checkpoint=f"runs/{name}/last")) for name in ("old", "new"))
    ((title, header, rows),) = results_tables(made_results(*cells))
    assert title == "made, fifo, box, stream" and header[1] == "checkpoint"
    assert [row[1] for row in rows] == ["runs/old/last", "runs/new/last"]

"""A report survives JSON, is told from other files, and its tables hold its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.bench_reports import cost, report
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench_report import (
    SCHEMA,
    VERSION,
    advantage,
    from_dict,
    growth,
    headline,
    read_json,
    tables,
    to_dict,
    write_json,
)


def test_a_report_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text("an older file")
    write_json(report(), path)
    assert read_json(path) == report()
    data = json.loads(path.read_text())
    assert (data["schema"], data["version"]) == (SCHEMA, VERSION) == ("x2sam-bench", 1)
    assert data["hardware"]["cpu"] == "a processor" and data["model"]["sha256"] == "ab"
    assert data["costs"][5]["language_ms"] == 10.0 and data["length"][1]["frame"] == 100
    assert [item.name for item in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "coco"}, "got 'coco' version 1"),
        ({"version": 99}, "got 'x2sam-bench' version 99"),
        ({"costs": [{"variant": "separate"}]}, "damaged"),
        ({"hardware": None}, "damaged"),
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict({**to_dict(report()), **change})


def test_files_that_are_no_report_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for text, message in (("{", "no JSON"), ("[1]", "holds a list")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_json(path)
    data = to_dict(report())
    del data["stages"]
    with pytest.raises(ConfigError, match="'stages'"):
        from_dict(data)


def test_growth_and_advantage_are_ratios_of_whole_frames() -> None:
    found = report()
    assert growth(found, "separate", 4) == pytest.approx(2.0)
    assert growth(found, "naive", 4) is None
    assert advantage(found, "separate", "per clip", 4) == pytest.approx(2.5)
    assert advantage(found, "separate", "per clip", 4, language=False) == pytest.approx(2.0)
    assert advantage(found, "merged", "per clip", 4) == pytest.approx(4.0)
    assert advantage(found, "separate", "SAM 2", 4) is None
    assert found.costs[0].frames_per_s == pytest.approx(100.0)


def test_tables_hold_what_was_measured_and_dashes_for_the_rest() -> None:
    found = {title.partition(",")[0]: (header, rows) for title, header, rows in tables(report())}
    header, rows = found["Milliseconds per frame"]
    assert header == ("targets", "separate", "merged", "per clip")
    assert rows == [("1", "10.0", "10.0", "12.0"), ("4", "20.0", "12.5", "50.0")]
    header, rows = found["Stages of separate"]
    assert header == ("stage", "1 target", "4 targets")
    assert rows == [("encode", "3.00 / 4.00", "5.00 / 6.00"), ("search", "-", "1.00 / 2.00")]
    header, rows = found["Times the frames per second of a peer"]
    assert header == ("variant, targets", "per clip", "per clip, no language")
    assert ("merged, 4", "4.00", "3.20") in rows
    assert all(len(row) == len(header) for header, rows in found.values() for row in rows)
    assert "GPU" not in str(found)
    assert "5.0 million parameters, float32, 128 px: a processor, 2 cores, 1 threads" in headline(report())


def test_tables_without_rows_are_left_out_and_gpu_memory_gets_columns() -> None:
    alone = report(costs=(cost("separate", 4, 20.0),), length=(), stages=())
    titles = [title for title, _, _ in tables(alone)]
    assert [title.partition(",")[0] for title in titles] == [
        "Milliseconds per frame",
        "Each variant; median and p95 without language passes",
    ]
    on_gpu = tables(report(gpu_mib=100.0))
    assert sum("GPU MiB" in str(header) for _, header, _ in on_gpu) == 2
    assert all(len(row) == len(header) for _, header, rows in on_gpu for row in rows)

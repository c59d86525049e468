"""A report is drawn in either format, the same each time, whatever of it was measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.evaluation.bench_reports import report
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench_plot import plot_bench
from x2sam_ros.evaluation.figure import INK


def test_a_drawing_names_variants_and_needs_no_background(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    plot_bench(report(), first)
    plot_bench(report(), second)
    text = first.read_text()
    assert text == second.read_text()
    assert all(
        word in text for word in ("separate", "merged", "per clip", "Cost against targets", "Held for the targets")
    )
    assert INK in text and "SAM 2" not in text
    plot_bench(report(), tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape[2] == 4 and np.median(picture[..., 3]) == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.png", "a.svg", "b.svg"]


def test_without_a_long_stream_only_costs_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    plot_bench(report(length=()), path)
    assert "Cost against targets" in path.read_text() and "One long stream" not in path.read_text()


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use one of: .svg, .png"):
        plot_bench(report(), tmp_path / "plot.doc")

"""Plots are PNG files that show what differs, without a background of their own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from x2sam_ros.evaluation.report.plots import plot_chart, plot_histogram, plot_spread
from x2sam_ros.evaluation.report.series import chart, histogram
from x2sam_ros.evaluation.results import Cell, CellResult, Curve, SequenceResult

CELL = Cell("bags", "objects", "x2sam", "nano", "fifo", "point", "stream")


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.shape[2] == 4 and np.median(image[..., 3]) == 0
    return image


def test_a_chart_shows_values_absence_and_prompt(tmp_path: Path) -> None:
    def drawn(name: str, j: tuple[float | None, ...], absent: tuple[bool, ...], prompts: dict[str, int]) -> np.ndarray:
        result = SequenceResult("a", curves=(Curve(1, "$ball", "p", j, j, absent),))
        found = chart(result, prompts)
        assert found is not None
        plot_chart(found, "a $ b_c^", tmp_path / f"{name}.png")
        return pixels(tmp_path / f"{name}.png")

    there, values = (False, False, False), (0.2, 0.4, 0.2)
    plain = drawn("plain", values, there, {})
    others = [
        drawn("values", (0.2, None, 0.4), there, {}),
        drawn("absent", values, (False, True, False), {}),
        drawn("prompt", values, there, {"p": 1}),
        drawn("nothing", (None, None, None), there, {}),
    ]
    assert all(plain.shape == other.shape and (plain != other).any() for other in others)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png"] * 5


def test_a_histogram_and_a_spread_are_drawn(tmp_path: Path) -> None:
    for name, latencies in (("a", (10.0, 12.0, 30.0)), ("b", (10.0, 11.0, 30.0))):
        found = histogram(CellResult(CELL, "c", {}, (SequenceResult("s", latencies_ms=latencies),)))
        assert found is not None
        plot_histogram(found, "bags", tmp_path / f"{name}.png")
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    nan = float("nan")
    plot_spread([("x2sam", [0.2, 0.9, nan]), ("copy_first", [])], "J&F", tmp_path / "c.png")
    plot_spread([("x2sam", [0.2, 0.8, nan]), ("copy_first", [nan])], "J&F", tmp_path / "d.png")
    assert (pixels(tmp_path / "c.png") != pixels(tmp_path / "d.png")).any()

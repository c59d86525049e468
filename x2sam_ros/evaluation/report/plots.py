"""The charts of a report as PNG files, for papers and slides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from x2sam_ros.evaluation.figure import INK, drawing
from x2sam_ros.evaluation.report.series import Chart, Histogram, Strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = "#2b8cff"
MARK = "#e4572e"
"""Told apart from ``LINE`` by every kind of colour vision."""


def plot_chart(chart: Chart, title: str, path: Path) -> None:
    """Draw J&F over time, one panel an object, spans without the object shaded and the prompt marked."""
    rows = len(chart.strips)
    with drawing(path, rows, 1, (6.4, 0.6 + 0.85 * rows)) as (figure, axes):
        for axis, strip in zip(axes[:, 0], chart.strips):
            _strip(axis, strip, chart.stride)
            axis.set(xlim=(-0.5, chart.num_frames - 0.5), ylim=(-0.04, 1.04), yticks=(0, 0.5, 1), ylabel="J&F")
            axis.tick_params(labelbottom=axis is axes[-1, 0])
        axes[-1, 0].set_xlabel("frame")
        figure.suptitle(_plain(title), fontsize=9)


def _strip(axes: Axes, strip: Strip, stride: int) -> None:
    points = [(place * stride, value) for place, value in enumerate(strip.jf) if value is not None]
    frames, values = [frame for frame, _ in points], [value for _, value in points]
    axes.plot(frames, values, color=LINE, linewidth=1.3, marker="." if len(points) < 30 else "")
    axes.fill_between(frames, values, color=LINE, alpha=0.12, linewidth=0)
    for first, end in strip.absent:
        axes.axvspan(first * stride - 0.5, end * stride - 0.5, color=INK, alpha=0.3, linewidth=0)
    if strip.prompt is not None:
        axes.axvline(strip.prompt * stride, color=MARK, linewidth=1.2, linestyle="--")
    mean = strip.means[0]
    axes.set_title(_plain(strip.name) + ("" if mean is None else f"  {mean:.3f}"), fontsize=8, loc="left")


def plot_histogram(histogram: Histogram, title: str, path: Path) -> None:
    """Draw how long answers took, with the median and the 95th percentile."""
    with drawing(path, 1, 1, (4.8, 2.6)) as (figure, axes):
        axis = axes[0, 0]
        axis.stairs(histogram.counts, histogram.edges, fill=True, color=LINE, alpha=0.75)
        for name, value, style in (("p50", histogram.p50, "-"), ("p95", histogram.p95, "--")):
            axis.axvline(value, color=MARK, linewidth=1.2, linestyle=style, label=f"{name} {value:.3g} ms")
        axis.set(xscale="log", xlabel="latency, ms", ylabel="frames")
        axis.set_xticks(histogram.ticks, [f"{tick:g}" for tick in histogram.ticks])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
        figure.suptitle(_plain(title), fontsize=9)


def plot_spread(rows: list[tuple[str, list[float]]], metric: str, path: Path) -> None:
    """Draw a score of every sequence, one row of dots a cell, with the mean of each row.

    Args:
        rows: (name, scores) of each cell; NaN is left out.
        metric: the score's name.
        path: a PNG file.
    """
    with drawing(path, 1, 1, (6.4, 0.9 + 0.42 * len(rows))) as (_, axes):
        axis = axes[0, 0]
        for place, (_, scores) in enumerate(rows):
            there = [score for score in scores if not math.isnan(score)]
            heights = [place + jitter(number) for number in range(len(there))]
            axis.plot(there, heights, "o", color=LINE, alpha=0.55, markersize=3.5, markeredgewidth=0)
            if there:
                axis.plot([sum(there) / len(there)] * 2, [place - 0.34, place + 0.34], color=MARK, linewidth=1.6)
        axis.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel=f"{_plain(metric)}, by sequence")
        axis.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])


def jitter(number: int) -> float:
    """Return a height for the n-th dot of a row, -0.25 to 0.25: dots of one value do not hide each other."""
    return number * 0.618034 % 1 * 0.5 - 0.25


def _plain(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics, and titles short."""
    return (text if len(text) <= 70 else f"{text[:69]}…").replace("$", r"\$")

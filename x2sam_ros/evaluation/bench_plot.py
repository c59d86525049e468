"""The picture of a benchmark: cost against targets, cost and memory against the length of a stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench_report import BenchReport, headline
from x2sam_ros.evaluation.figure import INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png")
STYLES = {
    "separate": ("#2b8cff", "o-"),
    "merged": ("#18a999", "s-"),
    "naive": ("#e4572e", "^--"),
    "per clip": ("#d9a404", "v--"),
    "SAM 2": ("#a463f2", "D:"),
}


def check_plot_path(path: Path) -> None:
    """Refuse a file name of which no picture can be made.

    Raises:
        ConfigError: says which endings there are.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} has no known ending for a picture; use one of: {', '.join(FORMATS)}")


def plot_bench(report: BenchReport, path: Path) -> None:
    """Draw a report into an SVG or PNG file; an older one is replaced when the new one is whole.

    Raises:
        ConfigError: the name says neither.
    """
    check_plot_path(path)
    panels = 1 + 2 * bool(report.length)
    with drawing(path, 1, panels, (4.2 * panels, 3.6)) as (figure, axes):
        _costs(report, axes[0, 0])
        if report.length:
            _lengths(report, axes[0, 1], axes[0, 2])
        for axis in axes.flat:
            axis.legend(frameon=False, fontsize=8)
        figure.suptitle(headline(report), fontsize=8)


def _costs(report: BenchReport, axes: Axes) -> None:
    for variant in report.variants:
        costs = [cost for cost in report.costs if cost.variant == variant]
        points = sorted((cost.targets, cost.frame_ms) for cost in costs)
        _draw(axes, variant, points)
    counts = list(report.targets)
    axes.set(xlabel="targets", ylabel="ms per frame", title="Cost against targets", xscale="log", yscale="log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if _is_near(report, tick)]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])


def _is_near(report: BenchReport, tick: int) -> bool:
    spent = [cost.frame_ms for cost in report.costs]
    return min(spent) / 2 <= tick <= 2 * max(spent)


def _lengths(report: BenchReport, time_axes: Axes, memory_axes: Axes) -> None:
    for variant in dict.fromkeys(point.variant for point in report.length):
        points = [point for point in report.length if point.variant == variant]
        _draw(time_axes, variant, [(point.frame, point.median_ms) for point in points])
        _draw(memory_axes, variant, [(point.frame, point.held_mib) for point in points])
    noun = f"{report.stream_targets} target{'s' * (report.stream_targets != 1)}"
    time_axes.set(xlabel="frames so far", ylabel="ms per frame", title=f"One long stream, {noun}", ylim=(0, None))
    memory_axes.set(xlabel="frames so far", ylabel="MiB", title="Held for the targets", yscale="log")


def _draw(axes: Axes, variant: str, points: list[tuple[int, float]]) -> None:
    colour, style = STYLES.get(variant, (INK, "x-"))
    axes.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=variant, markersize=4)

"""Shapes of the page's charts: paths in units of points and scores, stretched by the browser."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam_ros.evaluation.report.plots import jitter
from x2sam_ros.evaluation.report.series import Chart, Histogram, Values


def line(values: Values) -> str:
    """Return the path of a curve: x counts points, y is 0 at a score of 1 and 100 at 0.

    Frames nobody annotated are bridged; a value alone is a short dash.
    """
    points = [(place + 0.5, 100 * (1 - value)) for place, value in enumerate(values) if value is not None]
    if len(points) == 1:
        return f"M{points[0][0] - 0.4:.1f},{points[0][1]:.1f}h0.8"
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""


def area(values: Values) -> str:
    """Return the outline of what is under ``line``."""
    there = [place + 0.5 for place, value in enumerate(values) if value is not None]
    return f"{line(values)}L{there[-1]:.1f},100L{there[0]:.1f},100Z" if len(there) > 1 else ""


def permille(values: Values) -> str:
    """Return values for the script: thousandths, separated by commas, nothing for a missing one."""
    return ",".join("" if value is None else str(round(1000 * value)) for value in values)


def dots(scores: Sequence[float], limit: float) -> str:
    """Return a path of dots: x is 0 to 100 for scores up to ``limit``, y scatters about 0."""
    there = [score for score in scores if score == score]
    return "".join(f"M{100 * score / limit:.2f},{100 * jitter(place):.0f}h0" for place, score in enumerate(there))


def frame_ticks(chart: Chart) -> list[tuple[int, float]]:
    """Return about six round frame numbers and where they lie, 0 to 100."""
    step = next(
        step * 10**power for power in range(12) for step in (1, 2, 5) if step * 10**power * 6 >= chart.num_frames
    )
    width = -(-chart.num_frames // chart.stride)
    return [(frame, 100 * (frame // chart.stride + 0.5) / width) for frame in range(0, chart.num_frames, step)]


def latency_ticks(histogram: Histogram) -> list[tuple[str, float]]:
    """Return round latencies and where they lie, 0 to 100."""
    return [(f"{tick:g}", 100 * histogram.place(tick)) for tick in histogram.ticks]

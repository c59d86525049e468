"""What the charts show, worked out once for the page and for the PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from x2sam_ros.evaluation.results import CellResult, Curve, SequenceResult

MAX_POINTS = 300
"""Most points of a curve; a longer sequence is shown as means of several frames."""

MAX_STRIPS = 6
"""Most objects of a sequence that are drawn: those with the lowest means."""

SHORTEST_MS = 0.1
"""What takes less is in the first bar: nobody waits for it, and the axis is logarithmic."""

BINS = 40
"""Bars of a latency histogram."""

Values = tuple[float | None, ...]


def mean(values: Sequence[float | None]) -> float | None:
    """Average what is there; None where nothing is."""
    there = [value for value in values if value is not None and not math.isnan(value)]
    return sum(there) / len(there) if there else None


def name_of(curve: Curve) -> str:
    """Return what an object is called, its number where it has no name."""
    return curve.name or f"object {curve.object_id}"


def median_latency(result: SequenceResult) -> float | None:
    """Return the median latency of the frames that were answered, in ms."""
    answered = [ms for ms in result.latencies_ms if ms is not None and ms > 0]
    return float(np.median(answered)) if answered else None


@dataclass(frozen=True)
class Strip:
    """One object over time.

    Args:
        name: what is written beside it.
        j, f: by point, None where nothing was measured.
        means: J&F, J and F over all frames that count; None where none does.
        absent: spans of points, (first, end), on which the object is not there.
        prompt: the point on which it was prompted; None where nobody knows.
    """

    name: str
    j: Values
    f: Values
    means: tuple[float | None, float | None, float | None]
    absent: tuple[tuple[int, int], ...]
    prompt: int | None

    @cached_property
    def jf(self) -> Values:
        """J&F by point."""
        return tuple(mean(pair) for pair in zip(self.j, self.f))


@dataclass(frozen=True)
class Chart:
    """The objects of one sequence over time.

    Args:
        strips: as many as are drawn, in the order of the results.
        num_frames: frames of the sequence.
        stride: frames that a point stands for.
        seconds: time of each point since the first frame.
        left_out: objects that are not drawn.
    """

    strips: tuple[Strip, ...]
    num_frames: int
    stride: int
    seconds: tuple[float, ...]
    left_out: int


def chart(result: SequenceResult, prompts: Mapping[str, int]) -> Chart | None:
    """Arrange the curves of a sequence; None where it has none.

    Args:
        result: its curves may have any length.
        prompts: the frame on which each prompt was given.
    """
    num_frames = max((len(curve.j) for curve in result.curves), default=0)
    if num_frames == 0:
        return None
    stride = -(-num_frames // MAX_POINTS)
    lowest = sorted(range(len(result.curves)), key=lambda place: _rank(_means(result.curves[place])[0]))
    shown = sorted(lowest[:MAX_STRIPS])
    strips = tuple(_strip(result.curves[place], stride, prompts) for place in shown)
    stamps = result.stamps_ns[:num_frames:stride]
    seconds = tuple((stamp - stamps[0]) / 1e9 for stamp in stamps)
    return Chart(strips, num_frames, stride, seconds, len(result.curves) - len(shown))


def _rank(value: float | None) -> float:
    return math.inf if value is None else value


def _means(curve: Curve) -> tuple[float | None, float | None, float | None]:
    return mean([mean(pair) for pair in zip(curve.j, curve.f)]), mean(curve.j), mean(curve.f)


def _strip(curve: Curve, stride: int, prompts: Mapping[str, int]) -> Strip:
    starts = range(0, len(curve.j), stride)
    absent = [any(curve.is_absent[start : start + stride]) for start in starts]
    given = prompts.get(curve.prompt_id)
    return Strip(
        name_of(curve),
        tuple(mean(curve.j[start : start + stride]) for start in starts),
        tuple(mean(curve.f[start : start + stride]) for start in starts),
        _means(curve),
        _spans(absent),
        None if given is None else given // stride,
    )


def _spans(flags: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


@dataclass(frozen=True)
class Histogram:
    """Latencies of a cell on a logarithmic axis.

    Args:
        edges: of the bars, one more than there are bars, in ms.
        counts: frames of each bar.
        p50, p95: in ms.
        ticks: round values inside the axis, in ms.
        num_lost: frames without an answer, which are in no bar.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    p50: float
    p95: float
    ticks: tuple[float, ...]
    num_lost: int

    def place(self, value: float) -> float:
        """Return where a latency lies on the axis, 0 to 1."""
        low, high = math.log(self.edges[0]), math.log(self.edges[-1])
        return max(0.0, (math.log(value) - low) / (high - low))


def histogram(cell: CellResult) -> Histogram | None:
    """Count the latencies of all sequences; None where none was measured."""
    answered = [ms for sequence in cell.sequences for ms in sequence.latencies_ms if ms is not None and ms > 0]
    if not answered:
        return None
    # Room beside the extremes, and an axis even where all are equal.
    drawn = np.maximum(answered, SHORTEST_MS)
    edges = np.geomspace(drawn.min() / 1.2, drawn.max() * 1.2, BINS + 1)
    counts, _ = np.histogram(drawn, edges)
    p50, p95 = np.percentile(answered, (50, 95))
    decades = range(math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[-1])) + 1)
    steps = (1, 1.5, 2, 3, 5, 7) if len(decades) < 4 else (1, 2, 5) if len(decades) < 6 else (1,)
    ticks = tuple(step * 10.0**power for power in decades for step in steps)
    return Histogram(
        tuple(map(float, edges)),
        tuple(map(int, counts)),
        float(p50),
        float(p95),
        tuple(tick for tick in ticks if edges[0] <= tick <= edges[-1]),
        sum(sequence.num_lost for sequence in cell.sequences),
    )

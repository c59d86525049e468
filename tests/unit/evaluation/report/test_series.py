"""Charts hold what was measured: spans, prompts and means, however long or empty a sequence is."""

from __future__ import annotations

import math

import pytest

from x2sam_ros.evaluation.report import svg
from x2sam_ros.evaluation.report.series import MAX_POINTS, MAX_STRIPS, SHORTEST_MS, chart, histogram
from x2sam_ros.evaluation.report.values import NOTHING, best_of, heading, milliseconds, number
from x2sam_ros.evaluation.results import Cell, CellResult, Curve, SequenceResult

CELL = Cell("bags", "objects", "x2sam", "nano", "fifo", "point", "stream")


def curve(j: list[float | None], absent: str = "", number: int = 1, name: str = "ball") -> Curve:
    flags = tuple(mark == "x" for mark in absent.ljust(len(j), "."))
    return Curve(number, name, f"object-{number}", tuple(j), tuple(j), flags)


def test_spans_prompts_and_means_are_those_of_the_curve() -> None:
    result = SequenceResult("a", curves=(curve([None, 1.0, 0.0, None, 0.5, 0.5], "..xx.x"),), stamps_ns=(0, 10**9))
    found = chart(result, {"object-1": 1})
    assert found is not None and found.stride == 1 and found.seconds == (0.0, 1.0)
    (strip,) = found.strips
    assert (strip.absent, strip.prompt, strip.means) == (((2, 4), (5, 6)), 1, (0.5, 0.5, 0.5))
    assert strip.jf == (None, 1.0, 0.0, None, 0.5, 0.5)
    assert svg.line(strip.jf) == "M1.5,0.0L2.5,100.0L4.5,50.0L5.5,50.0"
    assert svg.permille(strip.jf) == ",1000,0,,500,500"


def test_j_and_f_are_averaged_where_both_are_there() -> None:
    both = Curve(7, "", "p", (0.5, None), (1.0, 0.25), (False, False))
    found = chart(SequenceResult("a", curves=(both,)), {})
    assert found is not None and found.strips[0].jf == (0.75, 0.25)
    assert found.strips[0].name == "object 7" and found.strips[0].prompt is None


def test_a_long_sequence_is_shown_by_means_and_keeps_short_absences() -> None:
    frames = 10 * MAX_POINTS
    absent = "".join("x" if frame == 1234 else "." for frame in range(frames))
    values = [float(frame % 10 < 5) for frame in range(frames)]
    found = chart(SequenceResult("a", curves=(curve(values, absent),)), {"object-1": 25})
    assert found is not None and found.stride == 10
    assert found.strips[0].jf == (0.5,) * MAX_POINTS
    assert found.strips[0].absent == ((123, 124),) and found.strips[0].prompt == 2
    assert [tick for tick, _ in svg.frame_ticks(found)] == [0, 500, 1000, 1500, 2000, 2500]


def test_the_objects_that_are_drawn_are_the_lowest_in_their_order() -> None:
    curves = tuple(curve([1.0 - 0.1 * number], number=number, name=f"o{number}") for number in range(MAX_STRIPS + 2))
    found = chart(SequenceResult("a", curves=(curve([None]), *curves)), {})
    assert found is not None and found.left_out == 3
    assert [strip.name for strip in found.strips] == [f"o{number}" for number in range(2, MAX_STRIPS + 2)]


@pytest.mark.parametrize("curves", [(), (curve([]),)])
def test_no_curve_is_no_chart(curves: tuple[Curve, ...]) -> None:
    assert chart(SequenceResult("a", curves=curves), {}) is None


def test_a_value_alone_and_none_at_all_can_be_drawn() -> None:
    assert svg.line((None, 0.25)) == "M1.1,75.0h0.8" and svg.area((None, 0.25)) == ""
    assert svg.line((None,)) == svg.area((None,)) == ""
    assert svg.area((1.0, 0.0)) == "M0.5,0.0L1.5,100.0L1.5,100L0.5,100Z"


@pytest.mark.parametrize("answered", [[5.0], [20.0, 20.0], [0.4, 9000.0, 30.0, 31.0], [0.001, 40.0]])
def test_a_histogram_holds_every_answered_frame(answered: list[float]) -> None:
    results = (
        SequenceResult("a", latencies_ms=(None, *answered), num_lost=1),
        SequenceResult("b", latencies_ms=(0.0, answered[0])),
    )
    found = histogram(CellResult(CELL, "c", {}, results))
    assert found is not None and sum(found.counts) == len(answered) + 1 and found.num_lost == 1
    assert found.place(found.edges[0]) == 0 and found.place(found.edges[-1]) == pytest.approx(1)
    assert found.ticks and min(answered) <= found.p50 <= found.p95 <= max(answered)
    assert found.edges[0] > SHORTEST_MS / 2 and found.place(found.p50) <= found.place(found.p95) < 1


def test_nothing_measured_is_no_histogram() -> None:
    assert histogram(CellResult(CELL, "c", {}, (SequenceResult("a", latencies_ms=(None, 0.0)),))) is None


def test_numbers_are_written_by_their_unit_and_the_best_by_its_direction() -> None:
    assert (number("J&F", 0.71249), number("IDsw", 3.0), number("first_mask_s", 0.1)) == ("0.712", "3", "0.10")
    assert number("J&F", math.nan) == number("J&F", None) == milliseconds(math.nan) == NOTHING
    assert (milliseconds(0.004), milliseconds(7.66), milliseconds(41.4)) == ("<0.1", "7.7", "41")
    assert (heading("IDsw"), heading("first_mask_s"), heading("J&F")) == ("IDsw, times", "first_mask_s", "J&F")
    assert best_of("J&F", [0.5, 0.7001, math.nan]) == "0.700" and best_of("IDsw", [4.0, 2.0]) == "2"
    assert best_of("J&F", [0.5, None]) == best_of("J&F", [0.5, 0.5001]) == best_of("J&F", []) == ""

"""Rates and latencies look back a few seconds, silence is timed, and what nobody reads does not grow."""

from __future__ import annotations

import math

import pytest

from x2sam_ros.ros.frame_slots import Counters
from x2sam_ros.ros.frame_statistics import Statistics

CAMERA = "/camera/image_raw"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rates_are_those_of_the_window(clock: Clock) -> None:
    counters = {CAMERA: Counters()}
    statistics = Statistics(counters, window_s=4.0, now=clock)
    for second in range(10):
        clock.now_s += 1.0
        counters[CAMERA].received += 30 if second < 5 else 10
        counters[CAMERA].answered += 10
        counters[CAMERA].replaced += 20 if second < 5 else 0
        if second == 8:
            counters[CAMERA].count_bad("unreadable", "no pixels")
        window = statistics.read()[CAMERA]
    assert (window.seconds, window.received_hz, window.answered_hz) == (4.0, 10.0, 10.0)
    assert (window.recent.replaced, window.recent.bad, window.recent.causes) == (0, 1, {"unreadable": 1})
    assert (window.total.received, window.total.replaced, window.total.last_bad) == (200, 100, "no pixels")


def test_latencies_are_recent_ones(clock: Clock) -> None:
    statistics = Statistics({CAMERA: Counters()}, window_s=4.0, now=clock)
    assert math.isnan(statistics.read()[CAMERA].latency_p50_ms)
    for latency_ms in range(5000):  # more than are kept
        statistics.answered(CAMERA, 9000.0 + latency_ms)
    clock.now_s += 3.0
    for latency_ms in range(1, 101):
        statistics.answered(CAMERA, latency_ms)
    clock.now_s += 2.0
    window = statistics.read()[CAMERA]
    assert window.latency_p50_ms == pytest.approx(50.5) and window.latency_p95_ms == pytest.approx(95.05)


def test_silence_begins_with_listening_and_ends_with_an_image(clock: Clock) -> None:
    counters = {CAMERA: Counters()}
    statistics = Statistics(counters, window_s=4.0, now=clock)
    clock.now_s += 50.0
    counters[CAMERA].replaced += 1
    statistics.restart()
    clock.now_s += 2.0
    window = statistics.read()[CAMERA]
    assert (window.silent_s, window.recent.replaced) == (2.0, 0)
    counters[CAMERA].received += 1
    assert statistics.read()[CAMERA].silent_s == 0.0


def test_reading_often_costs_no_memory(clock: Clock) -> None:
    counters = {CAMERA: Counters()}
    statistics = Statistics(counters, window_s=4.0, now=clock)
    for _ in range(1000):
        clock.now_s += 0.001
        counters[CAMERA].received += 1
        window = statistics.read()[CAMERA]
    assert window.recent.received < 200 and window.received_hz == pytest.approx(1000.0)

"""Rates and latencies of each camera over the last seconds. No ROS; the counting itself is done by frame_slots."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from x2sam_ros.config import DIAGNOSTICS_WINDOW_S
from x2sam_ros.ros.frame_slots import Counters

_MAX_LATENCIES = 1000
"""Most latencies that are kept of a camera, the newest ones."""

_MAX_SAMPLES = 100
"""Most samples of the counters that are kept of a camera; read once a second, they are few."""


@dataclass(frozen=True)
class Window:
    """What became of the images of one camera.

    Args:
        total: since the counters began.
        recent: in the last ``seconds``.
        seconds: how far ``recent`` looks back.
        silent_s: time since the newest image, or since ``Statistics.restart`` if that is later, seconds.
        latency_p50_ms, latency_p95_ms: of recent answers, from the image's arrival to its masks, milliseconds; NaN
            without any.
    """

    total: Counters
    recent: Counters
    seconds: float
    silent_s: float
    latency_p50_ms: float = math.nan
    latency_p95_ms: float = math.nan

    @property
    def received_hz(self) -> float:
        """Images that came in a second."""
        return self.recent.received / self.seconds

    @property
    def answered_hz(self) -> float:
        """Images that were answered in a second."""
        return self.recent.answered / self.seconds


class _Camera:
    """Samples of one camera's counters, and its latencies."""

    def __init__(self, counters: Counters, now_s: float) -> None:
        self.counters = counters
        self.samples = deque([(now_s, _copy(counters))], maxlen=_MAX_SAMPLES)
        self.latencies: deque[tuple[float, float]] = deque(maxlen=_MAX_LATENCIES)
        self.heard_s = now_s


class Statistics:
    """Looks at counters from time to time and says how fast they grow. Any thread may use it.

    Args:
        counters: of each camera, which others count up.
        window_s: how far to look back, seconds.
        now: a clock in seconds that never jumps.
    """

    def __init__(
        self,
        counters: Mapping[str, Counters],
        window_s: float = DIAGNOSTICS_WINDOW_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s, self._now = window_s, now
        self._lock = threading.Lock()
        self._cameras = {name: _Camera(own, now()) for name, own in counters.items()}

    def restart(self) -> None:
        """Begin to listen: what came before this moment is not recent, and silence begins here."""
        with self._lock:
            self._cameras = {name: _Camera(camera.counters, self._now()) for name, camera in self._cameras.items()}

    def answered(self, camera: str, latency_ms: float) -> None:
        """Note how long an answer took."""
        with self._lock:
            self._cameras[camera].latencies.append((self._now(), latency_ms))

    def read(self) -> dict[str, Window]:
        """Sample the counters of every camera and return what became of its images."""
        with self._lock:
            return {name: self._read(camera) for name, camera in self._cameras.items()}

    def _read(self, camera: _Camera) -> Window:
        now_s, total = self._now(), _copy(camera.counters)
        if total.received != camera.samples[-1][1].received:
            camera.heard_s = now_s
        camera.samples.append((now_s, total))
        while len(camera.samples) > 2 and camera.samples[1][0] <= now_s - self._window_s:
            camera.samples.popleft()  # the first that stays is as old as the window
        since_s, before = camera.samples[0]
        latencies = [latency_ms for at_s, latency_ms in camera.latencies if at_s > now_s - self._window_s]
        p50, p95 = np.percentile(latencies, (50, 95)).tolist() if latencies else (math.nan, math.nan)
        seconds = max(now_s - since_s, 1e-3)
        return Window(total, _difference(total, before), seconds, now_s - camera.heard_s, p50, p95)


def _copy(counters: Counters) -> Counters:
    return replace(counters, causes=counters.causes.copy())


def _difference(now: Counters, before: Counters) -> Counters:
    return Counters(
        now.received - before.received,
        now.answered - before.answered,
        now.replaced - before.replaced,
        Counter(now.causes) - before.causes,
        now.last_bad,
    )

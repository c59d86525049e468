"""A log that does not flood, however often a problem comes. No ROS."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable


class ProblemLog:
    """Logs problems, each cause at most once in a while. Any thread may use it.

    Args:
        log: takes a line.
        period_s: seconds between two lines about one cause.
    """

    def __init__(self, log: Callable[[str], object], period_s: float) -> None:
        self._log, self.period_s = log, period_s
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, float]] = {}  # one for each cause, of which there are few
        self._totals: Counter[str] = Counter()

    @property
    def totals(self) -> dict[str, int]:
        """How often each cause came so far."""
        with self._lock:
            return dict(self._totals)

    def report(self, cause: str, message: str) -> None:
        """Log a problem with how often its cause came since its last line, or count it.

        Args:
            cause: one of few fixed texts.
            message: what was wrong this time.
        """
        with self._lock:
            self._totals[cause] += 1
            times, logged_s = self._counts.get(cause, (0, float("-inf")))
            times += 1
            if time.monotonic() - logged_s < self.period_s:
                self._counts[cause] = (times, logged_s)
                return
            self._counts[cause] = (0, time.monotonic())
        self._log(f"{cause} dropped ({times} since the last report): {message}")

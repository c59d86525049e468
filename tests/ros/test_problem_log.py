"""A problem is logged at once, then counted, and each cause has a count of its own."""

from __future__ import annotations

import time

from x2sam_ros.ros.problem_log import ProblemLog


def test_a_flood_becomes_one_line_and_a_count() -> None:
    lines: list[str] = []
    log = ProblemLog(lines.append, period_s=0.2)
    for number in range(50):
        log.report("frame of /front", f"wrong {number}")
    log.report("frame of /rear", "wrong too")
    assert lines == [
        "frame of /front dropped (1 since the last report): wrong 0",
        "frame of /rear dropped (1 since the last report): wrong too",
    ]
    time.sleep(0.21)
    log.report("frame of /front", "again")
    assert log.totals == {"frame of /front": 51, "frame of /rear": 1}
    assert lines[2:] == ["frame of /front dropped (50 since the last report): again"]

"""Teacher and student answer the same cases, and what is known of a case is not measured again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.model.networks import new_nano
from x2sam_ros.evaluation.generated import Case

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import distilled
from distilled import compared
from pieces import Notes
from scene_cases import image_cases


def test_rows_are_of_pairs_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = new_nano(), new_nano()
    cases = list(image_cases(2, ("point", "box")))
    known = {"point": [(0.8, 0.7), (0.6, 0.5)], "box": [(0.9, 0.9), (0.7, 0.5)]}

    def both(first: object, second: object, case: Case) -> tuple[float, float]:
        assert first is teacher and second is student
        return known[case.kind].pop(0)

    monkeypatch.setattr(distilled, "both", both)
    for _ in range(2):
        rows = compared(teacher, student, cases, Notes(tmp_path / "notes.jsonl", {}))
        assert sorted(rows) == [
            ("box", "2", "0.800", "0.700", "-0.100", "0.100"),
            ("point", "2", "0.700", "0.600", "-0.100", "0.000"),
        ]
    assert not any(known.values()), "each was measured once"

"""Options of the benchmark scripts that count something are checked before anything is measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from tables import at_least


def test_counts_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=at_least(1))
    assert parser.parse_args(["--clips", "3"]).clips == 3
    for wrong in ("0", "-1", "x", "1.5"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--clips", wrong])
        assert wrong in capsys.readouterr().err

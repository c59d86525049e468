"""Intervals against SciPy's bootstrap, and against what must be so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from tests.unit.evaluation.made_results import scored
from x2sam_ros.evaluation import bootstrap as own
from x2sam_ros.evaluation import results_file as own_json
from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.scoring import combine
from x2sam_ros.truth.dataset import Kind

FOUND_A = (1, 2, 3, 4, 1, 2, 3, 4, 2, 3, 1, 1)
FOUND_B = (2, 3, 3, 4, 3, 4, 4, 4, 1, 2, 2, 1)


def results(found: tuple[int, ...], kind: Kind = Kind.OBJECTS) -> list[SequenceResult]:
    return [scored(f"{number:03d}", columns, kind) for number, columns in enumerate(found)]


def test_for_means_over_sequences_it_is_the_paired_percentile_bootstrap() -> None:
    low, high = own.difference_intervals(results(FOUND_A), results(FOUND_B))["J"]
    differences = (np.array(FOUND_B) - FOUND_A) / 4
    expected = bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", random_state=0)
    assert (low, high) == pytest.approx(expected.confidence_interval, abs=0.02)  # differences come in steps of 1 / 48
    assert low < differences.mean() < high


@pytest.mark.parametrize(("kind", "name"), [(Kind.SEMANTIC, "mIoU"), (Kind.INSTANCES, "track_AP")])
def test_pooled_numbers_have_an_interval_around_their_difference(kind: Kind, name: str) -> None:
    a, b = results(FOUND_A, kind), results(FOUND_B, kind)
    low, high = own.difference_intervals(a, b)[name]
    difference = combine(kind, b)[name] - combine(kind, a)[name]
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(100):
        drawn = rng.integers(0, len(a), len(a))
        plain.append(combine(kind, _renamed(b, drawn))[name] - combine(kind, _renamed(a, drawn))[name])
    expected = np.quantile(plain, [0.025, 0.975])
    assert low < difference < high
    assert (low, high) == pytest.approx(expected, abs=0.35 * (expected[1] - expected[0]))


def _renamed(kept: list[SequenceResult], drawn: np.ndarray) -> list[SequenceResult]:
    """Draw sequences, some of them twice: metrics want every one under another name."""
    renamed = []
    for place, number in enumerate(drawn):
        old, new = f'"{kept[number].sequence}', f'"new-{place}'
        text = own_json.sequence_result_to_json(kept[number])
        renamed.append(own_json.sequence_result_from_json(text.replace(old, new), "x"))
    return renamed


def test_the_same_answers_differ_by_nothing_and_the_seed_decides() -> None:
    a, b = results(FOUND_A), results(FOUND_B)
    assert own.difference_intervals(a, a)["J"] == (0, 0)
    np.testing.assert_equal(own.difference_intervals(a, b, seed=3), own.difference_intervals(a, b, seed=3))
    assert own.difference_intervals(a, b, seed=3) != own.difference_intervals(a, b, seed=4)


def test_many_sequences_are_resampled_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = results(FOUND_A), results(FOUND_B)
    alone = own.difference_intervals(a, b)["J"]
    monkeypatch.setattr(own, "MOST_GROUPS", 6)
    low, high = own.difference_intervals(a, b)["J"]
    assert low < (sum(FOUND_B) - sum(FOUND_A)) / 48 < high and (low, high) != alone


def test_one_sequence_has_no_interval() -> None:
    assert all(map(math.isnan, own.difference_intervals(results((1,)), results((2,)))["J"]))

"""The promise of every metric: parts merged in any order, through JSON, are the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from x2sam_ros.evaluation.metrics.metric import Metric, Scores


def check_merging(make: Callable[[], Metric], updates: Sequence[Callable[[Metric], None]]) -> Scores:
    """Compare one metric with parts of random splits; return the numbers of the whole."""
    whole = make()
    for update in updates:
        update(whole)
    expected = whole.compute()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parts = [make() for _ in range(3)]
        for update in updates:
            update(parts[rng.integers(3)])
        merged = make()
        for place in rng.permutation(3):
            stored = make()
            updates[0](stored)  # which restore is to replace
            stored.restore(json.loads(json.dumps(parts[place].state(), allow_nan=False)))
            merged.merge(stored)
        assert merged.compute() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    whole.reset()
    assert whole.compute() == pytest.approx(make().compute(), nan_ok=True)
    return expected

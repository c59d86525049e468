"""How sure a difference of two evaluations is: bootstrap over sequences, paired, for every metric alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.scorers.registry import ONLY_TOGETHER, SLOW, Counts, Kept

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000

MOST_GROUPS, MOST_SLOW_GROUPS = 200, 20
"""With more sequences than this, groups of them are resampled; the second is for metrics that are slow to compute."""

_ROUNDED = 1e-9
"""A bound below this is 0, and not the last digits of a sum."""

Interval = tuple[float, float]
_Numbers = npt.NDArray[np.float64]


def difference_intervals(
    a: Sequence[SequenceResult], b: Sequence[SequenceResult], *, seed: int = 0
) -> dict[str, Interval]:
    """Bound the differences b - a of all numbers over sequences.

    Numbers such as AP or PQ are no means over sequences, and to compute them for thousands of resamples takes hours. So
    each is made a mean first: of its jackknife pseudo-values, n D - (n - 1) D_i, with D the difference over all n
    sequences and D_i that without sequence i. Both methods keep their sequences together, so that what is hard for both
    does not count. Sequences are resampled with replacement, ``NUM_RESAMPLES`` times, and the interval is that of the
    percentiles, around D. For numbers that are means over sequences this is the plain paired bootstrap.

    Args:
        a, b: the same sequences in the same order, none with an error.
        seed: of the resampling.

    Returns:
        (low, high) by name; NaN where it cannot be told: fewer than two sequences, a number that is not there without
        one of them, and the language metrics.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 11 and 13.
    """
    intervals: dict[str, Interval] = {}
    for slow, most in ((False, MOST_GROUPS), (True, MOST_SLOW_GROUPS)):
        parts = ([_part(result.counts, slow) for result in results] for results in (a, b))
        intervals |= _intervals(next(parts), next(parts), np.random.default_rng(seed), most)
    return intervals


def _part(counts: Counts, slow: bool) -> Kept:
    kept = Kept()
    kept.add({name: its for name, its in counts.items() if name not in ONLY_TOGETHER and (name in SLOW) == slow})
    return kept


def _intervals(a: list[Kept], b: list[Kept], rng: np.random.Generator, most: int) -> dict[str, Interval]:
    num_groups = min(len(a), most)
    groups = np.array_split(rng.permutation(len(a)) if len(a) > most else np.arange(len(a)), num_groups)
    numbers = [_with_each_left_out([_merged([parts[i] for i in group]) for group in groups]) for parts in (a, b)]
    names = [name for name in numbers[0][0] if name in numbers[1][0]]
    if num_groups < 2:
        return dict.fromkeys(names, (np.nan, np.nan))
    values = [[[row.get(name, np.nan) for name in names] for row in rows] for rows in numbers]
    differences = np.array(values[1], np.float64) - np.array(values[0], np.float64)  # (1 + groups, names)
    pseudo: _Numbers = num_groups * differences[0] - (num_groups - 1) * differences[1:]
    times = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES)
    means = times @ pseudo / num_groups - pseudo.mean(axis=0) + differences[0]
    tail = (1 - CONFIDENCE) / 2
    bounds: _Numbers = np.quantile(means, [tail, 1 - tail], axis=0)
    low, high = np.where(np.abs(bounds) < _ROUNDED, 0.0, bounds)
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(names)}


def _with_each_left_out(parts: list[Kept]) -> list[dict[str, float]]:
    """Return the numbers over all parts, then those without the first, without the second, and so on."""
    until, after = [Kept()], [Kept()]
    for part, last in zip(parts, reversed(parts)):
        until.append(_merged([until[-1], part]))
        after.append(_merged([last, after[-1]]))
    without = [_merged([until[number], after[-2 - number]]) for number in range(len(parts))]
    return [until[-1].numbers(), *(kept.numbers() for kept in without)]


def _merged(parts: Sequence[Kept]) -> Kept:
    merged = Kept()
    for part in parts:
        merged.merge(part)
    return merged

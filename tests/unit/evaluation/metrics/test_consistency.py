"""Video consistency, by hand and against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.consistency import VideoConsistency

Clip = list[tuple[np.ndarray, np.ndarray]]


def clip(seed: int, num_frames: int = 9, lowest: int = 0) -> Clip:
    """Return labels that change now and then."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(lowest, 3, (2, 1, 6, 7)).repeat(num_frames, axis=1)
    changes = rng.random(maps.shape) < 0.08
    return list(zip(*np.where(changes, rng.integers(lowest, 3, maps.shape), maps)))


def by_definition(clip: Clip, length: int, official_quirks: bool) -> list[float]:
    shares = []
    for start in range(len(clip) - length + (not official_quirks)):
        own, true = (np.stack(maps) for maps in zip(*clip[start : start + length]))
        steady = (true == true[0]).all(axis=0) & (official_quirks | (true[0] >= 0))
        both = steady & (own == own[0]).all(axis=0) & (official_quirks | (own[0] >= 0))
        if official_quirks or steady.any():
            shares.append(both.sum() / (steady.sum() + 1e-6 * official_quirks))
    return shares


@pytest.mark.parametrize("official_quirks", [False, True])
@pytest.mark.parametrize("lowest", [0, -1])
def test_equals_the_definition(official_quirks: bool, lowest: int) -> None:
    lengths = (1, 2, 5, 9, 12)
    metric = VideoConsistency(lengths, official_quirks)
    expected: dict[int, list[float]] = {length: [] for length in lengths}
    for seed, num_frames in enumerate((9, 4, 11)):
        frames = clip(seed, num_frames, lowest)
        metric.update(iter(frames))
        for length in lengths:
            expected[length] += by_definition(frames, length, official_quirks)
    means = {f"vc{length}": np.mean(shares) if shares else math.nan for length, shares in expected.items()}
    assert metric.compute() == pytest.approx(means, abs=1e-12, nan_ok=True)
    assert math.isnan(metric.compute()["vc12"])


def test_where_the_scene_never_rests_nothing_is_measured() -> None:
    restless = [(np.zeros((2, 2), int), np.full((2, 2), number)) for number in range(3)]
    ours, official = VideoConsistency((2,)), VideoConsistency((2,), official_quirks=True)
    ours.update(restless)
    official.update(restless)
    assert math.isnan(ours.compute()["vc2"]) and official.compute()["vc2"] == 0.0


def test_parts_merge_to_the_whole() -> None:
    updates = [lambda metric, seed=seed: metric.update(clip(seed)) for seed in range(7)]
    check_merging(lambda: VideoConsistency((2, 5)), updates)


def test_sizes_must_fit() -> None:
    small, large = np.zeros((2, 2), int), np.zeros((3, 2), int)
    with pytest.raises(FrameError, match=r"compare have shapes \(2, 2\) and \(3, 2\)"):
        VideoConsistency().update([(small, large)])
    with pytest.raises(FrameError, match=r"of a video have shapes \(2, 2\) and \(3, 2\)"):
        VideoConsistency().update([(small, small), (large, large)])

"""The Kalman filter on a target's box."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_ros.engine.motion import MAX_STEPS, Box, BoxMotion, box_iou


def box(x: float, y: float, width: float = 0.2, height: float = 0.1) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def followed(path: list[Box], start: int = 0) -> BoxMotion:
    motion = BoxMotion.begin(start, path[0])
    for index, seen in enumerate(path[1:], start + 1):
        motion = motion.see(index, seen)
    return motion


def reference(path: list[Box]) -> tuple[np.ndarray, np.ndarray]:
    """The same filter with 8x8 matrices, as it is written in textbooks."""

    def place(seen: Box) -> np.ndarray:
        return np.array([(seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2, seen[2] - seen[0], seen[3] - seen[1]])

    def sizes(mean: np.ndarray) -> np.ndarray:
        return np.array([mean[2], mean[3], mean[2], mean[3]])

    step, look = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    mean = np.concatenate([place(path[0]), np.zeros(4)])
    scale = sizes(mean)
    spread = np.diag(np.concatenate([2 / 20 * scale, 10 / 160 * scale]) ** 2)
    for seen in path[1:]:
        scale = sizes(mean)
        mean = step @ mean
        spread = step @ spread @ step.T + np.diag(np.concatenate([scale / 20, scale / 160]) ** 2)
        innovation = look @ spread @ look.T + np.diag((sizes(mean) / 20) ** 2)
        gain = spread @ look.T @ np.linalg.inv(innovation)
        mean = mean + gain @ (place(seen) - look @ mean)
        spread = spread - gain @ innovation @ gain.T
    return mean, spread


def test_four_small_filters_are_the_one_large_one() -> None:
    rng = np.random.default_rng(3)
    path = [box(0.3 + 0.01 * t, 0.6 - 0.02 * t, *(0.2 + 0.02 * rng.standard_normal(2))) for t in range(20)]
    motion, (mean, spread) = followed(path), reference(path)
    np.testing.assert_allclose([*motion.place, *motion.speed], mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([*motion.place_variance, *motion.speed_variance], np.diag(spread), rtol=1e-9)
    np.testing.assert_allclose(motion.covariance, np.diag(spread, 4), rtol=1e-9)


def test_a_straight_path_is_continued() -> None:
    motion = followed([box(0.2 + 0.01 * t, 0.5) for t in range(30)])
    assert motion.seen == 30 and motion.unseen == 0
    ahead = motion.at(39)
    assert ahead.place[0] == pytest.approx(0.2 + 0.01 * 39, abs=0.01) and ahead.place[1] == pytest.approx(0.5, abs=1e-6)
    assert ahead.unseen == 10 and motion.frame_index == 29, "the path itself is not changed"
    assert ahead.place_variance[0] > motion.place_variance[0]


def test_dropped_frames_count() -> None:
    every, second = followed([box(0.1 + 0.01 * t, 0.5) for t in range(31)]), BoxMotion.begin(0, box(0.1, 0.5))
    for index in range(2, 31, 2):
        second = second.see(index, box(0.1 + 0.01 * index, 0.5))
    assert second.at(35).place[0] == pytest.approx(every.at(35).place[0], abs=0.005)


def test_out_of_sight_it_moves_on_for_a_while_and_then_stays() -> None:
    motion = followed([box(0.2 + 0.002 * t, 0.5) for t in range(30)])
    assert motion.at(29 + MAX_STEPS).place == motion.at(100_000).place == motion.at(500).at(100_000).place
    assert motion.at(100_000).frame_index == 100_000


def test_it_starts_anew_after_a_frame_out_of_sight_and_when_frames_are_counted_anew() -> None:
    motion = followed([box(0.2 + 0.01 * t, 0.5) for t in range(30)])
    assert motion.at(32).see(33, box(0.9, 0.1)) == BoxMotion.begin(33, box(0.9, 0.1))
    assert motion.see(4, box(0.9, 0.1)) == BoxMotion.begin(4, box(0.9, 0.1))
    assert motion.at(3) == motion


def test_a_box_never_turns_inside_out() -> None:
    motion = followed([box(0.5, 0.5, 0.4 - 0.03 * t, 0.4 - 0.03 * t) for t in range(13)])
    left, top, right, bottom = motion.at(60).box
    assert left < right and top < bottom


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 0.5, 1), (0.25, 0, 0.75, 1), 1 / 3),
        ((0, 0, 0.2, 0.2), (0.3, 0.3, 1, 1), 0.0),
        ((0, 0, 0.2, 0.2), (0.2, 0, 0.4, 0.2), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_overlap_of_boxes(a: Box, b: Box, expected: float) -> None:
    assert box_iou(a, b) == box_iou(b, a) == pytest.approx(expected)

"""Streaming metrics, each on a clip small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.evaluation.metrics.streaming import REACQUIRE_FRAMES, ObjectWatch, Streaming

PERIOD_NS = 100_000_000
NONE = np.zeros((20, 100), np.bool_)


def bar(left: int, width: int = 10) -> np.ndarray:
    """Return a bar, bool (20, 100)."""
    mask = NONE.copy()
    mask[5:15, left : left + width] = True
    return mask


def watch(
    truths: Sequence[np.ndarray | None],
    masks: Sequence[np.ndarray],
    latency_ns: int = 0,
    lost: Sequence[int] = (),
    prompted: int = 0,
) -> ObjectWatch:
    """Watch frames 100 ms apart; those that are lost are published never."""
    watched = ObjectWatch(prompted * PERIOD_NS)
    for index, (truth, mask) in enumerate(zip(truths, masks)):
        stamp_ns = index * PERIOD_NS
        watched.see(stamp_ns, None if index in lost else stamp_ns + latency_ns, mask, truth)
    return watched


def scores(*watches: ObjectWatch) -> dict[str, float]:
    metric = Streaming()
    for watched in watches:
        metric.update(watched)
    return metric.compute()


def test_first_mask_is_the_first_that_lies_on_the_object_when_it_is_there() -> None:
    truths = [bar(40)] * 4
    late = watch(truths, [NONE, bar(60), bar(42), bar(40)], latency_ns=30_000_000)
    assert scores(late)["first_mask_s"] == pytest.approx(0.23)
    never = watch(truths, [NONE, bar(60), NONE, NONE])
    assert np.isnan(scores(never)["first_mask_s"]) and scores(never)["first_mask_share"] == 0.0
    lost = watch(truths, [NONE, bar(40), NONE, NONE], lost=[1])
    prompted_later = watch(truths, [bar(40)] * 4, prompted=2)
    both = scores(late, never, lost, prompted_later)
    assert both["first_mask_share"] == 0.5 and both["first_mask_s"] == pytest.approx((0.23 + 0.0) / 2)


@pytest.mark.parametrize(
    ("latency_ns", "behind"), [(0, 0), (1, 1), (PERIOD_NS, 1), (PERIOD_NS + 1, 2), (3 * PERIOD_NS, 3)]
)
def test_a_mask_counts_when_it_is_there(latency_ns: int, behind: int) -> None:
    truths = [bar(10 + 2 * index) for index in range(6)]
    found = scores(watch(truths, truths, latency_ns))
    shared = 10 - 2 * behind  # columns that a mask and the object as many frames later have in common
    expected = [0.0 if index < behind else shared / (20 - shared) for index in range(1, 6)]
    assert found["latency_j"] == pytest.approx(np.mean(expected))
    assert found["latency_jf"] == pytest.approx((found["latency_j"] + found["latency_f"]) / 2)


def test_masks_of_frames_that_nobody_annotated_are_current_too() -> None:
    truths = [bar(10), None, bar(30), bar(32)]
    found = scores(watch(truths, [bar(10), bar(30), bar(99), NONE], PERIOD_NS))
    assert found["latency_j"] == pytest.approx((1.0 + 0.0) / 2)


def test_a_lost_frame_leaves_the_mask_before_it_current() -> None:
    found = scores(watch([bar(10)] * 4, [bar(10), bar(10), NONE, NONE], PERIOD_NS, lost=[2]))
    assert found["latency_j"] == 1.0


def test_an_object_that_returns_is_to_be_found_soon() -> None:
    there, away = [bar(40)], [NONE]
    soon = watch(there + away * 2 + there * 4, there + away * 4 + there * 2)
    assert scores(soon)["reacquired_share"] == 1.0 and scores(soon)["reacquired_s"] == pytest.approx(0.2)
    too_late = watch(there + away + there * 12, there + away * (REACQUIRE_FRAMES + 1) + there * 2)
    assert scores(too_late)["reacquired_share"] == 0.0 and np.isnan(scores(too_late)["reacquired_s"])
    in_time = watch(there + away + there * 12, there + away * REACQUIRE_FRAMES + there * 3)
    assert scores(in_time)["reacquired_s"] == pytest.approx(0.9)
    gone_again = watch(there + away + there + away + there, there + away * 3 + there)
    assert scores(gone_again)["reacquired_share"] == 0.5
    not_seen_before = watch(away + there * 2, away + there * 2)
    assert np.isnan(scores(not_seen_before)["reacquired_share"])
    assert scores(soon, too_late, gone_again)["reacquired_share"] == 0.5


def test_stability_is_changing_as_the_object_does() -> None:
    moving = [bar(10 + 2 * index) for index in range(5)]  # IoU of neighbours: 80 of 120 pixels
    assert scores(watch(moving, moving))["stability"] == 1.0
    assert scores(watch(moving, [bar(60)] * 5))["stability"] == pytest.approx(2 / 3)
    assert scores(watch([bar(10)] * 5, [bar(10), NONE] * 2 + [bar(10)]))["stability"] == 0.0
    assert np.isnan(scores(watch([bar(10), NONE, bar(10)], moving[:3]))["stability"])


def test_a_mask_of_an_absent_object_is_a_false_alarm() -> None:
    found = scores(watch([bar(10), NONE, NONE, NONE, NONE, None], [bar(10), NONE, bar(1), NONE, NONE, bar(1)]))
    assert found["false_alarm_share"] == 0.25
    unsure = ObjectWatch(0)
    unsure.see(0, 0, bar(10), NONE, ignore=bar(5, 30))
    assert scores(unsure)["false_alarm_share"] == 0.0


def test_frames_before_the_prompt_do_not_count_and_a_new_size_is_no_answer() -> None:
    watched = watch([bar(10), NONE, bar(10)], [NONE, bar(10), NONE], prompted=3)
    assert np.isnan([value for name, value in scores(watched).items() if name != "first_mask_share"]).all()
    watched.see(300_000_000, 300_000_000, bar(10), bar(10))
    watched.see(400_000_000, 500_000_000, np.ones((4, 4), np.bool_), np.ones((4, 4), np.bool_))
    assert watched.latency_j == [0.0] and watched.changes == []


def test_merges() -> None:
    rng = np.random.default_rng(0)
    updates = []
    for _ in range(8):
        truths = [bar(int(rng.integers(10, 20))) if rng.random() < 0.7 else NONE for _ in range(20)]
        masks = [bar(int(rng.integers(10, 20))) if rng.random() < 0.7 else NONE for _ in range(20)]
        updates.append(partial(Streaming.update, watch=watch(truths, masks, int(rng.integers(3 * PERIOD_NS)))))
    found = check_merging(Streaming, updates)
    assert not np.isnan([*found.values()]).any()

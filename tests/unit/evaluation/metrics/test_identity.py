"""Identity: the numbers of TrackEval."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.identity import Identity, Overlaps, overlaps_of

NAMES = ("hota", "deta", "assa", "loca", "idf1", "idp", "idr", "id_switches", "fragmentations")
TRACKEVAL = {
    "one": """0.26177961176286596 0.33358961533852527 0.20710634843112133 0.7402861692148136 0.38016528925619836
              0.359375 0.40350877192982454 8 35""",
    "three": """0.164244057315136 0.2270192310104938 0.12242299282337055 0.7404358653922433 0.20530973451327433
                0.2196969696969697 0.19269102990033224 25 56""",
    "gaps": """0.18095727967169903 0.13641494170785706 0.2421831513953488 0.7528282964868503 0.211864406779661
               0.211864406779661 0.211864406779661 4 31""",
}
"""By TrackEval 1.3.0: ``HOTA``, ``Identity`` and ``CLEAR`` of each sequence of ``sequences`` with its ids as positions
in the sorted ids, then ``combine_sequences``; of an array the mean."""


def random_sequence(seed: int, num_frames: int = 30, num_true: int = 5, num_own: int = 6) -> list[Overlaps]:
    """Return frames whose targets follow their objects, exchange them at times, and miss them at others."""
    rng = np.random.default_rng(seed)
    most = max(num_own, num_true)
    order = rng.permutation(most)
    frames = []
    for _ in range(num_frames):
        if rng.random() < 0.1:
            order = rng.permutation(most)
        true, own = np.flatnonzero(rng.random(num_true) < 0.8), np.flatnonzero(rng.random(num_own) < 0.7)
        if rng.random() < 0.1:
            own = own[:0]
        if rng.random() < 0.05:
            true = true[:0]
        same = order[true][:, None] == own
        iou = np.where(same, rng.beta(4, 2, same.shape), rng.beta(1, 12, same.shape))
        frames.append(Overlaps([7 + int(i) for i in true], [1 + 3 * int(i) for i in own], iou))
    return frames


def sequences() -> dict[str, list[list[Overlaps]]]:
    """Return sets of sequences; in the last, one without answers and one without objects."""
    no_answer = [Overlaps(frame.true_ids, [], frame.iou[:, :0]) for frame in random_sequence(6)]
    no_object = [Overlaps([], frame.predicted_ids, frame.iou[:0]) for frame in random_sequence(7)]
    return {
        "one": [random_sequence(1)],
        "three": [random_sequence(2), random_sequence(3, 12, 3, 9), random_sequence(4, 25, 8, 4)],
        "gaps": [random_sequence(5), no_answer, no_object],
    }


@pytest.mark.parametrize("which", TRACKEVAL)
def test_equals_trackeval_and_merges(which: str) -> None:
    found = check_merging(Identity, [partial(Identity.update, frames=frames) for frames in sequences()[which]])
    assert found == pytest.approx(dict(zip(NAMES, map(float, TRACKEVAL[which].split()))), abs=1e-12)


def test_is_nan_without_a_mask() -> None:
    metric = Identity()
    metric.update([Overlaps([], [], np.zeros((0, 0)))])
    assert tuple(metric.compute()) == NAMES and np.isnan([*metric.compute().values()]).all()


def test_overlaps_of_masks_leave_out_empty_ones() -> None:
    masks = np.zeros((3, 4, 4), np.bool_)
    masks[0, :2], masks[1, 1:3] = True, True
    found = overlaps_of([5, 6, 7], masks, [1], masks[:1])
    assert found.true_ids == [5, 6] and found.predicted_ids == [1]
    assert found.iou.tolist() == [[1.0], [1 / 3]]
    assert overlaps_of([5], masks[:1], [], masks[:0]).iou.shape == (1, 0)


def test_bad_overlaps_are_refused() -> None:
    with pytest.raises(FrameError, match="2 true and 1 predicted ids need overlaps of that shape, got \\(1, 2\\)"):
        Overlaps([1, 2], [1], np.zeros((1, 2)))
    with pytest.raises(FrameError, match="an id may have one mask on a frame, got \\[3, 3\\]"):
        Overlaps([1], [3, 3], np.zeros((1, 2)))
    with pytest.raises(FrameError, match="masks to compare have sizes"):
        overlaps_of([1], np.ones((1, 4, 4), np.bool_), [1], np.ones((1, 4, 5), np.bool_))

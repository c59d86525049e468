"""Compare what a reader returns with what was written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.unit.truth.layouts import Labels
from x2sam_ros.truth.dataset import Dataset, Sequence


def check_labels(dataset: Dataset, written: Mapping[str, Labels], every: int = 1) -> None:
    """Check that label n of each frame is object n, and that only every n-th frame is annotated."""
    assert [sequence.name for sequence in dataset.sequences] == list(written)
    for sequence in dataset.sequences:
        check_sequence(sequence, written[sequence.name], every)


def check_sequence(sequence: Sequence, labels: Labels, every: int = 1) -> None:
    frames = list(sequence.frames())
    assert -(-len(frames) // every) == len(labels)
    known = {thing.object_id for thing in sequence.objects}
    for frame in frames:
        truth = sequence.truth(frame)
        if frame.frame_index % every:
            assert truth is None
            continue
        expected = labels[frame.frame_index // every]
        assert truth is not None and truth.size == frame.size == expected.shape
        assert sorted(truth.object_ids) == [value for value in np.unique(expected) if value]
        assert known.issuperset(truth.object_ids)
        for value in truth.object_ids:
            np.testing.assert_array_equal(truth.mask_of(value), expected == value)

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.truth.layouts import moving_boxes, write_bag, write_davis
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.truth.part import held_out_part, later_part, places_within, some_sequences

STAMPS = [1_000_000_000 * i for i in range(1, 9)]
ANNOTATED = [0, 2, 3, 6, 7]


@pytest.fixture
def bag(tmp_path):
    labels = moving_boxes(len(STAMPS))[ANNOTATED]
    write_bag(tmp_path / "a.mcap", STAMPS, labels, label_stamps=[STAMPS[place] for place in ANNOTATED])
    return tmp_path / "a.mcap"


def test_the_end_of_a_bag_has_its_own_frames_and_truth(bag):
    dataset = open_dataset(bag)
    (whole,), (part,) = dataset.sequences, later_part(dataset, 0.4).sequences
    assert part.annotated() == [0, 1] and part.objects == whole.objects and part.name == whole.name
    frames = list(part.frames())
    assert [frame.stamp_ns for frame in frames] == STAMPS[6:] and [frame.frame_index for frame in frames] == [0, 1]
    assert part.frames().num_images == part.frames().num_frames == 2
    earlier = list(whole.frames())[6:]
    for frame, same in zip(frames, earlier, strict=True):
        np.testing.assert_array_equal(frame.image, same.image)
        np.testing.assert_array_equal(part.truth(frame).masks, whole.truth(same).masks)
    assert [frame.stamp_ns for frame in part.frames().pick({1})] == STAMPS[7:]


def test_what_is_trained_on_and_what_is_tested_with_share_no_image(bag):
    dataset = open_dataset(bag, stride=2)  # images 0, 2, 4, 6, of which 0, 2 and 6 are annotated
    (whole,) = dataset.sequences
    assert list(whole.annotated()) == [0, 1, 3]
    assert places_within(whole, (0.0, 1 - 0.4)) == (0, 1) and places_within(whole, (1 - 0.4, 1.0)) == (3,)
    (part,) = later_part(dataset, 0.4).sequences
    assert [frame.stamp_ns for frame in part.frames()] == [STAMPS[6]] and part.annotated() == [0]


def test_another_part_is_another_ground_truth(bag, tmp_path):
    dataset = open_dataset(bag)
    prints = {dataset.fingerprint, later_part(dataset, 0.2).fingerprint, later_part(dataset, 0.6).fingerprint}
    assert len(prints) == 3
    assert later_part(dataset, 0.2).fingerprint in prints
    with pytest.raises(TruthError, match="a has too few annotated images to hold out 5% of them"):
        later_part(dataset, 0.05)


def test_image_files_have_parts_too(tmp_path):
    write_davis(tmp_path)
    dataset = open_dataset(tmp_path)
    for whole, part in zip(dataset.sequences, later_part(dataset, 0.5).sequences, strict=True):
        sources = [frame.source for frame in whole.frames()]
        assert [frame.source for frame in part.frames()] == sources[round(len(sources) / 2) :]


def test_several_sequences_are_held_out_whole(tmp_path):
    for name in "abcde":
        write_bag(tmp_path / f"{name}.mcap", STAMPS, moving_boxes(len(STAMPS)))
    dataset = open_dataset(tmp_path)
    held = held_out_part(dataset, 0.4, most=10)
    assert [one.name for one in held.sequences] == ["d", "e"]
    assert [one.name for one in some_sequences(dataset, (0.0, 0.6))] == ["a", "b", "c"]
    fewer = held_out_part(dataset, 0.4, most=1)
    assert [one.name for one in fewer.sequences] == ["d"] and fewer.fingerprint != held.fingerprint
    assert len(list(held_out_part(open_dataset(tmp_path / "a.mcap"), 0.25, most=10).sequences[0].annotated())) == 2
    with pytest.raises(TruthError, match="has 5 sequences, too few to hold out 1%"):
        held_out_part(dataset, 0.01, most=10)

"""Drawn sequences: images and labels of one drawing, drawn again in another process."""

from __future__ import annotations

import pickle

import numpy as np

from x2sam_ros.cli.eval_scenes import NUM_FRAMES, first_visible, generated_dataset
from x2sam_ros.training.scenes import generate_clip
from x2sam_ros.truth.dataset import TrueObject
from x2sam_ros.truth.drawn import Drawing, DrawnSequence


def draw() -> Drawing:
    labels = np.zeros((2, 4, 5), np.uint8)
    labels[0, :2], labels[1, :1], labels[:, 3] = 1, 2, 3
    return np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3), labels


def test_truth_lists_the_objects_that_count_and_are_there() -> None:
    sequence = DrawnSequence("a", draw, (TrueObject(1), TrueObject(2)))
    frames = list(sequence.frames())
    assert [frame.image[0, 0, 0] for frame in frames] == [0, 60] and sequence.frames().num_frames == 2
    first, second = map(sequence.truth, frames)
    assert (first.object_ids, second.object_ids) == ((1,), (2,))
    assert first.masks.sum() == 10 and second.mask_of(2).sum() == 5


def test_the_generated_suite_is_held_out_and_words_mean_one_object() -> None:
    dataset = generated_dataset(clips=1)
    assert len(dataset.sequences) == 5 and generated_dataset(clips=1).fingerprint == dataset.fingerprint
    sequence = pickle.loads(pickle.dumps(dataset)).sequences[1]
    kind, seed = sequence.name.split("-")
    clip = generate_clip(int(seed), NUM_FRAMES, 480, 640, kind=kind)
    frames = list(sequence.frames())
    assert np.array_equal(frames[7].image, clip.frames[7]) and len(frames) == NUM_FRAMES
    for index, item in enumerate(clip.objects):
        start = first_visible(clip, index)
        shown = [sequence.truth(frame).mask_of(index + 1) for frame in frames]
        since = NUM_FRAMES if start is None else start
        assert not any(mask.any() for mask in shown[:since])
        assert all(np.array_equal(shown[at], clip.labels[at] == index + 1) for at in range(since, NUM_FRAMES))
        for said in sequence.expressions:
            if said.object_ids == (index + 1,):
                assert said.text == f"the {item.colour} {item.shape}"
                assert sum((o.colour, o.shape) == (item.colour, item.shape) for o in clip.objects) == 1

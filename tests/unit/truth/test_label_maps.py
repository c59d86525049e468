"""Mask files and segmentations as they are met in the wild."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.unit.truth.layouts import BOX, SIZE, moving_boxes, rle, write_colours, write_palette
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.label_maps import (
    frame_of_labels,
    frame_of_segmentations,
    mask_of_segmentation,
    read_colours,
    read_labels,
)


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16", "RGB", "RGBA"])
def test_labels_are_read_from_pictures_of_any_kind(tmp_path, mode):
    labels, path = moving_boxes()[1], tmp_path / "a.png"
    if mode == "P":
        write_palette(path, labels)
    elif mode == "1":
        labels = (labels > 0).astype(np.uint8)
        Image.fromarray(labels > 0).save(path)
    elif mode == "I;16":
        labels = labels.astype(np.uint16) * 1000
        Image.fromarray(labels).save(path)
    else:
        Image.fromarray(labels, "L").convert(mode).save(path)
    np.testing.assert_array_equal(read_labels(path), labels)


def test_panoptic_colours_are_numbers_of_24_bits(tmp_path):
    numbers = np.array([[0, 255, 256], [65_536, 16_777_215, 70_001]])
    write_colours(tmp_path / "a.png", numbers)
    np.testing.assert_array_equal(read_colours(tmp_path / "a.png"), numbers)
    with pytest.raises(TruthError, match="a.png is in colour; ids are expected as grey"):
        read_labels(tmp_path / "a.png")
    write_palette(tmp_path / "b.png", moving_boxes()[0])
    with pytest.raises(TruthError, match="b.png is not in colour"):
        read_colours(tmp_path / "b.png")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "flipped"])
def test_damaged_pictures_are_named(tmp_path, damage):
    path = tmp_path / "a.png"
    write_palette(path, moving_boxes()[0])
    data = path.read_bytes()
    place = data.index(b"IDAT") + 9
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    contents = {"empty": b"", "text": b"no picture", "truncated": data[: len(data) // 2], "flipped": flipped}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(TruthError, match=r"a\.png cannot be read as a mask: .+; copy it again"):
        read_labels(path)


def test_values_become_objects_nothing_or_void():
    labels = np.array([[0, 1, 5], [9, 5, 255]], np.uint8)
    frame = frame_of_labels(labels, {1: 3, 5: 2, 9: 2, 77: 4}, "x", ignored=(255,))
    assert frame.object_ids == (2, 3)
    np.testing.assert_array_equal(frame.mask_of(2), [[0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(frame.ignore, [[0, 0, 0], [0, 0, 1]])
    assert frame_of_labels(labels[:1, :1], {1: 1}, "x").object_ids == ()
    with pytest.raises(TruthError, match=r"x: 2 pixels have the value 5, which is none of those listed \(1, 9\)"):
        frame_of_labels(labels, {1: 1, 9: 2}, "x", ignored=(255,))
    assert frame_of_labels(labels, {1: 1, 5: 5, 9: 9, 255: 2}, "x", ignored=(255,)).ignore is None  # it is listed
    wide = np.array([[0, 70_000]], np.int32)
    assert frame_of_labels(wide, {70_000: 1}, "x").masks.sum() == 1


def test_polygons_and_run_lengths_are_the_same_mask():
    drawn = np.zeros(SIZE, np.bool_)
    drawn[3:15, 4:20] = True
    for segmentation in ([BOX], [[], BOX], rle(drawn), rle(drawn, is_compressed=False)):
        np.testing.assert_array_equal(mask_of_segmentation(segmentation, SIZE), drawn)
    full = np.ones(SIZE, np.bool_)
    assert mask_of_segmentation(rle(full, is_compressed=False), SIZE).all()
    assert not mask_of_segmentation([], SIZE).any()


@pytest.mark.parametrize(
    "damaged",
    [
        *({"size": [4, 4], "counts": [3, 4]}, {"size": [4, 4], "counts": "zzzz"}, {"size": [4, 4]}, [[1.0, 2.0]]),
        *("text", 7, [[0, 0, float("nan"), 0, 3, 3]], [[0, 0, 1e12, 0, 3, 3]]),
    ],
)
def test_damaged_segmentations_are_refused(damaged):
    with pytest.raises(TruthError, match="a segmentation is damaged"):
        mask_of_segmentation(damaged, (4, 4))


def test_run_lengths_that_end_early_are_refused():
    for seed in range(5):
        mask = np.random.default_rng(seed).random((37, 53)) > (0.5, 0.01, 0.99, 0.001, 0.9)[seed]
        whole = rle(mask)
        np.testing.assert_array_equal(mask_of_segmentation(whole, SIZE), mask)
        np.testing.assert_array_equal(mask_of_segmentation({**whole, "counts": whole["counts"].encode()}, SIZE), mask)
        with pytest.raises(TruthError, match="a segmentation is damaged .*53x37"):
            mask_of_segmentation({**whole, "counts": whole["counts"][:-2]}, SIZE)


def test_segmentations_of_an_image_must_have_one_size():
    one, other = rle(np.ones((4, 6), np.bool_)), rle(np.ones((6, 4), np.bool_))
    assert frame_of_segmentations([(1, one), (2, None)], (9, 9)).size == (4, 6)
    assert frame_of_segmentations([(2, None)], (9, 9)).size == (9, 9)
    with pytest.raises(TruthError, match=r"different sizes \(height, width\): \(4, 6\), \(6, 4\)"):
        frame_of_segmentations([(1, one), (2, other)], (4, 6))

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.shared_data import data_folder
from tests.unit.truth import layouts
from tests.unit.truth.checks import check_sequence
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def _check(dataset, written, numbers):
    """Compare with labels whose objects are numbered in another order; label 0 is void."""
    for sequence in dataset.sequences:
        labels = written[sequence.name]
        check_sequence(sequence, np.array([0, *numbers], np.uint8)[labels])
        for frame in sequence.frames():
            np.testing.assert_array_equal(sequence.truth(frame).ignore, labels[frame.frame_index] == 0)


def test_vipseg_segments_keep_their_ids_and_void_is_ignored(tmp_path):
    written = layouts.write_vipseg(tmp_path)
    dataset = open_dataset(tmp_path)
    _check(dataset, written, [1, 3, 2])  # the second box is first named on frame 1, after the stuff
    objects = dataset.sequence("v7").objects
    assert [(one.object_id, one.category_id, one.is_crowd) for one in objects] == [
        (1, 4, False),
        (2, 90, False),
        (3, 8, True),
    ]
    assert [one.is_stuff for one in dataset.categories] == [False, False, True]


def test_coco_numbers_the_segments_of_each_image(tmp_path):
    written = layouts.write_coco_panoptic(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [one.name for one in dataset.sequences] == ["000001", "000002"]
    written["000001"] = np.where(written["000001"] == 3, 2, written["000001"]).astype("u1")  # the second box is absent
    _check(dataset, written, [1, 2, 3])
    assert dataset.sequence("000002").number == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said["annotations"][0]["annotations"].pop(), "v7 has 3 annotated frames and 4 images"),
        (lambda said: said["annotations"][0]["annotations"][1]["segments_info"][0].update(category_id=5), "category 5"),
        (
            lambda said: said["annotations"][0]["annotations"][1]["segments_info"][0].update(category_id=8),
            "v7: segment 300 is of category 8 and 4",
        ),
    ],
)
def test_vipseg_that_contradicts_itself_is_refused(tmp_path, change, message):
    layouts.write_vipseg(tmp_path)
    file = tmp_path / "panoptic_gt_VIPSeg_val.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))
    with pytest.raises(TruthError, match=message):
        open_dataset(tmp_path)


def test_a_segment_that_is_not_listed_is_refused(tmp_path):
    layouts.write_coco_panoptic(tmp_path)
    file = tmp_path / "annotations/panoptic_val2017/000001.png"
    pixels = np.array(Image.open(file))
    pixels[0, 0] = (9, 0, 1)
    Image.fromarray(pixels).save(file)
    sequence = open_dataset(tmp_path).sequence("000001")
    with pytest.raises(TruthError, match="000001, frame 0: .*: 1 pixels have the value 65545"):
        sequence.truth(next(iter(sequence.frames())))


def test_vipseg_needs_its_masks_in_colours(tmp_path):
    layouts.write_vipseg(tmp_path)
    (tmp_path / "panomasksRGB").rename(tmp_path / "panomasks")
    with pytest.raises(TruthError, match="panomasksRGB does not exist"):
        open_dataset(tmp_path)


def test_real_panoptic_masks_have_the_areas_that_coco_says():
    root = data_folder("coco_panoptic_sample")
    dataset = open_dataset(root)
    said = json.loads((root / "panoptic_examples.json").read_text())
    for annotation, sequence in zip(said["annotations"], dataset.sequences):
        (frame,) = sequence.frames()
        truth = sequence.truth(frame)
        assert len(truth.object_ids) == len(annotation["segments_info"])
        pixels = np.array(Image.open(root / "panoptic_examples" / annotation["file_name"])).astype(int)
        ids = pixels @ [1, 256, 65536]
        for thing, segment in zip(sequence.objects, annotation["segments_info"]):
            assert truth.mask_of(thing.object_id).sum() == segment["area"]
            np.testing.assert_array_equal(truth.mask_of(thing.object_id), ids == segment["id"])
            assert (thing.category_id, thing.is_crowd) == (segment["category_id"], bool(segment["iscrowd"]))
        np.testing.assert_array_equal(truth.ignore, ids == 0)

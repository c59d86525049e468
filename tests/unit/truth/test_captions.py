from __future__ import annotations

import json

import numpy as np
import pytest

from tests.unit.truth.layouts import SIZE, moving_boxes, rle, write_gcg, write_images, write_json
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset

LABELS = moving_boxes(2)[1]
ONE, TWO = rle(LABELS == 1), rle(LABELS == 2, is_compressed=False)


def _check(dataset, phrases, caption="A box and two boxes."):
    (sequence,) = dataset.sequences
    assert sequence.captions == (caption,)
    (frame,) = sequence.frames()
    truth = sequence.truth(frame)
    found = []
    for expression in sequence.expressions:
        assert set(expression.object_ids) <= {thing.object_id for thing in sequence.objects}
        found.append((expression.text, sum(truth.mask_of(i) for i in expression.object_ids).sum()))
    assert found == phrases


def test_groundings_are_phrases_with_one_mask_or_several(tmp_path):
    write_gcg(tmp_path)
    _check(open_dataset(tmp_path), [("A box", (LABELS == 1).sum()), ("two boxes", (LABELS > 0).sum())])


def test_refs_are_phrases_in_the_order_of_the_caption(tmp_path):
    write_images(tmp_path / "images", ["p.jpg"])
    refs = [{"sentence": "two boxes", "segmentation": TWO}, {"sentence": "A box", "segmentation": ONE}]
    said = [{"7": {"img_file_name": "p.jpg", "caption": "A box and two boxes.", "refs": refs}}]
    write_json(tmp_path / "RefCOCOg_GCG_train.json", said)
    _check(open_dataset(tmp_path), [("A box", (LABELS == 1).sum()), ("two boxes", (LABELS == 2).sum())])


def test_spans_of_the_caption_are_phrases(tmp_path):
    write_images(tmp_path / "images", ["p.jpg"])
    image = {"id": 1, "file_name": "p.jpg", "height": SIZE[0], "width": SIZE[1], "caption": "A box and two boxes."}
    spans = [{"image_id": 1, "tokens_positive": [[10, 19]], "sam_mask": TWO}]
    write_json(tmp_path / "flickr_mergedGT_GCG_train.json", {"images": [image], "annotations": spans})
    _check(open_dataset(tmp_path), [("two boxes", (LABELS == 2).sum())])


def test_val_has_masks_and_captions_in_two_files(tmp_path):
    write_images(tmp_path / "images/val_test", ["p.jpg"])
    folder = tmp_path / "annotations/val_test"
    images = [{"id": "p", "height": SIZE[0], "width": SIZE[1]}]
    for split in ("val", "test"):
        masks = [{"image_id": "p", "segmentation": mask} for mask in (ONE, TWO)]
        captions = [{"image_id": "p", "caption": f"{split} boxes", "labels": ["first", "second"]}]
        write_json(folder / f"{split}_gcg_coco_mask_gt.json", {"images": images, "annotations": masks})
        write_json(folder / f"{split}_gcg_coco_caption_gt.json", {"images": images, "annotations": captions})
    for split in ("val", "test"):
        expected = [("first", (LABELS == 1).sum()), ("second", (LABELS == 2).sum())]
        _check(open_dataset(tmp_path, split=split), expected, f"{split} boxes")


def test_a_damaged_mask_names_the_image(tmp_path):
    write_gcg(tmp_path)
    file = tmp_path / "GranDf_HA_GCG_val.json"
    said = json.loads(file.read_text())
    said[0]["groundings"]["A box"]["rle_masks"][0]["counts"] = "zzzzzzzzzz"
    file.write_text(json.dumps(said))
    (sequence,) = open_dataset(tmp_path).sequences
    with pytest.raises(TruthError, match="p, frame 0: a segmentation is damaged"):
        sequence.truth(next(iter(sequence.frames())))
    assert np.shape(next(iter(sequence.frames())).image) == (*SIZE, 3)

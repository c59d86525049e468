from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.shared_data import data_folder
from tests.unit.truth import layouts
from tests.unit.truth.checks import check_labels
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def _only_frame(sequence):
    (frame,) = sequence.frames()
    return frame


def test_instances_are_objects_of_one_image_and_crowds_are_marked(tmp_path):
    written = layouts.write_coco_instances(tmp_path)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    objects = dataset.sequence("000007").objects
    assert [(one.object_id, one.category_id, one.is_crowd) for one in objects] == [(1, 2, False), (2, 17, True)]
    assert [one.name for one in dataset.categories] == ["bicycle", "cat"]
    assert dataset.sequence("000008").number == 8


def test_instances_are_drawn_as_pycocotools_draws_them(tmp_path):
    layouts.write_coco_instances(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    said = json.loads(file.read_text())
    said["annotations"][0]["segmentation"] = [[3.4, 2.2, 30.7, 5.1, 17.3, 21.9], [31.0, 20.0, 38.5, 20.5, 35.2, 23.0]]
    file.write_text(json.dumps(said))
    coco = COCO(str(file))
    sequence = open_dataset(file).sequence("000007")
    truth = sequence.truth(_only_frame(sequence))
    for number, annotation in enumerate(coco.loadAnns([31, 32]), 1):
        np.testing.assert_array_equal(truth.mask_of(number), coco.annToMask(annotation) > 0)


def test_an_image_of_another_size_than_its_annotation_is_refused(tmp_path):
    layouts.write_coco_instances(tmp_path)
    layouts.write_images(tmp_path / "val2017", ["000007.jpg"], (12, 20))
    sequence = open_dataset(tmp_path).sequence("000007")
    with pytest.raises(TruthError, match="000007, frame 0: .*different sizes|its mask is 40x24, the image 20x12"):
        sequence.truth(_only_frame(sequence))


def test_words_that_are_no_text_are_refused(tmp_path):
    layouts.write_coco_images(tmp_path)
    file = tmp_path / "images.json"
    said = json.loads(file.read_text())
    said[0]["objects"][0]["expressions"] = [5]
    file.write_text(json.dumps(said))
    with pytest.raises(TruthError, match="7: expression 1-0 is 5, expected text"):
        open_dataset(tmp_path)
    said[0]["objects"][0]["category"] = None
    file.write_text(json.dumps(said))
    with pytest.raises(TruthError, match="the name of category 3 is None, expected text"):
        open_dataset(tmp_path)


def test_a_category_that_does_not_exist_leaves_the_other_images(tmp_path):
    layouts.write_coco_instances(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    file.write_text(file.read_text().replace('"category_id": 17', '"category_id": 18'))
    dataset = open_dataset(tmp_path)
    with pytest.raises(TruthError, match="000007: annotation 32 has the category 18"):
        dataset.sequence("000007").frames()
    assert dataset.sequence("000008").truth(_only_frame(dataset.sequence("000008"))).object_ids == ()


def test_photographs_have_expressions_of_some_of_their_objects(tmp_path):
    written = layouts.write_coco_images(tmp_path)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    (photograph,) = dataset.sequences
    assert [(one.expression_id, one.object_ids) for one in photograph.expressions] == [("1-0", (1,)), ("1-1", (1,))]
    assert [(one.object_id, one.category_id) for one in photograph.objects] == [(1, 3), (2, 1)]


def test_real_photographs_are_read_pixel_by_pixel():
    root = data_folder("coco_images")
    dataset = open_dataset(root)
    said = json.loads((root / "images.json").read_text())
    assert len(dataset.sequences) == len(said)
    for image, sequence in zip(said, dataset.sequences):
        truth = sequence.truth(_only_frame(sequence))
        pixels = np.array(Image.open(root / image["instances"]))
        assert truth.object_ids == tuple(value for value in np.unique(pixels).tolist() if value)
        for thing in image["objects"]:
            np.testing.assert_array_equal(truth.mask_of(thing["id"]), pixels == thing["id"])
            assert truth.mask_of(thing["id"]).sum() == thing["area"]
        texts = [text for thing in image["objects"] for text in thing.get("expressions", ())]
        assert [one.text for one in sequence.expressions] == texts


def _write_refcoco(root, refs, name="refs(unc).p"):
    layouts.write_coco_instances(root)
    (root / "annotations/instances_val2017.json").rename(root / "instances.json")
    if name.endswith(".p"):
        (root / name).write_bytes(pickle.dumps(refs, protocol=2))
    else:
        layouts.write_json(root / name, refs)


def _ref(split, annotation, *texts):
    sentences = [{"sent_id": 50 + i, "sent": text} for i, text in enumerate(texts)]
    return {"split": split, "image_id": 7, "ann_id": annotation, "sentences": sentences}


def test_refcoco_has_a_sentence_for_each_expression_of_a_split(tmp_path):
    _write_refcoco(tmp_path, [_ref("val", 32, "left cat", "the cat"), _ref("testA", 31, "bike")])
    dataset = open_dataset(tmp_path)
    (sequence,) = dataset.sequences
    assert [(one.expression_id, one.text, one.object_ids) for one in sequence.expressions] == [
        ("50", "left cat", (2,)),
        ("51", "the cat", (2,)),
    ]
    truth = sequence.truth(_only_frame(sequence))
    assert truth.mask_of(2).sum() == 6 * 14
    assert [one.text for one in open_dataset(tmp_path, split="testA").sequences[0].expressions] == ["bike"]
    with pytest.raises(TruthError, match="has no split 'testC'; it has testA, val"):
        open_dataset(tmp_path, split="testC")


def test_grefcoco_means_several_objects_or_none(tmp_path):
    _write_refcoco(tmp_path, [_ref("val", [31, 32], "both"), _ref("val", [-1], "a whale")], "grefs(unc).json")
    (sequence,) = open_dataset(tmp_path).sequences
    assert [one.object_ids for one in sequence.expressions] == [(1, 2), ()]


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    _write_refcoco(tmp_path, [_ref("val", 31, "bike"), Harm()])
    with pytest.raises(TruthError, match=r"refs\(unc\).p cannot be read: it wants .*open, which is code"):
        open_dataset(tmp_path)
    assert not (tmp_path / "harm").exists()

"""Marks as COCO instances."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.training.labels import expected, marked, read, write
from x2sam_ros.bag.source import Problems, open_source
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.training.label_export import export_images, read_published
from x2sam_ros.training.labelling import IMAGES_FOLDER, Mark


def test_pycocotools_reads_the_same_masks(tmp_path, recording, published):
    images = export_images(open_source(recording), read_published(published, Problems()), tmp_path)
    coco = COCO(write("coco", images, tmp_path))
    for index, image_id in enumerate(coco.getImgIds()):
        assert (tmp_path / IMAGES_FOLDER / coco.loadImgs(image_id)[0]["file_name"]).is_file()
        found = {one["attributes"]["object_id"]: one for one in coco.loadAnns(coco.getAnnIds(image_id))}
        assert list(found) == list(expected(index))
        for number, mask in expected(index).items():
            np.testing.assert_array_equal(coco.annToMask(found[number]), mask)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (found[number]["bbox"], found[number]["area"]) == (box, mask.sum())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": []}, "annotation 1 of .*: it has a box and no mask"),
        (
            {"segmentation": {"size": [3, 4], "counts": [12]}},
            r"annotation 1 of .*: .* size \(3, 4\), its image \(4, 4\)",
        ),
        ({"segmentation": {"size": [10**5, 10**5], "counts": [0, 10**10]}}, r"annotation 1 of .*: .* size \(100000, "),
        ({"segmentation": {"size": [4, 4], "counts": [2**62, 2**62, 2**62, 2**62, 16]}}, "segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": [10**30]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": [-4, 20]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": [[0, 0, float("nan"), 1, 2, 2]]}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": "zzz"}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"image_id": 9}, "annotation 1: there is no image 9; correct"),
        ({"category_id": "cup"}, "annotation 1: there is no category 'cup'; correct"),
        ({"attributes": {"object_id": float("inf")}}, "is no COCO instances JSON"),
        ({"attributes": [7]}, "is no COCO instances JSON"),
    ],
)
def test_coco_files_that_say_no_masks_are_refused(tmp_path, change, said):
    path = write("coco", [marked(Mark("cup", encode_rle(np.eye(4, dtype=bool)), 1))], tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(TruthError, match=said):
        read(path)


def test_what_comes_twice_in_coco_is_refused_and_polygons_are_read(tmp_path):
    path = write("coco", [marked(Mark("cup", encode_rle(np.eye(4, dtype=bool)), 1))], tmp_path)
    content = json.loads(path.read_text())
    for kind in ("images", "annotations", "categories"):
        path.write_text(json.dumps({**content, kind: content[kind] * 2}))
        with pytest.raises(TruthError, match=f"{kind}: the id 1 comes more than once"):
            read(path)
    for size in (0, -4, 10**6):
        path.write_text(json.dumps({**content, "images": [{**content["images"][0], "width": size, "height": size}]}))
        with pytest.raises(TruthError, match=f"image 1: an image of {size}x{size} pixels is none"):
            read(path)
    pieces = [[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 4, 3, 4, 4, 3, 4]]
    path.write_text(json.dumps({**content, "annotations": [{**content["annotations"][0], "segmentation": pieces}]}))
    mask = np.zeros((4, 4), bool)
    mask[:2, :2], mask[3, 3] = True, True
    np.testing.assert_array_equal(decode_rle(read(path)[0].marks[0].runs, 4, 4), mask)

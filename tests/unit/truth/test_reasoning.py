from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tests.unit.truth.layouts import SIZE, write_images, write_reasonseg
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def _drawn(points):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(canvas, [np.array(points, np.int32)], 1)
    return canvas > 0


def test_the_largest_shape_lies_lowest_and_ignored_pixels_are_no_target(tmp_path):
    write_reasonseg(tmp_path)
    (sequence,) = open_dataset(tmp_path).sequences
    assert [(one.expression_id, one.text, one.object_ids) for one in sequence.expressions] == [
        ("sentence-0", "what is it?", (1,)),
        ("sentence-1", "where?", (1,)),
    ]
    (frame,) = sequence.frames()
    truth = sequence.truth(frame)
    shapes = json.loads((tmp_path / "val/a.json").read_text())["shapes"]
    large, ignored, small = (_drawn(shape["points"]) for shape in shapes[:3])
    np.testing.assert_array_equal(truth.mask_of(1), large & ~ignored | small)
    np.testing.assert_array_equal(truth.ignore, ignored & ~small)


def test_a_photograph_without_a_target_means_nothing(tmp_path):
    write_reasonseg(tmp_path)
    file = tmp_path / "val/a.json"
    said = json.loads(file.read_text())
    said |= {"shapes": said["shapes"][3:], "text": "a whale", "is_sentence": False}
    file.write_text(json.dumps(said))
    (sequence,) = open_dataset(tmp_path).sequences
    assert [(one.expression_id, one.object_ids) for one in sequence.expressions] == [("phrase-0", ())]
    (frame,) = sequence.frames()
    assert sequence.truth(frame).object_ids == () and sequence.objects == ()


def test_damaged_json_costs_its_photograph_only(tmp_path):
    write_reasonseg(tmp_path)
    write_images(tmp_path / "val", ["b.jpg"])
    (tmp_path / "val/b.json").write_text("{")
    dataset = open_dataset(tmp_path)
    assert len(list(dataset.sequence("a").frames())) == 1
    with pytest.raises(TruthError, match="b.json is not whole JSON"):
        dataset.sequence("b").frames()


@pytest.mark.parametrize("points", [[], [[1, 2, 3]], [[1, "x"]], [[1e12, 0], [0, 0]], [[float("nan"), 0], [0, 0]]])
def test_outlines_that_are_none_are_refused_when_they_are_opened(tmp_path, points):
    write_reasonseg(tmp_path)
    file = tmp_path / "val/a.json"
    said = json.loads(file.read_text())
    said["shapes"][0]["points"] = points
    file.write_text(json.dumps(said))
    with pytest.raises(TruthError, match="a: its annotation has another structure"):
        open_dataset(tmp_path)

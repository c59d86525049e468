"""SA-1B: a JSON of masks beside each photograph."""

from __future__ import annotations

import json

import pytest

from tests.unit.truth import layouts
from tests.unit.truth.checks import check_labels
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def test_masks_are_numbered_in_the_order_of_the_file(tmp_path):
    written = layouts.write_segment_anything(tmp_path)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    assert dataset.categories == ()
    part = open_dataset(tmp_path / "sa_000020")
    assert [one.name for one in part.sequences] == ["sa_223750", "sa_223751"]


def test_a_damaged_file_costs_its_photograph_only(tmp_path):
    layouts.write_segment_anything(tmp_path)
    file = tmp_path / "sa_000020/sa_223750.json"
    said = json.loads(file.read_text())
    del said["annotations"][0]["segmentation"]
    file.write_text(json.dumps(said))
    first, second = open_dataset(tmp_path).sequences
    with pytest.raises(TruthError, match="sa_223750.json has another structure"):
        first.truth(next(iter(first.frames())))
    assert second.truth(next(iter(second.frames()))).object_ids == (1, 2)


def test_a_photograph_without_masks_is_left_out(tmp_path):
    layouts.write_segment_anything(tmp_path)
    (tmp_path / "sa_000020/sa_223750.json").unlink()
    assert len(open_dataset(tmp_path).sequences) == 1

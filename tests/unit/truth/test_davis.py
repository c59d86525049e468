from __future__ import annotations

import pytest

from tests.unit.truth.checks import check_labels
from tests.unit.truth.layouts import write_davis
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def test_2017_has_an_object_for_each_value(tmp_path):
    written = write_davis(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.name == "davis-2017"
    check_labels(dataset, written)


@pytest.mark.parametrize("value", [255, 1, 38, None])
def test_2016_has_one_object_whatever_its_value(tmp_path, value):
    written = write_davis(tmp_path, "2016", value)
    check_labels(open_dataset(tmp_path), {name: (labels > 0).astype("u1") for name, labels in written.items()})


def test_the_year_is_part_of_the_split_and_2017_is_taken_first(tmp_path):
    written = write_davis(tmp_path)
    (tmp_path / "ImageSets/2016").mkdir()
    (tmp_path / "ImageSets/2016/val.txt").write_text("swan-2\n")
    assert open_dataset(tmp_path).name == "davis-2017"
    older = open_dataset(tmp_path, split="2016/val")
    check_labels(older, {"swan-2": (written["swan-2"] > 0).astype("u1")})
    with pytest.raises(TruthError, match="no split 'test-dev'; it has 2016/val, 2017/val"):
        open_dataset(tmp_path, split="test-dev")


def test_the_first_release_lists_pairs_of_files(tmp_path):
    written = write_davis(tmp_path, "480p", 255)
    lines = [f"/JPEGImages/480p/bear/0000{i}.jpg /Annotations/480p/bear/0000{i}.png\n" for i in range(4)]
    (tmp_path / "ImageSets/480p/val.txt").write_text("".join(lines))
    check_labels(open_dataset(tmp_path), {"bear": (written["bear"] > 0).astype("u1")})


def test_other_resolutions_are_taken_where_there_is_only_one(tmp_path):
    write_davis(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder / "480p").rename(tmp_path / folder / "Full-Resolution")
    assert len(open_dataset(tmp_path).sequences) == 2
    (tmp_path / "JPEGImages/1080p").mkdir()
    with pytest.raises(TruthError, match="holds 1080p, Full-Resolution; expected 480p"):
        open_dataset(tmp_path)

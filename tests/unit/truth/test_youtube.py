from __future__ import annotations

import json

import numpy as np
import pytest

from tests.unit.truth import layouts
from tests.unit.truth.checks import check_labels
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def _edit(path, change):
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_vos_annotates_every_fifth_image_and_names_its_objects(tmp_path):
    written = layouts.write_youtube_vos(tmp_path)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written, every=5)
    assert [(one.category_id, one.name) for one in dataset.categories] == [(1, "cat"), (2, "dog")]
    assert [(one.object_id, one.category_id) for one in dataset.sequence("v1").objects] == [(1, 2), (2, 1)]


def test_splits_are_told_apart(tmp_path):
    for split in ("train", "valid"):
        layouts.write_youtube_vos(tmp_path, split)
    assert open_dataset(tmp_path).name == "valid"
    assert open_dataset(tmp_path, split="train").name == "train"
    assert open_dataset(tmp_path / "train").name == "train"
    with pytest.raises(TruthError, match="which split\\? 'test' does not name one of .*train/meta.json"):
        open_dataset(tmp_path, split="test")


@pytest.mark.parametrize("is_compressed", [True, False])
def test_vis_has_a_track_for_each_annotation(tmp_path, is_compressed):
    written = layouts.write_youtube_vis(tmp_path, is_compressed=is_compressed)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    (sequence,) = dataset.sequences
    assert [(one.object_id, one.category_id, one.is_crowd) for one in sequence.objects] == [
        (1, 5, False),
        (2, 6, False),
    ]
    assert sequence.number == 9


def test_vis_of_a_later_year_lies_in_the_folder_of_its_split_and_may_have_polygons(tmp_path):
    layouts.write_youtube_vis(tmp_path, "train")
    (tmp_path / "train.json").rename(tmp_path / "train/instances.json")
    _edit(
        tmp_path / "train/instances.json",
        lambda said: said["annotations"][0]["segmentations"].__setitem__(0, [layouts.BOX]),
    )
    (sequence,) = open_dataset(tmp_path).sequences
    mask = sequence.truth(next(iter(sequence.frames()))).mask_of(1)
    assert mask[3:15, 4:20].all() and mask.sum() == 12 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda said: said["annotations"][1].update(category_id=99),
            "a1: annotation 71 has the category 99.*lists 2: 5, 6",
        ),
        (lambda said: said["annotations"][1]["segmentations"].pop(), "a1: object 2 has 3 masks for 4 images"),
        (lambda said: said.update(annotations=[]), "has no annotations: those of this split are not published"),
        (lambda said: said["videos"][0].update(file_names=["zz/0.jpg"] * 4), "zz/0.jpg is not below"),
    ],
)
def test_vis_that_contradicts_itself_is_refused(tmp_path, change, message):
    layouts.write_youtube_vis(tmp_path)
    _edit(tmp_path / "valid.json", change)
    with pytest.raises(TruthError, match=message):
        open_dataset(tmp_path)


def test_vis_without_frames_or_of_another_size_leaves_the_other_videos(tmp_path):
    layouts.write_youtube_vis(tmp_path)

    def change(said):
        said["videos"].append({"id": 10, "height": 24, "width": 40, "file_names": []})
        said["annotations"][0]["segmentations"][1] = layouts.rle(np.ones((10, 12), np.bool_))
        said["annotations"][1]["segmentations"][1] = None

    _edit(tmp_path / "valid.json", change)
    dataset = open_dataset(tmp_path)
    with pytest.raises(TruthError, match="10: it has no frames"):
        dataset.sequence("10").frames()
    video = dataset.sequence("a1")
    first, second, *_ = video.frames()
    assert video.truth(first) is not None
    with pytest.raises(TruthError, match=r"a1, frame 1 \(.*00001.jpg\): its mask is 12x10, the image 40x24"):
        video.truth(second)


@pytest.mark.parametrize("is_split", [True, False])
def test_ref_youtube_vos_has_expressions_of_objects(tmp_path, is_split):
    written = layouts.write_ref_youtube_vos(tmp_path, is_split=is_split)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    expressions = dataset.sequence("v1").expressions
    assert [(one.expression_id, one.text, one.object_ids) for one in expressions] == [
        ("0", "the upper box", (1,)),
        ("1", "the lower box", (2,)),
    ]


def test_ref_youtube_vos_without_masks_is_refused(tmp_path):
    layouts.write_ref_youtube_vos(tmp_path)
    (tmp_path / "train/Annotations").rename(tmp_path / "elsewhere")
    with pytest.raises(TruthError, match="Annotations does not exist: the masks of this split are not published"):
        open_dataset(tmp_path)


def test_mevis_means_one_object_several_or_none(tmp_path):
    written = layouts.write_mevis(tmp_path)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    assert [one.object_ids for one in dataset.sequence("v1").expressions] == [(1,), (1, 2), ()]


def test_mevis_that_means_an_annotation_nobody_has_is_refused(tmp_path):
    layouts.write_mevis(tmp_path)
    _edit(tmp_path / "valid_u/mask_dict.json", lambda said: said.pop("12"))
    with pytest.raises(TruthError, match="v1: an expression means annotation 12, which .*mask_dict.json does not hold"):
        open_dataset(tmp_path)


def test_revos_has_a_file_of_expressions_for_each_split_and_one_of_masks(tmp_path):
    written = layouts.write_revos(tmp_path)
    dataset = open_dataset(tmp_path, split="train")
    check_labels(dataset, written)
    assert [one.object_ids for one in dataset.sequence("YFCC/v1").expressions] == [(1,), (1, 2)]
    assert dataset.fingerprint == open_dataset(tmp_path).fingerprint, "both splits say the same"
    with pytest.raises(TruthError, match="has no split 'test'; it has train, valid"):
        open_dataset(tmp_path, split="test")

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from tests.shared_data import data_folder
from tests.unit.truth import layouts
from tests.unit.truth.layouts import write_colours, write_images
from x2sam_ros.truth.open import open_dataset


def _classes(dataset, sequence, frame):
    """Draw the category numbers of a frame; -1 is ignored."""
    truth = sequence.truth(frame)
    drawn = np.full(truth.size, -1)
    categories = {thing.object_id: thing.category_id for thing in sequence.objects}
    for object_id in truth.object_ids:
        drawn[truth.mask_of(object_id)] = categories[object_id]
    ignored = np.zeros(truth.size, bool) if truth.ignore is None else truth.ignore
    np.testing.assert_array_equal(ignored, drawn == -1)
    return drawn


def test_camvid_makes_clips_of_images_whose_names_begin_alike(tmp_path):
    written = layouts.write_camvid(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [one.name for one in dataset.sequences] == list(written)
    assert len(dataset.categories) == 11 and dataset.categories[8].name == "Car"
    for sequence in dataset.sequences:
        for frame in sequence.frames():
            expected = written[sequence.name][frame.frame_index].astype(int)
            np.testing.assert_array_equal(_classes(dataset, sequence, frame), np.where(expected == 11, -1, expected))


def test_camvid_in_colours_is_read_by_its_list_of_colours(tmp_path):
    (tmp_path / "label_colors.txt").write_text("64 128 64\tAnimal\n0 0 0\t\tVoid\n192 0 128\t\tArchway\n")
    write_images(tmp_path / "701_StillsRaw_full", ["0001TP_006690.png", "0001TP_006720.png"])
    numbers = np.array([64 + 256 * 128 + 65536 * 64, 0, 192 + 65536 * 128])
    labels = layouts.moving_boxes(2)
    for name, frame in zip(("0001TP_006690_L.png", "0001TP_006720_L.png"), labels):
        write_colours(tmp_path / "LabeledApproved_full" / name, numbers[frame])
    dataset = open_dataset(tmp_path)
    assert [one.name for one in dataset.categories] == ["Animal", "Archway"]
    (clip,) = dataset.sequences
    for frame, expected in zip(clip.frames(), labels, strict=True):
        np.testing.assert_array_equal(_classes(dataset, clip, frame), np.array([0, -1, 1])[expected])


def test_sceneparse_ignores_0_and_takes_the_first_name(tmp_path):
    written = layouts.write_sceneparse(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [(one.category_id, one.name) for one in dataset.categories] == [(1, "wall"), (2, "door"), (3, "screen")]
    for sequence in dataset.sequences:
        (frame,) = sequence.frames()
        expected = written[sequence.name][0].astype(int)
        np.testing.assert_array_equal(_classes(dataset, sequence, frame), np.where(expected == 0, -1, expected))


def test_names_that_begin_alike_are_given_in_full(tmp_path):
    layouts.write_sceneparse(tmp_path)
    (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n1\tdoor\n2\tdoor, double door\n")
    assert [one.name for one in open_dataset(tmp_path).categories] == ["door", "door, double door"]


def test_real_ade20k_has_the_classes_that_its_json_names():
    root = data_folder("ade20k_sample")
    dataset = open_dataset(root)
    names = {category.category_id: category.name for category in dataset.categories}
    for sequence in dataset.sequences:
        said = json.loads((root / f"{sequence.name}.json").read_bytes().decode("latin-1"))["annotation"]["object"]
        listed = {thing["name_ndx"]: thing["name"] for thing in said if thing["parts"]["part_level"] == 0}
        (frame,) = sequence.frames()
        drawn = _classes(dataset, sequence, frame)
        assert set(np.unique(drawn).tolist()) - {-1} <= set(listed)
        assert all(listed[number].startswith(names[number]) for number in listed)
        pixels = np.array(Image.open(root / f"{sequence.name}_seg.png")).astype(int)
        expected = pixels[:, :, 0] // 10 * 256 + pixels[:, :, 1]
        np.testing.assert_array_equal(drawn, np.where(expected == 0, -1, expected))

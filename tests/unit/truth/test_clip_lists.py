from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.shared_data import DATA, data_folder
from tests.unit.truth.checks import check_labels, check_sequence
from tests.unit.truth.layouts import write_sequences
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.open import open_dataset


def test_clips_have_objects_categories_and_expressions_also_of_nothing(tmp_path):
    written = write_sequences(tmp_path)
    written["one"] = np.minimum(written["one"], 1)
    dataset = open_dataset(tmp_path)
    check_labels(dataset, written)
    assert [(category.category_id, category.name) for category in dataset.categories] == [(1, "dog"), (2, "car")]
    two = dataset.sequence("two")
    assert [(thing.object_id, thing.category_id) for thing in two.objects] == [(1, 1), (2, 2)]
    assert [(one.expression_id, one.text, one.object_ids) for one in two.expressions] == [
        ("1-0", "thing 1", (1,)),
        ("2-0", "thing 2", (2,)),
        ("none-0", "a whale", ()),
    ]


def test_a_folder_below_the_list_opens_its_clips(tmp_path):
    write_sequences(tmp_path)
    assert [one.name for one in open_dataset(tmp_path / "clips").sequences] == ["one", "two"]
    assert [one.name for one in open_dataset(tmp_path / "clips/two").sequences] == ["two"]
    assert len(open_dataset(tmp_path / "sequences.json").sequences) == 2


def test_a_clip_that_is_described_wrongly_leaves_the_others(tmp_path):
    written = write_sequences(tmp_path)
    said = json.loads((tmp_path / "sequences.json").read_text())
    del said[0]["n_frames"]
    (tmp_path / "sequences.json").write_text(json.dumps(said))
    dataset = open_dataset(tmp_path)
    for ask in (lambda one: one.frames(), lambda one: one.objects):
        with pytest.raises(TruthError, match="one: its annotation has another structure .*n_frames"):
            ask(dataset.sequence("one"))
    check_sequence(dataset.sequence("two"), written["two"])
    (tmp_path / "sequences.json").write_text(json.dumps([said[1], said[1]]))
    with pytest.raises(TruthError, match="2 sequences are called two"):
        open_dataset(tmp_path)
    (tmp_path / "sequences.json").write_text(json.dumps(said[:1]))
    with pytest.raises(TruthError, match="^one: its annotation"):
        open_dataset(tmp_path)


def _read(path: Path):
    return np.array(Image.open(path))


def test_real_clips_are_read_pixel_by_pixel():
    if not (DATA / "sequences.json").is_file():
        pytest.skip("no real data")
    dataset = open_dataset(DATA)
    for clip in json.loads((DATA / "sequences.json").read_text()):
        sequence = dataset.sequence(clip["name"])
        frames = list(sequence.frames())
        assert len(frames) == clip["n_frames"]
        for frame in frames[:: max(1, len(frames) // 4)]:
            truth = sequence.truth(frame)
            pixels = _read(DATA / clip["dir"] / (clip["masks"] % frame.frame_index))
            for thing in clip["objects"]:
                np.testing.assert_array_equal(truth.mask_of(thing["id"]), pixels == thing["mask_value"])
                is_absent = frame.frame_index in thing["absent_frames"]
                assert (thing["id"] not in truth.object_ids) == is_absent
        texts = [text for thing in clip["objects"] for text in thing["expressions"]]
        assert [one.text for one in sequence.expressions] == texts + (clip.get("negative_expressions") or [])


def test_real_classes_are_read_pixel_by_pixel():
    root = data_folder("camvid")
    dataset = open_dataset(root)
    for clip in json.loads((root / "clips.json").read_text()):
        sequence = dataset.sequence(clip["name"])
        objects = {thing.category_id: thing.object_id for thing in sequence.objects}
        for frame in list(sequence.frames())[:: clip["n_frames"] // 3]:
            truth = sequence.truth(frame)
            pixels = _read(root.parent / clip["dir"] / (clip["masks"] % frame.frame_index))
            for value, name in clip["mask_values"].items():
                if int(value) != clip["ignore_value"]:
                    np.testing.assert_array_equal(truth.mask_of(objects[int(value)]), pixels == int(value))
                    assert any(one.name == name for one in dataset.categories if one.category_id == int(value))
            np.testing.assert_array_equal(
                np.zeros_like(pixels, bool) if truth.ignore is None else truth.ignore, pixels == clip["ignore_value"]
            )

"""Layouts are told apart by what lies where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.truth import layouts
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.truth.dataset import Dataset, Kind
from x2sam_ros.truth.open import LAYOUTS, open_dataset

WRITERS: list[tuple[str, Callable[[Path], Any], Kind]] = [
    ("davis", layouts.write_davis, Kind.OBJECTS),
    ("sequences", layouts.write_sequences, Kind.OBJECTS),
    ("youtube-vos", layouts.write_youtube_vos, Kind.OBJECTS),
    ("youtube-vis", layouts.write_youtube_vis, Kind.INSTANCES),
    ("ref-youtube-vos", layouts.write_ref_youtube_vos, Kind.REFERRING),
    ("mevis", layouts.write_mevis, Kind.REFERRING),
    ("revos", layouts.write_revos, Kind.REFERRING),
    ("sa-1b", layouts.write_segment_anything, Kind.OBJECTS),
    ("vipseg", layouts.write_vipseg, Kind.PANOPTIC),
    ("coco-panoptic", layouts.write_coco_panoptic, Kind.PANOPTIC),
    ("coco-instances", layouts.write_coco_instances, Kind.INSTANCES),
    ("coco-images", layouts.write_coco_images, Kind.REFERRING),
    ("reasonseg", layouts.write_reasonseg, Kind.REFERRING),
    ("camvid", layouts.write_camvid, Kind.SEMANTIC),
    ("sceneparse150", layouts.write_sceneparse, Kind.SEMANTIC),
    ("gcg", layouts.write_gcg, Kind.CAPTIONS),
]


@pytest.mark.parametrize(("layout", "write", "kind"), WRITERS, ids=[name for name, _, _ in WRITERS])
def test_each_layout_is_found_and_its_truth_identified(tmp_path, layout, write, kind):
    assert layout in LAYOUTS
    write(tmp_path)
    found, named = open_dataset(tmp_path), open_dataset(tmp_path, layout)
    assert found.kind is kind
    assert [one.name for one in found.sequences] == [one.name for one in named.sequences]
    assert len(found.fingerprint) == 64 and found.fingerprint == named.fingerprint
    files = [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.png")]
    changed = next(file for file in files if layout == "reasonseg" or file.parent.name != "val")  # CamVid's images
    changed.write_bytes(changed.read_bytes() + b" ")
    assert open_dataset(tmp_path).fingerprint != found.fingerprint


@pytest.mark.parametrize("pattern", ["valid.json", "*/panoptic_val2017.json", "*/instances_val2017.json", "*GCG*.json"])
def test_annotation_files_can_be_given_themselves(tmp_path, pattern):
    for number, (_, write, _) in enumerate(WRITERS):
        write(tmp_path / str(number))
    (file,) = tmp_path.glob(f"*/{pattern}")
    root = tmp_path / file.relative_to(tmp_path).parts[0]
    assert open_dataset(file).fingerprint == open_dataset(root).fingerprint


def test_what_is_no_dataset_is_answered_with_what_was_looked_for(tmp_path):
    with pytest.raises(TruthError, match="does not exist"):
        open_dataset(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(TruthError, match="no known layout.*davis: JPEGImages.*youtube-vis: JSON"):
        open_dataset(tmp_path)
    with pytest.raises(TruthError, match="no known layout. Looked for: davis: .*ImageSets/$"):
        open_dataset(tmp_path, "davis")
    with pytest.raises(ConfigError, match="no layout is called 'daviz'; there are bag, davis"):
        open_dataset(tmp_path, "daviz")


def test_options_that_a_layout_does_not_have_are_refused(tmp_path):
    layouts.write_davis(tmp_path)
    with pytest.raises(ConfigError, match="layout davis, which has no topic; leave topic '/image' away"):
        open_dataset(tmp_path, topic="/image")
    with pytest.raises(ConfigError, match="stride is 0"):
        open_dataset(tmp_path, stride=0)


def _write_davis_list(root: Path, split: str) -> None:
    if not (root / "ImageSets").exists():
        layouts.write_davis(root)
        (root / "ImageSets/2017/val.txt").unlink()
    name = "bear" if split == "train" else "swan-2"
    (root / f"ImageSets/2017/{split}.txt").write_text(f"{name}\n", encoding="utf-8")


def _write_refs(root: Path, split: str) -> None:
    file = root / "grefs(unc).json"
    before = json.loads(file.read_text()) if file.exists() else []
    if not before:
        layouts.write_refcoco(root)
    said = {"sent_id": len(before), "sent": f"bike of {split}"}
    layouts.write_json(file, [*before, {"split": split, "image_id": 7, "ann_id": [31], "sentences": [said]}])


def _write_revos(root: Path, split: str) -> None:
    layouts.write_revos(root, (split,))
    file = root / f"meta_expressions_{split}_.json"
    file.write_text(file.read_text().replace("upper", split), encoding="utf-8")


def _write_ade20k(root: Path, split: str) -> None:
    name = f"ADE_{split}_1"
    folder = root / "images" / split / "street"
    layouts.write_images(folder, [f"{name}.jpg"])
    said = {"annotation": {"object": [{"name_ndx": 1, "name": f"wall of {split}", "parts": {"part_level": 0}}]}}
    layouts.write_json(folder / f"{name}.json", said)
    layouts.write_colours(folder / f"{name}_seg.png", np.full(layouts.SIZE, 256))


SPLITS = [
    (layouts.write_youtube_vos, "train", "valid"),
    (layouts.write_reasonseg, "train", "val"),
    (layouts.write_camvid, "train", "val"),
    (layouts.write_sceneparse, "training", "validation"),
    (_write_davis_list, "train", "val"),
    (_write_refs, "train", "val"),
    (_write_revos, "train", "valid"),
    (_write_ade20k, "training", "validation"),
]


@pytest.mark.parametrize(("write", "learnt", "scored"), SPLITS, ids=[write.__name__ for write, _, _ in SPLITS])
def test_which_split_is_meant_depends_on_what_it_is_for(tmp_path, write, learnt, scored):
    write(tmp_path, learnt)
    assert _which(open_dataset(tmp_path)) == _which(open_dataset(tmp_path, training=True)), "there is one only"
    write(tmp_path, scored)
    named = {split: _which(open_dataset(tmp_path, split=split)) for split in (learnt, scored)}
    assert len({*named.values()}) == 2
    assert _which(open_dataset(tmp_path)) == named[scored]
    assert _which(open_dataset(tmp_path, training=True)) == named[learnt]


def _which(dataset: Dataset) -> tuple[str, str]:
    return dataset.name, dataset.fingerprint


@pytest.mark.parametrize("write", [write for write, _, _ in SPLITS], ids=[write.__name__ for write, _, _ in SPLITS])
def test_where_no_split_is_for_training_they_are_listed(tmp_path, write):
    write(tmp_path, "val")
    write(tmp_path, "test")
    with pytest.raises(TruthError, match="'train' or 'training' or .*test.*val.*; give one"):
        open_dataset(tmp_path, training=True)


def test_json_of_another_structure_says_what_its_layout_needs(tmp_path):
    layouts.write_youtube_vos(tmp_path)
    layouts.write_json(tmp_path / "valid/meta.json", {"videos": ["v1"]})
    with pytest.raises(TruthError, match="has not the structure of youtube-vos .*meta.json, JPEGImages/"):
        open_dataset(tmp_path)
    (tmp_path / "valid/meta.json").write_text('{"videos": ')
    with pytest.raises(TruthError, match="meta.json is not whole JSON"):
        open_dataset(tmp_path)


def test_stride_and_rate_give_other_frames_the_same_truth(tmp_path):
    written = layouts.write_davis(tmp_path)["bear"]
    bear = open_dataset(tmp_path, stride=3, fps=20.0).sequence("bear")
    frames = list(bear.frames())
    assert [frame.stamp_ns for frame in frames] == [0, 150_000_000]
    assert (bear.truth(frames[1]).mask_of(1) == (written[3] == 1)).all()
    assert [frame.stamp_ns for frame in open_dataset(tmp_path).sequence("bear").frames()][1] == round(1e9 / 24)

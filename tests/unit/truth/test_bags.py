from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.shared_data import DATA, data_folder
from tests.unit.truth.checks import check_labels, check_sequence
from tests.unit.truth.layouts import CAMERA, LABELS, moving_boxes, write_bag
from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import header_fields
from x2sam_ros.errors import TruthError
from x2sam_ros.truth import bags
from x2sam_ros.truth.open import open_dataset

STAMPS = [1_000_000_000 * i + 7 for i in range(1, 5)]


def test_labels_are_matched_by_stamp_and_images_without_any_are_not_annotated(tmp_path):
    labels = moving_boxes()
    write_bag(tmp_path / "a.mcap", STAMPS, labels[[3, 0]], label_stamps=[STAMPS[3], STAMPS[0]])
    (bag,) = open_dataset(tmp_path / "a.mcap").sequences
    truths = [bag.truth(frame) for frame in bag.frames()]
    assert [truth is None for truth in truths] == [False, True, True, False]
    for truth, frame in ((truths[0], labels[0]), (truths[3], labels[3])):
        for value in (1, 2):
            np.testing.assert_array_equal(truth.mask_of(value), frame == value)
    assert [thing.object_id for thing in bag.objects] == [1, 2]


@pytest.mark.parametrize(("encoding", "sample"), [("mono8", "u1"), ("8UC1", "u1"), ("16UC1", "u2"), ("mono16", "u2")])
def test_encodings_of_label_images(tmp_path, encoding, sample):
    labels = moving_boxes().astype(sample)
    if sample == "u2":
        labels[labels == 2] = 40_000
    write_bag(tmp_path / "a.mcap", STAMPS, labels, encoding=encoding)
    (bag,) = open_dataset(tmp_path / "a.mcap").sequences
    check_sequence(bag, labels)


def test_a_folder_of_bags_is_a_sequence_each_and_a_bad_one_leaves_the_others(tmp_path):
    labels = moving_boxes()
    for name in ("b10", "b9"):
        (tmp_path / name).mkdir()
        write_bag(tmp_path / name / f"{name}.mcap", STAMPS, labels)
    check_labels(open_dataset(tmp_path), {"b9": labels, "b10": labels})
    (tmp_path / "b9/b9.mcap").write_bytes(b"no bag")
    dataset = open_dataset(tmp_path)
    with pytest.raises(TruthError, match="b9.mcap is empty or damaged"):
        dataset.sequence("b9").frames()
    check_sequence(dataset.sequence("b10"), labels)


def truths_of(folder, names, rounds=2):
    """Ask for every truth of some bags, one bag after the other, again and again; return how often labels were read."""
    reads = Counter()
    read = bags._stored_labels

    def counted(path, options):
        reads[path.stem] += 1
        return read(path, options)

    dataset = open_dataset(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bags, "_stored_labels", counted)
        for _ in range(rounds):
            for name in names:
                sequence = dataset.sequence(name)
                assert all(sequence.truth(frame) is not None for frame in sequence.frames())
    return [reads[name] for name in names]


def test_labels_of_several_bags_are_kept_up_to_a_cap(tmp_path, monkeypatch):
    labels, names = moving_boxes(), ["a", "b", "c", "d"]
    for name in names:
        write_bag(tmp_path / f"{name}.mcap", STAMPS, labels)
    assert truths_of(tmp_path, names) == [1, 1, 1, 1]
    monkeypatch.setattr(bags, "_kept", bags._Kept())
    monkeypatch.setattr(bags, "KEPT_BYTES", 1)
    assert truths_of(tmp_path, names) == [2, 2, 2, 2]
    assert truths_of(tmp_path, ["d"]) == [0], "the newest is kept whatever it takes"


def test_a_bag_that_is_written_anew_is_read_anew(tmp_path):
    labels = moving_boxes()
    for shown in (labels, labels[::-1]):
        path = tmp_path / "a.mcap"
        path.unlink(missing_ok=True)
        write_bag(path, STAMPS, shown)
        check_labels(open_dataset(path), {"a": shown})


def test_a_folder_of_files_is_a_sequence_each_or_one_recording_in_parts(tmp_path):
    labels = moving_boxes()
    for name in ("cup", "mug"):
        write_bag(tmp_path / f"{name}.mcap", STAMPS, labels)
    check_labels(open_dataset(tmp_path), {"cup": labels, "mug": labels})
    for number in (0, 1):
        part = tmp_path / "parts" / f"cup_{number}.mcap"
        part.parent.mkdir(exist_ok=True)
        write_bag(part, [stamp + number * 10**10 for stamp in STAMPS], labels)
    check_labels(open_dataset(tmp_path / "parts"), {"parts": np.concatenate([labels, labels])})


def test_label_info_gives_objects_names_and_lists_them(tmp_path):
    labels = moving_boxes()
    write_bag(tmp_path / "a.mcap", STAMPS, labels, info={1: "dog", 2: "cat", 3: "dog"})
    dataset = open_dataset(tmp_path / "a.mcap")
    check_labels(dataset, {"a": labels})
    assert [(one.category_id, one.name) for one in dataset.categories] == [(1, "cat"), (2, "dog")]
    assert [(one.object_id, one.category_id) for one in dataset.sequence("a").objects] == [(1, 2), (2, 1), (3, 2)]
    write_bag(tmp_path / "b.mcap", STAMPS, labels, info={1: "dog"})
    (bag,) = open_dataset(tmp_path / "b.mcap").sequences
    with pytest.raises(TruthError, match=r"a?b, frame 1, stamp 2.000000007 s of .*the value 2, which is none of those"):
        bag.truth(list(bag.frames())[1])


def test_the_topic_is_found_by_its_name_or_given(tmp_path):
    labels = moving_boxes()
    write_bag(tmp_path / "a.mcap", STAMPS, labels, topic="/robot/instances")
    with pytest.raises(
        TruthError, match="no topic with label images; image topics found: /camera/image_raw, /robot/inst"
    ):
        open_dataset(tmp_path / "a.mcap")
    (bag,) = open_dataset(tmp_path / "a.mcap", label_topic="/robot/instances").sequences
    check_sequence(bag, labels)
    with pytest.raises(TruthError, match="no image topic '/none'"):
        open_dataset(tmp_path / "a.mcap", label_topic="/none")


def test_bags_without_stamps_or_with_foreign_ones_are_refused(tmp_path):
    labels = moving_boxes()
    write_bag(tmp_path / "zero.mcap", [0] * 4, labels)
    with pytest.raises(
        TruthError, match="label image 1 of /ground_truth/label_image has the stamp of an earlier one, 0 ns"
    ):
        open_dataset(tmp_path / "zero.mcap").sequences[0].frames()
    write_bag(tmp_path / "other.mcap", STAMPS, labels, label_stamps=[stamp + 1 for stamp in STAMPS])
    with pytest.raises(TruthError, match="no label image .* has the stamp of an image .* 1000000008 and 1000000007 ns"):
        open_dataset(tmp_path / "other.mcap").sequences[0].frames()


def test_label_images_may_be_compressed_without_loss(tmp_path):
    labels = moving_boxes()
    topics = {CAMERA: "sensor_msgs/msg/Image", f"{LABELS}/compressed": "sensor_msgs/msg/CompressedImage"}
    for name, suffix in (("png", ".png"), ("jpeg", ".jpg")):
        with McapFile(tmp_path / f"{name}.mcap", topics) as file:
            for stamp, frame in zip(STAMPS, labels):
                file.add(CAMERA, stamp, image_fields(stamp, "camera", "mono8", frame))
                fields = {"header": header_fields(stamp, "camera"), "format": name}
                file.add(f"{LABELS}/compressed", stamp, {**fields, "data": cv2.imencode(suffix, frame)[1]})
    check_labels(open_dataset(tmp_path / "png.mcap"), {"png": labels})
    with pytest.raises(TruthError, match="label image 0 .*its format is 'jpeg'.*expected a grey PNG"):
        open_dataset(tmp_path / "jpeg.mcap").sequences[0].frames()


def test_label_images_of_another_size_or_encoding_are_refused(tmp_path):
    write_bag(tmp_path / "a.mcap", STAMPS, moving_boxes(), size=(48, 80))
    (bag,) = open_dataset(tmp_path / "a.mcap").sequences
    with pytest.raises(TruthError, match="a, frame 0, stamp 1.000000007 s of .*: its mask is 40x24, the image 80x48"):
        bag.truth(next(iter(bag.frames())))
    write_bag(tmp_path / "b.mcap", STAMPS, np.zeros((4, 24, 40), np.float32), encoding="32FC1")
    with pytest.raises(TruthError, match="its encoding is '32FC1'; expected one of mono8"):
        assert open_dataset(tmp_path / "b.mcap").sequences[0].objects


def test_real_bags_hold_the_masks_of_their_clips():
    root = data_folder("rosbags")
    clips = {clip["name"]: clip for clip in json.loads((DATA / "sequences.json").read_text())}
    dataset = open_dataset(root)
    assert dataset.sequences
    for bag in dataset.sequences:
        clip = clips[bag.name]
        assert [one.object_id for one in bag.objects] == [thing["id"] for thing in clip["objects"]]
        for frame in list(bag.frames())[:: clip["n_frames"] // 4]:
            pixels = np.array(Image.open(DATA / clip["dir"] / (clip["masks"] % frame.frame_index)))
            for thing in clip["objects"]:
                np.testing.assert_array_equal(bag.truth(frame).mask_of(thing["id"]), pixels == thing["mask_value"])

"""What is done about masks that are missing, too many, damaged, or of another size."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.unit.truth.checks import check_sequence
from tests.unit.truth.layouts import frame_names, write_davis, write_images, write_palette, write_youtube_vos
from x2sam_ros.errors import BagError, TruthError
from x2sam_ros.truth.open import open_dataset


@pytest.fixture
def davis(tmp_path):
    return tmp_path, write_davis(tmp_path)


def _masks(root, name="bear"):
    return root / "Annotations/480p" / name


def test_a_frame_without_a_mask_is_not_annotated(davis):
    root, written = davis
    (_masks(root) / "00001.png").unlink()
    bear = open_dataset(root).sequence("bear")
    truths = [bear.truth(frame) for frame in bear.frames()]
    assert [truth is None for truth in truths] == [False, True, False, False]
    np.testing.assert_array_equal(truths[3].mask_of(1), written["bear"][3] == 1)


def test_ids_that_vanish_and_come_back_are_absent_between(davis):
    root, _ = davis
    bear = open_dataset(root).sequence("bear")
    assert [bear.truth(frame).object_ids for frame in bear.frames()] == [(1,), (1, 2), (1,), (1, 2)]
    assert [thing.object_id for thing in bear.objects] == [1, 2]


def test_a_mask_of_another_size_names_sequence_frame_and_both_sizes(davis):
    root, _ = davis
    write_palette(_masks(root) / "00002.png", np.ones((12, 20), np.uint8))
    bear = open_dataset(root).sequence("bear")
    frames = list(bear.frames())
    assert bear.truth(frames[1]) is not None
    with pytest.raises(TruthError, match=r"bear, frame 2 \(.*00002.jpg\): its mask is 20x12, the image 40x24"):
        bear.truth(frames[2])


def test_a_corrupt_mask_names_sequence_frame_and_file(davis):
    root, _ = davis
    (_masks(root) / "00001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    bear = open_dataset(root).sequence("bear")
    with pytest.raises(TruthError, match=r"bear, frame 1: .*00001.png cannot be read as a mask"):
        bear.truth(list(bear.frames())[1])
    with pytest.raises(TruthError, match=r"00001.png cannot be read as a mask"):
        assert bear.objects
    check_sequence(open_dataset(root).sequence("swan-2"), davis[1]["swan-2"])


def test_masks_of_no_image_and_no_masks_at_all_are_refused(davis):
    root, _ = davis
    shutil.copy(_masks(root) / "00000.png", _masks(root) / "00004.png")
    with pytest.raises(TruthError, match=r"bear: 1 masks belong to no image, the first is .*00004.png"):
        open_dataset(root).sequence("bear").frames()
    shutil.rmtree(_masks(root))
    with pytest.raises(TruthError, match=r"bear: none of its 4 images has a mask; .*00000.png is missing"):
        open_dataset(root).sequence("bear").frames()


def test_a_sequence_without_frames_is_named_when_it_is_used(davis):
    root, written = davis
    shutil.rmtree(root / "JPEGImages/480p/bear")
    dataset = open_dataset(root)
    with pytest.raises(TruthError, match="bear: it has no frames"):
        dataset.sequence("bear").frames()
    check_sequence(dataset.sequence("swan-2"), written["swan-2"])


def test_images_that_cannot_be_read_are_left_out_and_the_others_keep_their_masks(davis):
    root, written = davis
    (root / "JPEGImages/480p/bear/00001.jpg").write_bytes(b"no picture")
    bear = open_dataset(root).sequence("bear")
    source = bear.frames()
    frames = list(source)
    assert source.problems.count == 1 and [frame.frame_index for frame in frames] == [0, 1, 2]
    np.testing.assert_array_equal(bear.truth(frames[1]).mask_of(1), written["bear"][2] == 1)
    for file in frame_names(4):
        (root / "JPEGImages/480p/bear" / file).write_bytes(b"")
    with pytest.raises(BagError, match="bear: no usable image"):
        list(open_dataset(root).sequence("bear").frames())


def test_an_id_that_the_list_does_not_have_is_refused(tmp_path):
    write_youtube_vos(tmp_path)
    write_palette(tmp_path / "valid/Annotations/v1/00005.png", np.full((24, 40), 7, np.uint8))
    video = open_dataset(tmp_path).sequence("v1")
    with pytest.raises(TruthError, match=r"v1, frame 5: .*00005.png: 960 pixels have the value 7.*listed \(1, 2\)"):
        video.truth(list(video.frames())[5])


def test_255_is_void_beside_other_values_and_the_object_where_it_is_alone(tmp_path):
    write_images(tmp_path / "JPEGImages/480p/a", frame_names(1))
    labels = np.array([[0, 1, 255, 2]] * 4, np.uint8).repeat(6, axis=0).repeat(10, axis=1)
    (tmp_path / "Annotations/480p/a").mkdir(parents=True)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("a\n")
    for pixels, ids in ((labels, (1, 2)), (np.where(labels == 1, 255, 0).astype(np.uint8), (1,))):
        Image.fromarray(pixels).save(tmp_path / "Annotations/480p/a/00000.png")
        (sequence,) = open_dataset(tmp_path).sequences
        truth = sequence.truth(next(iter(sequence.frames())))
        assert truth.object_ids == ids == tuple(thing.object_id for thing in sequence.objects)
        assert (truth.ignore is not None) == (len(ids) == 2)
    np.testing.assert_array_equal(truth.mask_of(1), labels == 1)

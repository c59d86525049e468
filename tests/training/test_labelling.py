"""Corrected masks as a bag with ground truth."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.replay.recordings import HEIGHT, START_NS, STEP_NS, WIDTH, picture
from tests.training.labels import FORMATS, FRAMES, expected, marked, read, whole, write, write_recording
from x2sam_ros.bag.source import Problems, open_source
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.training.label_cvat import write_label_constructor
from x2sam_ros.training.label_export import export_images, read_published
from x2sam_ros.training.labelling import (
    IMAGES_FOLDER,
    MAX_LABEL_CHARS,
    Mark,
    MarkedImage,
    image_name,
    settled,
    short_label,
    write_truth,
)
from x2sam_ros.truth.open import open_dataset


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_comes_back_as_ground_truth(form, tmp_path, recording, published):
    images = export_images(open_source(recording), read_published(published, Problems()), tmp_path)
    back = settled(read(write(form, images, tmp_path)))
    assert back.names == {1: "red", 2: "object"}
    assert [image.name for image in back.images] == [image_name(i, START_NS + i * STEP_NS) for i in range(FRAMES)]
    for image, one in zip(back.images, images, strict=True):
        assert image.size == one.size == (HEIGHT, WIDTH)
        for mark, wanted in zip(image.marks, one.marks, strict=True):
            assert (mark.label, mark.object_id) == (wanted.label, wanted.object_id)
            np.testing.assert_array_equal(mark.runs, wanted.runs)
    written = write_truth(back, open_source(recording), tmp_path / "truth.mcap")
    assert tuple(written) == (FRAMES, FRAMES, 0)
    dataset = open_dataset(tmp_path / "truth.mcap")
    (bag,) = dataset.sequences
    categories = {category.category_id: category.name for category in dataset.categories}
    assert {one.object_id: categories[one.category_id] for one in bag.objects} == back.names
    for frame in bag.frames():
        np.testing.assert_array_equal(frame.image, picture(frame.frame_index))
        assert (frame.stamp_ns, frame.frame_id) == (START_NS + frame.frame_index * STEP_NS, "camera")
        truth = bag.truth(frame)
        assert truth is not None
        wanted = expected(frame.frame_index)
        assert truth.object_ids == tuple(wanted)
        for number, mask in wanted.items():
            np.testing.assert_array_equal(truth.mask_of(number), mask)


def test_images_between_those_that_were_exported_are_not_annotated(tmp_path, recording, published):
    images = export_images(open_source(recording, stride=2), read_published(published, Problems()), tmp_path)
    assert sorted(file.name for file in (tmp_path / IMAGES_FOLDER).iterdir()) == [image.name for image in images]
    images[0] = replace(images[0], marks=())  # a person found that nothing is there
    write_truth(settled(images), open_source(recording), tmp_path / "truth.mcap")
    (bag,) = open_dataset(tmp_path / "truth.mcap").sequences
    truths = [bag.truth(frame) for frame in bag.frames()]
    assert [None if truth is None else truth.object_ids for truth in truths] == [(), None, (1, 2), None, (1, 2)]


def test_marks_without_a_number_are_told_apart_by_their_label():
    one, other = np.eye(4, dtype=bool), np.zeros((4, 4), bool)
    other[0, 1:] = True
    first = marked(Mark("cup", encode_rle(one), 2), Mark("mug", encode_rle(other)), Mark("cup", encode_rle(other), 2))
    second = marked(Mark("mug", encode_rle(one)), Mark("jug", encode_rle(other)), number=1)
    images, names, by_label, empty = settled([first, second])
    assert by_label == 0 and empty == ()
    assert names == {1: "mug", 2: "cup", 3: "jug"}
    assert [[mark.object_id for mark in image.marks] for image in images] == [[1, 2], [1, 3]]
    np.testing.assert_array_equal(decode_rle(images[0].marks[1].runs, 4, 4), one | other)
    with pytest.raises(TruthError, match="000001_1.jpg: 2 masks are called 'mug' and do not say which object"):
        settled([first, marked(Mark("mug", encode_rle(one)), Mark("mug", encode_rle(other)), number=1)])
    with pytest.raises(TruthError, match="object 2 is called 'mug' here and 'cup' on an earlier image"):
        settled([first, marked(Mark("mug", encode_rle(one), 2), number=1)])
    with pytest.raises(TruthError, match="object 70000 is none; numbers go from 1 to 65535"):
        settled([marked(Mark("mug", encode_rle(one), 70_000))])


def test_where_objects_overlap_the_smaller_one_is_on_top(tmp_path):
    recording = write_recording(tmp_path / "clip.mcap", frames=1)
    large, small = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    large[4:40, 4:40], small[10:20, 10:20] = True, True
    marks = (Mark("small", encode_rle(small), 300), Mark("large", encode_rle(large), 1))
    labelled = settled([MarkedImage(image_name(0, START_NS), (HEIGHT, WIDTH), marks)])
    assert tuple(write_truth(labelled, open_source(recording), tmp_path / "truth.mcap")) == (1, 1, 1)
    (bag,) = open_dataset(tmp_path / "truth.mcap").sequences
    truth = bag.truth(next(iter(bag.frames())))
    assert truth is not None
    np.testing.assert_array_equal(truth.mask_of(300), small)
    np.testing.assert_array_equal(truth.mask_of(1), large & ~small)


def test_a_mask_that_was_drawn_anew_is_of_the_object_that_has_its_label():
    images = [marked(Mark("cup", whole(0), 5), Mark("mug", whole(1), 6), number=n) for n in range(3)]
    images[1] = marked(Mark("mug", whole(1), 6), Mark("cup", whole(2)), number=1)
    back = settled(images)
    assert back.names == {5: "cup", 6: "mug"} and back.by_label == 1
    assert [[mark.object_id for mark in image.marks] for image in back.images] == [[5, 6]] * 3
    np.testing.assert_array_equal(back.images[1].marks[0].runs, whole(2))
    tracked = [marked(Mark("cup", whole(0), track="7")), marked(Mark("cup", whole(1)), number=1)]
    assert settled(tracked).names == {1: "cup"} and settled(tracked).by_label == 1


def test_a_mask_that_was_wiped_out_is_none(tmp_path):
    """It names nothing, and makes nothing unclear."""
    cup, gone = Mark("cup", whole(0), 5), Mark("mug", whole(), 7)
    images = [marked(cup), marked(gone, Mark("cup", whole(), 6), number=1), marked(Mark("cup", whole(1)), number=2)]
    back = settled(read(write("coco", images, tmp_path)))
    assert back.names == {5: "cup"} and back.empty == ("000001_1.jpg",) * 2 and back.by_label == 1
    assert [[mark.object_id for mark in image.marks] for image in back.images] == [[5], [], [5]]


def test_an_image_with_the_stamp_of_an_annotated_one_gets_no_labels_of_it(tmp_path, recording, published):
    images = settled(export_images(open_source(recording), read_published(published, Problems()), tmp_path))
    source = open_source(write_recording(tmp_path / "twice.mcap", shown=[(0, 0), (0, 0), (1, 1), (1, 3), (2, 2)]))
    assert write_truth(settled(images.images[:3]), source, tmp_path / "truth.mcap").images == 4
    assert source.problems.messages == [
        f"image 3 left out: an earlier one, which is annotated, has its stamp, {START_NS + STEP_NS} ns, and shows "
        "something else"
    ]
    (bag,) = open_dataset(tmp_path / "truth.mcap").sequences
    for frame, index in zip(bag.frames(), (0, 0, 1, 2), strict=True):
        np.testing.assert_array_equal(bag.truth(frame).mask_of(1), expected(index)[1])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([[Mark("cup", whole(0), 5), Mark("cup", whole(1))]], "000000_0.jpg: 2 masks are called 'cup'"),
        (
            [[Mark("cup", whole(0), 5), Mark("cup", whole(1), 6)], [Mark("cup", whole(2))]],
            "000001_1.jpg: a mask is called 'cup' and does not say which object it is of, 5, 6 or a new one; give it",
        ),
        (
            [[Mark("cup", whole(0), 5)], [Mark("cup", whole(2), track="1")]],
            "000001_1.jpg: a track is called 'cup' and does not say which object it is of, 5 or a new one",
        ),
        (
            [[Mark("cup", whole(0), track="1"), Mark("cup", whole(2), track="2")], [Mark("cup", whole(1))]],
            "a mask is called 'cup' and does not say which object it is of, one of 2 tracks or a new one",
        ),
    ],
)
def test_what_may_be_of_several_objects_is_refused(images, said):
    with pytest.raises(TruthError, match=said):
        settled([marked(*marks, number=number) for number, marks in enumerate(images)])


LONG = tuple("the cup beside the plate on the table near the window of the kitchen " * 3 + end for end in ("", "!"))


@pytest.mark.parametrize("form", FORMATS)
def test_long_labels_fit_cvat_and_come_back_whole(form, tmp_path):
    (tmp_path / IMAGES_FOLDER).mkdir()
    marks = [Mark(label, whole(row), row + 1) for row, label in enumerate((*LONG, "cup"))]
    images = [marked(*marks), marked(*marks, number=1)]
    for image in images:
        Image.new("RGB", (4, 4)).save(tmp_path / IMAGES_FOLDER / image.name)
    path = write(form, images, tmp_path)
    write_label_constructor(images, tmp_path / "labels.json")
    said = json.loads((tmp_path / "labels.json").read_text())
    names = [one["name"] for one in said]
    assert len(set(names)) == 3 and names[2] == "cup" and all(len(name) <= MAX_LABEL_CHARS for name in names)
    assert [len(one["attributes"]) for one in said] == [2, 2, 1]
    assert all(len(one["default_value"]) <= 128 for label in said for one in label["attributes"])
    assert settled(read(path)).names == {1: LONG[0], 2: LONG[1], 3: "cup"}
    text = path.read_text(encoding="utf-8")
    assert all(name in text for name in names), "the file has the labels of the task"
    path.write_text(text.replace(names[0], "mug"), encoding="utf-8")  # a person gives it another label
    assert settled(read(path)).names == {1: "mug", 2: LONG[1], 3: "cup"}


def test_a_shortened_label_without_its_text_has_that_of_other_masks():
    anew = Mark(short_label(LONG[0]), whole(3))
    images, names, by_label, _ = settled([marked(Mark(LONG[0], whole(0), 4)), marked(anew, number=1)])
    assert names == {4: LONG[0]} and by_label == 1 and images[1].marks[0].label == LONG[0]
    with pytest.raises(TruthError, match="000000_0.jpg: the label .* is short for a longer text, which no mask"):
        settled([marked(anew)])
    assert short_label("x" * MAX_LABEL_CHARS) == "x" * MAX_LABEL_CHARS


def test_masks_of_another_recording_are_refused(tmp_path, recording, published):
    found = read_published(published, Problems())
    small = write_recording(tmp_path / "small.mcap", height=40)
    with pytest.raises(TruthError, match="image 0 is 64x40, its masks 64x48"):
        export_images(open_source(small), found, tmp_path)
    with pytest.raises(TruthError, match="none of its images has masks; the first stamps are"):
        export_images(open_source(recording), {stamp + 1: image for stamp, image in found.items()}, tmp_path)
    images = export_images(open_source(recording), found, tmp_path)
    short = write_recording(tmp_path / "short.mcap", frames=3)
    with pytest.raises(TruthError, match="2 of 5 annotated images are not in it, the first is 000003_"):
        write_truth(settled(images), open_source(short), tmp_path / "truth.mcap")
    assert not (tmp_path / "truth.mcap").exists()
    renamed = settled([replace(images[0], name="frame_000000.PNG")])
    with pytest.raises(TruthError, match="'frame_000000.PNG' is no name that x2sam label gave an image"):
        write_truth(renamed, open_source(recording), tmp_path / "truth.mcap")
    with pytest.raises(TruthError, match="clip.mcap has no masks: no topic of type x2sam_ros/msg/TrackedMaskArray"):
        read_published(recording, Problems())
    with pytest.raises(
        TruthError, match="there are no masks on '/no'; choose one of those that have any: /x2sam/masks"
    ):
        read_published(published, Problems(), "/no")
    with pytest.raises(TruthError, match="none.mcap does not exist; give the bag"):
        read_published(tmp_path / "none.mcap", Problems())
    with pytest.raises(TruthError, match="000000_.* and 000000_.* have one stamp; keep each image of an export once"):
        write_truth(settled([images[0], images[0], *images]), open_source(recording), tmp_path / "truth.mcap")
    with pytest.raises(TruthError, match="no mask is marked, and 0 images are listed"):
        write_truth(settled([]), open_source(recording), tmp_path / "truth.mcap")


def test_a_full_disk_and_an_interruption_leave_no_half_of_a_bag(tmp_path, recording, published):
    labelled = settled(export_images(open_source(recording), read_published(published, Problems()), tmp_path))
    out = tmp_path / "truth.mcap"
    out.write_bytes(b"what was there")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(TruthError, match="stopped; .*truth.mcap was not written"):
        write_truth(labelled, open_source(recording), out, on_frame=stop)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # what is larger fails as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_truth(labelled, open_source(recording), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == b"what was there" and not list(tmp_path.glob(".*part*"))

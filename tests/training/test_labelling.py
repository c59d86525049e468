from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.replay.recordings import HEIGHT, START_NS, STEP_NS, WIDTH, ColourSession, picture
from x2sam_ros.bag.mcap_file import McapFile
from x2sam_ros.bag.messages import header_fields
from x2sam_ros.bag.replay import ScheduledPrompt, run_replay
from x2sam_ros.bag.source import open_source
from x2sam_ros.bag.writer import ResultWriter
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.training.label_coco import read_coco, write_coco
from x2sam_ros.training.label_cvat import read_cvat, write_cvat_images, write_cvat_video, write_label_constructor
from x2sam_ros.training.labelling import (
    IMAGES_FOLDER,
    Mark,
    MarkedImage,
    export_images,
    image_name,
    read_published,
    settled,
    write_truth,
)
from x2sam_ros.truth.open import open_dataset
from x2sam_ros.types import PointPrompt, TextPrompt

FRAMES = 5
IMAGE = "sensor_msgs/msg/Image"
FORMATS = ("coco", "cvat-images", "cvat-video")


def write_recording(path: Path, frames: int = FRAMES, height: int = HEIGHT) -> Path:
    with McapFile(path, {"/camera/image_raw": IMAGE}) as bag:
        for index in range(frames):
            stamp, image = START_NS + index * STEP_NS, picture(index)[:height]
            fields = {"height": height, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": WIDTH * 3}
            said = {"header": header_fields(stamp, "camera"), **fields, "data": image.reshape(-1)}
            bag.add("/camera/image_raw", stamp, said)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "clip.mcap")


@pytest.fixture
def published(tmp_path: Path, recording: Path) -> Path:
    """What a replay writes: a named target, and one that was clicked and has no name."""
    path = tmp_path / "results.mcap"
    schedule = [
        ScheduledPrompt(TextPrompt("a", text="red"), "red"),
        ScheduledPrompt(PointPrompt("b", points_px=np.array([[45.0, 35.0]])), "click", at_s=0.15),
    ]
    with ResultWriter(path) as writer:
        run_replay(open_source(recording), ColourSession(), [writer], schedule)
    return path


def expected(index: int) -> dict[int, np.ndarray]:
    image = picture(index).astype(int)
    masks = {1: np.abs(image - (230, 20, 20)).sum(axis=2) < 60}
    if index >= 2:
        masks[2] = np.abs(image - (20, 20, 230)).sum(axis=2) < 60
    return masks


def write(form: str, images: list[MarkedImage], folder: Path) -> Path:
    path = folder / ("a.json" if form == "coco" else "a.xml")
    {"coco": write_coco, "cvat-images": write_cvat_images, "cvat-video": write_cvat_video}[form](images, path)
    return path


def read(path: Path) -> list[MarkedImage]:
    return read_coco(path) if path.suffix == ".json" else read_cvat(path, path.parent / IMAGES_FOLDER)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_comes_back_as_ground_truth(form, tmp_path, recording, published):
    images = export_images(open_source(recording), read_published(published), tmp_path)
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
    images = export_images(open_source(recording, stride=2), read_published(published), tmp_path)
    assert sorted(file.name for file in (tmp_path / IMAGES_FOLDER).iterdir()) == [image.name for image in images]
    images[0] = replace(images[0], marks=())  # a person found that nothing is there
    write_truth(settled(images), open_source(recording), tmp_path / "truth.mcap")
    (bag,) = open_dataset(tmp_path / "truth.mcap").sequences
    truths = [bag.truth(frame) for frame in bag.frames()]
    assert [None if truth is None else truth.object_ids for truth in truths] == [(), None, (1, 2), None, (1, 2)]


def test_pycocotools_reads_the_same_masks(tmp_path, recording, published):
    images = export_images(open_source(recording), read_published(published), tmp_path)
    coco = COCO(write("coco", images, tmp_path))
    for index, image_id in enumerate(coco.getImgIds()):
        assert (tmp_path / IMAGES_FOLDER / coco.loadImgs(image_id)[0]["file_name"]).is_file()
        found = {one["attributes"]["object_id"]: one for one in coco.loadAnns(coco.getAnnIds(image_id))}
        assert list(found) == list(expected(index))
        for number, mask in expected(index).items():
            np.testing.assert_array_equal(coco.annToMask(found[number]), mask)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (found[number]["bbox"], found[number]["area"]) == (box, mask.sum())


def test_masks_of_cvat_are_rows_inside_a_box(tmp_path):
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5], mask[2, 3] = True, True
    write("cvat-images", [MarkedImage(image_name(0, 5), (4, 6), (Mark("cup", encode_rle(mask), 7),))], tmp_path)
    (shape,) = ElementTree.parse(tmp_path / "a.xml").iter("mask")
    said = {name: shape.get(name) for name in ("label", "left", "top", "width", "height", "rle")}
    assert said == {"label": "cup", "left": "2", "top": "1", "width": "3", "height": "2", "rle": "0, 3, 1, 1, 1"}
    assert shape.findtext("attribute[@name='object_id']") == "7"


def test_masks_of_a_video_are_tracks_of_one_frame_each(tmp_path):
    """Of a longer track of masks CVAT reads the first mask only."""
    runs = encode_rle(np.eye(4, dtype=bool))
    write("cvat-video", [MarkedImage(image_name(i, i), (4, 4), (Mark("cup", runs, 3),)) for i in range(3)], tmp_path)
    tracks = list(ElementTree.parse(tmp_path / "a.xml").iter("track"))
    shown = [[(shape.get("frame"), shape.get("outside")) for shape in track] for track in tracks]
    assert shown == [[("0", "0"), ("1", "1")], [("1", "0"), ("2", "1")], [("2", "0")]]


def test_labels_of_a_cvat_task_have_the_attribute(tmp_path):
    runs = encode_rle(np.eye(4, dtype=bool))
    marks = (Mark("cup", runs, 1), Mark("bad\x01name", runs, 2))
    write_label_constructor([MarkedImage(image_name(0, 1), (4, 4), marks)], tmp_path / "labels.json")
    said = json.loads((tmp_path / "labels.json").read_text())
    assert [one["name"] for one in said] == ["cup", "bad\ufffdname"]
    assert [one["attributes"][0]["name"] for one in said] == ["object_id", "object_id"]
    write("cvat-images", [MarkedImage(image_name(0, 1), (4, 4), marks)], tmp_path)
    assert [mark.label for mark in read(tmp_path / "a.xml")[0].marks] == ["cup", "bad\ufffdname"]


def cvat(body: str, mode: str = "annotation") -> str:
    size = "<original_size><width>8</width><height>6</height></original_size>"
    meta = f"<version>1.1</version><meta><task><mode>{mode}</mode>{size}</task></meta>"
    return f"<?xml version='1.0'?><annotations>{meta}{body}</annotations>"


def test_a_track_of_polygons_is_one_object_until_it_is_outside(tmp_path):
    (tmp_path / IMAGES_FOLDER).mkdir()
    for index in range(3):
        Image.new("RGB", (8, 6)).save(tmp_path / IMAGES_FOLDER / image_name(index, 10 * index))
    shape = "<polygon frame='{}' keyframe='1' outside='{}' points='1,1;5,1;5,4;1,4'/>"
    body = f"<track id='0' label='cup'>{shape.format(0, 0)}{shape.format(1, 0)}{shape.format(2, 1)}</track>"
    body += f"<track id='1' label='cup'>{shape.format(2, 0)}{shape.format(1, 0)}</track>"
    (tmp_path / "a.xml").write_text(cvat(body, "interpolation"))
    images, names = settled(read(tmp_path / "a.xml"))
    assert names == {1: "cup", 2: "cup"}
    assert [[mark.object_id for mark in image.marks] for image in images] == [[1], [1, 2], [2]]
    assert [image.stamp_ns for image in images] == [0, 10, 20]
    mask = np.zeros((6, 8), bool)
    mask[1:4, 1:5] = True
    np.testing.assert_array_equal(decode_rle(images[0].marks[0].runs, 6, 8), mask)
    with pytest.raises(TruthError, match="it is on frame 2, and .* has 2 pictures"):
        (tmp_path / IMAGES_FOLDER / image_name(2, 20)).unlink()
        read(tmp_path / "a.xml")


def marked(*marks: Mark, number: int = 0) -> MarkedImage:
    return MarkedImage(image_name(number, number), (4, 4), marks)


def test_marks_without_a_number_are_told_apart_by_their_label():
    one, other = np.eye(4, dtype=bool), np.zeros((4, 4), bool)
    other[0, 1:] = True
    first = marked(Mark("cup", encode_rle(one), 2), Mark("mug", encode_rle(other)), Mark("cup", encode_rle(other), 2))
    second = marked(Mark("mug", encode_rle(one)), Mark("jug", encode_rle(other)), number=1)
    images, names = settled([first, second])
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


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<image id='0' name='0_1.jpg' width='8' height='6'><box label='cup'/></image>", "a box has no mask"),
        (
            "<image id='0' name='0_1.jpg' width='8' height='6'>"
            "<mask label='cup' rle='0, 9' left='6' top='0' width='3' height='3'/></image>",
            "a mask at 6,0 of 3x3 leaves the image of 8x6",
        ),
        (
            "<image id='0' name='0_1.jpg' width='8' height='6'>"
            "<mask label='cup' rle='0, 8' left='1' top='0' width='3' height='3'/></image>",
            "0_1.jpg: a segmentation is damaged .*add up to 8",
        ),
        (
            "<image id='0' name='0_1.jpg' width='8' height='6'><polygon label='cup' points='1,1;2,2'/></image>",
            "0_1.jpg: ",
        ),
        ("<image id='0' name='0_1.jpg' width='8' height='6'><mask rle='1'/></image>", "is no CVAT 1.1 XML .*label"),
        ("<image", "is no CVAT 1.1 XML"),
    ],
)
def test_cvat_files_that_say_no_masks_are_refused(tmp_path, body, said):
    (tmp_path / "a.xml").write_text(cvat(body))
    with pytest.raises(TruthError, match=said):
        read(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": []}, "annotation 1 of .*: it has a box and no mask"),
        (
            {"segmentation": {"size": [3, 4], "counts": [12]}},
            r"annotation 1 of .*: .* size \(3, 4\), its image \(4, 4\)",
        ),
        ({"segmentation": {"size": [10**5, 10**5], "counts": [0, 10**10]}}, r"annotation 1 of .*: .* size \(100000, "),
        ({"segmentation": {"size": [4, 4], "counts": [2**62, 2**62, 2**62, 2**62, 16]}}, "segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": [10**30]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": [-4, 20]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4]}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": [[0, 0, float("nan"), 1, 2, 2]]}, "annotation 1 of .*: a segmentation is damaged"),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, "annotation 1 of .*: its mask has no pixel"),
        ({"segmentation": {"size": [4, 4], "counts": "zzz"}}, "annotation 1 of .*: a segmentation is damaged"),
        ({"image_id": 9}, "annotation 1: there is no image 9; correct"),
        ({"category_id": "cup"}, "annotation 1: there is no category 'cup'; correct"),
        ({"attributes": {"object_id": float("inf")}}, "is no COCO instances JSON"),
        ({"attributes": [7]}, "is no COCO instances JSON"),
    ],
)
def test_coco_files_that_say_no_masks_are_refused(tmp_path, change, said):
    path = write("coco", [marked(Mark("cup", encode_rle(np.eye(4, dtype=bool)), 1))], tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(TruthError, match=said):
        read(path)


def test_what_comes_twice_in_coco_is_refused_and_polygons_are_read(tmp_path):
    path = write("coco", [marked(Mark("cup", encode_rle(np.eye(4, dtype=bool)), 1))], tmp_path)
    content = json.loads(path.read_text())
    for kind in ("images", "annotations", "categories"):
        path.write_text(json.dumps({**content, kind: content[kind] * 2}))
        with pytest.raises(TruthError, match=f"{kind}: the id 1 comes more than once"):
            read(path)
    for size in (0, -4, 10**6):
        path.write_text(json.dumps({**content, "images": [{**content["images"][0], "width": size, "height": size}]}))
        with pytest.raises(TruthError, match=f"image 1: an image of {size}x{size} pixels is none"):
            read(path)
    pieces = [[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 4, 3, 4, 4, 3, 4]]
    path.write_text(json.dumps({**content, "annotations": [{**content["annotations"][0], "segmentation": pieces}]}))
    mask = np.zeros((4, 4), bool)
    mask[:2, :2], mask[3, 3] = True, True
    np.testing.assert_array_equal(decode_rle(read(path)[0].marks[0].runs, 4, 4), mask)


IMAGE_ELEMENT = "<image id='0' name='0_1.jpg' width='8' height='6'>{}</image>"
BOMB = "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;'>]><annotations>&c;</annotations>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "is no CVAT 1.1 XML .*it has a document type 'a'"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/hostname'><annotations/>", "document type"),
        ("<?xml version='1.0' encoding='klingon'?><annotations/>", "is no CVAT 1.1 XML .*klingon"),
        (cvat(IMAGE_ELEMENT.format("<blob label='cup'/>")), "0_1.jpg: a blob has no mask; draw"),
        (cvat("<image id='0' name='0_1.jpg' width='99999999' height='99999999'/>"), "an image of 99999999x99999999"),
        (
            cvat(
                IMAGE_ELEMENT.format(
                    "<mask label='a' rle='0, 99999999999999999999' left='0' top='0' width='1' height='1'/>"
                )
            ),
            "0_1.jpg: a segmentation is damaged",
        ),
        (
            cvat(
                IMAGE_ELEMENT.format(
                    "<mask label='a' rle='0, 1' left='0' top='0' width='1' height='1'>"
                    "<attribute name='object_id'>inf</attribute></mask>"
                )
            ),
            "is no CVAT 1.1 XML",
        ),
        (cvat(IMAGE_ELEMENT.format("") + "<track id='0' label='cup'/>"), "it has both images and tracks"),
    ],
)
def test_hostile_cvat_files_are_refused_before_they_cost_anything(tmp_path, text, said):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(TruthError, match=said):
        read(tmp_path / "a.xml")


def test_what_cvat_says_beside_masks_is_left_aside(tmp_path):
    """Tags of a whole image, states, unknown attributes and sections; a job instead of a task; images of a video."""
    mask = "<mask label='cup' source='semi-auto' occluded='1' rle='0, 1' left='0' top='0' width='1' height='1'>"
    mask += "<attribute name='colour'>red</attribute><attribute name='object_id'>4</attribute></mask>"
    body = IMAGE_ELEMENT.format(f"<tag label='blurred'/>{mask}")
    meta = "<version>1.1</version><meta><job><mode>interpolation</mode></job><extra/></meta><unknown/>"
    (tmp_path / "a.xml").write_text(f"<annotations>{meta}{body}</annotations>")
    (image,) = read(tmp_path / "a.xml")
    assert [(mark.label, mark.object_id) for mark in image.marks] == [("cup", 4)]


def test_a_video_task_made_of_pictures_does_not_say_their_size(tmp_path):
    track = "<track id='0' label='cup' task_id='{}'><polygon frame='0' outside='0' occluded='1' keyframe='0' "
    track += "points='1,1;5,1;5,4;1,4'/></track>"
    (tmp_path / "a.xml").write_text(f"<annotations><meta><job/></meta>{track.format(1)}</annotations>")
    (tmp_path / IMAGES_FOLDER).mkdir()
    with pytest.raises(TruthError, match="has no picture"):
        read(tmp_path / "a.xml")
    Image.new("RGB", (8, 6)).save(tmp_path / IMAGES_FOLDER / image_name(0, 10))
    (image,) = read(tmp_path / "a.xml")
    assert image.size == (6, 8) and decode_rle(image.marks[0].runs, 6, 8).sum() == 12
    (tmp_path / "a.xml").write_text(f"<annotations>{track.format(1)}{track.format(2)}</annotations>")
    with pytest.raises(TruthError, match="holds several tasks"):
        read(tmp_path / "a.xml")


def test_masks_of_another_recording_are_refused(tmp_path, recording, published):
    found = read_published(published)
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
    with pytest.raises(TruthError, match="which topic has the masks"):
        read_published(recording)


def test_a_full_disk_and_an_interruption_leave_no_half_of_a_bag(tmp_path, recording, published):
    labelled = settled(export_images(open_source(recording), read_published(published), tmp_path))
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

"""Marks as CVAT holds them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.training.labels import read, write
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle, encode_rle
from x2sam_ros.training.label_cvat import write_label_constructor
from x2sam_ros.training.labelling import IMAGES_FOLDER, Mark, MarkedImage, image_name, settled


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
    images, names = settled(read(tmp_path / "a.xml"))[:2]
    assert names == {1: "cup", 2: "cup"}
    assert [[mark.object_id for mark in image.marks] for image in images] == [[1], [1, 2], [2]]
    assert [image.stamp_ns for image in images] == [0, 10, 20]
    mask = np.zeros((6, 8), bool)
    mask[1:4, 1:5] = True
    np.testing.assert_array_equal(decode_rle(images[0].marks[0].runs, 6, 8), mask)
    with pytest.raises(TruthError, match="it is on frame 2, and .* has 2 pictures"):
        (tmp_path / IMAGES_FOLDER / image_name(2, 20)).unlink()
        read(tmp_path / "a.xml")


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


def test_a_mask_without_a_pixel_is_none(tmp_path):
    shapes = "<mask label='mug' rle='9' left='1' top='0' width='3' height='3'/>"
    shapes += "<mask label='cup' rle='0, 9' left='1' top='0' width='3' height='3'/>"
    (tmp_path / "a.xml").write_text(cvat(IMAGE_ELEMENT.format(shapes)))
    back = settled(read(tmp_path / "a.xml"))
    assert back.names == {1: "cup"} and back.empty == ("0_1.jpg",)


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

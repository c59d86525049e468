"""Marked images as CVAT for images 1.1 and CVAT for video 1.1 XML, and back.

Source: the format as https://docs.cvat.ai/docs/other/xml_format describes it. A mask is run lengths inside its box, row
by row, zeros first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from x2sam_ros.bag.media import IMAGE_SUFFIXES, read_image
from x2sam_ros.errors import TruthError, told
from x2sam_ros.rle import decode_rle, encode_rle, mask_to_box_rle
from x2sam_ros.training.label_coco import OBJECT_ID
from x2sam_ros.training.labelling import (
    MAX_OBJECT_ID,
    WHOLE_TEXT,
    Mark,
    MarkedImage,
    checked_size,
    label_names,
    runs_of,
    short_label,
    whole_label,
)
from x2sam_ros.truth.label_maps import mask_of_segmentation
from x2sam_ros.truth.sequences import MALFORMED
from x2sam_ros.types import BoolArray

LABELS_FILE = "labels.json"

_MAX_DEFAULT_CHARS = 128
"""Longest default that CVAT lets an attribute have. Source: cvat/apps/engine/models.py."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHAPES = ("mask", "polygon")
_TAG = "tag"  # says something of a whole image


def write_label_constructor(images: list[MarkedImage], path: Path) -> None:
    """Write the labels as the raw constructor of a CVAT task takes them, so that objects keep their numbers."""
    said = [{"name": short_label(name), "attributes": _attributes(name)} for name in _names(images)]
    path.write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")


def _names(images: list[MarkedImage]) -> list[str]:
    return list(dict.fromkeys(map(_clean, label_names(images))))


def _attributes(name: str) -> list[dict[str, Any]]:
    """Return the attributes of a label: the number of the object and, if it is shortened, its whole text."""
    numbers = {"input_type": "number", "default_value": "0", "values": ["0", str(MAX_OBJECT_ID), "1"]}
    found: list[dict[str, Any]] = [{"name": OBJECT_ID, "mutable": True, **numbers}]
    if short_label(name) != name:
        start = name[:_MAX_DEFAULT_CHARS]  # the whole text, where it fits: masks that are drawn anew have it then
        texts = {"input_type": "text", "default_value": start, "values": [start]}
        found.append({"name": WHOLE_TEXT, "mutable": True, **texts})
    return found


def write_cvat_images(images: list[MarkedImage], path: Path) -> None:
    """Write CVAT for images 1.1, a mask for each mark."""
    root = _root(images, "annotation")
    for number, image in enumerate(images):
        height, width = image.size
        shown = {"id": str(number), "name": image.name, "width": str(width), "height": str(height)}
        element = SubElement(root, "image", shown)
        for mark in image.marks:
            _write_mask(element, {"label": short_label(_clean(mark.label)), "source": "auto"}, mark, image)
    _save(root, path)


def write_cvat_video(images: list[MarkedImage], path: Path) -> None:
    """Write CVAT for video 1.1, where frame n is the n-th picture.

    Each mask is a track of one frame, as CVAT writes masks itself: of a longer track of masks it reads the first only.
    What belongs together is said by the number of the object.

    Raises:
        TruthError: the images have different sizes.
    """
    root = _root(images, "interpolation")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise TruthError(f"a video has images of one size, got (height, width) {sizes[:5]}; export as cvat-images")
    task = root.find("meta/task")
    assert task is not None
    original = SubElement(task, "original_size")
    for name, value in zip(("height", "width"), sizes[0] if sizes else ()):
        SubElement(original, name).text = str(value)
    marks = [(frame, image, mark) for frame, image in enumerate(images) for mark in image.marks]
    for number, (frame, image, mark) in enumerate(marks):
        label = short_label(_clean(mark.label))
        track = SubElement(root, "track", {"id": str(number), "label": label, "source": "auto"})
        _write_mask(track, {"frame": str(frame), "keyframe": "1", "outside": "0"}, mark, image)
        if frame + 1 < len(images):
            _write_mask(track, {"frame": str(frame + 1), "keyframe": "1", "outside": "1"}, mark, image)
    _save(root, path)


def _root(images: list[MarkedImage], mode: str) -> Element:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for name, value in (("name", "x2sam label"), ("size", str(len(images))), ("mode", mode)):
        SubElement(task, name).text = value
    labels = SubElement(task, "labels")
    for label in _names(images):
        element = SubElement(labels, "label")
        SubElement(element, "name").text = short_label(label)
        listed = SubElement(element, "attributes")
        for said in _attributes(label):
            attribute = SubElement(listed, "attribute")
            for name, value in {**said, "values": "\n".join(said["values"])}.items():
                SubElement(attribute, name).text = str(value)
    return root


def _write_mask(parent: Element, named: dict[str, str], mark: Mark, image: MarkedImage) -> None:
    mask = decode_rle(mark.runs, *image.size)
    box = mask_to_box_rle(mask)
    inside = mask[box.y : box.y + box.height, box.x : box.x + box.width]
    runs = encode_rle(np.ascontiguousarray(inside.T))  # columns of the transposed mask are rows of the mask
    placed = {"left": box.x, "top": box.y, "width": box.width, "height": box.height}
    said = {**named, "occluded": "0", "rle": ", ".join(map(str, runs)), "z_order": "0"}
    element = SubElement(parent, "mask", {**said, **{name: str(value) for name, value in placed.items()}})
    SubElement(element, "attribute", {"name": OBJECT_ID}).text = str(mark.object_id)
    label = _clean(mark.label)
    if short_label(label) != label:
        SubElement(element, "attribute", {"name": WHOLE_TEXT}).text = label


def _clean(text: str) -> str:
    """Return text that XML can hold."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _save(root: Element, path: Path) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def read_cvat(path: Path, pictures: Path) -> list[MarkedImage]:
    """Read either form; masks and polygons count, and what a track says is outside does not.

    Args:
        path: XML file.
        pictures: folder of the pictures that were exported, whose names XML for video leaves out.

    Raises:
        TruthError: no such XML, a shape without an area, a damaged mask, or a frame without a picture; image or track
            are named.
    """
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_Plain())).getroot()
        if root.tag != "annotations":
            raise ValueError(f"it begins with <{root.tag}>")
        images, tracks = root.findall("image"), root.findall("track")
        if images and tracks:
            raise ValueError("it has both images and tracks")
        return [_image(element, path) for element in images] if images else _video(root, tracks, path, pictures)
    except OSError as error:
        raise TruthError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ElementTree.ParseError, LookupError, OverflowError, *MALFORMED) as error:  # an encoding may be unknown
        raise TruthError(f"{path} is no CVAT 1.1 XML ({told(error)}); export it as CVAT for images or video") from error


class _Plain(ElementTree.TreeBuilder):
    """Builds trees of XML that defines nothing of its own, such as entities that unpack to gigabytes."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse a document type before anything in it is read."""
        raise ValueError(f"it has a document type {name!r:.40}, which CVAT never writes")


def _image(element: Element, path: Path) -> MarkedImage:
    name = element.attrib["name"]
    where = f"{path}, {name}"
    size = checked_size(element.attrib["height"], element.attrib["width"], where)
    marks = [_mark(shape, shape.attrib["label"], size, where, "") for shape in _shapes(element, where)]
    return MarkedImage(name, size, tuple(marks))


def _video(root: Element, tracks: list[Element], path: Path, pictures: Path) -> list[MarkedImage]:
    names = sorted(file.name for file in _listed(pictures) if file.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise TruthError(f"{pictures} has no picture; give the folder of the pictures that were exported")
    if len({track.get("task_id") for track in tracks}) > 1:
        raise TruthError(f"{path} holds several tasks, whose frames have the same numbers; export one task")
    original = root.find(".//original_size")  # only tasks made of a video file have it
    if original is None:
        height, width, _ = read_image(pictures / names[0]).shape
        size = height, width
    else:
        size = checked_size(original.findtext("height", ""), original.findtext("width", ""), str(path))
    marks: list[list[Mark]] = [[] for _ in names]
    for track in tracks:
        where = f"{path}, track {track.get('id')}"
        shapes = [shape for shape in _shapes(track, where) if shape.get("outside") != "1"]
        held = track.attrib["id"] if len(shapes) > 1 else ""
        for shape in shapes:
            frame = int(shape.attrib["frame"])
            if not 0 <= frame < len(names):
                raise TruthError(
                    f"{where}: it is on frame {frame}, and {pictures} has {len(names)} pictures; give the folder of "
                    "the pictures that were exported"
                )
            marks[frame].append(_mark(shape, track.attrib["label"], size, f"{where}, frame {frame}", held))
    return [MarkedImage(name, size, tuple(found)) for name, found in zip(names, marks)]


def _listed(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise TruthError(
            f"a video's pictures have their names in {folder}, which is no folder; give that of the export"
        )
    return folder.iterdir()


def _shapes(parent: Element, where: str) -> Iterator[Element]:
    known = (*_SHAPES, _TAG)
    others = [child.tag for child in parent if child.tag not in known and child.get("outside") != "1"]
    if others:
        raise TruthError(f"{where}: a {min(others):.40} has no mask; draw a mask or a polygon, or delete it")
    return (child for child in parent if child.tag in _SHAPES)


def _mark(shape: Element, label: str, size: tuple[int, int], where: str, track: str) -> Mark:
    said = {element.get("name"): element.text for element in shape.findall("attribute")}
    runs = runs_of(_mask(shape, size, where), size, where)
    return Mark(whole_label(label, said.get(WHOLE_TEXT)), runs, int(float(said.get(OBJECT_ID) or 0)), track)


def _mask(shape: Element, size: tuple[int, int], where: str) -> BoolArray:
    if shape.tag == "polygon":
        points = [float(value) for point in shape.attrib["points"].split(";") for value in point.split(",")]
        try:
            return mask_of_segmentation([points], size)
        except TruthError as error:
            raise TruthError(f"{where}: {error}") from error
    left, top, width, height = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        raise TruthError(f"{where}: a mask at {left},{top} of {width}x{height} leaves the image of {size[1]}x{size[0]}")
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    mask = np.zeros(size, np.bool_)
    try:
        inside = mask_of_segmentation({"size": (width, height), "counts": runs}, size).T
    except TruthError as error:
        raise TruthError(f"{where}: {error}") from error
    mask[top : top + height, left : left + width] = inside
    return mask

"""Marked images as COCO instances JSON, and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from x2sam_ros.errors import TruthError, told
from x2sam_ros.rle import decode_rle, to_coco
from x2sam_ros.training.labelling import (
    WHOLE_TEXT,
    Mark,
    MarkedImage,
    checked_size,
    label_names,
    runs_of,
    short_label,
    whole_label,
)
from x2sam_ros.truth.files import read_json
from x2sam_ros.truth.label_maps import mask_of_segmentation
from x2sam_ros.truth.sequences import MALFORMED

OBJECT_ID = "object_id"
"""Attribute that tells objects apart, 0 where nobody said. CVAT drops one that is called track_id."""


def write_coco(images: list[MarkedImage], path: Path) -> None:
    """Write COCO instances, masks as compressed run lengths, the number of each object as an attribute.

    Names are those of the labels of a CVAT task: see ``short_label``.
    """
    categories = {name: number for number, name in enumerate(label_names(images), 1)}
    rows: list[dict[str, Any]] = []
    marks = [(number, image, mark) for number, image in enumerate(images, 1) for mark in image.marks]
    for number, image, mark in marks:
        mask = decode_rle(mark.runs, *image.size)
        packed = to_coco(mark.runs, *image.size)
        rows.append(
            {
                "id": len(rows) + 1,
                "image_id": number,
                "category_id": categories[mark.label],
                "segmentation": {**packed, "counts": packed["counts"].decode("ascii")},
                "area": int(np.count_nonzero(mask)),
                "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
                "iscrowd": 0,
                "attributes": {OBJECT_ID: mark.object_id, **_text(mark.label)},
            }
        )
    shown = [
        {"id": number, "file_name": image.name, "width": image.size[1], "height": image.size[0]}
        for number, image in enumerate(images, 1)
    ]
    said = {
        "info": {"description": "x2sam label"},
        "licenses": [],
        "images": shown,
        "annotations": rows,
        "categories": [
            {"id": number, "name": short_label(name), "supercategory": "", **_text(name)}
            for name, number in categories.items()
        ],
    }
    path.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")


def _text(label: str) -> dict[str, str]:
    """Return what a label that is shortened is short for; CVAT keeps that of a mask, other tools that of a category."""
    return {} if short_label(label) == label else {WHOLE_TEXT: label}


def read_coco(path: Path) -> list[MarkedImage]:
    """Read COCO instances, polygons or run lengths; images without an annotation show nothing.

    ``iscrowd`` is not looked at: CVAT gives it to masks that were painted.

    Raises:
        TruthError: no COCO instances, a mask that is damaged or of another size, or no mask at all; the annotation is
            named.
    """
    said = read_json(path)
    try:
        names, images, rows = (
            _by_id(said[kind], f"{path}, {kind}") for kind in ("categories", "images", "annotations")
        )
        sizes = {
            number: checked_size(row["height"], row["width"], f"{path}, image {number}")
            for number, row in images.items()
        }
        marks: dict[Any, list[Mark]] = {number: [] for number in images}
        for number, row in rows.items():
            where = f"{path}, annotation {number}"
            image = _found(images, row["image_id"], "image", where)
            category = _found(names, row["category_id"], "category", where)
            where = f"{where} of {image['file_name']}"
            marks[image["id"]].append(_mark(row, category, sizes[image["id"]], where))
        return [MarkedImage(str(row["file_name"]), sizes[key], tuple(marks[key])) for key, row in images.items()]
    except (OverflowError, *MALFORMED) as error:
        raise TruthError(f"{path} is no COCO instances JSON ({told(error)}); export it as COCO 1.0") from error


def _by_id(rows: list[dict[str, Any]], where: str) -> dict[Any, dict[str, Any]]:
    found = {row["id"]: row for row in rows}
    if len(found) < len(rows):
        twice = Counter(row["id"] for row in rows).most_common(1)[0][0]
        raise TruthError(f"{where}: the id {twice!r:.40} comes more than once; give each its own")
    return found


def _found(rows: dict[Any, dict[str, Any]], wanted: Any, what: str, where: str) -> dict[str, Any]:
    if wanted not in rows:
        raise TruthError(f"{where}: there is no {what} {wanted!r:.40}; correct the annotation or the list")
    return rows[wanted]


def _mark(row: dict[str, Any], category: dict[str, Any], size: tuple[int, int], where: str) -> Mark:
    if not row.get("segmentation"):
        raise TruthError(f"{where}: it has a box and no mask; draw its mask, or delete it")
    said = row["segmentation"]
    own = tuple(map(int, said["size"])) if isinstance(said, dict) else size
    if own != size:  # it may claim any size, and is not unpacked
        raise TruthError(f"{where}: its mask has the size {own}, its image {size} (height, width); draw it again")
    try:
        mask = mask_of_segmentation(said, size)
    except TruthError as error:
        raise TruthError(f"{where}: {error}") from error
    attributes = row.get("attributes") or {}
    track = attributes.get("track_id", row.get("track_id"))
    label = whole_label(str(category["name"]), attributes.get(WHOLE_TEXT) or category.get(WHOLE_TEXT))
    return Mark(
        label, runs_of(mask, size, where), int(attributes.get(OBJECT_ID) or 0), "" if track is None else str(track)
    )

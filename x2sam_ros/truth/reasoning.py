"""ReasonSeg: a photograph and a JSON of questions and polygons each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.truth.dataset import Dataset, Expression, Kind, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, choose_split, fingerprint, images_in, read_json
from x2sam_ros.truth.sequences import FileSequence, attempt, usable
from x2sam_ros.types import BoolArray

_TARGET, _IGNORED = 1, 2
_FAR = 1 << 15
"""Coordinates in pixels that no photograph has."""


def find_reasoning(path: Path, options: Options) -> Path | None:
    """Return the folder of one split, which holds pairs of a photograph and a JSON."""
    if not path.is_dir():
        return None
    splits = (folder for folder in (path, *path.glob("*/")) if folder.is_dir() and _is_pairs(folder))
    return choose_split(splits, options)


def _is_pairs(folder: Path) -> bool:
    for image in images_in(folder)[:3]:
        file = image.with_suffix(".json")
        said = read_json(file) if file.is_file() else None
        if isinstance(said, dict) and "shapes" in said and "text" in said:
            return True
    return False


def open_reasoning(path: Path, options: Options) -> Dataset:
    """Open a split: one sequence for each photograph, one expression for each text.

    Expressions are named ``sentence-0`` or ``phrase-0``, as the file's ``is_sentence`` says.
    """
    images = [image for image in images_in(path) if image.with_suffix(".json").is_file()]
    sequences = usable((attempt(image.stem, partial(_Photograph, image, options)) for image in images), str(path))
    files = fingerprint(*(image.with_suffix(".json") for image in images))
    return Dataset(f"reasonseg-{path.name}", Kind.REFERRING, sequences, fingerprint=files)


class _Photograph(FileSequence):
    """A photograph whose only object is what its texts mean."""

    def __init__(self, image: Path, options: Options) -> None:
        said = read_json(image.with_suffix(".json"))
        texts = [said["text"]] if isinstance(said["text"], str) else said["text"]
        shapes = [shape for shape in said["shapes"] if shape["label"].lower() != "flag"]
        self._shapes = [(_outline(shape["points"]), "ignore" in shape["label"].lower()) for shape in shapes]
        meant = (1,) if any(not is_ignored for _, is_ignored in self._shapes) else ()
        kind = "sentence" if said.get("is_sentence", False) else "phrase"
        super().__init__(
            image.stem,
            options,
            (image,),
            tuple(TrueObject(object_id) for object_id in meant),
            tuple(Expression(f"{kind}-{number}", text, meant) for number, text in enumerate(texts)),
        )

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame:
        """Draw the polygons, the largest first, so that what lies on it counts.

        Source: LISA's ReasonSeg: outlines of one pixel belong to a polygon, a label with "ignore" is not scored.
        """
        drawn = [(_draw(outline, size), is_ignored) for outline, is_ignored in self._shapes]
        pixels = np.zeros(size, np.uint8)
        for mask, is_ignored in sorted(drawn, key=lambda one: -int(one[0].sum())):
            pixels[mask] = _IGNORED if is_ignored else _TARGET
        target, ignored = pixels == _TARGET, pixels == _IGNORED
        ids = (1,) if target.any() else ()
        return TrueFrame(ids, target[None][: len(ids)], ignored if ignored.any() else None)


def _outline(said: Any) -> npt.NDArray[np.int32]:
    points = np.array(said, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < _FAR).all():
        raise ValueError(f"points are expected as [[x, y], ..], got {said!s:.60}")
    return points.astype(np.int32)


def _draw(outline: npt.NDArray[np.int32], size: tuple[int, int]) -> BoolArray:
    canvas = np.zeros(size, np.uint8)
    cv2.polylines(canvas, [outline], True, 1, 1)
    cv2.fillPoly(canvas, [outline], 1)
    return canvas > 0

"""Results as a folder of PNG masks, overlays and COCO JSON, which appears when it is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.bag.media import IMAGE_SUFFIXES, OverlayVideo
from x2sam_ros.bag.messages import label_image
from x2sam_ros.errors import BagError
from x2sam_ros.rle import encode_rle, to_coco
from x2sam_ros.types import BoolArray, ClassListPrompt, Frame, FrameResult, Grounding, Prompt
from x2sam_ros.visualise import draw_overlay

RESULTS_FILE, PANOPTIC_FILE, VIDEO_FILE = "results.json", "panoptic.json", "overlay.mp4"

_PART = ".x2sam.part"
_SLUG_CHARS = 40
_SETTINGS = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92], ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1]}
_REGION = "object"
"""Category of targets that were pointed at and have no name."""


class ResultFolder(AbstractContextManager["ResultFolder"]):
    """Write results as files that other tools read.

    For an image NAME: ``NAME_labels.png`` (16 bit, each pixel a target id, 0 is none, the surest target on top),
    ``NAME_<id>_<label>.png`` for each target (0 and 255), ``NAME_overlay.jpg``; for a class list also
    ``NAME_semantic.png`` (16 bit, category ids) and ``NAME_panoptic.png`` (COCO's colours, id = R + 256 G + 65536 B).
    For all of them ``results.json`` (COCO instances, with the groundings), for a class list ``panoptic.json`` (COCO
    panoptic). The files appear when the folder is closed, results.json last; left by an exception other than a
    keyboard interrupt, nothing remains.

    Args:
        folder: where to; it is made where it does not exist.
        prompt: what is asked.
        info: what to note in results.json, JSON values.
        force: write into a folder that holds something; the files of an earlier run are removed.
        video: also draw the frames into ``overlay.mp4``.

    Raises:
        BagError: the folder holds something, or is none.
    """

    def __init__(
        self, folder: Path, prompt: Prompt, info: dict[str, Any], force: bool = False, video: bool = False
    ) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise BagError(f"{folder} is a file; give a folder for the results")
        self._is_new = not folder.exists()
        if not force and not self._is_new and any(file.name != _PART for file in folder.iterdir()):
            raise BagError(f"{folder} is not empty; give another folder, or --force to write into it")
        self._part = folder / _PART
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        self._video = OverlayVideo(self._part / VIDEO_FILE) if video else None
        self._is_list = isinstance(prompt, ClassListPrompt)
        self._stuff = prompt.stuff if isinstance(prompt, ClassListPrompt) else ()
        self._categories: dict[str, int] = {}
        for name in prompt.classes if isinstance(prompt, ClassListPrompt) else ():
            self._category(name)
        self._results: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "groundings": []}
        self._panoptic: list[dict[str, Any]] = []
        self._info = info
        self._files: dict[str, None] = {}

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write the files of one frame."""
        source, height, width = Path(frame.source), *result.image_size
        stem = source.stem or "image"
        name = stem if source.suffix.lower() in IMAGE_SUFFIXES else f"{stem}_{frame.frame_index:06d}"
        image_id = len(self._results["images"]) + 1
        labels = label_image(result)[1].astype(np.uint16)
        row = {
            "id": image_id,
            "file_name": source.name,
            "width": width,
            "height": height,
            "frame_index": frame.frame_index,
            "stamp_ns": frame.stamp_ns,
            "labels": self._image(f"{name}_labels.png", labels),
            "overlay": self._image(f"{name}_overlay.jpg", draw_overlay(frame.image, result)),
        }
        if self._video is not None:
            self._video.write(frame, result, 0.0, 0)
        if self._is_list:
            row |= self._maps(name, image_id, labels, result)
        self._results["images"].append(row)
        for index in np.flatnonzero(result.masks.any(axis=(1, 2))):
            self._annotate(name, image_id, result, int(index))
        self._results["groundings"] += [_grounding(grounding, image_id) for grounding in result.groundings]

    def _annotate(self, name: str, image_id: int, result: FrameResult, row: int) -> None:
        """Write the mask of one target and describe it."""
        mask, target_id = result.masks[row], int(result.target_ids[row])
        self._results["annotations"].append(
            {
                "id": len(self._results["annotations"]) + 1,
                "image_id": image_id,
                "category_id": self._category(_category_name(result, row)),
                "track_id": target_id,
                "label": result.labels[row],
                "score": round(float(result.scores[row]), 6),
                "iscrowd": 0,
                **_extent(mask),
                "segmentation": _segmentation(mask),
                "file_name": self._image(f"{name}_{target_id}_{_slug(result.labels[row])}.png", mask * np.uint8(255)),
            }
        )

    def _maps(self, name: str, image_id: int, labels: npt.NDArray[np.uint16], result: FrameResult) -> dict[str, str]:
        """Write the semantic and the panoptic map; a target that others hide altogether is in neither."""
        category = {int(i): self._category(_category_name(result, row)) for row, i in enumerate(result.target_ids)}
        semantic = np.zeros(labels.max(initial=0) + 1, np.uint16)
        visible = [i for i in category if i < len(semantic)]
        semantic[visible] = [category[i] for i in visible]
        colours = np.zeros((*labels.shape, 3), np.uint8)
        colours[:, :, 0], colours[:, :, 1] = labels & 255, labels >> 8
        files = {
            "semantic": self._image(f"{name}_semantic.png", semantic[labels]),
            "panoptic": self._image(f"{name}_panoptic.png", colours),
        }
        segments = [
            {"id": i, "category_id": category[i], "iscrowd": 0, **_extent(labels == i)}
            for i in visible
            if (labels == i).any()
        ]
        self._panoptic.append({"image_id": image_id, "file_name": files["panoptic"], "segments_info": segments})
        return files

    def _category(self, name: str) -> int:
        """Return the id of a category; a new name gets the next one."""
        return self._categories.setdefault(name, len(self._categories) + 1)

    def _image(self, name: str, pixels: npt.NDArray[Any]) -> str:
        """Write an image, RGB where it has three channels; return the name it got, which no other file has."""
        path = Path(name)
        count = 1
        while name in self._files:
            count += 1
            name = f"{path.stem}-{count}{path.suffix}"
        write_image(self._part / name, pixels)
        self._files[name] = None
        return name

    def _finish(self) -> None:
        """Put the files into place."""
        if self._video is not None:
            self._video.close()
            self._files[VIDEO_FILE] = None
        categories = [
            {"id": number, "name": name, "isthing": int(name not in self._stuff)}
            for name, number in self._categories.items()
        ]
        shared = {"info": self._info, "images": self._results["images"], "categories": categories}
        if self._is_list:
            self._json(PANOPTIC_FILE, {**shared, "annotations": self._panoptic})
        self._json(RESULTS_FILE, {**shared, **self._results, "files": [*self._files, RESULTS_FILE]})
        for old in _earlier_files(self.folder):
            old.unlink(missing_ok=True)
        for name in self._files:
            os.replace(self._part / name, self.folder / name)

    def _json(self, name: str, values: dict[str, Any]) -> None:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        (self._part / name).write_text(text, encoding="utf-8")
        self._files[name] = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if (error is None or isinstance(error, KeyboardInterrupt)) and self._results["images"]:
                self._finish()
            elif self._video is not None:
                self._video.__exit__(kind, error, trace)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)
            if self._is_new and not any(self.folder.iterdir()):
                self.folder.rmdir()


def write_image(path: Path, pixels: npt.NDArray[Any]) -> None:
    """Write an image: uint8 (H, W, 3) RGB, or uint8 or uint16 (H, W), which needs a name that ends in .png."""
    ordered = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(ordered), _SETTINGS[path.suffix])[1].tobytes())


def _segmentation(mask: BoolArray) -> dict[str, Any]:
    coco = to_coco(encode_rle(mask), *mask.shape)
    return {**coco, "counts": coco["counts"].decode("ascii")}


def _extent(mask: BoolArray) -> dict[str, Any]:
    """Return area and box (x, y, width, height) of a mask, pixels."""
    return {"area": int(np.count_nonzero(mask)), "bbox": list(cv2.boundingRect(mask.view(np.uint8)))}


def _category_name(result: FrameResult, row: int) -> str:
    """Return what a target is: its label, unless that is only a number."""
    label = result.labels[row]
    return _REGION if label in ("", f"{_REGION} {result.target_ids[row]}") else label


def _slug(label: str) -> str:
    """Return a label as part of a file name."""
    return re.sub(r"\W+", "-", label.lower())[:_SLUG_CHARS].strip("-") or _REGION


def _grounding(grounding: Grounding, image_id: int) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "status": grounding.status.name.lower(),
        "query": grounding.query,
        "response": grounding.response,
        "phrases": [asdict(phrase) for phrase in grounding.phrases],
        "target_ids": grounding.target_ids,
        "message": grounding.message,
    }


def _earlier_files(folder: Path) -> list[Path]:
    """Return the files of an earlier run, results.json first; none of a run that left no list of them."""
    try:
        names = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))["files"]
        own = [folder / name for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted((file for file in own if file.is_file()), key=lambda file: file.name != RESULTS_FILE)

"""A tiny YouTube-VIS on disk, and V-VGD made from it, for tests of V-VGD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from x2sam_ros.evaluation.predictions import rle_of
from x2sam_ros.evaluation.visual_builder import build_visual
from x2sam_ros.truth.open import open_dataset

SIZE = (48, 64)
CATEGORIES = [{"id": 3, "name": "dog"}, {"id": 8, "name": "cat"}, {"id": 9, "name": "sky", "isthing": 0}]


def block(top: int, left: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def tracks() -> dict[str, list[dict[str, Any]]]:
    """Masks by frame, with category: "park" has two dogs, a cat that comes late, stuff and a crowd."""
    return {
        "park": [
            {"category_id": 3, "masks": [None, *(block(5, 5 + k) for k in range(5))]},
            {"category_id": 3, "masks": [None, *(block(30, 5) for _ in range(5))]},
            {"category_id": 8, "masks": [None, None, None, *(block(20, 40) for _ in range(3))]},
            {"category_id": 9, "masks": [block(0, 0)] * 6},
            {"category_id": 8, "masks": [block(36, 50)] * 6, "iscrowd": 1},
        ],
        "yard": [
            {"category_id": 8, "masks": [block(0, 0, 2), block(10, 20), block(10, 21)]},
            {"category_id": 3, "masks": [None, block(8, 18), None]},
        ],
        "empty": [{"category_id": 3, "masks": [block(0, 0, 2), None]}],
    }


def write_videos(folder: Path) -> Path:
    """Write it; return the annotation file."""
    videos, annotations = [], []
    for number, (name, objects) in enumerate(tracks().items(), 1):
        count = len(objects[0]["masks"])
        files = [f"{name}/{index:05d}.jpg" for index in range(count)]
        (folder / "JPEGImages" / name).mkdir(parents=True)
        for index, file in enumerate(files):
            cv2.imwrite(str(folder / "JPEGImages" / file), np.full((*SIZE, 3), 40 * index, np.uint8))
        videos.append({"id": number, "file_names": files, "height": SIZE[0], "width": SIZE[1], "length": count})
        for thing in objects:
            rles = [None if mask is None else {"size": list(SIZE), "counts": rle_of(mask)} for mask in thing["masks"]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": thing["category_id"],
                    "iscrowd": thing.get("iscrowd", 0),
                    "segmentations": rles,
                }
            )
    path = folder / "instances.json"
    path.write_text(json.dumps({"videos": videos, "categories": CATEGORIES, "annotations": annotations}))
    return path


def write_visual(folder: Path, **options: Any) -> Path:
    """Write V-VGD of it; return the JSON file."""
    (folder / "videos").mkdir()
    dataset = open_dataset(write_videos(folder / "videos"))
    path = folder / "vgd.json"
    path.write_text(build_visual(dataset, folder, **options).text)
    return path

"""A recording, masks that were published about it, and how they are written for a person and read back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.replay.recordings import HEIGHT, START_NS, STEP_NS, WIDTH, ColourSession, picture
from x2sam_ros.bag.mcap_file import McapFile
from x2sam_ros.bag.messages import header_fields
from x2sam_ros.bag.replay import ScheduledPrompt, run_replay
from x2sam_ros.bag.source import open_source
from x2sam_ros.bag.writer import ResultWriter
from x2sam_ros.rle import Counts, encode_rle
from x2sam_ros.training.label_coco import read_coco, write_coco
from x2sam_ros.training.label_cvat import read_cvat, write_cvat_images, write_cvat_video
from x2sam_ros.training.labelling import IMAGES_FOLDER, Mark, MarkedImage, image_name
from x2sam_ros.types import PointPrompt, TextPrompt

FRAMES = 5
IMAGE = "sensor_msgs/msg/Image"
FORMATS = ("coco", "cvat-images", "cvat-video")


def write_recording(
    path: Path, frames: int = FRAMES, height: int = HEIGHT, shown: Iterable[tuple[int, int]] = ()
) -> Path:
    """Write images, picture n at the n-th stamp, or (stamp, picture) by number as ``shown``."""
    with McapFile(path, {"/camera/image_raw": IMAGE}) as bag:
        for when, index in shown or [(index, index) for index in range(frames)]:
            stamp, image = START_NS + when * STEP_NS, picture(index)[:height]
            fields = {"height": height, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": WIDTH * 3}
            said = {"header": header_fields(stamp, "camera"), **fields, "data": image.reshape(-1)}
            bag.add("/camera/image_raw", stamp, said)
    return path


def write_published(path: Path, recording: Path) -> Path:
    """Write what a replay writes: a named target, and one that was clicked and has no name."""
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


def marked(*marks: Mark, number: int = 0) -> MarkedImage:
    return MarkedImage(image_name(number, number), (4, 4), marks)


def whole(*rows: int) -> Counts:
    mask = np.zeros((4, 4), bool)
    mask[list(rows)] = True
    return encode_rle(mask)

"""Build V-VGD from videos with classes: what is shown on one frame, and what looks like it on all of them.

The JSON file is described in truth/visual.py, which reads it back.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import header_fields, label_image
from x2sam_ros.bag.storage import COMPRESSED_TYPE, IMAGE_TYPE
from x2sam_ros.engine.frame_sampling import sample_frames
from x2sam_ros.errors import BagError, ConfigError, TruthError, X2SamError
from x2sam_ros.evaluation.predictions import rle_of
from x2sam_ros.truth.dataset import Dataset, Sequence
from x2sam_ros.truth.label_maps import mask_of_segmentation
from x2sam_ros.truth.shown_regions import REGION_KINDS, draw_region, pieces_of
from x2sam_ros.truth.visual import FORMAT, VisualSequence
from x2sam_ros.types import BoolArray, FrameResult, TargetState

Rle = dict[str, Any]

CAMERA_TOPIC = "/camera/image_raw/compressed"
LABEL_TOPIC = "/ground_truth/label_image"
PROMPT_TOPICS = {kind: f"/x2sam/prompts/{kind}" for kind in REGION_KINDS}
RECORD_TOPIC = "/x2sam/vvgd"


@dataclass(frozen=True)
class Built:
    """What was built.

    Args:
        text: the JSON file.
        num_sequences, num_regions: how many are in it.
        left_out: why a sequence is not in it.
    """

    text: str
    num_sequences: int
    num_regions: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One frame: its file, and the mask of each object that may be shown; None where it is not annotated."""

    file: Path
    stamp_ns: int
    masks: Mapping[int, Rle] | None


def build_visual(
    dataset: Dataset,
    folder: Path,
    *,
    seed: int = 0,
    clip_length: int = 0,
    on_sequence: Callable[[str], None] = lambda name: None,
) -> Built:
    """Choose and draw what is shown in each sequence; the same seed gives the same bytes.

    The frame of the prompt is the first with a piece of an object of more than 5 pixels. Every category that has one
    there is shown, by one of its objects chosen at random, and drawn by the rules of shown_regions.py. Things only:
    stuff (unless there is nothing else), crowds and objects without a class are left out.

    Args:
        dataset: videos or images with classes.
        folder: where the JSON file will lie.
        seed: of everything that is chosen or drawn at random.
        clip_length: 0 keeps sequences whole. Above it they are cut as published, where it is 8: frames that show
            nothing go, then neighbours make a clip with a prompt of its own, and a clip of one frame goes.
        on_sequence: called with the name of each sequence that is done.

    Raises:
        ConfigError: a negative clip length.
        TruthError: the dataset has no classes, or nothing in it can be shown.

    Source: X2SAM's V-VGD, which shows the first frame of each clip in its evaluation, unseeded. What has no
        drawing there (an object of a few pixels) is shown by its mask here.
    """
    if clip_length < 0:
        raise ConfigError(f"clip length is {clip_length}, expected 0 (sequences stay whole) or a number of frames")
    if not dataset.categories:
        raise TruthError(f"{dataset.name} has no classes, so nothing says what looks alike; give a dataset that has")
    things = [category for category in dataset.categories if not category.is_stuff] or list(dataset.categories)
    wanted = {category.category_id for category in things}
    records: list[dict[str, Any]] = []
    left_out = []
    for sequence in dataset.sequences:
        try:
            made = _records(sequence, wanted, seed, clip_length)
            if not made:
                left_out.append(f"{sequence.name}: nothing in it can be shown")
            records += made
        except X2SamError as error:
            left_out.append(str(error) if sequence.name in str(error) else f"{sequence.name}: {error}")
        on_sequence(sequence.name)
    if not records:
        raise TruthError(f"{dataset.name}: none of its {len(dataset.sequences)} sequences can be used: {left_out[0]}")
    root = Path(os.path.commonpath([row["file"].parent for record in records for row in record["frames"]]))
    for record in records:
        for row in record["frames"]:
            row["file"] = row["file"].relative_to(root).as_posix()
    said = {
        "format": FORMAT,
        "name": dataset.name,
        "source": dataset.fingerprint,
        "seed": seed,
        "clip_length": clip_length,
        "images": Path(os.path.relpath(root, folder)).as_posix(),
        "categories": [{"id": category.category_id, "name": category.name} for category in things],
        "sequences": records,
    }
    num_regions = sum(len(record["prompt"]["regions"]) for record in records)
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":")) + "\n"
    return Built(text, len(records), num_regions, tuple(left_out))


def _records(sequence: Sequence, wanted: set[int], seed: int, clip_length: int) -> list[dict[str, Any]]:
    classes = {
        thing.object_id: category
        for thing in sequence.objects
        if (category := thing.category_id) is not None and category in wanted and not thing.is_crowd
    }
    rows = _rows(sequence, set(classes))
    if not clip_length:
        found = [_record(sequence.name, rows, classes, seed)]
    else:
        seen = [row for row in rows if row.masks]
        clips = sample_frames(len(seen), clip_length, official_quirks=True)
        found = [
            _record(f"{sequence.name}/{number:03d}", [seen[index] for index in clip], classes, seed)
            for number, clip in enumerate(clips)
        ]
    return [record for record in found if record is not None]


def _rows(sequence: Sequence, wanted: set[int]) -> list[_Row]:
    rows = []
    for frame in sequence.frames():
        file = Path(frame.source)
        if not file.is_file():
            raise TruthError(f"{sequence.name}: its frames are not image files but {frame.source}; give such a dataset")
        truth = sequence.truth(frame)
        masks = None
        if truth is not None:
            shown = (object_id for object_id in truth.object_ids if object_id in wanted)
            masks = {object_id: _rle(mask) for object_id in shown if (mask := truth.mask_of(object_id)).any()}
        rows.append(_Row(Path(os.path.abspath(file)), frame.stamp_ns, masks))
    return rows


def _record(name: str, rows: list[_Row], classes: Mapping[int, int], seed: int) -> dict[str, Any] | None:
    """Describe one sequence; None where nothing can be shown."""
    found = next(((number, masks) for number, row in enumerate(rows) if (masks := _showable(row))), None)
    if found is None:
        return None
    number, masks = found
    regions = []
    for category in sorted({classes[object_id] for object_id in masks}):
        alike = [object_id for object_id in sorted(masks) if classes[object_id] == category]
        chosen = alike[int(len(alike) * random.Random(f"{seed}/{name}/{category}").random())]
        drawn = {
            kind: _rle(draw_region(masks[chosen], kind, f"{seed}/{name}/{chosen}/{kind}")) for kind in REGION_KINDS
        }
        regions.append({"category_id": category, "object_id": chosen, **drawn})
    shown = {region["category_id"] for region in regions}
    objects = [
        {
            "id": object_id,
            "category_id": classes[object_id],
            "segmentations": [(row.masks or {}).get(object_id) for row in rows],
        }
        for object_id in sorted({object_id for row in rows for object_id in row.masks or ()})
        if classes[object_id] in shown
    ]
    frames = [{"file": row.file, "stamp_ns": row.stamp_ns, "annotated": row.masks is not None} for row in rows]
    return {"name": name, "frames": frames, "objects": objects, "prompt": {"frame": number, "regions": regions}}


def _showable(row: _Row) -> dict[int, BoolArray]:
    """Return the masks of a frame that have a piece to point at."""
    masks = {object_id: mask_of_segmentation(rle, (0, 0)) for object_id, rle in (row.masks or {}).items()}
    return {object_id: mask for object_id, mask in masks.items() if pieces_of(mask)}


def _rle(mask: BoolArray) -> Rle:
    return {"size": list(mask.shape), "counts": rle_of(mask)}


def write_bags(dataset: Dataset, folder: Path, on_sequence: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Write each sequence of a V-VGD dataset as one MCAP file in a folder of its own.

    ``CAMERA_TOPIC`` has the image files as they are; ``LABEL_TOPIC`` the annotated frames, a pixel is an object id;
    ``PROMPT_TOPICS``, on the prompt's frame alone, what is shown, a pixel is the number of a region from 1;
    ``RECORD_TOPIC``, there too, says as JSON which categories objects and regions have. Where masks overlap the smaller
    one is on top; all of both is only in the JSON file.

    Args:
        dataset: as truth/visual.py reads it.
        folder: where to; it is made. A bag is named by its sequence, / becomes _.
        on_sequence: called with the name of each sequence that is done.

    Returns:
        The files.

    Raises:
        TruthError: another dataset, or damaged.
        BagError: two sequences would have one bag, or it cannot be written.
    """
    topics = {CAMERA_TOPIC: COMPRESSED_TYPE, LABEL_TOPIC: IMAGE_TYPE, RECORD_TOPIC: "std_msgs/msg/String"}
    topics |= dict.fromkeys(PROMPT_TOPICS.values(), IMAGE_TYPE)
    paths: list[Path] = []
    for sequence in dataset.sequences:
        if not isinstance(sequence, VisualSequence):
            raise TruthError(f"{sequence.name} has no regions to show; make them with `x2sam vgd`")
        name = sequence.name.replace("/", "_")
        path = folder / name / f"{name}.mcap"  # bare files NAME_0, NAME_1 would be read as one recording
        if path in paths:
            raise BagError(f"{path} would hold two sequences, the second is {sequence.name}; rename one of them")
        path.parent.mkdir(parents=True, exist_ok=True)
        with McapFile(path, topics) as bag:
            _write_bag(sequence, dataset, bag)
        paths.append(path)
        on_sequence(sequence.name)
    return paths


def _write_bag(sequence: VisualSequence, dataset: Dataset, bag: McapFile) -> None:
    prompt_index = sequence.prompt_index()
    for frame in sequence.frames():
        stamp_ns, header = frame.stamp_ns, header_fields(frame.stamp_ns, "camera")
        file = Path(frame.source)
        data, kind = np.frombuffer(file.read_bytes(), np.uint8), {".png": "png"}.get(file.suffix.lower(), "jpeg")
        if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            data, kind = cv2.imencode(".png", frame.image[:, :, ::-1])[1].reshape(-1), "png"
        bag.add(CAMERA_TOPIC, stamp_ns, {"header": header, "format": kind, "data": data})
        truth = sequence.truth(frame)
        if truth is not None:
            bag.add(LABEL_TOPIC, stamp_ns, _labels(truth.masks, truth.object_ids, stamp_ns, frame.size))
        if frame.frame_index == prompt_index:
            for kind, topic in PROMPT_TOPICS.items():
                shown = [sequence.region(expression, kind) for expression in sequence.expressions]
                numbers = range(1, len(shown) + 1)
                bag.add(topic, stamp_ns, _labels(np.array(shown), numbers, stamp_ns, frame.size))
            bag.add(RECORD_TOPIC, stamp_ns, {"data": _description(sequence, dataset)})


def _labels(masks: BoolArray, ids: Listed[int], stamp_ns: int, size: tuple[int, int]) -> dict[str, Any]:
    """Draw masks into one image, the smaller ones on top."""
    states = (TargetState.TRACKED,) * len(ids)
    on_top = -masks.sum(axis=(1, 2), dtype=np.float32)
    result = FrameResult(stamp_ns, 0, "camera", size, masks, on_top, ("",) * len(ids), np.array(ids, np.int64), states)
    return image_fields(stamp_ns, "camera", *label_image(result))


def _description(sequence: VisualSequence, dataset: Dataset) -> str:
    names = {category.category_id: category.name for category in dataset.categories}
    said = {
        "format": FORMAT,
        "sequence": sequence.name,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "objects": [{"id": thing.object_id, "category_id": thing.category_id} for thing in sequence.objects],
        "regions": [
            {"value": number, "category_id": int(said.expression_id)}
            for number, said in enumerate(sequence.expressions, 1)
        ],
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

"""Predictions in the formats of other programs, so that others can check our numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Listed
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from x2sam_ros.bag.media import IMAGE_SUFFIXES
from x2sam_ros.bag.output import PendingFile
from x2sam_ros.bag.writer import ResultWriter
from x2sam_ros.errors import BagError, TruthError
from x2sam_ros.evaluation.predictions import FramePrediction, GivenPrompt, PredictedMask, SequencePredictions
from x2sam_ros.evaluation.scorers.frames import Job
from x2sam_ros.truth.dataset import Dataset
from x2sam_ros.types import FrameResult, Grounding, GroundingStatus, Phrase, TargetState, Uint8Array

Rle = dict[str, Any]

_MOST_COLOURS = 256


def export_davis(predictions: Iterable[SequencePredictions], out: Path, dataset: Dataset | None = None) -> None:
    """Write label images with DAVIS's palette: ``out/<sequence>/<image>.png``.

    A pixel is the id of the object that the prompt means, so that DAVIS's own programs find it; where a prompt means
    several objects or none, as a class list does, it is the target's id. Expressions are asked one by one and may mean
    the same object: theirs are ``out/<sequence>/<expression>/<image>.png``, 1 where it is. Where masks overlap, the
    surest is on top. Images without a file of their own are numbered, five digits. Lost frames are empty.

    Args:
        predictions: what was answered.
        out: folder; it is made.
        dataset: not read.

    Raises:
        BagError: an id above 255, or a name that is none for a file.
    """
    for said in predictions:
        given = {prompt.prompt_id: prompt for prompt in said.prompts}
        names = _image_names(said)
        for part in sorted({prompt.expression_id for prompt in said.prompts}) or [""]:
            folder = _inside(out, f"{said.sequence}/{part}" if part else said.sequence)
            folder.mkdir(parents=True, exist_ok=True)
            for frame, name in zip(said.frames, names):
                picture = Image.fromarray(_label_image(frame, given, part))
                picture.putpalette(_palette())
                picture.save(folder / f"{name}.png")


def export_coco(predictions: Iterable[SequencePredictions], out: Path, dataset: Dataset | None = None) -> None:
    """Write COCO's list of results, every frame an image: ``image_id``, ``category_id``, ``segmentation``, ``score``.

    Beside it, ``<name>_truth.json`` has the images and categories that the numbers mean and, where a dataset is given,
    its annotations, so that COCO's evaluation needs nothing else; frames without annotation are in neither then.
    Numbers of images are those of the dataset's annotation file where it has any and every sequence is one image, else
    counted from 1. A mask has the category that it is scored as; what has none, or without a dataset, gets one of its
    own label. A true object without a class is left out; where the dataset has no classes, everything is an "object".

    Args:
        predictions: what was answered.
        out: a file that ends in .json.
        dataset: what was asked about.

    Raises:
        BagError, ConfigError: a file cannot be written.
        TruthError: predictions and ground truth do not fit.
    """
    listed, classes = list(predictions), _Classes(dataset)
    are_single = all(len(said.frames) == 1 for said in listed)
    images: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for said, number in zip(listed, _numbers(listed, dataset)):
        job = classes.job(said)
        truths = None if job is None else _annotations(job, classes)
        for frame, name in zip(said.frames, _image_names(said)):
            if truths is not None and frame.frame_index not in truths:
                continue
            image_id = number if are_single else len(images) + 1
            images.append({"id": image_id, "file_name": _file_name(said, frame, name), **_extent(frame)})
            results += [
                {
                    "image_id": image_id,
                    "category_id": classes.number(mask, job),
                    "segmentation": _segmentation(frame, mask.rle),
                    "score": mask.score,
                }
                for mask in frame.masks
            ]
            for _, about, segmentation in truths[frame.frame_index] if truths is not None else ():
                row = {"id": len(annotations) + 1, "image_id": image_id, **about, "segmentation": segmentation}
                annotations.append({**row, "area": _area(segmentation), "bbox": _box(segmentation)})
    _write_json(out, results, {"images": images, "categories": classes.listed(), "annotations": annotations})


def export_ytvis(predictions: Iterable[SequencePredictions], out: Path, dataset: Dataset | None = None) -> None:
    """Write YouTube-VIS' list of results: ``video_id``, ``category_id``, ``segmentations``, ``score``.

    Every target is a track. It has one entry for each image, null where it has no mask; its score is the mean over its
    masks, its category that of the first. Beside it, ``<name>_truth.json`` has the videos, categories and annotations;
    see ``export_coco``, whose arguments and errors these are.
    """
    listed, classes = list(predictions), _Classes(dataset)
    videos: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for said, number in zip(listed, _numbers(listed, dataset)):
        job = classes.job(said)
        tracks: dict[tuple[str, int], dict[int, PredictedMask]] = defaultdict(dict)
        for frame in said.frames:
            for mask in frame.masks:
                tracks[mask.prompt_id, mask.target_id][frame.frame_index] = mask
        for seen in tracks.values():
            rles = [
                _segmentation(frame, seen[frame.frame_index].rle) if frame.frame_index in seen else None
                for frame in said.frames
            ]
            category_id = classes.number(next(iter(seen.values())), job)
            score = float(np.mean([mask.score for mask in seen.values()]))
            results.append({"video_id": number, "category_id": category_id, "segmentations": rles, "score": score})
        for about, true_rles in _true_tracks(job, said, classes) if job else ():
            row = {"id": len(annotations) + 1, "video_id": number, **about, "segmentations": true_rles}
            areas, boxes = ([None if rle is None else of(rle) for rle in true_rles] for of in (_area, _box))
            annotations.append({**row, "areas": areas, "bboxes": boxes})
        files = [_file_name(said, frame, name) for frame, name in zip(said.frames, _image_names(said))]
        size = _extent(said.frames[0]) if said.frames else {"height": 0, "width": 0}
        videos.append({"id": number, "name": said.sequence, "file_names": files, "length": len(files), **size})
    _write_json(out, results, {"videos": videos, "categories": classes.listed(), "annotations": annotations})


def export_mcap(predictions: Iterable[SequencePredictions], out: Path, dataset: Dataset | None = None) -> None:
    """Write one recording for each sequence, ``out/<sequence>.mcap``, with the node's messages (``ResultWriter``).

    / in a name becomes _. Frames that got no answer have no message.

    Args:
        predictions: what was answered.
        out: folder; it is made.
        dataset: not read.

    Raises:
        BagError: two sequences would have one file, or it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = set()
    for said in predictions:
        path = _inside(out, f"{said.sequence.replace('/', '_')}.mcap")
        if path in written:
            raise BagError(f"{path} would hold two sequences, the second is {said.sequence}; rename one of them")
        written.add(path)
        with ResultWriter(path) as writer:
            num_lost = 0
            for frame in said.frames:
                num_lost += frame.is_lost
                if not frame.is_lost:
                    writer.write_result(_result(frame, said), frame.latency_ms, num_lost)


EXPORTS: Mapping[str, Callable[[Iterable[SequencePredictions], Path, Dataset | None], None]] = {
    "davis": export_davis,
    "ytvis": export_ytvis,
    "coco": export_coco,
    "mcap": export_mcap,
}
"""The formats, and how they are written."""


class _Classes:
    """Numbers of categories: the dataset's, and new ones for labels that it does not know."""

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self._names = {category.category_id: category.name for category in dataset.categories} if dataset else {}
        self._is_without = dataset is not None and not self._names
        if self._is_without:
            self._names = {1: "object"}
        self._new: dict[str, int] = {}

    def job(self, said: SequencePredictions) -> Job | None:
        """Return what tells how the answers of a sequence are scored."""
        return None if self._dataset is None else Job(self._dataset.sequence(said.sequence), self._dataset, said)

    def number(self, mask: PredictedMask, job: Job | None) -> int:
        """Return the number of the category of a mask."""
        if self._is_without:
            return 1
        known = None if job is None else job.category_of(mask)
        if known is not None:
            return known.category_id
        return self._new.setdefault(mask.label or "object", max(self._names, default=0) + len(self._new) + 1)

    def true_number(self, object_id: int, job: Job) -> int | None:
        """Return the number of the category of a true object, None where it has none."""
        if self._is_without:
            return 1
        category = job.category(object_id)
        return None if category is None else category.category_id

    def listed(self) -> list[dict[str, Any]]:
        """Return all of them in COCO's form."""
        new = {number: name for name, number in self._new.items()}
        return [{"id": number, "name": name} for number, name in {**self._names, **new}.items()]


def _annotations(job: Job, classes: _Classes) -> dict[int, list[tuple[int, dict[str, int], Rle]]]:
    """Return object, category and mask of everything that is annotated, by frame.

    Raises:
        TruthError: nothing is, or predictions and ground truth do not fit.
    """
    found = {
        frame.index: [
            (
                object_id,
                {"category_id": category_id, "iscrowd": int(job.object(object_id).is_crowd)},
                _segmentation(frame.prediction, rle),
            )
            for object_id, rle in frame.true_rles(frame.truth).items()
            if (category_id := classes.true_number(object_id, job)) is not None
        ]
        for frame in job.frames()
        if frame.truth is not None
    }
    if not found:
        raise TruthError(f"{job.sequence.name}: none of its predicted frames has ground truth; predict them again")
    return found


def _true_tracks(
    job: Job, said: SequencePredictions, classes: _Classes
) -> Iterable[tuple[dict[str, int], list[Rle | None]]]:
    """Return category and masks of every annotated object."""
    tracks: dict[int, tuple[dict[str, int], list[Rle | None]]] = {}
    for index, rows in _annotations(job, classes).items():
        for object_id, about, segmentation in rows:
            _, rles = tracks.setdefault(object_id, (about, [None] * len(said.frames)))
            rles[index] = segmentation
    return tracks.values()


def _numbers(listed: Listed[SequencePredictions], dataset: Dataset | None) -> list[int]:
    """Return the numbers of sequences: the annotation file's where they all have one, else counted from 1."""
    own = [getattr(dataset.sequence(said.sequence), "number", None) for said in listed] if dataset else []
    known = [number for number in own if number is not None]
    return known if listed and len(set(known)) == len(listed) else list(range(1, len(listed) + 1))


def _image_names(said: SequencePredictions) -> list[str]:
    """Return a name for each image: its file's without suffix where each has a file of its own."""
    files = [PurePosixPath(frame.source) for frame in said.frames]
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems) and all(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
        return stems
    return [f"{frame.frame_index:05d}" for frame in said.frames]


def _file_name(said: SequencePredictions, frame: FramePrediction, name: str) -> str:
    suffix = PurePosixPath(frame.source).suffix
    return f"{said.sequence}/{name}{suffix if suffix.lower() in IMAGE_SUFFIXES else '.jpg'}"


def _inside(folder: Path, name: str) -> Path:
    """Return a path below a folder.

    Raises:
        BagError: the name would lead out of it.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise BagError(f"{name!r:.80} is no name for a file; rename the sequence in the ground truth")
    return folder / parts


def _label_image(frame: FramePrediction, given: Mapping[str, GivenPrompt], part: str) -> Uint8Array:
    labels = np.zeros(frame.size, np.uint8)
    for mask in sorted(frame.masks, key=lambda mask: mask.score):
        prompt = given.get(mask.prompt_id)
        if (prompt.expression_id if prompt else "") != part:
            continue
        meant = prompt.object_ids if prompt else ()
        value = 1 if part else meant[0] if len(meant) == 1 else mask.target_id
        if not 0 < value < _MOST_COLOURS:
            raise BagError(f"id {value} on frame {frame.frame_index} does not fit DAVIS's 255; export ytvis or mcap")
        labels[frame.mask(mask)] = value
    return labels


def _palette() -> list[int]:
    """Return the 256 colours of PASCAL VOC, which DAVIS uses: bit i of a number brightens channel i % 3."""
    number = np.arange(_MOST_COLOURS)
    colours = np.zeros((_MOST_COLOURS, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return [int(value) for value in colours.ravel()]


def _segmentation(frame: FramePrediction, rle: str) -> Rle:
    return {"size": list(frame.size), "counts": rle}


def _area(segmentation: Rle) -> int:
    return int(coco_mask.area(segmentation))


def _box(segmentation: Rle) -> list[float]:
    box: list[float] = coco_mask.toBbox(segmentation).tolist()
    return box


def _extent(frame: FramePrediction) -> dict[str, int]:
    return {"height": frame.size[0], "width": frame.size[1]}


def _write_json(out: Path, results: list[dict[str, Any]], truth: Mapping[str, Any]) -> None:
    for path, said in ((out, results), (out.with_name(f"{out.stem}_truth.json"), truth)):
        file = PendingFile(path, ".json")
        file.part.write_text(json.dumps(said, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        file.commit()


def _result(frame: FramePrediction, said: SequencePredictions) -> FrameResult:
    """Return what the session answered for a frame, as far as it was kept."""
    masks = [frame.mask(mask) for mask in frame.masks]
    groundings = tuple(
        _grounding(prompt, frame, said)
        for prompt in said.prompts
        if prompt.frame_index == frame.frame_index and prompt.status.upper() in GroundingStatus.__members__
    )
    return FrameResult(
        stamp_ns=frame.stamp_ns,
        frame_index=frame.frame_index,
        frame_id="",
        image_size=frame.size,
        masks=np.stack(masks) if masks else np.zeros((0, *frame.size), np.bool_),
        scores=np.array([mask.score for mask in frame.masks], np.float32),
        labels=tuple(mask.label for mask in frame.masks),
        target_ids=np.array([mask.target_id for mask in frame.masks], np.int64),
        states=(TargetState.TRACKED,) * len(masks),
        groundings=groundings,
    )


def _grounding(prompt: GivenPrompt, frame: FramePrediction, said: SequencePredictions) -> Grounding:
    text, place, phrases = prompt.response or prompt.query, 0, []
    for words, ids in prompt.phrases:
        start = text.find(words, place)
        if start >= 0:
            place = start + len(words)
            phrases.append(Phrase(words, start, place, ids))
    found = {mask.target_id for other in said.frames for mask in other.masks if mask.prompt_id == prompt.prompt_id}
    status = GroundingStatus[prompt.status.upper()]
    return Grounding(
        prompt.prompt_id,
        status,
        prompt.query,
        prompt.response,
        tuple(phrases),
        tuple(sorted(found)),
        stamp_ns=frame.stamp_ns,
    )

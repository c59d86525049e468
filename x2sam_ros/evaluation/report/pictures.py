"""The worst frames as pictures: the image, the ground truth and what was predicted."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from x2sam_ros.bag.source import FrameSource
from x2sam_ros.errors import FrameError, TruthError
from x2sam_ros.evaluation.predictions import FramePrediction, SequencePredictions
from x2sam_ros.truth.dataset import Dataset, Sequence
from x2sam_ros.types import BoolArray, Frame, Uint8Array
from x2sam_ros.visualise import draw_mask, target_colour

MAX_EDGE_PX = 480
MAX_BYTES = 40_000
"""A picture that is larger is written with less quality."""

_QUALITIES = (85, 60, 30)
_MAX_LABEL_CHARS = 24
_STRANGER_COLOURS = 1000
"""Targets that mean no true object have the colours of ids from here on."""


@dataclass(frozen=True)
class Picture:
    """One frame three times, as data URIs of at most ``MAX_EDGE_PX`` a side.

    Args:
        frame_index: which frame.
        image, truth, prediction: the picture alone, and with masks drawn on it.
        num_true, num_predicted: masks that are drawn.
        is_annotated: whether there is ground truth for the frame.
        is_lost: whether no answer came.
    """

    frame_index: int
    image: str
    truth: str
    prediction: str
    num_true: int
    num_predicted: int
    is_annotated: bool
    is_lost: bool


def draw_frames(
    dataset: Dataset, sequence: Sequence, predictions: SequencePredictions, wanted: Collection[int]
) -> Iterator[Picture]:
    """Draw frames of a sequence, in the order of its images.

    A mask that answers a prompt for one object has the colour of that object, so that a mix-up is seen.

    Args:
        dataset: gives the classes their names.
        sequence: where all its images can be used, only those that are wanted are decoded.
        predictions: of the sequence.
        wanted: indices of frames.

    Raises:
        X2SamError: images or ground truth cannot be read, or are others than those that were predicted.
    """
    frames = _frames(sequence.frames(), predictions, wanted)
    if missing := set(wanted).difference(frame.frame_index for frame in frames):
        raise TruthError(f"{sequence.name} has no frame {min(missing)} any more; evaluate it again")
    for frame in frames:
        yield _draw(dataset, sequence, predictions, frame)


def _frames(source: FrameSource, predictions: SequencePredictions, wanted: Collection[int]) -> list[Frame]:
    stamps = {frame.frame_index: frame.stamp_ns for frame in predictions.frames}
    try:
        picked = list(source.pick(wanted))
        if all(stamps.get(frame.frame_index) == frame.stamp_ns for frame in picked) and len(picked) == len(wanted):
            return picked
    except FrameError:
        pass
    # an image that was left out counts for nothing, which is known when all are decoded
    return [frame for frame in source if frame.frame_index in wanted]


def _draw(dataset: Dataset, sequence: Sequence, predictions: SequencePredictions, frame: Frame) -> Picture:
    answer = next((item for item in predictions.frames if item.frame_index == frame.frame_index), None)
    if answer is None or answer.size != frame.size:
        expected = "no answer" if answer is None else f"an answer of {answer.size[1]}x{answer.size[0]}"
        raise TruthError(
            f"{sequence.name}, frame {frame.frame_index}: {expected} for an image of "
            f"{frame.size[1]}x{frame.size[0]}; evaluate it again"
        )
    truth = sequence.truth(frame)
    meant = {object_id for prompt in predictions.prompts for object_id in prompt.object_ids}
    true_masks = {} if truth is None else {i: truth.mask_of(i) for i in truth.object_ids if i in meant}
    scale = MAX_EDGE_PX / max(frame.size)
    size = max(1, round(frame.size[1] * scale)), max(1, round(frame.size[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image: Uint8Array = cv2.resize(frame.image, size, interpolation=method).astype(np.uint8)
    drawn_truth, drawn_prediction = image.copy(), image.copy()
    names = _names(dataset, sequence)
    for object_id, mask in true_masks.items():
        draw_mask(drawn_truth, _scaled(mask, size), target_colour(object_id), names.get(object_id, f"#{object_id}"))
    colours = _colours(answer, predictions, true_masks)
    for predicted, colour in zip(answer.masks, colours):
        text = f"#{predicted.target_id} {predicted.label[:_MAX_LABEL_CHARS]}".rstrip()
        draw_mask(drawn_prediction, _scaled(answer.mask(predicted), size), target_colour(colour), text)
    return Picture(
        frame.frame_index,
        _data_uri(image),
        _data_uri(drawn_truth),
        _data_uri(drawn_prediction),
        num_true=sum(bool(mask.any()) for mask in true_masks.values()),
        num_predicted=len(answer.masks),
        is_annotated=truth is not None,
        is_lost=answer.is_lost,
    )


def _names(dataset: Dataset, sequence: Sequence) -> dict[int, str]:
    classes = {category.category_id: category.name for category in dataset.categories}
    return {
        item.object_id: f"#{item.object_id} {classes[item.category_id][:_MAX_LABEL_CHARS]}"
        for item in sequence.objects
        if item.category_id in classes
    }


def _colours(
    answer: FramePrediction, predictions: SequencePredictions, true_masks: dict[int, BoolArray]
) -> Iterator[int]:
    """Yield for each mask the id whose colour it has: its prompt's only object, or the free one it overlaps most."""
    meant = {prompt.prompt_id: prompt.object_ids for prompt in predictions.prompts}
    free = dict(true_masks)
    for predicted in answer.masks:
        only = meant.get(predicted.prompt_id, ())
        if len(only) == 1:
            yield only[0]
            continue
        mask = answer.mask(predicted)
        shared = {i: int(np.count_nonzero(mask & true)) for i, true in free.items()}
        best = max(shared, key=shared.__getitem__, default=0)
        if shared.get(best):
            del free[best]
            yield best
        else:
            yield _STRANGER_COLOURS + predicted.target_id


def _scaled(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _data_uri(image: Uint8Array) -> str:
    for quality in _QUALITIES:
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"

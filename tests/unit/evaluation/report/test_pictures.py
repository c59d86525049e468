"""The worst frames show the image, the truth and the prediction, each object in one colour."""

from __future__ import annotations

import base64
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.evaluation.report.made_up import SceneSequence, predict, scenes
from x2sam_ros.bag.media import read_image
from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.predictions import GivenPrompt, PredictedMask, SequencePredictions, rle_of
from x2sam_ros.evaluation.report.pictures import MAX_BYTES, MAX_EDGE_PX, Picture, draw_frames
from x2sam_ros.truth.dataset import Dataset


def pixels(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    raw = base64.b64decode(data)
    assert len(raw) <= MAX_BYTES
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return scenes(1)


def drawn(dataset: Dataset, predictions: SequencePredictions, *wanted: int) -> list[Picture]:
    return list(draw_frames(dataset, dataset.sequences[0], predictions, wanted))


def test_pictures_differ_where_masks_are_and_nowhere_else(dataset: Dataset) -> None:
    sequence = dataset.sequences[0]
    assert isinstance(sequence, SceneSequence)
    pictures = drawn(dataset, predict(sequence, 0), 1, 12)
    assert [picture.frame_index for picture in pictures] == [1, 12]
    before, after = pictures
    assert before.prediction == before.image != before.truth and before.num_predicted == 0 < before.num_true
    image, truth, prediction = (pixels(uri) for uri in (after.image, after.truth, after.prediction))
    assert image.shape == (360, MAX_EDGE_PX, 3)
    asked = sorted({sequence.clip.target + 1, 1})
    inside = np.isin(sequence.clip.labels[12], asked).astype(np.uint8)
    inside = cv2.resize(inside, image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    core = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)
    if core.any():
        # A perfect answer has the colours of the truth.
        assert np.abs(truth[core].astype(int) - prediction[core].astype(int)).mean() < 6
        assert np.abs(truth[core].astype(int) - image[core].astype(int)).mean() > 20


def test_only_what_was_asked_for_is_drawn(dataset: Dataset) -> None:
    predictions = predict(dataset.sequences[0], 0)
    nothing = replace(predictions, prompts=(GivenPrompt("object-1", "text", 0, ()),))
    (picture,) = drawn(dataset, nothing, 3)
    assert picture.num_true == 0 and picture.truth == picture.image and picture.num_predicted > 0


def test_masks_of_a_prompt_for_many_take_the_colours_of_what_they_overlap(dataset: Dataset) -> None:
    sequence = dataset.sequences[0]
    predictions = predict(sequence, 0)
    numbers = sorted({sequence.clip.target + 1, 1})
    labels = sequence.clip.labels[3]
    masks = tuple(PredictedMask(90 + n, "classes", "ball", 0.5, rle_of(labels == n)) for n in reversed(numbers))
    stranger = PredictedMask(99, "classes", "ball", 0.5, rle_of(labels == 0))
    frames = [replace(frame, masks=(*masks, stranger)) for frame in predictions.frames]
    many = replace(predictions, prompts=(GivenPrompt("classes", "classes", 0, tuple(numbers)),), frames=tuple(frames))
    (found,) = drawn(dataset, many, 3)
    (alone,) = drawn(dataset, replace(many, frames=tuple(replace(frame, masks=masks) for frame in frames)), 3)
    core = cv2.erode((labels == numbers[0]).astype(np.uint8), np.ones((5, 5)))
    core = cv2.resize(core, (MAX_EDGE_PX, 360), interpolation=cv2.INTER_NEAREST).astype(bool)
    assert core.any()
    assert np.abs(pixels(alone.prediction)[core].astype(int) - pixels(alone.truth)[core].astype(int)).mean() < 6
    assert found.prediction != alone.prediction and found.num_predicted == len(masks) + 1


def test_where_an_image_was_left_out_the_frames_are_those_that_were_predicted(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = dataset.sequences[0]
    predictions = predict(sequence, 0)
    (expected,) = drawn(dataset, predictions, 5)
    source = type(sequence.frames())
    images = source._images

    def with_a_bad_one(self):
        yield partial(read_image, Path("nowhere"))
        yield from images(self)

    monkeypatch.setattr(source, "_images", with_a_bad_one)
    assert drawn(dataset, predictions, 5) == [expected]
    assert len(drawn(dataset, predictions, 0, 5)) == 2


def test_what_does_not_fit_names_sequence_and_frame(dataset: Dataset) -> None:
    predictions = predict(dataset.sequences[0], 0)
    name = dataset.sequences[0].name
    with pytest.raises(TruthError, match=f"{name} has no frame 99 any more"):
        drawn(dataset, predictions, 99)
    other = replace(predictions, frames=tuple(replace(frame, size=(10, 20), masks=()) for frame in predictions.frames))
    with pytest.raises(TruthError, match=f"{name}, frame 2: an answer of 20x10 for an image of 128x96"):
        drawn(dataset, other, 2)
    with pytest.raises(TruthError, match="no answer for an image"):
        drawn(dataset, replace(predictions, frames=()), 2)

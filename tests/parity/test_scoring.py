"""The whole of scoring, from mask files to numbers, against the official DAVIS program."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.shared_data import DATA
from x2sam_ros.evaluation.predictions import FramePrediction, GivenPrompt, PredictedMask, SequencePredictions, rle_of
from x2sam_ros.evaluation.scoring import score_sequence
from x2sam_ros.truth.open import open_dataset

REFERENCE = DATA / "reference_predictions"
EXPECTED = json.loads((REFERENCE / "expected_J_F.json").read_text())["sequences"] if REFERENCE.is_dir() else {}


@pytest.mark.skipif(not EXPECTED, reason=f"no {REFERENCE}; set X2SAM_DATA to the folder that holds it")
def test_davis_numbers_of_a_real_method() -> None:
    dataset = open_dataset(DATA, "sequences")
    compared = 0
    for sequence in dataset.sequences:
        clip = Path(sequence.name).name
        if clip not in EXPECTED or sequence.frames().num_frames != EXPECTED[clip]["n_frames"]:
            continue
        object_id = sequence.objects[0].object_id
        frames = []
        for frame in sequence.frames():
            image = cv2.imread(str(REFERENCE / "osvos" / clip / f"{frame.frame_index:05d}.png"), cv2.IMREAD_COLOR)
            mask = image.any(axis=2)  # whatever its id
            masks = (PredictedMask(1, "object", "", 1.0, rle_of(mask)),) if mask.any() else ()
            frames.append(FramePrediction(frame.frame_index, frame.stamp_ns, frame.size, masks, source=frame.source))
        prompts = (GivenPrompt("object", "mask", 0, (object_id,)),)
        result = score_sequence(sequence, dataset, SequencePredictions(sequence.name, prompts, tuple(frames)))
        assert result.error == ""
        assert result.curves[0].j == pytest.approx(EXPECTED[clip]["J"], abs=1e-3)
        assert result.curves[0].f == pytest.approx(EXPECTED[clip]["F"], abs=1e-3)
        for name in ("J", "F"):
            assert result.metrics[name] == pytest.approx(EXPECTED[clip][f"{name}_mean_all"], abs=1e-3)
            expected = EXPECTED[clip][f"{name}_mean_without_first_last"]
            assert result.metrics[f"{name}_davis"] == pytest.approx(expected, abs=1e-3)
        compared += 1
    assert compared

"""The benchmarks' cases ask what they claim to ask, and an all-knowing session gets full marks on them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from x2sam_ros.evaluation.generated import Case, Truth, evaluate
from x2sam_ros.types import BoxPrompt, Frame, FrameResult, PointPrompt, Prompt, TargetState, TextPrompt

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from scene_cases import HELD_OUT_SEED, IMAGE_KINDS, JpegCamera, clip_cases, image_cases
from tables import number, print_table


class Oracle:
    """Answers with the ground truth of the case it was opened for."""

    def __init__(self, truths: tuple[Truth, ...]) -> None:
        self.truths = [truth for truth in truths if truth.masks.any()]
        self.prompted = False

    def submit(self, prompt: Prompt) -> None:
        self.prompted = True

    def step(self, frame: Frame) -> FrameResult:
        truths = self.truths if self.prompted else []
        masks = np.array([truth.masks[frame.frame_index] for truth in truths], bool).reshape(-1, *frame.size)
        return FrameResult(
            stamp_ns=frame.stamp_ns,
            frame_index=frame.frame_index,
            frame_id=frame.frame_id,
            image_size=frame.size,
            masks=masks,
            scores=np.ones(len(truths), np.float32),
            labels=tuple(truth.label for truth in truths),
            target_ids=np.arange(len(truths)),
            states=(TargetState.TRACKED,) * len(truths),
        )


@pytest.fixture(scope="module")
def images() -> list[Case]:
    return list(image_cases(6))


def test_every_kind_has_as_many_images_as_asked_for(images: list[Case]) -> None:
    assert Counter(case.kind for case in images) == dict.fromkeys(IMAGE_KINDS, 6)


def test_seeds_are_held_out_from_training() -> None:
    from x2sam_ros.training.samples import FIRST_TRAINING_SEED

    assert HELD_OUT_SEED + 100_000 < FIRST_TRAINING_SEED


def test_prompts_point_at_their_truth(images: list[Case]) -> None:
    for case in images:
        mask = case.truths[0].masks[0]
        if isinstance(case.prompt, PointPrompt):
            x, y = case.prompt.points_px[0].astype(int)
            assert mask[y, x]
        elif isinstance(case.prompt, BoxPrompt):
            ys, xs = np.nonzero(mask)
            x1, y1, x2, y2 = case.prompt.box_px
            assert x1 < xs.mean() < x2 and y1 < ys.mean() < y2
        elif isinstance(case.prompt, TextPrompt):
            assert mask.any() == (case.kind != "absent")


def test_an_all_knowing_session_gets_full_marks(images: list[Case]) -> None:
    cases = [*images, *clip_cases("occlusion", "point", 1, 8), *clip_cases("plain", "text", 1, 8)]
    for case in cases:
        (score,) = evaluate(lambda truths=case.truths: Oracle(truths), [case])
        assert score.j_mean == 1.0 or case.kind == "absent"
        assert score.quiet_share == 1.0 or not any(not truth.masks.any() for truth in case.truths)


def test_the_camera_plays_to_and_fro_and_clicks_hit() -> None:
    camera = JpegCamera(num_frames=5)
    frames = [camera.frame(index) for index in range(10)]
    np.testing.assert_array_equal(frames[0].image, frames[8].image)
    np.testing.assert_array_equal(frames[3].image, frames[5].image)
    assert [frame.frame_index for frame in frames] == list(range(10))
    for index in (0, 3, 6, 9):
        shown = index if index < 5 else (8 - index) % 8
        x, y = camera.click(index, index).points_px[0].astype(int)
        assert camera.clip.labels[shown if index < 9 else 1][y, x]


def test_markdown_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ("kind", "J"), [("a", number(0.5)), ("b", number(float("nan")))], markdown=True)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "**Title**",
        "",
        "| kind | J |",
        "|---|---:|",
        "| a | 0.500 |",
        "| b | - |",
    ]

"""The benchmarks' cases ask what they claim to ask, and an all-knowing session gets full marks on them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.unit.evaluation.results import certain_result
from x2sam_ros.evaluation.generated import Case, evaluate
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.training.scenes import Clip, generate_clip
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    PointPrompt,
    Prompt,
    RegionsPrompt,
    TextPrompt,
)

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from nano_scores import mask_rows, panoptic_rows, word_rows
from scene_cases import (
    HELD_OUT_SEED,
    IMAGE_KINDS,
    MOTION_SHOWN,
    JpegCamera,
    clip_cases,
    image_cases,
    naming_chance,
    object_chance,
)
from tables import number, print_table, printed_into
from task_cases import TASK_KINDS, task_cases


class Oracle:
    """Answers with the ground truth of the case it was opened for."""

    def __init__(self, case: Case) -> None:
        self.case, self.prompted = case, False

    def submit(self, prompt: Prompt, clip: np.ndarray | None = None) -> None:
        self.prompted = True

    def step(self, frame: Frame) -> FrameResult:
        found = self.found(frame.frame_index) if self.prompted else []
        return certain_result(frame, found, f" {self.case.answer.upper()}.")

    def found(self, index: int) -> list[tuple[str, np.ndarray]]:
        if self.case.segments is not None:
            ids, classes = self.case.segments.ids, self.case.segments.classes
            return [(str(name), ids == number) for number, name in classes.items()]
        return [(truth.label, truth.masks[index]) for truth in self.case.truths if truth.masks.any()]


@pytest.fixture(scope="module")
def images() -> list[Case]:
    return list(image_cases(6))


@pytest.fixture(scope="module")
def tasks() -> list[Case]:
    return list(task_cases(6))


def test_every_kind_has_as_many_images_as_asked_for(images: list[Case], tasks: list[Case]) -> None:
    assert Counter(case.kind for case in images) == dict.fromkeys(IMAGE_KINDS, 6)
    assert Counter(case.kind for case in tasks) == dict.fromkeys(TASK_KINDS, 6)


def test_cases_are_the_same_every_time(tasks: list[Case]) -> None:
    for case, again in zip(tasks, task_cases(6)):
        assert (case.kind, case.answer, str(case.prompt)) == (again.kind, again.answer, str(again.prompt))
        np.testing.assert_array_equal(case.frames, again.frames)


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


def test_lists_name_their_truths(tasks: list[Case]) -> None:
    for case in tasks:
        labels = [truth.label for truth in case.truths]
        present = [truth.masks.any() for truth in case.truths]
        if isinstance(case.prompt, ClassListPrompt):
            assert labels == list(case.prompt.classes)
        if case.kind == "phrases":
            assert len(labels) >= 2 and all(present)
        if case.kind == "phrases, one absent":
            assert len(labels) >= 3 and present.count(False) == 1
        if case.kind == "panoptic":
            assert sum(truth.masks for truth in case.truths).min() == 1  # every pixel has a name


def test_regions_point_at_their_truths(tasks: list[Case]) -> None:
    kinds = Counter()
    for case in tasks:
        if not isinstance(case.prompt, RegionsPrompt):
            continue
        assert case.prompt.labels == tuple(truth.label for truth in case.truths)
        for region, truth in zip(case.prompt.regions, case.truths):
            kinds[case.kind, type(region)] += 1
            if isinstance(region, PointPrompt):
                x, y = region.points_px[0].astype(int)
                assert truth.masks[0, y, x]
    assert set(kinds) == {("vgdseg, points", PointPrompt), ("vgdseg, boxes", BoxPrompt)}


def test_what_should_mean_several_or_none_does(tasks: list[Case]) -> None:
    for case in tasks:
        if case.kind.startswith("several"):
            assert case.truths[0].masks.any() == (case.kind == "several")
        if isinstance(case.prompt, CaptionPrompt):
            assert all(truth.masks.any() for truth in case.truths)
        if case.by_mask:
            assert all(truth.label in case.answer for truth in case.truths)


def test_the_clip_that_is_shown_begins_with_the_frame(images: list[Case], tasks: list[Case]) -> None:
    plain = {str(case.prompt): case for case in images if case.kind == "motion"}
    for case in (*images, *tasks):
        if case.clip is not None:
            np.testing.assert_array_equal(case.clip[0], case.frames[0])
        assert (case.clip is not None) == (case.kind in (MOTION_SHOWN, "chat, clip shown"))
        if case.kind == MOTION_SHOWN:
            np.testing.assert_array_equal(case.frames, plain[str(case.prompt)].frames)


def test_an_all_knowing_session_gets_full_marks(images: list[Case], tasks: list[Case]) -> None:
    cases = [*images, *tasks, *clip_cases("occlusion", "point", 1, 8), *clip_cases("plain", "text", 1, 8)]
    for case in cases:
        (score,) = evaluate(lambda opened=case: Oracle(opened), [case])
        present = [truth.masks.any() for truth in case.truths]
        assert score.j_mean == 1.0 or not any(present)
        assert score.quiet_share == 1.0 or all(present)
        assert score.exact_share == 1.0 or not case.answer
        assert score.panoptic is None or score.panoptic.overall.pq == 1.0


def test_chance_of_an_object_is_what_guessing_gets() -> None:
    clip = generate_clip(HELD_OUT_SEED + 3, 12, 48, 64, kind="occlusion")
    start, target = 2, clip.target
    seen = [k for k in range(len(clip.objects)) if (clip.labels[start] == k + 1).any()]
    by_hand = [
        np.mean([region_similarity(frame == k + 1, frame == target + 1) for frame in clip.labels[start:]]) for k in seen
    ]
    assert object_chance(clip, target, start) == pytest.approx(np.mean(by_hand))
    still = Clip(clip.frames[:1], clip.labels[:1], clip.visible[:1], clip.objects, clip.kind, target)
    assert object_chance(still, target) == pytest.approx(1 / len(np.setdiff1d(still.labels, [0])))


def test_chance_of_a_name_is_what_drawing_gets() -> None:
    areas, classes, names = [30, 10, 60], [0, 0, 2], 4
    drawn = np.random.default_rng(0).integers(names, size=(20_000, 3))
    pixels, own = np.array(areas), np.array(classes)
    found = []
    for name in (0, 2):
        common, union = ((drawn == name) & (own == name)) @ pixels, ((drawn == name) | (own == name)) @ pixels
        found.append(np.mean(common / union))
    assert naming_chance(areas, classes, names) == pytest.approx(np.mean(found), abs=0.01)
    assert naming_chance([5, 5], [0, 1], 1) == pytest.approx(0.5)  # the only name there is, for both


def test_guessing_scores_about_its_chance(tasks: list[Case]) -> None:
    cases = [case for case in tasks if case.kind == "panoptic"]
    (score,) = evaluate(lambda: Oracle(cases[0]), cases[:1])
    assert score.panoptic_chance is not None and score.panoptic_chance.overall.pq < 1.0
    for case in tasks:
        absent = not case.answer and not any(truth.masks.any() for truth in case.truths)
        assert np.isnan(case.chance) if absent else 0 < case.chance <= (1 if case.by_mask else 0.5)


def test_rows_have_what_was_asked(tasks: list[Case]) -> None:
    wanted = ("several, none", "panoptic", "caption", "chat: exists")
    cases = [case for case in tasks if case.kind in wanted]
    opened = iter(cases)
    scores = evaluate(lambda: Oracle(next(opened)), cases)
    rows = {row[0]: row for row in mask_rows(scores)}
    assert set(rows) == {"several, none", "panoptic", "caption"}
    assert rows["several, none"] == ("several, none", "6", "-", "-", "-", "1.000", "-")
    words = {row[0]: row for row in word_rows(scores)}
    assert words["caption"][2:5] == ("1.000", "0.000", "-") and words["chat: exists"][4] == "0.500"
    (judged,) = [score for score in scores if score.panoptic is not None]
    assert judged.panoptic is not None and judged.panoptic_chance is not None
    assert [row[2] for row in panoptic_rows(judged.panoptic, judged.panoptic_chance)] == ["1.000"] * 3


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


def test_tables_go_between_the_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n")
    other.write_text("nothing\n")
    with printed_into([page], "x"):
        print("new")
    assert capsys.readouterr().out == "new\n"
    assert page.read_text() == ("a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n")
    with pytest.raises(SystemExit, match="x:begin"), printed_into([page, other], "x"):
        pytest.fail("markers are looked for first")

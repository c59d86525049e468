"""The runner: prompts at their time, sinks, the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.replay.recordings import HEIGHT, STEP_NS, WIDTH, ColourSession, image_message, picture
from x2sam_ros.bag.media import OverlayVideo
from x2sam_ros.bag.prompt_options import read_mask, read_schedule
from x2sam_ros.bag.replay import ReplayReport, run_replay
from x2sam_ros.bag.source import FrameSource, open_source
from x2sam_ros.errors import LateFrameError, PluginError, PromptError
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    Frame,
    FrameResult,
    GroundingStatus,
    MaskPrompt,
    PointPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)
from x2sam_ros.visualise import draw_overlay

NUM = 10


@pytest.fixture
def source(write_bag: Callable[..., Path]) -> FrameSource:
    return open_source(write_bag({"/camera": [image_message(i) for i in range(NUM)]}))


class KeptResults:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def write(self, frame: Frame, result: FrameResult, latency_ms: float, frames_dropped: int) -> None:
        assert frame.stamp_ns == result.stamp_ns
        assert latency_ms >= 0
        assert frames_dropped == 0
        self.results.append(result)


def test_prompts_are_given_at_their_time(source: FrameSource) -> None:
    sink, seen = KeptResults(), []
    schedule = read_schedule(texts=["red"], clicks=["45,35@0.35"])
    report = run_replay(source, ColourSession(), [sink], schedule, lambda report: seen.append(report.frames))
    assert seen == list(range(1, NUM + 1))
    first_with = [next(i for i, r in enumerate(sink.results) if target in r.target_ids) for target in (1, 2)]
    assert first_with == [0, 4]
    assert [g.prompt_id for g in report.groundings] == ["text-1", "click-1"]
    red, blue = report.targets[1], report.targets[2]
    assert (red.label, red.frames, red.seen, red.mean_score, red.mean_area_px) == ("red", NUM, NUM, 0.75, 100)
    assert (blue.frames, blue.mean_area_px) == (NUM - 4, 120)
    assert report.last_stamp_ns - report.first_stamp_ns == (NUM - 1) * STEP_NS
    assert report.frames_per_s > 0
    assert report.not_reached == ()


def test_later_negative_click_refines_the_click_before_it(source: FrameSource) -> None:
    session = ColourSession()
    schedule = read_schedule(clicks=["8,15", "45,35", "3,3,0@0.5", "60,3,0@0.7"])
    run_replay(source, session, [], schedule)
    assert session.refined == [(2, 5), (2, 7)]


def test_refinement_between_two_frames_waits_for_the_target(source: FrameSource) -> None:
    session = ColourSession()
    run_replay(source, session, [], read_schedule(clicks=["8,15@0.42", "3,3,0@0.45"]))
    assert session.refined == [(1, 6)]


def test_rejected_prompt_ends_the_replay_by_its_own_name(source: FrameSource) -> None:
    with pytest.raises(PromptError, match=r"--click 64,10@0\.3 was rejected: click 64,10 is outside the image"):
        run_replay(source, ColourSession(), [], read_schedule(texts=["red"], clicks=["64,10@0.3"]))


def test_prompt_without_target_and_prompt_never_reached_are_reported(source: FrameSource) -> None:
    report = run_replay(source, ColourSession(), [], read_schedule(texts=["a green dog"], clicks=["8,15@60"]))
    assert [g.status for g in report.groundings] == [GroundingStatus.NO_TARGET]
    assert [item.origin for item in report.not_reached] == ["--click 8,15@60"]
    assert report.frames == NUM


def test_damage_is_in_the_report(write_bag: Callable[..., Path]) -> None:
    messages = [image_message(i, encoding="rgb77" if i in (0, 4) else "rgb8") for i in range(NUM)]
    report: ReplayReport = run_replay(
        open_source(write_bag({"/camera": messages})), ColourSession(), [], read_schedule(["red"])
    )
    assert (report.frames, report.frames_dropped) == (NUM - 2, 2)
    assert "image 4 left out" in report.problems[1]


def test_overlay_video(source: FrameSource, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = KeptResults()
    with OverlayVideo(path) as video:
        run_replay(source, ColourSession(), [video, sink], read_schedule(["blue"]))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == NUM
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(1e9 / STEP_NS)
    _, image = capture.read()
    assert image.shape == (HEIGHT, WIDTH, 3)
    drawn = draw_overlay(picture(0), sink.results[0])
    assert np.abs(image[..., ::-1].astype(int) - drawn).mean() < 10 < np.abs(drawn.astype(int) - picture(0)).mean()
    assert [file.name for file in tmp_path.glob("*.mp4")] == ["out.mp4"]


def test_video_that_fails_leaves_nothing(source: FrameSource, tmp_path: Path) -> None:
    with pytest.raises(PromptError), OverlayVideo(tmp_path / "out.mp4") as video:
        run_replay(source, ColourSession(), [video], read_schedule(clicks=["8,15", "900,900@0.9"]))
    assert list(tmp_path.glob("*.mp4")) == []


def test_options_become_prompts(tmp_path: Path) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[3:6, 7:9] = 2
    cv2.imwrite(str(tmp_path / "m.png"), drawn)
    schedule = read_schedule(
        ["the red cup"], ["cup, plate,fork"], ["1,2", "3.5,4,1@2"], ["1,2,30,40@0.5"], [tmp_path / "m.png"]
    )
    kinds = [TextPrompt, ClassListPrompt, PointPrompt, PointPrompt, BoxPrompt, MaskPrompt]
    assert [type(item.prompt) for item in schedule] == kinds
    assert [item.at_s for item in schedule] == [0, 0, 0, 2, 0.5, 0]
    assert len({item.prompt.prompt_id for item in schedule}) == len(schedule)
    text, classes, first, second, box, mask = (item.prompt for item in schedule)
    assert text.text == "the red cup"
    assert classes.classes == ("cup", "plate", "fork")
    assert first.points_px.tolist() == [[1, 2]]
    assert second.points_px.tolist() == [[3.5, 4]]
    assert box.box_px.tolist() == [1, 2, 30, 40]
    np.testing.assert_array_equal(mask.mask, drawn > 0)


def test_tasks_and_stuff() -> None:
    (question,) = read_schedule(["how many cups?"], task="chat")
    assert question.prompt.task is Task.CHAT and question.prompt.prompt_id == "text-1"
    (caption,) = read_schedule(task="gcgseg")
    assert isinstance(caption.prompt, CaptionPrompt) and caption.origin == "--task gcgseg"
    first, second = (item.prompt for item in read_schedule(classes=["cup, sky", "fork"], stuff=["sky,road", "road"]))
    assert (first.classes, first.stuff) == (("cup", "sky", "road"), ("sky", "road"))
    assert (second.classes, second.stuff) == (("fork", "sky", "road"), ("sky", "road"))
    (alone,) = read_schedule(stuff=["sky"])
    assert (alone.prompt.classes, alone.prompt.stuff, alone.origin) == (("sky",), ("sky",), "--stuff 'sky'")


def test_regions_of_one_second_are_one_prompt_for_vgdseg() -> None:
    clicks = ["1,2", "3,4", "5,6,0", "7,8@2", "9,9,0@3"]
    together, later, less = read_schedule(clicks=clicks, boxes=["1,2,3,4"], task="vgdseg")
    assert isinstance(together.prompt, RegionsPrompt) and together.at_s == 0
    assert [type(region).__name__ for region in together.prompt.regions] == ["PointPrompt", "PointPrompt", "BoxPrompt"]
    assert together.prompt.regions[1].points_px.tolist() == [[3, 4], [5, 6]]
    assert together.origin == "--click 1,2 --click 3,4 --box 1,2,3,4"
    assert isinstance(later.prompt, PointPrompt) and later.prompt.task is Task.VGDSEG and later.at_s == 2
    assert less.refines == later.prompt.prompt_id


def test_a_task_checks_what_it_is_given() -> None:
    with pytest.raises(PromptError, match="--text 'cup': task genseg takes a class list, got a TextPrompt"):
        read_schedule(["cup"], task="genseg")
    with pytest.raises(PluginError, match="unknown task head 'find'"):
        read_schedule(["cup"], task="find")
    with pytest.raises(PromptError, match="several regions cannot be refined"):
        read_schedule(clicks=["1,2", "3,4", "5,6,0@1"], task="vgdseg")


def test_negative_click_at_the_same_second_is_one_prompt() -> None:
    (item,) = read_schedule(clicks=["1,2@1", "3,4,0@1", "5,6,0@1"])
    assert item.prompt.points_px.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert item.prompt.point_labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give at least one of --text, --classes, --click, --box, --mask"),
        ({"texts": [" "]}, "prompt text is empty"),
        ({"texts": ["x" * 10_000]}, "10000 characters"),
        ({"classes": [", ,"]}, "class list is empty"),
        ({"classes": ["cup,cup"]}, "names a class twice"),
        ({"clicks": ["12"]}, "has 1 numbers, expected x,y"),
        ({"clicks": ["12;13"]}, "is not x,y.*for example --click 320,240"),
        ({"clicks": ["1,2@soon"]}, "is not x,y"),
        ({"clicks": ["1,2@-1"]}, "seconds count from the first frame"),
        ({"clicks": ["1,2@nan"]}, "seconds count from the first frame"),
        ({"clicks": ["nan,2"]}, "not a finite number"),
        ({"clicks": ["1,2,5"]}, "label is 5, expected 1"),
        ({"clicks": ["1,2,0"]}, "give a positive one first"),
        ({"clicks": ["1,2@3", "1,2,0@1"]}, "comes before the click it belongs to"),
        ({"boxes": ["1,2,3"]}, "expected x1,y1,x2,y2"),
        ({"boxes": ["5,5,1,1"]}, "--box 5,5,1,1: box is empty"),
        ({"boxes": ["1,2,inf,4"]}, "not a finite number"),
        ({"masks": [Path("nowhere.png")]}, "--mask nowhere.png: no such file"),
    ],
)
def test_bad_options_are_named(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_schedule(**options)


def test_bad_mask_files(tmp_path: Path) -> None:
    for name, content in (("empty.png", b""), ("text.png", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PromptError, match="not an image"):
            read_mask(tmp_path / name)
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(PromptError, match="no pixel set"):
        read_schedule(masks=[tmp_path / "black.png"])


def test_a_late_frame_is_left_out_and_counted(source: FrameSource) -> None:
    class OneLate(ColourSession):
        def step(self, frame: Frame) -> FrameResult:
            if frame.frame_index == 3:
                raise LateFrameError("frame is 33.0 ms older than the newest")
            return super().step(frame)

    report = run_replay(source, OneLate(), [], read_schedule(texts=["red"]))
    assert (report.frames, report.frames_dropped) == (NUM - 1, 1)
    assert report.problems == ["image 3: frame is 33.0 ms older than the newest"] and not report.is_damaged

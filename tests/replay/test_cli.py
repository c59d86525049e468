"""``x2sam replay`` as it is typed: what it prints, what it writes, how it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

import x2sam_ros
from tests.replay.commands import Run, program_runner
from tests.replay.recordings import START_NS, STEP_NS, ColourSession, image_message
from x2sam_ros.bag.writer import MASKS_TOPIC, OVERLAY_TOPIC
from x2sam_ros.cli import replay as command

NUM = 6


@pytest.fixture
def bag(write_bag: Callable[..., Path]) -> Path:
    return write_bag({"/camera": [image_message(i) for i in range(NUM)]})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the program with a session that needs no weights; give exit code, output, errors."""
    monkeypatch.setattr(command, "_open_session", lambda *_: ColourSession())
    return program_runner(monkeypatch, capfd)


def test_help_and_version(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "replay" in out
    assert run("--version") == (0, f"x2sam {x2sam_ros.__version__}\n", "")
    code, out, _ = run("replay", "--help")
    assert code == 0
    options = ("text", "classes", "click", "box", "mask", "topic", "preset", "checkpoint", "device", "stride", "video")
    for option in (*options, "out"):
        assert f"--{option}" in out


def test_replay_writes_masks_video_and_a_summary(run: Run, bag: Path, tmp_path: Path) -> None:
    out, video = tmp_path / "out.mcap", tmp_path / "out.mp4"
    arguments = ("--text", "red", "--click", "45,35@0.2", "--text", "a [bold] dog", "--video", video, "--overlay")
    code, printed, progress = run("replay", bag, "--out", out, *arguments)
    assert code == 0, progress
    assert "2 targets in" in printed
    assert "6 of 6" in printed
    assert "6 frames of /camera" in printed
    assert "warning: --text 'a [bold] dog' found no target" in printed
    assert f"wrote {out}" in printed
    assert f"wrote {video}" in printed
    assert "frames/s" in progress
    with AnyReader([out]) as reader:
        stamps = [
            reader.deserialize(data, connection.msgtype).header.stamp
            for connection, _, data in reader.messages([c for c in reader.connections if c.topic == MASKS_TOPIC])
        ]
        assert OVERLAY_TOPIC in reader.topics
    assert [s.sec * 10**9 + s.nanosec for s in stamps] == [START_NS + i * STEP_NS for i in range(NUM)]
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == NUM


def test_answers_in_words_are_printed(run: Run, bag: Path, tmp_path: Path) -> None:
    code, printed, progress = run("replay", bag, "--out", tmp_path / "out.mcap", "--task", "chat", "--text", "what?")
    assert code == 0, progress
    assert "--text 'what?': I see [red]." in printed and "warning" not in printed
    code, _, error = run("replay", bag, "--out", tmp_path / "out.mcap", "--task", "genseg", "--text", "what?")
    assert code == 2 and "task genseg takes a class list" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nowhere", "--text", "red"], "does not exist"),
        (["{bag}"], "give at least one of --text"),
        (["{bag}", "--click", "1;2"], "--click '1;2' is not x,y"),
        (["{bag}", "--click", "900,900"], "--click 900,900 was rejected: click 900,900 is outside the image"),
        (["{bag}", "--text", "red", "--topic", "/other"], "image topics found: /camera"),
        (["{bag}", "--text", "red", "--stride", "0"], "stride is 0"),
        (["{bag}", "--text", "red", "--preset", "nano", "--checkpoint", "x"], "give one of them"),
        (["{bag}", "--text", "red", "--video", "{tmp}/o.avi"], "ends in .mp4"),
        (["{bag}", "--text", "red", "--out", "{tmp}/no/out.mcap"], "there is no folder"),
        (["{bag}", "--text", "red", "--out", "{tmp}/out.bag"], "ends in .mcap"),
        (["{bag}/bag.mcap", "--text", "red", "--out", "{bag}/bag.mcap"], "is the input itself"),
        (["{bag}", "--text", "red", "--out", "{bag}/bag.mcap"], "lies in it"),
        (["{bag}", "--text", "red", "--video", "{bag}/out.mp4"], "lies in it"),
        (["{bag}", "--text", "x" * 10_000], "has 10000 characters"),
        (["{bag}", "--text", "not \udc80 Unicode"], "not valid Unicode at character 4"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run: Run, bag: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    arguments = [argument.format(bag=bag, tmp=tmp_path) for argument in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out.mcap")]
    code, printed, errors = run("replay", *arguments)
    (error,) = errors.splitlines()
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert len(error) < 500
    assert printed == ""
    assert {file.name for file in tmp_path.iterdir()} == {"bag"}


def test_prompt_never_reached_is_an_error_but_keeps_the_results(run: Run, bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    code, _, errors = run("replay", bag, "--out", out, "--click", "8,15", "--click", "45,35@9")
    assert code == 2
    assert "error: never given: --click 45,35@9; the input lasts 0.50 s" in errors
    assert out.exists()


def test_usage_mistakes_exit_with_2_too(run: Run, bag: Path) -> None:
    code, _, errors = run("replay", bag, "--text", "red")
    assert code == 2
    assert "--out" in errors


def test_truncated_bag_is_an_error_but_keeps_the_results(
    run: Run, write_bag: Callable[..., Path], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 240 * 960), dtype=np.uint8)
    size = {"height": 240, "width": 320, "step": 960}
    bag = write_bag({"/camera": [image_message(i, **size, data=noise[i]) for i in range(20)]}) / "bag.mcap"
    bag.write_bytes(bag.read_bytes()[:-1_500_000])
    code, printed, errors = run("replay", bag, "--text", "red", "--out", tmp_path / "out.mcap")
    assert code == 2
    assert "warning: " in printed
    assert "ends early or is damaged" in printed
    assert f"error: {bag} is truncated or damaged; the " in errors
    assert (tmp_path / "out.mcap").exists()

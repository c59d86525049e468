"""``x2sam chat`` as it is typed and as it is piped, with the nano weights; what they answer does not matter here."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.replay.commands import HEIGHT, WIDTH, Run, nano, program_runner, write_scene
from x2sam_ros.checkpoint import load
from x2sam_ros.cli.printing import coloured
from x2sam_ros.errors import plain
from x2sam_ros.model.tokenizer import TURN_END
from x2sam_ros.types import Grounding, GroundingStatus, Phrase
from x2sam_ros.visualise import target_colour

SURE = ("--score-threshold", "0", "--max-tokens", "6")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the program in a folder with a picture and a video, lines piped into it; give exit code, output, errors."""
    write_scene(tmp_path, frames=12)
    monkeypatch.setattr(load, "load_model", nano)
    monkeypatch.chdir(tmp_path)
    return program_runner(monkeypatch, capfd, "chat")


def test_questions_come_from_a_pipe_until_it_ends(run: Run, tmp_path: Path) -> None:
    lines = "how many stars are there?\n\n/segment the blue star\n/reset\n  /describe \n/click 60 50\n/click 60,50\n"
    code, printed, errors = run("picture.png", *SURE, lines=lines)
    assert (code, errors) == (0, "")
    assert [line for line in printed.splitlines() if line.startswith("> ")] == [
        f"> {line}" for line in lines.splitlines()
    ]
    written = re.findall(r"^wrote (\S+)$", printed, re.M)
    assert len(written) >= 3 and sorted(written) == sorted(f"x2sam_chat/{p.name}" for p in Path("x2sam_chat").iterdir())
    assert written[0] == "x2sam_chat/picture_001.png"
    for name in written:
        assert cv2.imread(name).shape == (HEIGHT, WIDTH, 3)


def test_help_and_quit(run: Run) -> None:
    code, printed, _ = run("picture.png", lines="/help\n/quit\nnever asked\n")
    assert code == 0
    assert "/segment WORDS" in printed and "never asked" not in printed
    assert not Path("x2sam_chat").exists()


def test_one_shot_and_numbers_of_overlays(run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        code, printed, _ = run("picture.png", "--ask", "/segment the star", "--out", tmp_path / "o/p", *SURE)
        assert code == 0 and ">" not in printed
        assert f"wrote {tmp_path / 'o/p'}/picture_00{number}.png" in printed


def test_phrases_have_the_colour_of_their_mask_in_the_overlay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    _, printed, _ = run("picture.png", "--ask", "/segment the star", *SURE)
    (seen,) = re.findall(r"^.*\x1b\[1;38;2;(\d+);(\d+);(\d+)mthe star\x1b\[0m$", printed, re.M)
    overlay = cv2.imread("x2sam_chat/picture_001.png")[:, :, ::-1]
    assert (overlay == np.array(seen, np.uint8)).all(axis=2).sum() > 10
    assert tuple(map(int, seen)) == target_colour(1)


def test_a_recording_is_sampled_and_drawn_on_one_sheet(run: Run) -> None:
    code, printed, _ = run("clip.mp4", "--ask", "/segment the star", "--frames", 5, *SURE)
    assert code == 0 and "of 4" in printed
    height, width, _ = cv2.imread("x2sam_chat/clip_001.png").shape
    assert width > 4 * height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "--ask", "a"], "none.png does not exist"),
        (["picture.png", "--ask", "a", "--frames", "0"], "number of frames is 0"),
        (["picture.png", "--ask", "a", "--max-tokens", "0"], "max_answer_tokens is 0"),
        (["picture.png", "--ask", "a", "--out", "clip.mp4"], "clip.mp4 is a file"),
        (["picture.png", "--ask", "a", "--preset", "nano", "--checkpoint", "x"], "give one of them"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, printed, errors = run(*arguments)
    (error,) = errors.splitlines()
    assert (code, printed) == (2, "")
    assert error.startswith("error: ") and message in error


def test_a_wrong_question_is_one_line_and_the_next_is_answered(run: Run) -> None:
    lines = "/fly\n/click 500 5\n/click here\n/segment\n" + "x" * 5000 + "\nnot \udc80 Unicode\n/segment the star\n"
    code, printed, errors = run("picture.png", *SURE, lines=lines)
    assert code == 2
    wanted = ("'/fly'", "outside the image", "--click", "is empty", "5000", "not valid")
    said = errors.splitlines()
    assert all(line.startswith("error: ") and words in line for line, words in zip(said, wanted, strict=True))
    assert "wrote x2sam_chat/picture_001.png" in printed


def test_ctrl_c_stops_the_answer_not_the_program(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes with the first piece of the first answer; the second question is answered to its end."""
    network, asked = nano(), []

    def dictated(model: Any, *arguments: Any, on_text: Callable[[str], None], **options: Any) -> Any:
        asked.append(arguments)
        ids = iter(model.tokenizer.encode_template("one two three" + TURN_END))

        def hear(piece: str) -> None:
            on_text(piece)
            if len(asked) == 1:
                os.kill(os.getpid(), signal.SIGINT)

        return generate(model, *arguments, on_text=hear, choose=lambda logits: next(ids), **options)

    generate = type(network).generate
    monkeypatch.setattr(type(network), "generate", dictated)
    before = signal.getsignal(signal.SIGINT)
    code, printed, _ = run("picture.png", lines="count\ncount\n")
    assert (code, len(asked)) == (0, 2)
    first, second = printed.split("> count")[1:]
    assert "three" not in first and "cancelled" in first
    assert "one two three" in second and "cancelled" not in second
    assert signal.getsignal(signal.SIGINT) is before


def test_answers_cannot_command_a_terminal() -> None:
    assert plain("a\x1b[2Jb\x07\u202ec\udc80é 火") == "a�[2Jb��c�é 火"
    phrase = Phrase("red\x1b", 2, 6, (3,))
    text = coloured(Grounding("", GroundingStatus.OK, response="a red\x1b star", phrases=(phrase,)))
    assert text.plain == "a red� star"
    (span,) = text.spans
    assert (span.start, span.end) == (2, 6)
    assert str(span.style) == "bold rgb({},{},{})".format(*target_colour(3))

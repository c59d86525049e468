"""What the tests of the commands share: a scene to run on, the nano weights loaded once, and the program as typed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import pytest

from x2sam_ros.checkpoint import load
from x2sam_ros.cli import main as program
from x2sam_ros.training.scenes import Clip, generate_clip

Run = Callable[..., tuple[int, str, str]]
HEIGHT, WIDTH = 96, 128

nano = lru_cache(maxsize=1)(load.load_model)


def write_scene(folder: Path, frames: int) -> Clip:
    """Write a generated scene as picture.png, its first frame, and as clip.mp4."""
    clip = generate_clip(7, frames, HEIGHT, WIDTH)
    cv2.imwrite(str(folder / "picture.png"), clip.frames[0][:, :, ::-1])
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 2, (WIDTH, HEIGHT))
    for frame in clip.frames:
        video.write(frame[:, :, ::-1])
    video.release()
    return clip


def program_runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *command: str) -> Run:
    """Return a function that runs the program, lines piped into it, and gives exit code, output, errors.

    Args:
        command: words in front of the arguments of each call.
    """
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x2sam", *command, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as left:
            program.main()
        output = capfd.readouterr()
        return int(left.value.code or 0), output.out, output.err

    return call

"""Which frames of a recording form a clip, and the times that the language model is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from x2sam_ros.errors import ConfigError

SamplingMode = Literal["stride", "span"]
"""Neighbours, or every ``stride``-th frame, side by side; or clips that each span the whole recording."""


def sample_frames(
    frames: int,
    num_frames: int,
    mode: SamplingMode = "stride",
    stride: int = 1,
    official_quirks: bool = False,
) -> list[tuple[int, ...]]:
    """Divide a recording into clips of at most ``num_frames`` frames; every frame is in exactly one.

    The published rules lose frames, which ``official_quirks`` reproduces: "stride" leaves out a clip of one frame
    (the last of 17 with clips of 8), and "span" rounds its step down, so that frames near the end can be missing and
    others come twice (20 with clips of 8).

    Args:
        frames: how many frames the recording has.
        num_frames: most frames of a clip.
        mode: "stride" takes neighbours that are ``stride`` frames apart; with a stride above 1 the frames in between
            form clips of their own. "span" spreads each clip over the whole recording.
        stride: frames from one to the next; used by "stride" alone.
        official_quirks: whether to sample as the published code does.

    Returns:
        Frame numbers of each clip, ascending within a clip and by a clip's first frame.

    Raises:
        ConfigError: the mode is unknown or a number is out of range.

    Source: X2SAM's video data sets.
    """
    if frames < 0 or num_frames < 1 or stride < 1:
        raise ConfigError(
            f"cannot divide {frames} frames into clips of {num_frames} with stride {stride}; "
            "expected 0 or more, 1 or more and 1 or more"
        )
    if mode == "span":
        return _spanning(frames, num_frames, official_quirks)
    if mode != "stride":
        raise ConfigError(f"sampling mode is {mode!r}, expected 'stride' (neighbours) or 'span' (the whole recording)")
    tracks = (range(start, frames, stride) for start in range(stride))
    clips = (track[begin : begin + num_frames] for track in tracks for begin in range(0, len(track), num_frames))
    return sorted(tuple(clip) for clip in clips if len(clip) > 1 or not official_quirks)


def _spanning(frames: int, num_frames: int, official_quirks: bool) -> list[tuple[int, ...]]:
    num_clips = math.ceil(frames / num_frames)
    step = max(1, frames // num_frames) if official_quirks else num_clips
    return [tuple(range(start, frames, step)[:num_frames]) for start in range(num_clips)]


def pair_timestamps(indices: Sequence[int], fps: float, merge_size: int = 2) -> list[float]:
    """Return the time of each group of frames that the language model sees as one step, seconds.

    Args:
        indices: numbers of the frames shown, ascending.
        fps: rate of the recording they were taken from, frames per second.
        merge_size: frames of a group; the last frame is repeated to fill the last group.

    Returns:
        For each group the middle between its first and its last frame.

    Raises:
        ConfigError: the rate or the group's size is not positive.

    Source: Qwen3-VL's processor.
    """
    if not fps > 0 or merge_size < 1:
        raise ConfigError(f"cannot tell the time of groups of {merge_size} frames at {fps} frames per second")
    times = [index / fps for index in indices]
    groups = (times[begin : begin + merge_size] for begin in range(0, len(times), merge_size))
    return [(group[0] + group[-1]) / 2 for group in groups]

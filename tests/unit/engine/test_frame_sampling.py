"""Frame sampling: every frame is in exactly one clip, and the published rule where it is asked for."""

from __future__ import annotations

import json
from itertools import chain

import pytest

from tests.shared_data import PARITY
from x2sam_ros.engine.frame_sampling import SamplingMode, pair_timestamps, sample_frames
from x2sam_ros.errors import ConfigError


@pytest.mark.parametrize("mode", ["stride", "span"])
@pytest.mark.parametrize("stride", [1, 2, 3, 50])
@pytest.mark.parametrize("num_frames", [1, 4, 8])
def test_every_frame_is_in_exactly_one_clip(mode: SamplingMode, stride: int, num_frames: int) -> None:
    for frames in range(40):
        clips = sample_frames(frames, num_frames, mode, stride)
        assert sorted(chain(*clips)) == list(range(frames))
        assert all(len(clip) <= num_frames and list(clip) == sorted(clip) for clip in clips)
        assert [clip[0] for clip in clips] == sorted(clip[0] for clip in clips)


def test_clips_of_a_stride_and_of_a_span() -> None:
    assert sample_frames(9, 4) == [(0, 1, 2, 3), (4, 5, 6, 7), (8,)]
    assert sample_frames(9, 3, stride=2) == [(0, 2, 4), (1, 3, 5), (6, 8), (7,)]
    assert sample_frames(9, 4, "span") == [(0, 3, 6), (1, 4, 7), (2, 5, 8)]


def test_the_published_rule_loses_the_tail() -> None:
    assert sample_frames(17, 8)[-1] == (16,)
    assert sample_frames(17, 8, official_quirks=True)[-1] == tuple(range(8, 16))


def test_groups_of_frames_lie_between_their_first_and_last() -> None:
    assert pair_timestamps([0, 10, 20], 10.0) == [0.5, 2.0]
    assert pair_timestamps([0, 10, 20, 30], 10.0, merge_size=4) == [1.5]
    assert pair_timestamps([], 10.0) == []


@pytest.mark.parametrize("bad", [{"frames": -1}, {"num_frames": 0}, {"stride": 0}, {"mode": "random"}])
def test_numbers_out_of_range(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        sample_frames(**{"frames": 8, "num_frames": 4, **bad})


@pytest.mark.parametrize(("fps", "merge_size"), [(0.0, 2), (-1.0, 2), (float("nan"), 2), (10.0, 0)])
def test_times_need_a_rate(fps: float, merge_size: int) -> None:
    with pytest.raises(ConfigError, match="frames per second"):
        pair_timestamps([0, 1], fps, merge_size)


def test_the_published_samples() -> None:
    path = PARITY / "prompts" / "frame_sampling.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set X2SAM_PARITY")
    rows = json.loads(path.read_text())
    for row in rows["sample_frames"]:
        clips = sample_frames(row["frames"], row["num_frames"], row["mode"], row["stride"], official_quirks=True)
        assert list(chain(*clips)) == row["indices"], row
    for row in rows["timestamps"]:
        assert pair_timestamps(row["indices"], row["fps"], row["merge_size"]) == pytest.approx(row["timestamps"])
    assert rows["sample_frames"] and rows["timestamps"]

"""End to end on real video: the shipped nano model, the bags of real clips, the file read by others."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

from tests.shared_data import DATA
from x2sam_ros.bag.messages import read_grounding, read_tracked_mask_array
from x2sam_ros.bag.source import open_source
from x2sam_ros.bag.writer import GROUNDINGS_TOPIC, LABEL_IMAGE_TOPIC, MASKS_TOPIC
from x2sam_ros.cli import main as program
from x2sam_ros.types import FrameResult, Grounding, GroundingStatus

TRUTH_TOPIC = "/ground_truth/label_image"
CLIPS = {"car-shadow": 1, "street_car_player_dog": 2}
"""Bags, and how many of their objects are clicked."""

pytestmark = pytest.mark.skipif(
    not (DATA / "rosbags").is_dir(), reason=f"no real bags in {DATA / 'rosbags'}; set X2SAM_DATA"
)


def _clicks(clip: str, num_targets: int) -> list[str]:
    """Click each object at its innermost point, in the first frame that shows enough of it."""
    clicks: list[str] = []
    clicked: set[int] = set()
    start_ns: int | None = None
    for frame in open_source(DATA / "rosbags" / clip, TRUTH_TOPIC):
        start_ns = frame.stamp_ns if start_ns is None else start_ns
        labels = frame.image[..., 0]
        for value in np.unique(labels[labels > 0]).tolist():
            mask = (labels == value).astype(np.uint8)
            if value in clicked or len(clicked) == num_targets or mask.sum() < 1000:
                continue
            distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(distance.argmax()), distance.shape)
            clicked.add(value)
            clicks.append(f"{x},{y}@{(frame.stamp_ns - start_ns) / 1e9:.6f}")
    assert len(clicks) == num_targets
    return clicks


def _read(path: Path) -> tuple[list[FrameResult], list[Grounding]]:
    with AnyReader([path]) as reader:
        messages = [(c.topic, reader.deserialize(data, c.msgtype)) for c, _, data in reader.messages()]
    results = [read_tracked_mask_array(message) for topic, message in messages if topic == MASKS_TOPIC]
    return results, [read_grounding(message) for topic, message in messages if topic == GROUNDINGS_TOPIC]


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "num_targets"), CLIPS.items())
def test_real_bag_end_to_end(clip: str, num_targets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag, out, video = DATA / "rosbags" / clip, tmp_path / "out.mcap", tmp_path / "out.mp4"
    options = [option for click in _clicks(clip, num_targets) for option in ("--click", click)]
    arguments = ["x2sam", "replay", str(bag), *options, "--out", str(out), "--video", str(video)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        program.main()
    assert not left.value.code

    frames = list(open_source(bag))
    results, groundings = _read(out)
    assert len(results) == len(frames) == 40
    assert [result.stamp_ns for result in results] == [frame.stamp_ns for frame in frames]
    assert [result.frame_index for result in results] == list(range(40))
    assert {(result.frame_id, result.image_size) for result in results} == {("camera", frames[0].size)}

    # A click always makes a target; how well a model of generated scenes follows a real car is not judged here.
    assert [grounding.status for grounding in groundings] == [GroundingStatus.OK] * num_targets
    ids = [target for grounding in groundings for target in grounding.target_ids]
    assert len(set(ids)) == num_targets
    assert set(results[-1].target_ids.tolist()) == set(ids)
    for result in results:
        assert ((result.scores >= 0) & (result.scores <= 1)).all()

    with out.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()], validate_crcs=True)
        counts: dict[str, int] = {}
        for decoded in reader.iter_decoded_messages():
            counts[decoded.channel.topic] = counts.get(decoded.channel.topic, 0) + 1
    assert counts == {MASKS_TOPIC: 40, LABEL_IMAGE_TOPIC: 40, GROUNDINGS_TOPIC: num_targets}
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 40


def test_real_bags_are_read_whole_and_the_camera_is_taken() -> None:
    for clip in CLIPS:
        source = open_source(DATA / "rosbags" / clip)
        assert source.topic == "/camera/image_raw/compressed"
        assert sum(1 for _ in source) == source.num_frames == 40
        assert source.problems.count == 0

"""Panoptic quality of videos against the official program's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parity.test_metric_pq import check, segments
from tests.shared_data import each_fixture, read_fixture
from x2sam_ros.evaluation.metrics.panoptic import Quality, SharedPixels, shared_pixels
from x2sam_ros.evaluation.metrics.video_panoptic import SegmentationTrackingQuality, VideoPanopticQuality


def videos(folder: Path) -> tuple[dict[str, list[SharedPixels]], list[int], dict[str, Any]]:
    """Return the frames of each video, the classes that are stuff, and the fixture's result file."""
    tensors, fixture = read_fixture(folder)
    frames = zip(tensors["pred"], tensors["gt"])
    clips: dict[str, list[SharedPixels]] = {}
    for own, true in zip(fixture["pred"], fixture["gt"]):
        listed = zip(own["annotations"], true["annotations"])
        # The frames of all videos lie one behind the other: `listed` first, so that no frame of the next is taken.
        clips[true["video_id"]] = [
            shared_pixels(segments(pair[0], infos[0]), segments(pair[1], infos[1]))
            for infos, pair in zip(listed, frames)
        ]
    stuff = [category["id"] for category in fixture["categories"] if not category["isthing"]]
    return clips, stuff, fixture


@each_fixture("metric_vpq_stq*")
def test_vpq_equals_the_fixture(folder: Path) -> None:
    clips, stuff, fixture = videos(folder)
    metric = VideoPanopticQuality(stuff, [int(length) for length in fixture["vpq"]])
    for clip in clips.values():
        metric.update(clip)
    for length, expected in fixture["vpq"].items():
        score = metric.quality(int(length)).quality()
        for found, key in ((score.overall, "All"), (score.things, "Things"), (score.stuff, "Stuff")):
            check(found, expected[key])
            assert found.num_classes == expected[key]["n"]
        for name, numbers in expected["per_class"].items():
            check(score.by_class.get(int(name), Quality(0.0, 0.0, 0.0, 0)), numbers)
    mean = sum(expected["All"]["pq"] for expected in fixture["vpq"].values()) / len(fixture["vpq"])
    assert metric.compute()["vpq"] == pytest.approx(mean, abs=1e-9)


@each_fixture("metric_vpq_stq*")
def test_stq_equals_the_fixture(folder: Path) -> None:
    clips, stuff, fixture = videos(folder)
    whole, expected = SegmentationTrackingQuality(stuff, official_quirks=True), fixture["stq"]
    for index, name in enumerate(expected["ID_per_seq"]):
        one = SegmentationTrackingQuality(stuff, official_quirks=True)
        one.update(clips[name])
        whole.merge(one)
        numbers = [expected[f"{key}_per_seq"][index] for key in ("STQ", "AQ", "IoU")]
        assert list(one.compute().values()) == pytest.approx(numbers, abs=1e-9)
    numbers = [expected[key] for key in ("STQ", "AQ", "IoU")]
    assert list(whole.compute().values()) == pytest.approx(numbers, abs=1e-9)

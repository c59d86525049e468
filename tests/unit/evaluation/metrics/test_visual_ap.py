"""V-VGD AP: by frame, where ids cost nothing, and by track, where they do."""

from __future__ import annotations

from functools import partial

from tests.unit.evaluation.metrics.merging import check_merging
from tests.unit.evaluation.metrics.moving_disks import HEIGHT, WIDTH, disk, random_clip
from x2sam_ros.evaluation.metrics.track_ap import Track, TrackAP, TrueTrack
from x2sam_ros.evaluation.metrics.visual_ap import VisualAP
from x2sam_ros.evaluation.predictions import rle_of

SIZE = (HEIGHT, WIDTH)


def test_exchanged_ids_cost_track_ap_only() -> None:
    left, right = rle_of(disk(100, 100, 40)), rle_of(disk(280, 100, 40))
    truths = [TrueTrack(1, SIZE, (left,) * 4), TrueTrack(1, SIZE, (right,) * 4)]
    metric = VisualAP()
    halves = ((left, left, right, right), (right, right, left, left))
    metric.update("swap", [Track(1, SIZE, half, (0.9,) * 4) for half in halves], truths)
    found = metric.compute()
    assert found["frame_ap"] > 0.999 and found["track_ap"] == found["track_ap50"] == 0.0


def test_a_frame_without_an_answer_counts() -> None:
    rle = rle_of(disk(100, 100, 40))
    metric = VisualAP()
    metric.update("half", [Track(1, SIZE, (rle, None), (0.9, 0.0))], [TrueTrack(1, SIZE, (rle, rle))])
    assert 0.5 < metric.compute()["frame_ap"] < 0.51  # 51 of 101 levels of recall
    metric.update("nothing", [], [])
    assert metric.compute()["track_ap50"] > 0.999


def test_merges() -> None:
    clips = [random_clip(seed) for seed in range(8)]
    updates = [partial(VisualAP.update, sequence=f"{n}", tracks=t, truths=g) for n, (t, g) in enumerate(clips)]
    found, tracks = check_merging(VisualAP, updates), TrackAP()
    for number, (own, truths) in enumerate(clips):
        tracks.update(str(number), own, truths)
    assert {key: found[f"track_{key}"] for key in tracks.compute()} == tracks.compute()

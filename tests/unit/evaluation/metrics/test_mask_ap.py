"""Mask AP: exactly what pycocotools says of its own files."""

from __future__ import annotations

import contextlib
import io
from functools import partial

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.unit.evaluation.metrics.merging import check_merging
from tests.unit.evaluation.metrics.moving_disks import HEIGHT, WIDTH, disk, random_clip
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.mask_ap import NAMES, Detection, MaskAP, TrueMask
from x2sam_ros.evaluation.predictions import rle_of

SIZE = (HEIGHT, WIDTH)
Image = tuple[list[Detection], list[TrueMask]]


def random_images() -> list[Image]:
    """Return the frames of a few clips, one image with more answers of a class than count, and one with nothing."""
    images: list[Image] = []
    for seed in range(6):
        tracks, truths = random_clip(seed)
        for index in range(4):
            detections = [Detection(t.category_id, t.scores[index], r) for t in tracks if (r := t.rles[index])]
            images.append(
                (detections, [TrueMask(t.category_id, r, t.is_crowd) for t in truths if (r := t.rles[index])])
            )
    rng = np.random.default_rng(6)
    many = [Detection(3, float(rng.random()), rle_of(disk(*rng.uniform(80, 120, 2), 30))) for _ in range(130)]
    return [*images, (many, [TrueMask(3, rle_of(disk(100, 100, 30)))]), ([], [])]


def by_pycocotools(images: list[Image]) -> list[float]:
    """Return COCOeval's summary of the images written as its JSON."""
    truths, detections = [], []
    for image_id, (found, true) in enumerate(images):
        for item in (*found, *true):
            rle = {"size": list(SIZE), "counts": item.rle}
            entry = {"image_id": image_id, "category_id": item.category_id, "segmentation": rle}
            if isinstance(item, Detection):
                detections.append({**entry, "score": item.score})
            else:
                area = int(coco_mask.area({**rle, "counts": item.rle.encode()}))
                truths.append({**entry, "id": len(truths) + 1, "area": area, "iscrowd": int(item.is_crowd)})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in range(len(images))],
        "categories": [{"id": id_} for id_ in sorted({truth["category_id"] for truth in truths})],
        "annotations": truths,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) if value >= 0 else float("nan") for value in evaluation.stats]


def test_equals_pycocotools_and_merges() -> None:
    images = random_images()
    updates = [
        partial(MaskAP.update, image=f"{n:03d}", size=SIZE, detections=d, truths=t) for n, (d, t) in enumerate(images)
    ]
    found = check_merging(MaskAP, updates)
    assert found == pytest.approx(dict(zip(NAMES, by_pycocotools(images))), abs=0, rel=0)
    assert 0.1 < found["ap"] < 0.9 and not np.isnan([*found.values()]).any()


def test_is_nan_without_truth_and_0_without_answers() -> None:
    metric = MaskAP()
    assert np.isnan([*metric.compute().values()]).all()
    metric.update("a", SIZE, [Detection(1, 0.5, rle_of(disk(50, 50, 20)))], [])
    assert np.isnan([*metric.compute().values()]).all()
    metric.update("b", SIZE, [], [TrueMask(2, rle_of(disk(50, 50, 20)))])
    found = metric.compute()
    assert found["ap"] == found["ap_medium"] == 0.0 and np.isnan(found["ap_large"])


def test_one_image_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    metric, other = MaskAP(), MaskAP()
    for each in (metric, other):
        each.update("bag/000001", SIZE, [], [TrueMask(2, rle_of(disk(50, 50, 20)))])
    with pytest.raises(FrameError, match="'bag/000001' is counted already"):
        metric.merge(other)
    metric.compute()
    assert capsys.readouterr().out == ""

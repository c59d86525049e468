"""What every number of an evaluation is called and means: the one table for results, reports, comparisons and pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from x2sam_ros.truth.dataset import Kind


@dataclass(frozen=True)
class MetricInfo:
    """One number.

    Args:
        name: as it stands in results.json.
        meaning: in one line.
        unit: '' for 0 to 1.
        higher_is_better: False for times and mistakes.
    """

    name: str
    meaning: str
    unit: str = ""
    higher_is_better: bool = True


_SIZES = {"small": "of small objects", "medium": "of medium objects", "large": "of large objects"}


def _average_precision(prefix: str, of: str) -> list[MetricInfo]:
    return [
        MetricInfo(f"{prefix}AP", f"average precision of {of}, over IoU 0.5 to 0.95"),
        MetricInfo(f"{prefix}AP50", f"average precision of {of} at IoU 0.5"),
        MetricInfo(f"{prefix}AP75", f"average precision of {of} at IoU 0.75"),
        *(MetricInfo(f"{prefix}AP_{size}", f"average precision of {of}, {words}") for size, words in _SIZES.items()),
        *(
            MetricInfo(f"{prefix}AR{most}", f"average recall of {of}, at most {most} answers a class")
            for most in (1, 10, 100)
        ),
        *(MetricInfo(f"{prefix}AR_{size}", f"average recall of {of}, {words}") for size, words in _SIZES.items()),
    ]


def _panoptic(suffix: str, of: str) -> list[MetricInfo]:
    return [
        MetricInfo(f"PQ{suffix}", f"panoptic quality of {of}"),
        MetricInfo(f"SQ{suffix}", f"IoU of the segments found, of {of}"),
        MetricInfo(f"RQ{suffix}", f"F1 of finding segments, of {of}"),
    ]


_ALL = [
    MetricInfo("J&F", "mean of J and F, over objects"),
    MetricInfo("J", "region IoU, mean over frames, then objects"),
    MetricInfo("F", "boundary F-measure, mean over frames, then objects"),
    MetricInfo("J_recall", "share of frames with J above 0.5"),
    MetricInfo("F_recall", "share of frames with F above 0.5"),
    MetricInfo("J_decay", "J of the first quarter less J of the last", higher_is_better=False),
    MetricInfo("F_decay", "F of the first quarter less F of the last", higher_is_better=False),
    MetricInfo("J&F_davis", "J&F without the prompted and the last frame, as DAVIS 2017 counts"),
    MetricInfo("J_davis", "J without the prompted and the last frame"),
    MetricInfo("F_davis", "F without the prompted and the last frame"),
    MetricInfo("HOTA", "higher order tracking accuracy: finding and keeping identities alike"),
    MetricInfo("DetA", "HOTA's part for finding objects"),
    MetricInfo("AssA", "HOTA's part for keeping identities"),
    MetricInfo("LocA", "mean IoU of HOTA's matches"),
    MetricInfo("IDF1", "F1 of frames with the right identity"),
    MetricInfo("IDP", "share of predicted masks with the right identity"),
    MetricInfo("IDR", "share of true masks with the right identity"),
    MetricInfo("IDsw", "times an object's target changed", "times", higher_is_better=False),
    MetricInfo("Frag", "times an object was found again, after a loss or an absence", "times", higher_is_better=False),
    MetricInfo("latency_J&F", "J&F against the image that is current when the mask is published"),
    MetricInfo("latency_J", "J against the image that is current when the mask is published"),
    MetricInfo("latency_F", "F against the image that is current when the mask is published"),
    MetricInfo("first_mask_s", "median time from prompt to first mask", "s", higher_is_better=False),
    MetricInfo("first_mask_share", "share of prompts that ever got a mask of their object"),
    MetricInfo("reacquired_share", "share of an object's returns after which it is found within 10 annotated frames"),
    MetricInfo("reacquired_s", "median time from an object's return to its mask", "s", higher_is_better=False),
    MetricInfo("stability", "1 less how differently masks and their objects change from frame to frame"),
    MetricInfo("false_alarm_share", "share of frames without the object that have a mask", higher_is_better=False),
    MetricInfo("gIoU", "mean IoU over phrases; 1 where nothing is meant and nothing found"),
    MetricInfo("cIoU", "summed intersections by summed unions, over phrases"),
    *(MetricInfo(f"Pr@0.{tenth}", f"share of phrases with an IoU of 0.{tenth} or more") for tenth in range(5, 10)),
    MetricInfo("N-acc", "share of phrases that mean nothing and got no mask"),
    MetricInfo("T-acc", "share of phrases that mean something and got a mask"),
    *_average_precision("", "masks, image by image"),
    *_average_precision("track_", "whole tracks"),
    *_panoptic("", "all classes"),
    *_panoptic("_things", "things"),
    *_panoptic("_stuff", "stuff"),
    MetricInfo("VPQ", "panoptic quality of clips, mean over windows of 1, 2, 4 and 6 frames"),
    MetricInfo("VPQ_things", "VPQ of things"),
    MetricInfo("VPQ_stuff", "VPQ of stuff"),
    MetricInfo("STQ", "segmentation and tracking quality, the geometric mean of its two parts"),
    MetricInfo("STQ_AQ", "STQ's part for keeping identities"),
    MetricInfo("STQ_SQ", "STQ's part for classes, a mean IoU"),
    MetricInfo("mIoU", "mean IoU over classes"),
    MetricInfo("fwIoU", "IoU of classes, weighted by their pixels"),
    MetricInfo("mAcc", "share of pixels that are right, mean over classes"),
    MetricInfo("pAcc", "share of pixels that are right"),
    MetricInfo("VC8", "share of pixels of one class for 8 frames whose prediction does not change"),
    MetricInfo("VC16", "share of pixels of one class for 16 frames whose prediction does not change"),
    MetricInfo("GCG_mIoU", "mean IoU of phrases' masks, paired by overlap"),
    MetricInfo("GCG_recall", "share of true phrases with a mask and words like theirs"),
    *(replace(info, name=f"GCG_{info.name}") for info in _average_precision("", "phrases' masks")),
    MetricInfo("METEOR", "likeness of the description to the references, by words and their stems"),
    MetricInfo("CIDEr", "likeness of the description to the references, by rare words", "of 10"),
]

METRICS: Mapping[str, MetricInfo] = {info.name: info for info in _ALL}
"""Every number that has one name, in the order that reports show."""

HEADLINES: Mapping[Kind, tuple[str, ...]] = {
    Kind.OBJECTS: ("J&F", "J", "F", "HOTA", "IDF1", "latency_J&F"),
    Kind.REFERRING: ("J&F", "cIoU", "gIoU", "N-acc", "T-acc"),
    Kind.INSTANCES: ("AP", "AP50", "track_AP", "track_AP50"),
    Kind.PANOPTIC: ("PQ", "PQ_things", "PQ_stuff", "VPQ", "STQ"),
    Kind.SEMANTIC: ("mIoU", "pAcc", "VC8", "VC16"),
    Kind.VISUAL: ("AP", "AP50", "track_AP", "track_AP50"),
    Kind.CAPTIONS: ("GCG_mIoU", "GCG_recall", "GCG_AP50", "METEOR", "CIDEr"),
}
"""What each kind is judged by; the first that an evaluation has is the one that sorts its sequences."""

_BY_PART: Mapping[str, str] = {"IoU/": "IoU of class '{}'", "VPQ_": "VPQ by window: {}"}
"""Numbers that come once for each class or window: how their names begin, and what they mean."""

_SHOWN: Mapping[str, str] = {
    "jf": "J&F",
    "deta": "DetA",
    "assa": "AssA",
    "loca": "LocA",
    "id_switches": "IDsw",
    "fragmentations": "Frag",
    "latency_jf": "latency_J&F",
    "latency_j": "latency_J",
    "latency_f": "latency_F",
    "giou": "gIoU",
    "ciou": "cIoU",
    **{f"precision_{tenth}0": f"Pr@0.{tenth}" for tenth in range(5, 10)},
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "miou": "mIoU",
    "fwiou": "fwIoU",
    "macc": "mAcc",
    "pacc": "pAcc",
    "stq_aq": "STQ_AQ",
    "stq_sq": "STQ_SQ",
    "cider": "CIDEr",
    "recall": "recall",
}
_SETS: Mapping[str, str] = {"frame_": "", "track_": "track_", "gcg_": "GCG_", "iou/": "IoU/"}
"""How keys of a set of numbers begin, and what stands in their place."""


def shown(key: str) -> str:
    """Return the name that a metric's key has in results: ``idf1`` is IDF1, ``track_ap50`` is track_AP50."""
    for start, written in _SETS.items():
        if key.startswith(start):
            inner = key.removeprefix(start)
            return written + (inner if start == "iou/" else shown(inner))
    if key in METRICS or key in _SHOWN:
        return _SHOWN.get(key, key)
    head, *rest = re.sub(r"^vpq(?=\d)", "vpq_", key).split("_", 1)
    return "_".join([head.upper(), *rest])


def about(name: str) -> MetricInfo:
    """Say what a number is; one that nobody knows is explained by its name."""
    for start, meaning in _BY_PART.items():
        if name.startswith(start):
            return MetricInfo(name, meaning.format(name.removeprefix(start)))
    return METRICS.get(name, MetricInfo(name, name))


def ordered(names: set[str], kind: Kind) -> list[str]:
    """Sort names: the headlines of the kind, then the table's order, then the others by name."""
    places = {name: place for place, name in enumerate(dict.fromkeys((*HEADLINES[kind], *METRICS)))}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))

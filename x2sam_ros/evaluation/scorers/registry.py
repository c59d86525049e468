"""The metrics that an evaluation keeps, by the name of their counts in results: made, stored, merged, named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from x2sam_ros.errors import ResultsError
from x2sam_ros.evaluation.metrics.captions import CaptionText, GroundedMasks
from x2sam_ros.evaluation.metrics.consistency import VideoConsistency
from x2sam_ros.evaluation.metrics.identity import Identity
from x2sam_ros.evaluation.metrics.mask_ap import MaskAP
from x2sam_ros.evaluation.metrics.metric import Metric
from x2sam_ros.evaluation.metrics.names import shown
from x2sam_ros.evaluation.metrics.object_scores import ObjectScores
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality
from x2sam_ros.evaluation.metrics.referring import ReferringIoU
from x2sam_ros.evaluation.metrics.semantic import SemanticIoU
from x2sam_ros.evaluation.metrics.streaming import Streaming
from x2sam_ros.evaluation.metrics.track_ap import TrackAP
from x2sam_ros.evaluation.metrics.video_panoptic import SegmentationTrackingQuality, VideoPanopticQuality
from x2sam_ros.evaluation.metrics.visual_ap import VisualAP

MAKERS: Mapping[str, Callable[..., Any]] = {
    "objects": ObjectScores,
    "davis": ObjectScores,
    "streaming": Streaming,
    "identity": Identity,
    "phrases": ReferringIoU,
    "masks": MaskAP,
    "tracks": TrackAP,
    "visual": VisualAP,
    "panoptic": PanopticQuality,
    "video_panoptic": VideoPanopticQuality,
    "tracking_quality": SegmentationTrackingQuality,
    "semantic": SemanticIoU,
    "consistency": VideoConsistency,
    "grounded": GroundedMasks,
    "words": CaptionText,
}

ONLY_TOGETHER = ("words",)
"""Metrics that mean nothing over one sample, and are slow to start."""

SLOW = ("masks", "tracks", "visual", "grounded")
"""Metrics that sort everything anew whenever they are computed."""

Counts = dict[str, dict[str, Any]]
"""``SequenceResult.counts``: the settings and the state of each metric."""


class Kept:
    """Metrics with their settings, to be stored and merged."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._settings: dict[str, dict[str, Any]] = {}

    def make(self, name: str, **settings: Any) -> Any:
        """Return a new metric of ``MAKERS``; its settings are values that JSON can hold."""
        self._settings[name] = settings
        metric: Metric = MAKERS[name](**settings)
        self._metrics[name] = metric
        return metric

    def counts(self) -> Counts:
        """Return everything as values that JSON can hold."""
        return {
            name: {"settings": self._settings[name], "state": metric.state()} for name, metric in self._metrics.items()
        }

    def add(self, counts: Counts) -> None:
        """Merge what ``counts`` returned.

        Raises:
            ResultsError: it was counted with other settings, or by a metric that nobody knows.
        """
        for name, kept in counts.items():
            if name not in MAKERS:
                raise ResultsError(f"the results count {name!r:.40}, which is unknown here; evaluate again")
            if name not in self._metrics:
                self.make(name, **kept["settings"])
            if kept["settings"] != self._settings[name]:
                raise ResultsError(
                    f"results of {name} have other settings: {kept['settings']!s:.80} and "
                    f"{self._settings[name]!s:.80}; evaluate all sequences in one way"
                )
            other: Metric = MAKERS[name](**kept["settings"])
            other.restore(kept["state"])
            self._metrics[name].merge(other)

    def merge(self, other: Kept) -> None:
        """Add all samples of metrics that were made with the same settings."""
        for name, metric in other._metrics.items():
            if name not in self._metrics:
                self.make(name, **other._settings[name])
            self._metrics[name].merge(metric)

    def numbers(self, without: Iterable[str] = ()) -> dict[str, float]:
        """Return every number by the name it has in results."""
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if name not in without:
                found |= {_named(name, key): value for key, value in metric.compute().items()}
        return {name: value for name, value in found.items() if name}


def _named(metric: str, key: str) -> str:
    """Return the name of a number; '' for one that is left out."""
    if metric == "davis":
        return f"{shown(key)}_davis" if key in ("jf", "j", "f") else ""
    return f"track_{shown(key)}" if metric == "tracks" else shown(key)

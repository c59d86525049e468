"""Average precision of visual grounded segmentation: everything of the class that a region on one frame shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from x2sam_ros.evaluation.metrics.mask_ap import Detection, MaskAP, TrueMask
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.evaluation.metrics.track_ap import Track, TrackAP, TrueTrack


class VisualAP:
    """V-VGD's average precision twice: frame by frame, as it is published, and of whole tracks.

    ``frame_...`` takes every frame for an image of its own, so that an object may change its id on every frame at no
    cost. ``track_...`` is for tracks what it claims to be for video. Frames without an answer count in both.

    Source: X2SAM's evaluator for ``frame_...``; YouTube-VIS, as ``TrackAP``, for ``track_...``.
    """

    def __init__(self) -> None:
        self._parts: dict[str, MaskAP | TrackAP] = {}
        self._frames = self._parts["frame"] = MaskAP()
        self._tracks = self._parts["track"] = TrackAP()

    def update(self, sequence: str, tracks: Sequence[Track], truths: Sequence[TrueTrack]) -> None:
        """Add one clip.

        Args:
            sequence: a name that no other clip has.
            tracks: the targets of all regions; the class of each is the class of what its region shows.
            truths: every object of those classes.

        Raises:
            FrameError: the clip was added before, or its tracks differ in length or in size.
        """
        self._tracks.update(sequence, tracks, truths)
        every: list[Track | TrueTrack] = [*tracks, *truths]
        for index in range(len(every[0].rles) if every else 0):
            self._frames.update(
                f"{sequence}/{index:06d}",
                every[0].size,
                [Detection(t.category_id, t.scores[index], rle) for t in tracks if (rle := t.rles[index]) is not None],
                [TrueMask(t.category_id, rle, t.is_crowd) for t in truths if (rle := t.rles[index]) is not None],
            )

    def compute(self) -> Scores:
        """Return ``frame_ap``, ``track_ap`` and so on, by the names of ``MaskAP``."""
        return {f"{name}_{key}": v for name, part in self._parts.items() for key, v in part.compute().items()}

    def reset(self) -> None:
        """Forget all clips."""
        for part in self._parts.values():
            part.reset()

    def merge(self, other: VisualAP) -> None:
        """Add all clips of another one.

        Raises:
            FrameError: both have a clip of one name.
        """
        for name, part in self._parts.items():
            part.merge(other._parts[name])

    def state(self) -> dict[str, Any]:
        """Return the states of both."""
        return {name: part.state() for name, part in self._parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        for name, part in self._parts.items():
            part.restore(state[name])

"""What the tests of scores share: the answer of a session that is certain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, TargetState


def certain_result(frame: Frame, found: Sequence[tuple[str, np.ndarray]], words: str = "") -> FrameResult:
    """Return the result for a frame: a tracked target for each (label, mask), and a grounding where there are words."""
    return FrameResult(
        stamp_ns=frame.stamp_ns,
        frame_index=frame.frame_index,
        frame_id=frame.frame_id,
        image_size=frame.size,
        masks=np.array([mask for _, mask in found], bool).reshape(-1, *frame.size),
        scores=np.ones(len(found), np.float32),
        labels=tuple(label for label, _ in found),
        target_ids=np.arange(len(found)),
        states=(TargetState.TRACKED,) * len(found),
        groundings=(Grounding("", GroundingStatus.OK, response=words),) if words else (),
    )

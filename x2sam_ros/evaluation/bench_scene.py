"""The pictures and prompts that ``x2sam bench`` is given; where they come from is the caller's business."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.types import Frame, Uint8Array


@dataclass(frozen=True)
class BenchScene:
    """A camera that never stops: frames played forwards and backwards, and what to follow on them.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        phrases: words for the objects, each another; more targets than phrases begin anew with the first.
        clicks_px: float (K, 2), x right and y down, a pixel of each object on the first frame.
    """

    frames: Uint8Array
    phrases: tuple[str, ...]
    clicks_px: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.frames) < 2 or not self.phrases or not len(self.clicks_px):
            raise ConfigError(
                f"a scene needs two frames, a phrase and a click, got {len(self.frames)} frames, {len(self.phrases)} "
                f"phrases and {len(self.clicks_px)} clicks"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def image(self, index: int) -> Uint8Array:
        """Return the picture of a frame, uint8 (H, W, 3)."""
        last = len(self.frames) - 1
        image: Uint8Array = self.frames[last - abs(last - index % (2 * last))]
        return image

    def frame(self, index: int) -> Frame:
        """Return a frame as a camera of 30 Hz sends it."""
        return Frame(self.image(index), index * FRAME_INTERVAL_NS, index, "camera")

    def clip(self, index: int) -> Uint8Array:
        """Return the published clip that begins with a frame, uint8 (T, H, W, 3)."""
        return np.stack([self.image(index + offset) for offset in range(CLIP_LENGTH)])

    def phrase(self, target: int) -> str:
        """Return the words for a target."""
        return self.phrases[target % len(self.phrases)]

    def click(self, target: int) -> tuple[float, float]:
        """Return x and y of a pixel on a target's object on the first frame."""
        x, y = self.clicks_px[target % len(self.clicks_px)]
        return float(x), float(y)

"""What of a clip can be seen in one frame: the facts that every sentence rests on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from x2sam_ros.training.scenes.clip import Clip

MIN_VISIBLE = 0.5  # of the object
MIN_AREA = 0.003  # of the image
SIZE_MARGIN = 1.25
PLACE_MARGIN = 0.12


@dataclass(frozen=True)
class View:
    """What of a clip can be seen in one frame.

    Attributes:
        clip: The clip.
        frame: Index of the frame.
        pixels: Visible pixels of each object.
        places: x and y of each object's centre relative to the image.
        seen: Objects with a visible pixel.
        clear: Of these, the ones a sentence may name.
    """

    clip: Clip
    frame: int
    pixels: tuple[int, ...]
    places: tuple[tuple[float, float], ...]
    seen: tuple[int, ...]
    clear: frozenset[int]

    @classmethod
    def of(cls, clip: Clip, frame: int) -> View:
        """Look at a frame of a clip."""
        pixels = np.bincount(clip.labels[frame].ravel(), minlength=len(clip.objects) + 1)[1:]
        seen = tuple(int(k) for k in np.flatnonzero(pixels))
        enough = MIN_AREA * clip.labels[frame].size
        clear = frozenset(k for k in seen if pixels[k] >= enough and clip.visible[frame, k] >= MIN_VISIBLE)
        centres = (o.centre[frame].tolist() for o in clip.objects)
        return cls(clip, frame, tuple(pixels.tolist()), tuple((x, y) for x, y in centres), seen, clear)

    def matching(self, colours: Collection[str] | None = None, shapes: Collection[str] | None = None) -> list[int]:
        """Return the seen objects that have one of the colours and one of the shapes; None allows all."""
        objects = self.clip.objects
        return [
            k
            for k in self.seen
            if (colours is None or objects[k].colour in colours) and (shapes is None or objects[k].shape in shapes)
        ]

    def visible_centre(self, k: int) -> tuple[float, float]:
        """Return x and y of the mean of an object's visible pixels relative to the image."""
        mask = self.clip.labels[self.frame] == k + 1
        y, x = np.nonzero(mask)
        return float((x.mean() + 0.5) / mask.shape[1]), float((y.mean() + 0.5) / mask.shape[0])

    def offset(self, a: int, b: int, side: str) -> float:
        """Return how far ``a`` lies beyond ``b`` towards ``side``, relative to the image."""
        axis = 0 if side in ("left", "right") else 1
        ahead = self.places[a][axis] - self.places[b][axis]
        return -ahead if side in ("left", "top") else ahead

    def size_rank(self, k: int, group: list[int]) -> str | None:
        """Return "largest" or "smallest" when that is plainly true of ``k`` in a group of two or more clear objects."""
        radius = {i: float(self.clip.objects[i].radius[self.frame]) for i in group}
        others = [i for i in group if i != k]
        if not others or not self.clear.issuperset(group):
            return None
        if all(radius[k] > SIZE_MARGIN * radius[i] for i in others):
            return "largest"
        return "smallest" if all(radius[i] > SIZE_MARGIN * radius[k] for i in others) else None

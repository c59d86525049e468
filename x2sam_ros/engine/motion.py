"""Where a target should be on the next frame: a Kalman filter on its box, in plain numbers, of constant size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, 0 to 1 of the image's width and height."""

POSITION_NOISE, VELOCITY_NOISE = 1 / 20, 1 / 160
"""How far a box strays from a straight path in one frame, and how much its speed changes, in sizes of the box."""

MAX_STEPS = 60
"""Frames after which a box that is out of sight is not moved any further: where it is by then is a guess."""

_MIN_SIZE = 1e-3
_Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxMotion:
    """The path of one target's box: centre, width and height, each with a speed of its own.

    The four are filtered independently, with a noise that grows with the box. Nothing depends on the image's size.
    Source: the filter of SORT and DeepSORT as SAMURAI uses it on SAM 2 (Yang et al. 2024), with the width in the place
    of the aspect ratio as in BoT-SORT (Aharon et al. 2022).

    Args:
        frame_index: the frame it stands at.
        place: x and y of the centre, width, height.
        speed: their changes per frame.
        place_variance, speed_variance, covariance: of each of the four.
        seen: frames in a row on which the box was seen.
        unseen: frames since it was last seen.
    """

    frame_index: int
    place: _Four
    speed: _Four
    place_variance: _Four
    speed_variance: _Four
    covariance: _Four
    seen: int = 1
    unseen: int = 0

    @classmethod
    def begin(cls, frame_index: int, box: Box) -> BoxMotion:
        """Return the path of a box seen for the first time: at rest, its speed unknown."""
        place, zero = _place(box), (0.0, 0.0, 0.0, 0.0)
        sizes = _sizes(place)
        return cls(
            frame_index,
            place,
            zero,
            place_variance=_four((2 * POSITION_NOISE * size) ** 2 for size in sizes),
            speed_variance=_four((10 * VELOCITY_NOISE * size) ** 2 for size in sizes),
            covariance=zero,
        )

    def at(self, frame_index: int) -> BoxMotion:
        """Return the path continued to a later frame on which nothing was seen; an earlier one changes nothing."""
        moved = self
        for _ in range(min(frame_index - self.frame_index, MAX_STEPS - self.unseen)):
            moved = moved._step()
        return replace(moved, frame_index=max(frame_index, self.frame_index))

    def see(self, frame_index: int, box: Box) -> BoxMotion:
        """Return the path corrected by where the box was seen; after a frame on which it was not, it starts anew."""
        if self.unseen or frame_index <= self.frame_index:
            return BoxMotion.begin(frame_index, box)
        moved = self.at(frame_index)
        noise = _four((POSITION_NOISE * size) ** 2 for size in _sizes(moved.place))
        total = _four(p + n for p, n in zip(moved.place_variance, noise))
        off = _four(z - x for z, x in zip(_place(box), moved.place))
        gain = _four(p / t for p, t in zip(moved.place_variance, total))
        pull = _four(c / t for c, t in zip(moved.covariance, total))
        return BoxMotion(
            frame_index,
            place=_four(x + g * o for x, g, o in zip(moved.place, gain, off)),
            speed=_four(v + g * o for v, g, o in zip(moved.speed, pull, off)),
            place_variance=_four(p * (1 - g) for p, g in zip(moved.place_variance, gain)),
            speed_variance=_four(v - g * c for v, g, c in zip(moved.speed_variance, pull, moved.covariance)),
            covariance=_four(c * (1 - g) for c, g in zip(moved.covariance, gain)),
            seen=self.seen + 1,
        )

    @property
    def box(self) -> Box:
        """Where the box is at ``frame_index``."""
        x, y, width, height = self.place
        width, height = max(width, _MIN_SIZE), max(height, _MIN_SIZE)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def _step(self) -> BoxMotion:
        sizes = _sizes(self.place)
        return replace(
            self,
            frame_index=self.frame_index + 1,
            place=_four(x + v for x, v in zip(self.place, self.speed)),
            place_variance=_four(
                p + 2 * c + v + (POSITION_NOISE * size) ** 2
                for p, c, v, size in zip(self.place_variance, self.covariance, self.speed_variance, sizes)
            ),
            speed_variance=_four(v + (VELOCITY_NOISE * size) ** 2 for v, size in zip(self.speed_variance, sizes)),
            covariance=_four(c + v for c, v in zip(self.covariance, self.speed_variance)),
            unseen=self.unseen + 1,
        )


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the overlap of two boxes (see ``Box``) over what they cover together, 0 to 1."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0.0) * max(down, 0.0)
    covered = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / covered if covered > 0 else 0.0


def _place(box: Box) -> _Four:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _sizes(place: _Four) -> _Four:
    """Return what the noise of each number is measured in: the box's width or height."""
    width, height = max(place[2], _MIN_SIZE), max(place[3], _MIN_SIZE)
    return width, height, width, height


def _four(values: Iterable[float]) -> _Four:
    first, second, third, fourth = values
    return first, second, third, fourth

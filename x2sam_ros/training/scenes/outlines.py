"""Outlines of the shapes and their slow deformation over time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[np.floating]
_POINTS = 60


def _corners(shape: str) -> npt.NDArray[np.float64]:
    if shape == "circle":
        angles, radii = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False), np.ones(_POINTS)
    elif shape == "square":
        angles, radii = np.pi / 4 + np.arange(4) * np.pi / 2, np.ones(4)
    elif shape == "triangle":
        angles, radii = -np.pi / 2 + np.arange(3) * 2 * np.pi / 3, np.ones(3)
    elif shape == "star":
        angles, radii = -np.pi / 2 + np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.45, 1.0)
    else:
        arm, tip = 0.34, 1.0
        quarter = np.array([[arm, arm], [arm, tip], [-arm, tip]])
        return np.concatenate([quarter @ _quarter_turn(n).T for n in range(4)])
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _quarter_turn(n: int) -> npt.NDArray[np.float64]:
    return np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), n)


def polygon_area(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the areas of polygons (..., P, 2) by the shoelace formula."""
    after = np.roll(points, -1, axis=-2)
    cross = points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0]
    return np.asarray(np.abs(cross.sum(axis=-1)) / 2, np.float64)


@lru_cache(maxsize=16)
def unit_outline(shape: str) -> Floats:
    """Return the outline of a shape with the area of the unit disc: float32 (P, 2), about 60 points."""
    corners = _corners(shape)
    per_edge = max(_POINTS // len(corners), 1)
    steps = np.arange(per_edge)[None, :, None] / per_edge
    dense = (corners[:, None] * (1 - steps) + np.roll(corners, -1, axis=0)[:, None] * steps).reshape(-1, 2)
    return (dense * np.sqrt(np.pi / polygon_area(dense))).astype(np.float32)


def outer_radius(shape: str) -> float:
    """Return how far a unit outline reaches from its centre."""
    return float(np.linalg.norm(unit_outline(shape), axis=1).max())


def wobbling_outline(
    shape: str, radius: Array, centre: Array, angle: Array, amount: float, rng: np.random.Generator
) -> Floats:
    """Return a shape's outline over time, slowly wobbling and squeezed.

    Args:
        shape: One of the vocabulary's shapes.
        radius: float (T,), radius of the disc of equal area.
        centre: float (T, 2).
        angle: float (T,), radians.
        amount: Relative amplitude of the wobble; 0 keeps the shape rigid.
        rng: Chooses phases and speeds.

    Returns:
        float32 (T, P, 2), in the units of ``radius`` and ``centre``.
    """
    base = unit_outline(shape)
    t = np.arange(len(radius))[:, None]
    phases, speeds = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.05, 0.3, 3)
    theta = np.arctan2(base[:, 1], base[:, 0])[None, :]
    wobble = 1 + amount * (
        0.6 * np.sin(2 * theta + phases[0] + speeds[0] * t) + 0.6 * np.sin(3 * theta + phases[1] + speeds[1] * t)
    )
    squeeze = 1 + amount * np.sin(phases[2] + speeds[2] * t)
    x, y = base[:, 0] * wobble * squeeze, base[:, 1] * wobble / squeeze
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned = np.stack([c * x - s * y, s * x + c * y], axis=-1)
    return (turned * radius[:, None, None] + centre[:, None]).astype(np.float32)

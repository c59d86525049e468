"""Rasterise outlines in metric units (short side = 1) over a textured background."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Hue in degrees, saturation, value, and how far hue, saturation and value may stray without turning into a neighbour.
PALETTE: dict[str, tuple[float, float, float, float]] = {
    "red": (0.0, 0.92, 0.86, 4.0),
    "orange": (29.0, 0.97, 0.95, 3.0),
    "yellow": (56.0, 0.9, 0.95, 3.0),
    "green": (122.0, 0.85, 0.68, 12.0),
    "cyan": (183.0, 0.85, 0.9, 5.0),
    "blue": (228.0, 0.88, 0.88, 7.0),
    "purple": (285.0, 0.8, 0.75, 8.0),
    "white": (0.0, 0.02, 0.97, 180.0),
}
_TILE = 64  # side of an object's texture tile, which spans [-2, 2] equivalent radii
_SHIFT = 4  # fractional bits of polygon corners


@dataclass(frozen=True)
class Layer:
    """Something to draw in every frame, nearest last.

    Attributes:
        outline: float32 (T, P, 2), metric.
        centre: float32 (T, 2), metric.
        radius: float32 (T,), metric.
        angle: float32 (T,), radians.
        rgb: Colour, 0 to 255.
        tile: float32 (64, 64), brightness factor around 1.
        label: Value in the label map; 0 for an occluder that is no object.
    """

    outline: Floats
    centre: Floats
    radius: Floats
    angle: Floats
    rgb: tuple[float, float, float]
    tile: Floats
    label: int


def object_rgb(colour: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a jittered but unmistakable RGB value (0 to 255) of a colour of the vocabulary."""
    hue, saturation, value, spread = PALETTE[colour]
    jitter = rng.uniform(-1.0, 1.0, 3)
    saturation = float(np.clip(saturation + (0.02 if colour == "white" else 0.06) * jitter[1], 0.0, 1.0))
    value = float(np.clip(value + (0.03 if colour == "white" else 0.06) * jitter[2], 0.0, 1.0))
    r, g, b = colorsys.hsv_to_rgb(((hue + spread * jitter[0]) % 360.0) / 360.0, saturation, value)
    return 255.0 * r, 255.0 * g, 255.0 * b


def texture_tile(texture: str, rng: np.random.Generator, strength: float = 0.1) -> Floats:
    """Return the brightness tile of an object: float32 (64, 64), 1 - 2 * strength to 1."""
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(9.0, 14.0)
    coarse = rng.random((16, 16)).astype(np.float32)
    y, x = np.mgrid[0:_TILE, 0:_TILE].astype(np.float32) * np.float32(2 * np.pi / period)
    if texture == "stripes":
        wave = np.sign(np.sin(x + phase))
    elif texture == "dots":
        wave = np.where(np.sin(x + phase) + np.sin(y + phase) > 0.9, -1.0, 1.0)
    elif texture == "noise":
        wave = 2.0 * cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_LINEAR) - 1.0
    else:
        wave = np.ones((_TILE, _TILE))
    return (1.0 - strength + strength * wave).astype(np.float32)


def _octaves(rng: np.random.Generator, width: int, height: int) -> Floats:
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.5), (7, 0.3), (20, 0.2), (48, 0.12)):
        grid = rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32)
        total += np.float32(weight) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return total


def background(rng: np.random.Generator, width: int, height: int, extent: tuple[float, float], dark: bool) -> Floats:
    """Return a low-saturation textured background.

    Args:
        rng: Source of the choice; what it draws does not depend on the resolution.
        width: Pixels.
        height: Pixels.
        extent: Metric width and height of the scene.
        dark: Keep it well below white.

    Returns:
        float32 (height, width, 3), 0 to 255.
    """
    style, brown = int(rng.integers(4)), rng.random() < 0.3
    level = float(rng.uniform(0.12, 0.45 if dark or brown else 0.8))
    hue, saturation = (0.08, rng.uniform(0.2, 0.35)) if brown else (rng.random(), rng.uniform(0.0, 0.1))
    tint = np.array(colorsys.hsv_to_rgb(float(hue), float(saturation), 1.0), np.float32)
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)
    mix = _octaves(rng, width, height)
    x = np.linspace(0.0, extent[0], width, dtype=np.float32)[None, :]
    y = np.linspace(0.0, extent[1], height, dtype=np.float32)[:, None]
    c, s, k = np.float32(np.cos(angle)), np.float32(np.sin(angle)), np.float32(2 * np.pi / period)
    along, across = x * c + y * s, y * c - x * s
    if style == 0:
        mix += 1.2 * (along - along.mean())
    elif style == 1:
        mix = 0.5 * mix + 0.35 * np.sin(k * along + np.float32(phase))
    elif style == 2:
        mix = 0.5 * mix + 0.3 * np.sign(np.sin(k * along) * np.sin(k * across))
    grey = np.clip(level + (0.06 + 0.22 * level) * mix, 0.03, 0.5 if dark else 0.7)
    return np.asarray((255.0 * grey)[..., None] * tint, np.float32)


@lru_cache(maxsize=8)
def _noise_bank(width: int, height: int) -> Floats:
    """Return a fixed field of unit noise, larger than a frame, that every frame takes another window of."""
    return np.random.Generator(np.random.PCG64(width)).standard_normal((height + 64, width + 64, 3), dtype=np.float32)


def _cover(outline: Floats, supersample: int) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Return the coverage (0 to 255) of an outline in pixels and the pixel of its upper left corner."""
    x0, y0 = (int(v) for v in np.floor(outline.min(axis=0)))
    x1, y1 = (int(v) for v in np.ceil(outline.max(axis=0)))
    wide, high = max(x1 - x0, 1), max(y1 - y0, 1)
    fine = np.zeros((high * supersample, wide * supersample), np.uint8)
    # Pixel centres lie at whole numbers for OpenCV, at halves in the metric frame.
    corners = ((outline - (x0, y0)) * supersample - 0.5) * (1 << _SHIFT)
    cv2.fillPoly(fine, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
    cover = cv2.resize(fine, (wide, high), interpolation=cv2.INTER_AREA)
    return np.asarray(cover, np.uint8), x0, y0


def _draw(
    layer: Layer, t: int, frame: Floats, label: npt.NDArray[np.uint8], scale: tuple[float, float], supersample: int
) -> int:
    """Draw one layer into a frame and its label map; return how many pixels it has in all, hidden ones too."""
    height, width = label.shape
    alpha, x0, y0 = _cover(layer.outline[t] * np.asarray(scale, np.float32), supersample)
    total = int(np.count_nonzero(alpha > 127))
    high, wide = alpha.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + wide, width), min(y0 + high, height)
    if right <= left or bottom <= top:
        return total
    alpha = alpha[top - y0 : bottom - y0, left - x0 : right - x0]
    c, s = np.cos(layer.angle[t]), np.sin(layer.angle[t])
    per_radius = _TILE / (4.0 * layer.radius[t])
    linear = per_radius * np.array([[c, s], [-s, c]]) / np.asarray(scale)
    origin = np.array([left + 0.5, top + 0.5]) - layer.centre[t] * np.asarray(scale)
    matrix = np.column_stack([linear, linear @ origin + _TILE / 2])
    shade = cv2.warpAffine(
        layer.tile,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    window = frame[top:bottom, left:right]
    opacity = alpha[..., None] * np.float32(1 / 255)
    window += opacity * (shade[..., None] * np.asarray(layer.rgb, np.float32) - window)
    label[top:bottom, left:right][alpha > 127] = layer.label
    return total


def rasterise(
    layers: Sequence[Layer],
    backdrop: Floats,
    scale: tuple[float, float],
    gains: Floats,
    noise_std: float,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw every frame of a clip.

    Args:
        layers: What to draw, nearest last.
        backdrop: float32 (H, W, 3), 0 to 255.
        scale: Pixels per metric unit along x and y; unequal when the scene is squashed.
        gains: float32 (T, 3), the light's factor of each channel.
        noise_std: Sensor noise in grey levels.
        rng: Chooses the noise.

    Returns:
        uint8 frames (T, H, W, 3), uint8 labels (T, H, W) and int64 pixel totals (T, len(layers)).
    """
    num_frames, (height, width) = len(gains), backdrop.shape[:2]
    supersample = 4 if max(scale) <= 256 else 2
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    labels = np.zeros((num_frames, height, width), np.uint8)
    totals = np.zeros((num_frames, len(layers)), np.int64)
    noise = _noise_bank(width, height)
    offsets = rng.integers(0, 64, (num_frames, 2))
    for t in range(num_frames):
        frame = backdrop.copy()
        for i, layer in enumerate(layers):
            totals[t, i] = _draw(layer, t, frame, labels[t], scale, supersample)
        dx, dy = offsets[t]
        frame *= gains[t]
        frame += np.float32(noise_std) * noise[dy : dy + height, dx : dx + width]
        np.clip(frame, 0.0, 255.0, out=frame)
        frames[t] = frame
    return frames, labels, totals

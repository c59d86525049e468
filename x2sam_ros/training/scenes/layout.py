"""What there is to draw of a clip, for every renderer: layers over a backdrop, in units of the short side."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.training.scenes.clip import SceneObject

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
TILE = 64
"""Side of an object's texture tile, which spans [-2, 2] equivalent radii."""

STYLES: tuple[tuple[float, float, float, float], ...] = (
    (1.0, 1.2, 0.0, 0.0),
    (0.5, 0.0, 0.35, 0.0),
    (0.5, 0.0, 0.0, 0.3),
    (1.0, 0.0, 0.0, 0.0),
)
"""How much of clouds, a slope, stripes and checks there is in each style of backdrop."""

CLOUDS: tuple[tuple[int, float], ...] = ((3, 0.5), (7, 0.3), (20, 0.2), (48, 0.12))
"""Cells of each octave along a side, and its weight."""

DARKEST, CONTRAST = 0.03, (0.06, 0.22)
"""Of a backdrop, as shares of white; the contrast is the first, and the second times the level."""

_DRIFT = 64  # pixels by which the sensor noise of one frame may lie apart from that of another


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

    def turn(self, scale: tuple[float, float]) -> npt.NDArray[np.float64]:
        """Return what takes an offset from the centre in pixels to one in texels of the tile: (T, 2, 2)."""
        c, s, per_radius = np.cos(self.angle), np.sin(self.angle), TILE / (4.0 * self.radius)
        rows = np.stack([np.stack([c, s], axis=-1), np.stack([-s, c], axis=-1)], axis=-2)
        return np.asarray(per_radius[:, None, None] * rows / np.asarray(scale), np.float64)


@dataclass(frozen=True)
class Backdrop:
    """A low-saturation texture behind everything; nothing of it depends on the resolution.

    Attributes:
        style: Row of ``STYLES``.
        level: Mean brightness, a share of white; ceiling: The most of it.
        tint: float32 (3,), factor of each channel.
        angle: Of stripes and checks, radians; period: Metric; phase: Radians.
        clouds: float32 (n, n) for each row of ``CLOUDS``, -1 to 1.
    """

    style: int
    level: float
    ceiling: float
    tint: Floats
    angle: float
    period: float
    phase: float
    clouds: tuple[Floats, ...]


@dataclass(frozen=True)
class Layout:
    """All that is chosen for a clip; what is left is to draw it.

    Attributes:
        size: Height and width of a picture, pixels.
        extent: Metric width and height of the scene.
        layers: What to draw, nearest last: the objects, then an occluder if there is one.
        backdrop: What is behind it.
        gains: float32 (T, 3), the light's factor of each channel.
        noise_std: Sensor noise in grey levels.
        windows: int64 (T, 2), x and y in the field of noise at which each frame begins.
        objects: What is true of the K objects.
        kind: The kind of scene asked for.
        target: Index of the object the kind is about.
    """

    size: tuple[int, int]
    extent: tuple[float, float]
    layers: tuple[Layer, ...]
    backdrop: Backdrop
    gains: Floats
    noise_std: float
    windows: npt.NDArray[np.int64]
    objects: tuple[SceneObject, ...]
    kind: str
    target: int

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels per metric unit along x and y; unequal when the scene is squashed."""
        return self.size[1] / self.extent[0], self.size[0] / self.extent[1]

    @property
    def lines(self) -> int:
        """Scan lines within a pixel, which smooth edges."""
        return 4 if max(self.scale) <= 256 else 2

    def every(self, stride: int) -> Layout:
        """Return every ``stride``-th frame."""
        layers = tuple(
            replace(
                x,
                outline=x.outline[::stride],
                centre=x.centre[::stride],
                radius=x.radius[::stride],
                angle=x.angle[::stride],
            )
            for x in self.layers
        )
        objects = tuple(replace(o, centre=o.centre[::stride], radius=o.radius[::stride]) for o in self.objects)
        gains, windows = self.gains[::stride], self.windows[::stride]
        return replace(self, layers=layers, objects=objects, gains=gains, windows=windows)


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
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32) * np.float32(2 * np.pi / period)
    if texture == "stripes":
        wave = np.sign(np.sin(x + phase))
    elif texture == "dots":
        wave = np.where(np.sin(x + phase) + np.sin(y + phase) > 0.9, -1.0, 1.0)
    elif texture == "noise":
        wave = 2.0 * cv2.resize(coarse, (TILE, TILE), interpolation=cv2.INTER_LINEAR) - 1.0
    else:
        wave = np.ones((TILE, TILE))
    return (1.0 - strength + strength * wave).astype(np.float32)


def choose_backdrop(rng: np.random.Generator, dark: bool) -> Backdrop:
    """Choose a backdrop; ``dark`` keeps it well below white."""
    style, brown = int(rng.integers(len(STYLES))), rng.random() < 0.3
    level = float(rng.uniform(0.12, 0.45 if dark or brown else 0.8))
    hue, saturation = (0.08, rng.uniform(0.2, 0.35)) if brown else (rng.random(), rng.uniform(0.0, 0.1))
    tint = np.array(colorsys.hsv_to_rgb(float(hue), float(saturation), 1.0), np.float32)
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)
    clouds = tuple(rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32) for cells, _ in CLOUDS)
    return Backdrop(style, level, 0.5 if dark else 0.7, tint, float(angle), float(period), float(phase), clouds)


def choose_windows(rng: np.random.Generator, num_frames: int) -> npt.NDArray[np.int64]:
    """Choose where in the field of noise each frame begins; see `Layout`."""
    return rng.integers(0, _DRIFT, (num_frames, 2))


@lru_cache(maxsize=8)
def noise_field(width: int, height: int) -> Floats:
    """Return a fixed field of unit noise, larger than a frame, that every frame takes another window of."""
    rng = np.random.Generator(np.random.PCG64(width))
    return rng.standard_normal((height + _DRIFT, width + _DRIFT, 3), dtype=np.float32)

"""Draw clips on the host, one at a time, with OpenCV."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from x2sam_ros.training.scenes.clip import Clip
from x2sam_ros.training.scenes.layout import (
    CLOUDS,
    CONTRAST,
    DARKEST,
    STYLES,
    TILE,
    Backdrop,
    Floats,
    Layer,
    Layout,
    noise_field,
)

_SHIFT = 4  # fractional bits of polygon corners


def draw(layout: Layout) -> Clip:
    """Draw every frame of a clip."""
    num_frames, (height, width) = len(layout.gains), layout.size
    frames, truth = np.empty((num_frames, height, width, 3), np.uint8), _Truth(layout, num_frames)
    backdrop, noise = paint(layout.backdrop, layout.size, layout.extent), noise_field(width, height)
    turns = [layer.turn(layout.scale) for layer in layout.layers]
    for t in range(num_frames):
        frame = backdrop.copy()
        for index, layer in enumerate(layout.layers):
            spot = truth.put(t, index)
            if spot.cover.size:
                _colour(frame, spot, layer, layer.centre[t] * np.asarray(layout.scale), turns[index][t])
        dx, dy = layout.windows[t]
        frame *= layout.gains[t]
        frame += np.float32(layout.noise_std) * noise[dy : dy + height, dx : dx + width]
        np.clip(frame, 0.0, 255.0, out=frame)
        frames[t] = frame
    return truth.clip(frames)


def sketch(layout: Layout) -> Clip:
    """Return the clip of the first frame's truth alone, which costs a fraction: it has no picture."""
    truth = _Truth(layout, 1)
    for index in range(len(layout.layers)):
        truth.put(0, index)
    return truth.clip(np.empty((0, *layout.size, 3), np.uint8))


def paint(backdrop: Backdrop, size: tuple[int, int], extent: tuple[float, float]) -> Floats:
    """Return a backdrop of height x width pixels and a metric width and height: float32 (H, W, 3), 0 to 255."""
    (height, width), mix = size, np.zeros(size, np.float32)
    for (_, weight), cells in zip(CLOUDS, backdrop.clouds):
        mix += np.float32(weight) * cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    clouds, slope, stripes, checks = STYLES[backdrop.style]
    x = np.linspace(0.0, extent[0], width, dtype=np.float32)[None, :]
    y = np.linspace(0.0, extent[1], height, dtype=np.float32)[:, None]
    c, s, k = (np.float32(v) for v in (np.cos(backdrop.angle), np.sin(backdrop.angle), 2 * np.pi / backdrop.period))
    along, across = x * c + y * s, y * c - x * s
    mix *= clouds
    if slope:
        mix += slope * (along - along.mean())
    if stripes:
        mix += stripes * np.sin(k * along + np.float32(backdrop.phase))
    if checks:
        mix += checks * np.sign(np.sin(k * along) * np.sin(k * across))
    contrast = CONTRAST[0] + CONTRAST[1] * backdrop.level
    grey = np.clip(backdrop.level + contrast * mix, DARKEST, backdrop.ceiling)
    return np.asarray((255.0 * grey)[..., None] * backdrop.tint, np.float32)


class _Spot(NamedTuple):
    """Where a layer lies in a frame: coverage (0 to 255), uint8 (h, w), of the picture's ``rows`` and ``columns``."""

    cover: npt.NDArray[np.uint8]
    rows: slice
    columns: slice


class _Truth:
    """Label maps of the first frames of a clip, and how many pixels each layer has in all, hidden ones too."""

    def __init__(self, layout: Layout, num_frames: int) -> None:
        self._layout = layout
        self._labels = np.zeros((num_frames, *layout.size), np.uint8)
        self._totals = np.zeros((num_frames, len(layout.layers)), np.int64)

    def put(self, t: int, index: int) -> _Spot:
        """Put a layer on top of those before it."""
        layer, layout = self._layout.layers[index], self._layout
        height, width = layout.size
        cover, x0, y0 = _cover(layer.outline[t] * np.asarray(layout.scale, np.float32), layout.lines)
        self._totals[t, index] = np.count_nonzero(cover > 127)
        high, wide = cover.shape
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = max(min(x0 + wide, width), left), max(min(y0 + high, height), top)
        spot = _Spot(cover[top - y0 : bottom - y0, left - x0 : right - x0], slice(top, bottom), slice(left, right))
        self._labels[t, spot.rows, spot.columns][spot.cover > 127] = layer.label
        return spot

    def clip(self, frames: npt.NDArray[np.uint8]) -> Clip:
        """Return the clip of these frames."""
        objects, layout = self._layout.objects, self._layout
        seen = np.stack([np.bincount(labels.ravel(), minlength=len(objects) + 1)[1:] for labels in self._labels])
        visible = (seen / np.maximum(self._totals[:, : len(objects)], 1)).astype(np.float32)
        return Clip(frames, self._labels, visible, objects, layout.kind, layout.target)


def _cover(outline: Floats, lines: int) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Return the coverage (0 to 255) of an outline in pixels and the pixel of its upper left corner."""
    x0, y0 = (int(v) for v in np.floor(outline.min(axis=0)))
    x1, y1 = (int(v) for v in np.ceil(outline.max(axis=0)))
    wide, high = max(x1 - x0, 1), max(y1 - y0, 1)
    fine = np.zeros((high * lines, wide * lines), np.uint8)
    # Pixel centres lie at whole numbers for OpenCV, at halves in the metric frame.
    corners = ((outline - (x0, y0)) * lines - 0.5) * (1 << _SHIFT)
    cv2.fillPoly(fine, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
    cover = cv2.resize(fine, (wide, high), interpolation=cv2.INTER_AREA)
    return np.asarray(cover, np.uint8), x0, y0


def _colour(
    frame: Floats, spot: _Spot, layer: Layer, centre: npt.NDArray[np.float64], turn: npt.NDArray[np.float64]
) -> None:
    """Lay a layer's texture over a frame; the centre is in pixels."""
    origin = np.array([spot.columns.start + 0.5, spot.rows.start + 0.5]) - centre
    shade = cv2.warpAffine(
        layer.tile,
        np.column_stack([turn, turn @ origin + TILE / 2]),
        spot.cover.shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    window = frame[spot.rows, spot.columns]
    opacity = spot.cover[..., None] * np.float32(1 / 255)
    window += opacity * (shade[..., None] * np.asarray(layer.rgb, np.float32) - window)

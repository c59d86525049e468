"""Draw the clips of a whole batch at once in torch, on any device: the twin of render.py.

Edges are smoothed by scan lines, as there, but exactly along each line. What a line covers is added up in whole
numbers, so that the order in which a GPU adds does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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

_CORNERS = 60
_FINE = 256  # parts of a pixel in which coverage is counted
_RIM = 0.5  # of the distance of two scan lines, by which OpenCV fills more than the outline


@dataclass(frozen=True)
class Canvas:
    """I layouts of T frames, of one size, extent and noise; where one has fewer than L layers the last are empty.

    Attributes:
        size: Height and width of a picture, pixels.
        extent: Metric width and height of the scene.
        lines: Scan lines within a pixel.
        noise_std: Sensor noise in grey levels.
        outline: float (T, I, L, P, 2), pixels.
        centre: float (T, I, L, 2), pixels.
        turn: float (T, I, L, 2, 2), from pixels to texels of the tile.
        rgb: float (I, L, 3), 0 to 255.
        tile: float (I, L, 64, 64).
        label: uint8 (I, L).
        gains: float (T, I, 3).
        windows: int64 (T, I, 2).
        backdrop: float (I, 12): weights of its parts, level, ceiling, tint, angle, wave number, phase.
        clouds: float (I, cells) of all octaves.
    """

    size: tuple[int, int]
    extent: tuple[float, float]
    lines: int
    noise_std: float
    outline: Tensor
    centre: Tensor
    turn: Tensor
    rgb: Tensor
    tile: Tensor
    label: Tensor
    gains: Tensor
    windows: Tensor
    backdrop: Tensor
    clouds: Tensor

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> Canvas:
        """Put layouts side by side, on the host."""
        first = layouts[0]
        most = max(len(layout.layers) for layout in layouts)
        rows = [[_packed(layer, layout) for layer in layout.layers] for layout in layouts]
        empty = tuple(np.zeros_like(part) for part in rows[0][0])
        outline, centre, turn, rgb, tile, label = (
            torch.from_numpy(np.stack([np.stack(part) for part in columns]))
            for columns in zip(*(zip(*(row + [empty] * (most - len(row)))) for row in rows))
        )
        return cls(
            size=first.size,
            extent=first.extent,
            lines=first.lines,
            noise_std=first.noise_std,
            outline=outline.permute(2, 0, 1, 3, 4).contiguous(),
            centre=centre.permute(2, 0, 1, 3).contiguous(),
            turn=turn.permute(2, 0, 1, 3, 4).contiguous(),
            rgb=rgb,
            tile=tile,
            label=label,
            gains=torch.from_numpy(np.stack([layout.gains for layout in layouts], axis=1)),
            windows=torch.from_numpy(np.stack([layout.windows for layout in layouts], axis=1)),
            backdrop=torch.tensor([_numbers(layout.backdrop) for layout in layouts]),
            clouds=torch.from_numpy(
                np.stack([np.concatenate([x.ravel() for x in layout.backdrop.clouds]) for layout in layouts])
            ),
        )

    def to(self, device: torch.device | str) -> Canvas:
        """Move it to a device."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {
            name: x.to(device, non_blocking=True) for name, x in tensors.items() if isinstance(x, Tensor)
        }
        return replace(self, **moved)


def draw(canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Draw all frames of all clips, on the canvas's device.

    Returns:
        Frames, uint8 (T, I, H, W, 3), RGB; and labels, uint8 (T, I, H, W), as a `Clip` has them.
    """
    (height, width), (num_frames, count) = canvas.size, canvas.gains.shape[:2]
    device = canvas.gains.device
    frames = paint(canvas).expand(num_frames, -1, -1, -1, -1).flatten(0, 1)
    labels = torch.zeros(num_frames * count, height, width, dtype=torch.uint8, device=device)
    pixel = torch.stack(torch.meshgrid(_middles(width, device), _middles(height, device), indexing="xy"), dim=-1)
    for k in range(canvas.outline.shape[2]):
        cover = coverage(canvas.outline[:, :, k].flatten(0, 1), canvas.size, canvas.lines)
        offset = pixel - canvas.centre[:, :, k, None, None].flatten(0, 1)
        texel = torch.einsum("nij,nyxj->nyxi", canvas.turn[:, :, k].flatten(0, 1), offset) + TILE / 2
        tiles = canvas.tile[:, k, None].repeat(num_frames, 1, 1, 1)
        place = (2 * texel + 1) / TILE - 1
        shade = F.grid_sample(tiles, place, padding_mode="reflection", align_corners=False)
        colour = shade * canvas.rgb[:, k, :, None, None].repeat(num_frames, 1, 1, 1)
        frames = torch.lerp(frames, colour, cover[:, None])
        labels = torch.where(cover >= 0.5, canvas.label[:, k, None, None].repeat(num_frames, 1, 1), labels)
    frames = frames * canvas.gains.flatten(0, 1)[..., None, None] + canvas.noise_std * _noise(canvas)
    levels = frames.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return levels.unflatten(0, (num_frames, count)), labels.unflatten(0, (num_frames, count))


def paint(canvas: Canvas) -> Tensor:
    """Return the backdrops, float (I, 3, H, W), 0 to 255."""
    height, width = canvas.size
    clouds, slope, stripes, checks, level, ceiling, red, green, blue, angle, k, phase = canvas.backdrop[
        ..., None, None
    ].unbind(1)
    mix = torch.zeros((), device=canvas.backdrop.device)
    for (cells, weight), octave in zip(CLOUDS, canvas.clouds.split([n * n for n, _ in CLOUDS], dim=1)):
        mix = mix + weight * F.interpolate(octave.view(-1, 1, cells, cells), canvas.size, mode="bilinear")[:, 0]
    x = torch.linspace(0.0, canvas.extent[0], width, device=mix.device)
    y = torch.linspace(0.0, canvas.extent[1], height, device=mix.device)[:, None]
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    mix = clouds * mix + slope * (along - along.mean((1, 2), keepdim=True))
    mix = mix + stripes * (k * along + phase).sin() + checks * ((k * along).sin() * (k * across).sin()).sign()
    grey = (level + (CONTRAST[0] + CONTRAST[1] * level) * mix).clamp_min(DARKEST).minimum(ceiling)
    return 255 * grey[:, None] * torch.stack([red, green, blue], dim=1)


def coverage(outline: Tensor, size: tuple[int, int], lines: int) -> Tensor:
    """Return the share of each pixel that polygons cover, float (N, H, W).

    Each crossing of a scan line with an edge changes all that lies to its right, by one when the edge goes down and by
    minus one when it goes up. What is to the left of the picture counts from its rim, so nothing is clipped.

    Args:
        outline: float (N, P, 2), pixels; one side of the polygon is left of the outline all the way.
        size: Height and width of the picture, pixels.
        lines: Scan lines within a pixel.

    Source: R. Levien's font-rs, accumulation of signed differences.
    """
    height, width = size
    x, y = _grown(outline, _RIM / lines)[:, None].unbind(-1)  # (N, 1, P)
    below_x, below_y = x.roll(-1, -1), y.roll(-1, -1)
    line = _middles(height * lines, outline.device)[:, None] / lines
    crossing = (y <= line).int() - (below_y <= line).int()  # (N, lines of all, P)
    rise = below_y - y
    at = x + (line - y) * torch.where(rise == 0, 0.0, (below_x - x) / rise)
    place = (at.clamp(0, width) * _FINE).round().int()
    pixel, rest = place // _FINE, place % _FINE
    row = torch.arange(height, device=outline.device).repeat_interleave(lines)[:, None] * (width + 2)
    change = torch.zeros(len(outline), height * (width + 2), dtype=torch.int32, device=outline.device)
    index = (row + pixel).flatten(1).long()
    change.scatter_add_(1, index, (crossing * (_FINE - rest)).flatten(1))
    change.scatter_add_(1, index + 1, (crossing * rest).flatten(1))
    covered = change.view(-1, height, width + 2)[..., :width].cumsum(-1, dtype=torch.int32)
    return covered.abs() / (_FINE * lines)


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale uint8 (..., H, W, 3) to height x width pixels, as OpenCV's INTER_AREA does but for one level."""
    rows, columns = (_spread(a, b, frames.device) for a, b in zip(frames.shape[-3:-1], size))
    scaled = torch.einsum("yh,...hwc,xw->...yxc", rows, frames.float(), columns)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _packed(layer: Layer, layout: Layout) -> tuple[Floats, ...]:
    """Return the six arrays of a layer; see `Canvas`."""
    scale = np.asarray(layout.scale, np.float32)
    whole = np.arange(_CORNERS) * layer.outline.shape[1] / _CORNERS
    before = whole.astype(int)
    after, share = (before + 1) % layer.outline.shape[1], (whole - before).astype(np.float32)[:, None]
    corners = layer.outline[:, before] * (1 - share) + layer.outline[:, after] * share
    turn, rgb = layer.turn(layout.scale).astype(np.float32), np.array(layer.rgb, np.float32)
    return corners * scale, layer.centre * scale, turn, rgb, layer.tile, np.array(layer.label, np.uint8)


def _numbers(backdrop: Backdrop) -> list[float]:
    wave = 2 * np.pi / backdrop.period
    tint = backdrop.tint.tolist()
    weights = STYLES[backdrop.style]
    return [*weights, backdrop.level, backdrop.ceiling, *tint, backdrop.angle, wave, backdrop.phase]


def _grown(outline: Tensor, rim: float) -> Tensor:
    """Return polygons (N, P, 2) with every corner moved outwards by ``rim``."""
    along = outline.roll(-1, 1) - outline.roll(1, 1)
    normal = torch.stack([along[..., 1], -along[..., 0]], dim=-1)
    after = outline.roll(-1, 1)
    area = (outline[..., 0] * after[..., 1] - outline[..., 1] * after[..., 0]).sum(1)
    return outline + rim * area.sign()[:, None, None] * F.normalize(normal, dim=-1)


def _middles(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) + 0.5


def _noise(canvas: Canvas) -> Tensor:
    """Return the unit noise of every frame, float (T * I, 3, H, W)."""
    (height, width), device = canvas.size, canvas.windows.device
    x, y = canvas.windows.flatten(0, 1)[..., None].unbind(1)
    rows, columns = (y + torch.arange(height, device=device)), (x + torch.arange(width, device=device))
    return _noise_on(width, height, device)[rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _noise_on(width: int, height: int, device: torch.device) -> Tensor:
    return torch.from_numpy(noise_field(width, height)).to(device)


@lru_cache(maxsize=32)
def _spread(before: int, after: int, device: torch.device) -> Tensor:
    """Return by what weights each of ``after`` pixels of a scaled line reads ``before``, float (after, before)."""
    import cv2

    unit = np.eye(before, dtype=np.float32)
    return torch.from_numpy(cv2.resize(unit, (before, after), interpolation=cv2.INTER_AREA)).to(device)

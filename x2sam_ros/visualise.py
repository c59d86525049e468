"""Draw results: overlays with ids, labels and states, contact sheets, answers in the colours of what they name.

NumPy and OpenCV only.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from x2sam_ros.types import BoolArray, FrameResult, Phrase, TargetState, Uint8Array

Rgb = tuple[int, int, int]
"""A colour, each channel 0 to 255."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.6180339887498949
_BACKGROUND = (24, 24, 24)
_STATE_NOTES = {
    TargetState.TENTATIVE: " ?",
    TargetState.TRACKED: "",
    TargetState.OCCLUDED: " occluded",
    TargetState.LOST: " lost",
}


def target_colour(target_id: int) -> Rgb:
    """Choose the RGB colour (0 to 255) of a target: the same for an id always, far apart for neighbouring ids."""
    # Steps of the golden ratio on the hue circle never come near an earlier hue for long (Vogel's spiral).
    red, green, blue = colorsys.hsv_to_rgb((target_id * _GOLDEN + 0.33) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def coloured_text(text: str, phrases: Sequence[Phrase]) -> tuple[tuple[str, Rgb | None], ...]:
    """Cut an answer into pieces with the colour that each one's target has in the overlay.

    Args:
        text: what the phrases' spans count in.
        phrases: a phrase with several targets has the colour of the first, one without has none. Where phrases
            overlap, the earlier one has the colour.

    Returns:
        Pieces that together are the text, each with its colour, or None outside of coloured phrases.
    """
    pieces: list[tuple[str, Rgb | None]] = []
    position = 0
    for phrase in sorted((p for p in phrases if p.target_ids), key=lambda p: p.start):
        start = max(phrase.start, position)
        if start >= min(phrase.end, len(text)):
            continue
        pieces += [(text[position:start], None), (text[start : phrase.end], target_colour(phrase.target_ids[0]))]
        position = phrase.end
    return tuple((piece, colour) for piece, colour in (*pieces, (text[position:], None)) if piece)


def draw_overlay(image: Uint8Array, result: FrameResult, alpha: float = 0.4) -> Uint8Array:
    """Draw every target on a copy of the image.

    A target is its colour over the mask, a contour and a caption "#id label score state"; the caption of a
    target without a mask stands at the lower left.

    Args:
        image: uint8 (H, W, 3), RGB, of the result's size.
        result: what to draw.
        alpha: share of the colour inside the mask, 0 to 1.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    canvas = np.array(image, copy=True)
    unseen = 0
    for mask, score, label, target_id, state in zip(
        result.masks, result.scores, result.labels, result.target_ids, result.states, strict=True
    ):
        colour = target_colour(int(target_id))
        text = " ".join(f"#{target_id} {label} {score:.2f}{_STATE_NOTES[state]}".split())
        if not draw_mask(canvas, mask, colour, text, alpha):
            _caption(canvas, text, (0, canvas.shape[0] - unseen * _line_height(canvas)), colour)
            unseen += 1
    return canvas


def draw_mask(canvas: Uint8Array, mask: BoolArray, colour: Rgb, text: str, alpha: float = 0.4) -> bool:
    """Draw a mask with a contour and a caption on an image, in place.

    Args:
        canvas: uint8 (H, W, 3), RGB.
        mask: bool (H, W).
        colour: of the mask, the contour and the caption.
        text: the caption.
        alpha: share of the colour inside the mask, 0 to 1.

    Returns:
        Whether there was anything to draw; an empty mask gets no caption.
    """
    corner = _paint(canvas, mask, colour, alpha)
    if corner is None:
        return False
    _caption(canvas, text, corner, colour)
    return True


def contact_sheet(
    images: Sequence[Uint8Array], captions: Sequence[str] = (), columns: int = 4, cell_width_px: int = 320
) -> Uint8Array:
    """Lay images out in rows of equal cells.

    Args:
        images: uint8 (H, W, 3) each, RGB; sizes may differ, the shape of the first one is the cell's.
        captions: one per image, or none.
        columns: images per row, at least 1.
        cell_width_px: width of a cell.

    Returns:
        uint8 (H, W, 3), RGB; one black cell when there are no images.
    """
    gap = max(2, cell_width_px // 80)
    cell_height = round(cell_width_px * images[0].shape[0] / images[0].shape[1]) if images else cell_width_px
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    size = (rows * (cell_height + gap) + gap, columns * (cell_width_px + gap) + gap, 3)
    sheet = np.full(size, _BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        cell = _fit(image, cell_width_px, cell_height)
        if index < len(captions):
            _caption(cell, captions[index], (0, _line_height(cell)), (255, 255, 255))
        top = gap + index // columns * (cell_height + gap)
        left = gap + index % columns * (cell_width_px + gap)
        sheet[top : top + cell_height, left : left + cell_width_px] = cell
    return sheet


def _paint(canvas: Uint8Array, mask: BoolArray, colour: Rgb, alpha: float) -> tuple[int, int] | None:
    """Tint a mask and draw its contour; return the upper left corner of its box, None for an empty mask."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return None
    window = canvas[y : y + height, x : x + width]
    inside = mask[y : y + height, x : x + width]
    tinted = cv2.addWeighted(window, 1.0 - alpha, np.full_like(window, colour), alpha, 0.0)
    window[inside] = tinted[inside]
    contours, _ = cv2.findContours(
        np.ascontiguousarray(inside).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
    )
    thickness = max(1, round(canvas.shape[0] / 360))
    cv2.drawContours(canvas, contours, -1, (0, 0, 0), thickness + 2)
    cv2.drawContours(canvas, contours, -1, colour, thickness)
    return x, y


def _line_height(canvas: Uint8Array) -> int:
    return max(12, round(min(canvas.shape[:2]) / 22))


def _caption(canvas: Uint8Array, text: str, corner: tuple[int, int], colour: Rgb) -> None:
    """Write one line whose lower left is ``corner``, kept inside the image, on a dark ground."""
    line = _line_height(canvas)
    scale = line / 32.0
    # OpenCV's stroke fonts have ASCII only.
    plain = text.encode("ascii", "replace").decode()
    width = cv2.getTextSize(plain, _FONT, scale, 1)[0][0] + 6
    left = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(corner[1], line, canvas.shape[0]))
    cv2.rectangle(canvas, (left, bottom - line), (left + width, bottom - 1), _BACKGROUND, cv2.FILLED)
    cv2.putText(canvas, plain, (left + 3, bottom - line // 4), _FONT, scale, colour, 1, cv2.LINE_AA)


def _fit(image: Uint8Array, width: int, height: int) -> Uint8Array:
    """Scale an image into a cell, keeping its shape, on a dark ground."""
    scale = min(width / image.shape[1], height / image.shape[0])
    inner_width = max(1, min(width, round(image.shape[1] * scale)))
    inner_height = max(1, min(height, round(image.shape[0] * scale)))
    cell = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (inner_width, inner_height), interpolation=interpolation)
    cell[top : top + inner_height, left : left + inner_width] = resized
    return cell

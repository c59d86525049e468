"""Time J and F of one object a frame, and panoptic quality, on one core; needs no model and no data.

The slow twin of F dilates both boundaries of the whole picture with the disk, as the official programs do; it runs in
the same process on the same masks and must give the same numbers. Masks are wavy blobs, the prediction a moved one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tables import hardware_line, number, print_table, printed_into

from x2sam_ros.evaluation.metrics.masks import BOUNDARY_TOLERANCE, boundary_accuracy, boundary_map, region_similarity
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, Segments
from x2sam_ros.types import BoolArray, IntArray

SIZES = ((854, 480), (1920, 1080))
SHARES = (0.02, 0.2, 0.7)
"""Of the picture that the object covers."""

FRAME_RATE_HZ = 30
NUM_SEGMENTS = 100
NUM_CLASSES = 20

JF_HEADER = ("picture", "object", "J, ms", "F, ms", "F of the twin, ms", "F faster", "J+F over 30 Hz")
PQ_HEADER = ("picture", "segments", "masks to map, ms", "quality, ms")


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median milliseconds of ``work`` after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times[1:]))


def blob(width: int, height: int, share: float, moved_px: int) -> BoolArray:
    """Draw a wavy blob around the middle that covers about ``share`` of the picture, bool (height, width)."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radii = np.sqrt(share / np.pi) * (1 + 0.05 * np.cos(5 * angles) + 0.03 * np.cos(11 * angles))
    outline = (0.5 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)) * (width, height)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline.round().astype(np.int32) + moved_px], 1)
    return mask.astype(bool)


def slow_boundary_accuracy(pred: BoolArray, truth: BoolArray) -> float:
    """Compute F by dilating both whole boundaries."""
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(*pred.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    own, true = boundary_map(pred).view(np.uint8), boundary_map(truth).view(np.uint8)
    precision = (own & cv2.dilate(true, disk)).sum() / own.sum()
    recall = (true & cv2.dilate(own, disk)).sum() / true.sum()
    return float(2 * precision * recall / (precision + recall))


def object_rows(repeats: int) -> Iterator[tuple[str, ...]]:
    """Yield a row for each size of the picture and of the object."""
    for width, height in SIZES:
        for share in SHARES:
            pred, truth = (blob(width, height, share, moved) for moved in (0, 5))
            if abs(boundary_accuracy(pred, truth) - slow_boundary_accuracy(pred, truth)) > 1e-12:
                raise SystemExit(f"F of {width}x{height} with {share:.0%} differs from that of the twin")
            j_ms = median_ms(lambda: region_similarity(pred, truth), repeats)  # noqa: B023
            f_ms = median_ms(lambda: boundary_accuracy(pred, truth), repeats)  # noqa: B023
            slow_ms = median_ms(lambda: slow_boundary_accuracy(pred, truth), repeats)  # noqa: B023
            over = 1e3 / FRAME_RATE_HZ / (j_ms + f_ms)
            numbers = (number(j_ms, 2), number(f_ms, 2), number(slow_ms, 2), f"{slow_ms / f_ms:.1f}x", f"{over:.0f}x")
            yield (f"{width}x{height}", f"{share:.0%}", *numbers)


def patches(width: int, height: int, centres: np.ndarray) -> IntArray:
    """Return the number of the nearest centre, from 1, for each pixel, int (height, width)."""
    y, x = np.mgrid[:height, :width]
    nearest, ids = np.full((height, width), np.inf), np.zeros((height, width), np.int64)
    for index, (cx, cy) in enumerate(centres, start=1):
        distance = (x - cx) ** 2 + (y - cy) ** 2
        ids[distance < nearest] = index
        nearest = np.minimum(nearest, distance)
    return ids


def panoptic_row(width: int, height: int, repeats: int) -> tuple[str, ...]:
    """Return the row of one picture that is divided into ``NUM_SEGMENTS``."""
    rng = np.random.default_rng(0)
    centres = rng.random((NUM_SEGMENTS, 2)) * (width, height)
    own, true = patches(width, height, centres), patches(width, height, centres + rng.normal(0, 12, centres.shape))
    classes = {index: f"class {index % NUM_CLASSES}" for index in range(1, NUM_SEGMENTS + 1)}
    masks = [(name, own == index) for index, name in classes.items()]

    def compare() -> None:
        PanopticQuality().update(Segments(own, classes), Segments(true, classes))

    map_ms = median_ms(lambda: Segments.of_masks(masks, own.shape), max(repeats // 10, 3))
    return (
        f"{width}x{height}",
        str(NUM_SEGMENTS),
        number(map_ms, 1),
        number(median_ms(compare, max(repeats // 10, 3)), 1),
    )


def print_tables(rows: Sequence[Sequence[str]], panoptic: Sequence[Sequence[str]], markdown: bool) -> None:
    """Print what was measured."""
    print(hardware_line("cpu") + ", one core")
    print_table("J and F of one object on one frame", JF_HEADER, rows, markdown)
    print_table("Panoptic quality of one frame", PQ_HEADER, panoptic, markdown)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--into", type=Path, nargs="+", default=[], help="Markdown pages to write the tables into")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with printed_into(args.into, "mask-scores"):
        rows = list(object_rows(args.repeats))
        print_tables(rows, [panoptic_row(*size, args.repeats) for size in SIZES], args.markdown or bool(args.into))


if __name__ == "__main__":
    main()

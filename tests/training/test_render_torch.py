"""The torch renderer draws what its slow twin, OpenCV on the host, draws."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from x2sam_ros.training.scenes import KINDS, Clip, Layout, lay_out
from x2sam_ros.training.scenes.render import draw as draw_on_host
from x2sam_ros.training.scenes.render import sketch
from x2sam_ros.training.scenes.render_torch import Canvas, coverage, draw, resize

LEVELS = 6
"""Grey levels by which the two may differ away from edges: textures are read with 5 bits of a texel on the host."""

SIZES = ((128, 128, 4 / 3), (96, 128, None), (64, 64, 0.75), (240, 320, None))


def drawn(layouts: Sequence[Layout]) -> tuple[np.ndarray, np.ndarray]:
    frames, labels = draw(Canvas.of(layouts))
    return frames.numpy(), labels.numpy()


def edges(labels: np.ndarray) -> np.ndarray:
    """Return the pixels of label maps (..., H, W) that have a neighbour of another label."""
    around = np.pad(labels, [(0, 0)] * (labels.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    height, width = labels.shape[-2:]
    shifts = [around[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.any([shift != labels for shift in shifts], axis=0)


def bar_rim(clip: Clip, t: int) -> np.ndarray:
    """Return the edges that are in no label map, those of an occluder: where the picture itself changes sharply."""
    grey = cv2.cvtColor(clip.frames[t], cv2.COLOR_RGB2GRAY)
    return cv2.dilate(grey, np.ones((3, 3))).astype(int) - cv2.erode(grey, np.ones((3, 3))) > 20


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_colours_are_those_of_the_host(kind: str, size: tuple[int, int, float | None]) -> None:
    height, width, aspect = size
    layouts = [lay_out(seed, 4, height, width, kind=kind, aspect=aspect) for seed in range(6)]
    frames, labels = drawn(layouts)
    for i, layout in enumerate(layouts):
        clip = draw_on_host(layout)
        assert frames[:, i].shape == clip.frames.shape and labels.dtype == clip.labels.dtype
        differing = labels[:, i] != clip.labels
        assert (differing & ~edges(clip.labels)).mean() < 5e-4, "on edges, but for slivers that only one of them shows"
        assert differing.mean() < 0.004
        distance = np.abs(frames[:, i].astype(int) - clip.frames).max(-1)
        assert distance.mean() < 1.0
        for t in range(len(clip.frames)):
            inner = ~edges(clip.labels[t]) & ~bar_rim(clip, t)
            assert np.quantile(distance[t][inner], 0.999) <= LEVELS
        pixels, wanted = ((x == k + 1 for k in range(len(layout.objects))) for x in (labels[:, i], clip.labels))
        for ours, theirs in zip(pixels, wanted):
            ours, theirs = ours.sum((1, 2)), theirs.sum((1, 2))
            assert (np.abs(ours - theirs) <= 4 + 0.03 * theirs).all()


def test_a_clip_looks_the_same_alone_and_in_a_batch() -> None:
    layouts = [lay_out(seed, 3, 64, 96, kind=kind) for seed, kind in ((1, "plain"), (2, "occlusion"), (5, "twins"))]
    assert len({len(layout.layers) for layout in layouts}) > 1, "some have empty layers"
    frames, labels = drawn(layouts)
    for i, layout in enumerate(layouts):
        alone, truth = drawn([layout])
        assert np.array_equal(labels[:, i], truth[:, 0]) and np.abs(frames[:, i].astype(int) - alone[:, 0]).max() <= 1


def test_every_other_frame_is_that_of_the_whole_clip() -> None:
    layout = lay_out(7, 5, 64, 64, kind="occlusion")
    whole, fewer = draw_on_host(layout), draw_on_host(layout.every(2))
    assert np.array_equal(fewer.frames, whole.frames[::2]) and np.array_equal(fewer.labels, whole.labels[::2])
    assert np.array_equal(fewer.visible, whole.visible[::2])
    for before, after in zip(whole.objects, fewer.objects):
        assert np.array_equal(after.centre, before.centre[::2]) and after.motion == before.motion


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_is_the_truth_of_the_first_frame(kind: str) -> None:
    layout = lay_out(11, 3, 96, 96, kind=kind)
    quick, clip = sketch(layout), draw_on_host(layout)
    assert np.array_equal(quick.labels, clip.labels[:1]) and np.array_equal(quick.visible, clip.visible[:1])
    assert quick.objects == clip.objects and not len(quick.frames)


@pytest.mark.parametrize("turned", [False, True])
def test_coverage_is_the_covered_area(turned: bool) -> None:
    corners = torch.tensor([[2.25, 1.0], [6.5, 1.0], [6.5, 4.0], [2.25, 4.0]])
    cover = coverage(corners.flip(0)[None] if turned else corners[None], (6, 8), 256)[0]
    row = torch.tensor([0, 0, 0.75, 1, 1, 1, 0.5, 0])
    wanted = torch.stack([row if 1 <= y < 4 else torch.zeros(8) for y in range(6)])
    torch.testing.assert_close(cover, wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize(("shift", "columns"), [((-4.0, 0.0), 3), ((6.0, 0.0), 1), ((0.0, -9.0), 0), ((40.0, 3.0), 0)])
def test_what_lies_outside_the_picture_is_cut_off(shift: tuple[float, float], columns: int) -> None:
    corners = torch.tensor([[2.0, 1.0], [7.0, 1.0], [7.0, 4.0], [2.0, 4.0]]) + torch.tensor(shift)
    cover = coverage(corners[None], (6, 9), 4)[0]
    assert cover.min() >= 0 and cover.max() <= 1
    assert (cover > 0.9).sum() == 3 * columns


def test_nothing_is_covered_by_an_empty_outline() -> None:
    assert not coverage(torch.zeros(2, 60, 2), (8, 8), 4).any()


@pytest.mark.parametrize("size", [(160, 192), (96, 224), (48, 64), (96, 128)])
def test_pictures_are_scaled_as_opencv_does(size: tuple[int, int]) -> None:
    frames = draw_on_host(lay_out(3, 2, 96, 128)).frames
    scaled = resize(torch.from_numpy(frames), size).numpy().astype(int)
    wanted = np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in frames])
    assert np.abs(scaled - wanted).max() <= 1

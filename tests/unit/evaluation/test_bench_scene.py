"""The benchmark's camera never stops, and names and points at objects that are there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.evaluation.bench_scenes import scene
from x2sam_ros.cli.bench_scene import NUM_OBJECTS, draw_bench_scene
from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench_scene import BenchScene


def test_frames_run_forwards_and_backwards() -> None:
    last = len(scene().frames) - 1
    for index, shown in ((0, 0), (1, 1), (last, last), (last + 1, last - 1), (2 * last, 0), (2 * last + 3, 3)):
        assert np.array_equal(scene().image(index), scene().frames[shown])
    assert scene().frame(7).frame_index == 7 and scene().frame(7).stamp_ns > scene().frame(6).stamp_ns
    clip = scene().clip(last - 1)
    assert clip.shape == (CLIP_LENGTH, *scene().size, 3) and np.array_equal(clip[2], scene().frames[last - 1])


def test_every_target_has_words_and_a_click_on_an_object() -> None:
    phrases = [scene().phrase(target) for target in range(2 * NUM_OBJECTS)]
    assert len(set(phrases)) == 2 * NUM_OBJECTS and scene().phrase(2 * NUM_OBJECTS) == phrases[0]
    height, width = scene().size
    places = {scene().click(target) for target in range(NUM_OBJECTS)}
    assert len(places) == NUM_OBJECTS and all(0 <= x < width and 0 <= y < height for x, y in places)


@pytest.mark.parametrize(("width", "height"), [(64, 96), (200, 48)])
def test_another_size_shows_the_same_objects(width: int, height: int) -> None:
    other = draw_bench_scene(width, height)
    assert other.size == (height, width) and other.phrases == scene().phrases
    np.testing.assert_allclose(other.clicks_px / [width, height], scene().clicks_px / [160, 120], atol=1e-6)


def test_an_empty_scene_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 1 frames, 0 phrases and 0 clicks"):
        BenchScene(np.zeros((1, 8, 8, 3), np.uint8), (), np.zeros((0, 2)))

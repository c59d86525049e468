"""The generated scenes show what their ground truth and their sentences say."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.training.scenes import (
    KINDS,
    REGION_KINDS,
    Clip,
    absent_phrases,
    class_list,
    distinct,
    generate_clip,
    referring_phrases,
    region_prompt,
    sample_corpus,
)
from x2sam_ros.training.scenes.layout import PALETTE
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, SIZE_WORDS


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _clips(kind: str = "plain", count: int = 12, frames: int = 8) -> list[Clip]:
    return [generate_clip(seed, frames, 128, 128, kind=kind) for seed in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_clip(kind: str) -> None:
    first, second = (generate_clip(7, 6, 96, 128, kind=kind) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.labels, second.labels)
    assert not np.array_equal(first.frames, generate_clip(8, 6, 96, 128, kind=kind).frames)


@pytest.mark.parametrize("kind", KINDS)
def test_same_scene_at_two_sizes_and_squashed(kind: str) -> None:
    for seed in range(4):
        small = generate_clip(seed, 4, 96, 128, kind=kind)
        large = generate_clip(seed, 4, 384, 512, kind=kind)
        squashed = generate_clip(seed, 4, 128, 128, kind=kind, aspect=4 / 3)
        for other in (large, squashed):
            assert [o.shape for o in other.objects] == [o.shape for o in small.objects]
            shrunk = np.stack([cv2.resize(x, (128, 96), interpolation=cv2.INTER_NEAREST) for x in other.labels])
            both = np.count_nonzero((shrunk == small.labels) & (small.labels > 0))
            assert both / max(np.count_nonzero((shrunk > 0) | (small.labels > 0)), 1) > 0.88


def _hue_names(rgb: np.ndarray) -> list[str]:
    def chroma(hue: float, saturation: float) -> np.ndarray:
        return saturation * np.array([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)])

    centres = np.stack([chroma(PALETTE[name][0] / 360, PALETTE[name][1]) for name in COLOURS])
    pixels = np.stack([chroma(*colorsys.rgb_to_hsv(*(p / 255.0))[:2]) for p in rgb])
    return [COLOURS[i] for i in np.linalg.norm(pixels[:, None] - centres, axis=2).argmin(axis=1)]


def test_pixels_have_the_colour_of_their_label() -> None:
    right = total = 0
    for clip in _clips(count=30, frames=2):
        for k, o in enumerate(clip.objects):
            inside = cv2.erode((clip.labels[1] == k + 1).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            names = _hue_names(clip.frames[1][inside][::5])
            right, total = right + names.count(o.colour), total + len(names)
    assert right / total > 0.95


def test_plain_scene_shows_every_object() -> None:
    for clip in _clips(count=40, frames=2):
        assert 2 <= len(clip.objects) <= 5
        assert (clip.visible[0] >= 0.6).all()
        for o in clip.objects:
            assert ((o.centre[0] > 0) & (o.centre[0] < 1)).all()


def test_size_names_are_true_of_the_drawn_radius() -> None:
    for clip in _clips(frames=32):
        for o in clip.objects:
            low, high = {"small": (0, 0.105), "medium": (0.105, 0.167), "large": (0.167, 1)}[o.size_name]
            assert np.mean((o.radius > low) & (o.radius < high)) >= 0.9


def test_occlusion_dips_and_recovers() -> None:
    for clip in _clips("occlusion", 30, 32):
        seen = clip.visible[:, clip.target]
        assert seen[0] > 0.6 and seen.min() < 0.5 and seen[seen.argmin() :].max() > 0.6
        assert 2 <= np.count_nonzero(seen < 0.5) <= 18


@pytest.mark.parametrize("frames", [8, 32])
def test_reentry_goes_and_comes_back(frames: int) -> None:
    for clip in _clips("reentry", 20, frames):
        seen = clip.visible[:, clip.target]
        assert seen[0] > 0.6 and seen.min() == 0 and seen[-1] > 0.6


def test_twins_are_alike_and_distractors_share_one_attribute() -> None:
    for clip in _clips("twins", 20, 1):
        me = clip.objects[clip.target]
        assert not distinct(clip, clip.target)
        assert sum((o.shape, o.colour, o.size_name) == (me.shape, me.colour, me.size_name) for o in clip.objects) >= 2
    for clip in _clips("distractors", 20, 1):
        me = clip.objects[clip.target]
        assert distinct(clip, clip.target)
        others = [o for k, o in enumerate(clip.objects) if k != clip.target]
        assert others and all((o.shape == me.shape) != (o.colour == me.colour) for o in others)


def _attributes(text: str) -> tuple[str | None, str | None]:
    """Read colour and shape of the noun group, the part before a relation's second "the"."""
    head = text.split(" the ")[0] if not text.startswith("the ") else text[4:].split(" the ")[0]
    tokens = head.split()
    return next((c for c in COLOURS if c in tokens), None), next((s for s in SHAPES if s in tokens), None)


@pytest.mark.parametrize("kind", KINDS)
def test_phrases_name_exactly_one_object(kind: str) -> None:
    kinds = set()
    for seed, clip in enumerate(_clips(kind)):
        visible = [k for k in range(len(clip.objects)) if (clip.labels[0] == k + 1).any()]
        for phrase in referring_phrases(clip, _rng(seed)):
            kinds.add(phrase.kind)
            (k,) = phrase.object_indices
            colour, shape = _attributes(phrase.text)
            fits = [
                i
                for i in visible
                if colour in (None, clip.objects[i].colour) and shape in (None, clip.objects[i].shape)
            ]
            assert k in fits and clip.visible[0, k] >= 0.5
            if phrase.kind in ("colour", "shape", "colour_shape"):
                assert fits == [k]
            x = {i: clip.objects[i].centre[0, 0] for i in fits}
            if "leftmost" in phrase.text:
                assert min(x, key=x.__getitem__) == k
            if "largest" in phrase.text:
                assert max(fits, key=lambda i: clip.objects[i].radius[0]) == k
            for size, options in SIZE_WORDS.items():
                if any(f"the {word} " in phrase.text for word in options) and phrase.kind == "size":
                    assert [i for i in fits if clip.objects[i].size_name == size] == [k]
            if phrase.kind == "motion":
                assert clip.objects[k].motion != "mixed"
    assert {"colour_shape", "size", "position", "combo"} <= kinds


def test_motion_words_are_true_of_the_path() -> None:
    found = set()
    for clip in _clips(count=20, frames=12):
        for o in clip.objects:
            dx, dy = (o.centre[-1] - o.centre[0]).tolist()
            found.add(o.motion)
            if o.motion in ("left", "right"):
                assert (dx > 0) == (o.motion == "right") and abs(dx) > abs(dy)
            if o.motion in ("up", "down"):
                assert (dy > 0) == (o.motion == "down") and abs(dy) > abs(dx)
    assert {"left", "right", "up", "down", "still"} <= found


def test_absent_phrases_fit_no_object() -> None:
    for seed, clip in enumerate(_clips()):
        phrases = absent_phrases(clip, _rng(seed), 6)
        assert len(phrases) == 6 == len({p.text for p in phrases})
        for phrase in phrases:
            colour, shape = _attributes(phrase.text)
            fits = [o for o in clip.objects if colour in (None, o.colour) and shape in (None, o.shape)]
            assert phrase.object_indices == ()
            if phrase.kind == "absent_size":
                wrong = next(s for s, options in SIZE_WORDS.items() if any(f" {w} " in phrase.text for w in options))
                assert fits and all(o.size_name != wrong for o in fits)
            else:
                assert not fits


def test_class_list_tells_the_class_of_every_object() -> None:
    for seed, clip in enumerate(_clips(count=40, frames=1)):
        classes = class_list(clip, _rng(seed))
        assert 2 <= len(classes.names) <= 6 and len(set(classes.names)) == len(classes.names)
        for o, index in zip(clip.objects, classes.object_classes):
            own = [
                i
                for i, name in enumerate(classes.names)
                if all(w in (o.colour, o.shape, "object", "thing", "shape") for w in name.split())
            ]
            assert own == ([index] if index >= 0 else [])


def test_region_prompts_point_at_their_object() -> None:
    for seed, clip in enumerate(_clips(frames=1)):
        for k in range(len(clip.objects)):
            visible = clip.labels[0] == k + 1
            regions = {kind: region_prompt(clip, k, 0, _rng(seed), kind) for kind in REGION_KINDS}
            x, y = regions["point"].point_xy or (-1, -1)
            assert visible[y, x] and regions["point"].mask[y, x] and regions["point"].mask.sum() < 20
            assert np.array_equal(regions["mask"].mask, visible)
            assert (regions["box"].mask & visible).sum() > 0.75 * visible.sum()
            assert (regions["scribble"].mask & visible).any()


def test_every_word_is_in_the_corpus() -> None:
    vocabulary = {w for text in sample_corpus(3000, 0) for w in text.split()}
    for kind in KINDS:
        for seed, clip in enumerate(_clips(kind, 6, 6)):
            texts = [p.text for p in referring_phrases(clip, _rng(seed)) + absent_phrases(clip, _rng(seed), 6)]
            texts += class_list(clip, _rng(seed)).names
            assert {w for text in texts for w in text.split()} <= vocabulary


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="plain"):
        generate_clip(0, 1, 64, 64, kind="nothing")
    clip = next(c for c in _clips("reentry", 1, 9))
    gone = int(clip.visible[:, clip.target].argmin())
    with pytest.raises(PromptError, match="not visible"):
        region_prompt(clip, clip.target, gone, _rng(), "point")

"""Generated scenes as cases to score, and as a JPEG camera. Seeds here are held out from training."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS, Case, Truth
from x2sam_ros.image_codec import decode_compressed
from x2sam_ros.training.scenes import (
    Clip,
    RegionPrompt,
    absent_phrases,
    class_list,
    distinct,
    generate_clip,
    referring_phrases,
    region_prompt,
)
from x2sam_ros.types import BoxPrompt, ClassListPrompt, Frame, PointPrompt, Prompt, TextPrompt

HELD_OUT_SEED = 500_000
"""First seed of the evaluation, counted up by one; training draws none below training.samples.FIRST_TRAINING_SEED."""

HEIGHT, WIDTH = 480, 640
MOTION_FRAMES = 16
"""Length of the clips that motion phrases are drawn from; the model sees their first frame."""

MIN_VISIBLE, MIN_AREA = 0.5, 0.003
"""What makes an object fit to be prompted: its visible share, and its share of the image."""

PHRASE_KINDS = ("colour", "shape", "colour_shape", "size", "position", "motion", "combo")
IMAGE_KINDS = (*PHRASE_KINDS, "class_list", "point", "box", "absent")
UNIQUE_KINDS = ("colour", "shape", "colour_shape")
"""Phrases that stay true of one object while everything moves."""


def _object_truth(clip: Clip, index: int) -> Truth:
    return Truth("", clip.labels == index + 1)


def _first_visible(clip: Clip, index: int) -> int | None:
    area = (clip.labels == index + 1).mean(axis=(1, 2))
    frames = np.flatnonzero((clip.visible[:, index] >= MIN_VISIBLE) & (area >= MIN_AREA))
    return int(frames[0]) if len(frames) else None


def _as_prompt(region: RegionPrompt) -> Prompt:
    if region.box_xyxy is not None:
        return BoxPrompt("box", box_px=np.array(region.box_xyxy))
    return PointPrompt("point", points_px=np.array([region.point_xy], float))


def _first_frame(clip: Clip) -> Clip:
    return Clip(clip.frames[:1], clip.labels[:1], clip.visible[:1], clip.objects, clip.kind, clip.target)


def _cases_of_image(seed: int, wanted: set[str]) -> Iterator[Case]:
    """Yield at most one case of each wanted kind from the scene of a seed."""
    rng = np.random.default_rng(seed)
    clip = generate_clip(seed, MOTION_FRAMES if "motion" in wanted else 1, HEIGHT, WIDTH)
    phrases = referring_phrases(clip, rng)
    absent = absent_phrases(clip, rng, 4)
    image = _first_frame(clip)
    for kind in PHRASE_KINDS:
        fitting = [phrase for phrase in phrases if phrase.kind == kind]
        if fitting:
            phrase = fitting[int(rng.integers(len(fitting)))]
            truth = _object_truth(image, phrase.object_indices[0])
            yield Case(kind, image.frames, TextPrompt("text", text=phrase.text), (truth,))
    listed = class_list(image, rng)
    truths = []
    for position, name in enumerate(listed.names):
        members = [k + 1 for k, own in enumerate(listed.object_classes) if own == position]
        truths.append(Truth(name, np.isin(image.labels, members)))
    yield Case("class_list", image.frames, ClassListPrompt("classes", classes=listed.names), tuple(truths))
    apart = [k for k in range(len(image.objects)) if distinct(image, k) and _first_visible(image, k) == 0]
    if apart:
        index = apart[int(rng.integers(len(apart)))]
        for kind in ("point", "box"):
            prompt = _as_prompt(region_prompt(image, index, 0, rng, kind))
            yield Case(kind, image.frames, prompt, (_object_truth(image, index),))
    if absent:
        text = absent[int(rng.integers(len(absent)))].text
        nothing = Truth("", np.zeros(image.labels.shape, bool))
        yield Case("absent", image.frames, TextPrompt("text", text=text), (nothing,))


def image_cases(count: int) -> Iterator[Case]:
    """Yield ``count`` images of every kind in `IMAGE_KINDS`, each kind from scenes of its own seeds' order."""
    left = dict.fromkeys(IMAGE_KINDS, count)
    seed = HELD_OUT_SEED
    while any(left.values()):
        for case in _cases_of_image(seed, {kind for kind, missing in left.items() if missing}):
            if left[case.kind]:
                left[case.kind] -= 1
                yield case
        seed += 1


def clip_cases(scene_kind: str, prompt_kind: str, count: int, num_frames: int) -> Iterator[Case]:
    """Yield ``count`` clips, prompted once, on the first frame that shows the object well.

    Args:
        scene_kind: one of the generator's kinds; but for "plain" its own target is the object.
        prompt_kind: "text" (colour, shape or both), "point" or "box".
        count: how many clips.
        num_frames: length of each.
    """
    seed, made = HELD_OUT_SEED, 0
    while made < count:
        rng = np.random.default_rng(seed)
        clip = generate_clip(seed, num_frames, HEIGHT, WIDTH, kind=scene_kind)
        case = _clip_case(clip, scene_kind, prompt_kind, rng)
        seed += 1
        if case is not None:
            made += 1
            yield case


def _clip_case(clip: Clip, scene_kind: str, prompt_kind: str, rng: np.random.Generator) -> Case | None:
    kind = f"{scene_kind}, {prompt_kind}"
    candidates = [clip.target]
    if scene_kind == "plain":
        candidates = [int(k) for k in rng.permutation(len(clip.objects)) if distinct(clip, int(k))]
    for index in candidates:
        start = _first_visible(clip, index)
        if start is None:
            continue
        if prompt_kind != "text":
            prompt = _as_prompt(region_prompt(clip, index, start, rng, prompt_kind))
            return Case(kind, clip.frames, prompt, (_object_truth(clip, index),), start)
        fitting = [
            phrase
            for phrase in referring_phrases(clip, rng, start)
            if phrase.kind in UNIQUE_KINDS and phrase.object_indices == (index,)
        ]
        if fitting:
            text = fitting[int(rng.integers(len(fitting)))].text
            return Case(kind, clip.frames, TextPrompt("text", text=text), (_object_truth(clip, index),), start)
    return None


class JpegCamera:
    """A generated clip as a camera driver would send it: JPEG bytes, played forwards and backwards for ever."""

    def __init__(self, num_frames: int = 60, seed: int = HELD_OUT_SEED) -> None:
        self.clip = generate_clip(seed, num_frames, HEIGHT, WIDTH)
        coded = [
            cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for frame in self.clip.frames
        ]
        self._images = [image.tobytes() for image in (*coded, *coded[-2:0:-1])]

    def frame(self, frame_index: int) -> Frame:
        """Decode the image of a frame; the stamp is that of a 30 Hz camera."""
        data = self._images[frame_index % len(self._images)]
        return Frame(decode_compressed("jpeg", data), frame_index * FRAME_INTERVAL_NS, frame_index, "camera")

    def click(self, frame_index: int, number: int) -> PointPrompt:
        """Return a click on one of the objects visible in that frame; ``number`` chooses it and names the prompt."""
        played = frame_index % len(self._images)
        shown = played if played < len(self.clip.frames) else len(self._images) - played
        visible = [k for k in range(len(self.clip.objects)) if (self.clip.labels[shown] == k + 1).any()]
        rng = np.random.default_rng(number)
        region = region_prompt(self.clip, visible[number % len(visible)], shown, rng, "point")
        return PointPrompt(f"click-{number}", points_px=np.array([region.point_xy], float))

"""Generated scenes as cases to score, and as a JPEG camera. Seeds here are held out from training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product

import cv2
import numpy as np

from x2sam_ros.cli.eval_scenes import HEIGHT, HELD_OUT_SEED, MIN_AREA, MIN_VISIBLE, WIDTH, first_visible
from x2sam_ros.config import SceneConfig
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

MOTION_FRAMES = 16
"""Length of the clips that motion phrases are drawn from; the model sees their first frame."""

CLIP_SHOWN = slice(0, 8, 2)
"""Frames of a clip that the language model is shown: as many, and as far apart, as in training."""

PHRASE_KINDS = ("colour", "shape", "colour_shape", "size", "position", "motion", "combo")
MOTION_SHOWN = "motion, clip shown"
"""The cases of the kind "motion", with the clip that their phrase is about."""

IMAGE_KINDS = (*PHRASE_KINDS, MOTION_SHOWN, "class_list", "point", "box", "absent")
UNIQUE_KINDS = ("colour", "shape", "colour_shape")
"""Phrases that stay true of one object while everything moves."""


@dataclass(frozen=True)
class Episode:
    """A clip, the object that is pointed at, and the prompts by kind."""

    clip: Clip
    index: int
    prompts: Mapping[str, Prompt]


def object_truth(clip: Clip, index: int) -> Truth:
    """Return the truth of a prompt for one object, whatever its target is called."""
    return Truth("", clip.labels == index + 1)


def is_fit(clip: Clip, index: int, frame: int) -> bool:
    """Tell whether an object is fit to be prompted on a frame."""
    area = np.mean(clip.labels[frame] == index + 1)
    return bool(clip.visible[frame, index] >= MIN_VISIBLE and area >= MIN_AREA)


def apart(image: Clip) -> list[int]:
    """Return the objects of a picture that are fit to be pointed at and look like no other."""
    return [k for k in range(len(image.objects)) if distinct(image, k) and is_fit(image, k, 0)]


def as_prompt(region: RegionPrompt) -> PointPrompt | BoxPrompt:
    """Return a drawn region as the prompt of a user."""
    if region.box_xyxy is not None:
        return BoxPrompt("box", box_px=np.array(region.box_xyxy))
    return PointPrompt("point", points_px=np.array([region.point_xy], float))


def first_frame(clip: Clip) -> Clip:
    """Return a clip's first frame as a clip."""
    objects = tuple(replace(item, centre=item.centre[:1], radius=item.radius[:1]) for item in clip.objects)
    return replace(clip, frames=clip.frames[:1], labels=clip.labels[:1], visible=clip.visible[:1], objects=objects)


def object_chance(clip: Clip, index: int, start: int = 0) -> float:
    """Return the expected J of a perfect mask of any object seen on a frame, chosen at random.

    Args:
        clip: the clip.
        index: the object that is meant.
        start: the frame on which the object is chosen; it is followed from there on.
    """
    seen = np.stack([(clip.labels[start:] == k + 1).any(axis=(1, 2)) for k in range(len(clip.objects))], axis=1)
    # Masks of two objects share no pixel: their J is 0, or 1 where both are out of sight.
    right = ~seen & ~seen[:, [index]]
    right[:, index] = True
    return float(right[:, seen[0]].mean())


def naming_chance(areas: Sequence[int], classes: Sequence[int], num_names: int) -> float:
    """Return the expected J, mean over the names that occur, of true masks that get their names at random.

    Args:
        areas: pixels of each object.
        classes: index of each one's true name, or -1.
        num_names: how many names there are to choose from.
    """
    pixels, own = np.array(areas), np.array(classes)
    named = np.array(list(product((False, True), repeat=len(pixels))))  # who may have got one name
    odds = np.where(named, 1 / num_names, 1 - 1 / num_names).prod(axis=1)
    expected = []
    for name in sorted({*classes} - {-1}):
        common, union = (named & (own == name)) @ pixels, (named | (own == name)) @ pixels
        expected.append(odds @ (common / np.maximum(union, 1)))
    return float(np.mean(expected))


def _phrase_cases(clip: Clip, image: Clip, rng: np.random.Generator) -> Iterator[Case]:
    phrases = referring_phrases(clip, rng)
    absent = absent_phrases(clip, rng, 4)
    for kind in PHRASE_KINDS:
        fitting = [phrase for phrase in phrases if phrase.kind == kind]
        if not fitting:
            continue
        phrase = fitting[int(rng.integers(len(fitting)))]
        index = phrase.object_indices[0]
        prompt, truths = TextPrompt("text", text=phrase.text), (object_truth(image, index),)
        chance = object_chance(image, index)
        yield Case(kind, image.frames, prompt, truths, chance=chance)
        if kind == "motion":
            yield Case(MOTION_SHOWN, image.frames, prompt, truths, clip=clip.frames[CLIP_SHOWN], chance=chance)
    # The other kinds draw from the same generator, so that one is drawn from last.
    yield from _list_and_region_cases(image, rng)
    if absent:
        text = absent[int(rng.integers(len(absent)))].text
        nothing = Truth("", np.zeros(image.labels.shape, bool))
        yield Case("absent", image.frames, TextPrompt("text", text=text), (nothing,))


def _list_and_region_cases(image: Clip, rng: np.random.Generator) -> Iterator[Case]:
    listed = class_list(image, rng)
    truths = []
    for position, name in enumerate(listed.names):
        members = [k + 1 for k, own in enumerate(listed.object_classes) if own == position]
        truths.append(Truth(name, np.isin(image.labels, members)))
    areas = np.bincount(image.labels.ravel(), minlength=len(image.objects) + 1)[1:]
    chance = naming_chance(areas.tolist(), listed.object_classes, len(listed.names))
    yield Case(
        "class_list", image.frames, ClassListPrompt("classes", classes=listed.names), tuple(truths), chance=chance
    )
    options = apart(image)
    if options:
        index = options[int(rng.integers(len(options)))]
        for kind in ("point", "box"):
            prompt = as_prompt(region_prompt(image, index, 0, rng, kind))
            truth = (object_truth(image, index),)
            yield Case(kind, image.frames, prompt, truth, chance=object_chance(image, index))


def cases_of_image(seed: int, wanted: Collection[str]) -> Iterator[Case]:
    """Yield at most one case of each kind from the scene of a seed; kinds that nobody wants are among them."""
    rng = np.random.default_rng(seed)
    clip = generate_clip(seed, MOTION_FRAMES if "motion" in wanted else 1, HEIGHT, WIDTH)
    yield from _phrase_cases(clip, first_frame(clip), rng)


def of_every_kind(
    kinds: Collection[str],
    count: int,
    cases_of: Callable[[int, set[str]], Iterable[Case]],
    first_seed: int = HELD_OUT_SEED,
) -> Iterator[Case]:
    """Yield ``count`` cases of every kind from scenes of ascending seeds.

    Args:
        kinds: the kinds.
        count: how many of each.
        cases_of: returns the cases of a seed's scene, given the kinds that are still wanted.
        first_seed: of the scenes.
    """
    left = dict.fromkeys(kinds, count)
    seed = first_seed
    while any(left.values()):
        for case in cases_of(seed, {kind for kind, missing in left.items() if missing}):
            if left.get(case.kind):
                left[case.kind] -= 1
                yield case
        seed += 1


def image_cases(count: int, kinds: Collection[str] = IMAGE_KINDS) -> Iterator[Case]:
    """Yield ``count`` images of every kind, of those in `IMAGE_KINDS`: the tasks refseg, genseg and objseg."""
    return of_every_kind(kinds, count, cases_of_image)


def clip_cases(scene_kind: str, prompt_kind: str, count: int, num_frames: int) -> Iterator[Case]:
    """Yield ``count`` clips, prompted once, on the first frame that shows the object well.

    Args:
        scene_kind: one of the generator's kinds; but for "plain" its own target is the object.
        prompt_kind: "text" (colour, shape or both), "point" or "box".
        count: how many clips.
        num_frames: length of each.
    """
    found = (cases_of_clip(seed, scene_kind, (prompt_kind,), num_frames) for seed in itertools.count(HELD_OUT_SEED))
    return islice(chain.from_iterable(found), count)


def cases_of_clip(seed: int, scene_kind: str, prompt_kinds: Iterable[str], num_frames: int) -> Iterator[Case]:
    """Yield a case for each kind of prompt that the clip of a seed has one for; see `clip_cases`."""
    clip = generate_clip(seed, num_frames, HEIGHT, WIDTH, kind=scene_kind)
    for prompt_kind in prompt_kinds:
        case = _clip_case(clip, scene_kind, prompt_kind, np.random.default_rng(seed))
        if case is not None:
            yield case


def _clip_case(clip: Clip, scene_kind: str, prompt_kind: str, rng: np.random.Generator) -> Case | None:
    kind = f"{scene_kind}, {prompt_kind}"
    candidates = [clip.target]
    if scene_kind == "plain":
        candidates = [int(k) for k in rng.permutation(len(clip.objects)) if distinct(clip, int(k))]
    for index in candidates:
        start = first_visible(clip, index)
        if start is None:
            continue
        prompt = prompt_for(clip, index, start, prompt_kind, rng)
        if prompt is not None:
            chance = object_chance(clip, index, start)
            return Case(kind, clip.frames, prompt, (object_truth(clip, index),), start, chance=chance)
    return None


def prompt_for(clip: Clip, index: int, frame: int, kind: str, rng: np.random.Generator) -> Prompt | None:
    """Return a prompt for an object that is to be seen on a frame.

    Args:
        clip, index, frame: the object and the frame.
        kind: "text" (colour, shape or both; true of it alone on all frames), "point" or "box".
        rng: chooses among the words, or the pixels.

    Returns:
        The prompt; None where there are no such words.
    """
    if kind != "text":
        return as_prompt(region_prompt(clip, index, frame, rng, kind))
    fitting = [
        phrase
        for phrase in referring_phrases(clip, rng, frame)
        if phrase.kind in UNIQUE_KINDS and phrase.object_indices == (index,)
    ]
    return TextPrompt("text", text=fitting[int(rng.integers(len(fitting)))].text) if fitting else None


class JpegCamera:
    """A generated clip as a camera driver would send it: JPEG bytes, played forwards and backwards for ever.

    Args:
        num_frames: length of the clip.
        seed, config: of the scene.
    """

    def __init__(self, num_frames: int = 60, seed: int = HELD_OUT_SEED, config: SceneConfig | None = None) -> None:
        self.clip = generate_clip(seed, num_frames, HEIGHT, WIDTH, config=config or SceneConfig())
        coded = [
            cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for frame in self.clip.frames
        ]
        self._images = [image.tobytes() for image in (*coded, *coded[-2:0:-1])]

    def frame(self, frame_index: int) -> Frame:
        """Decode the image of a frame; the stamp is that of a 30 Hz camera."""
        data = self._images[frame_index % len(self._images)]
        return Frame(decode_compressed("jpeg", data), frame_index * FRAME_INTERVAL_NS, frame_index, "camera")

    def labels(self, frame_index: int) -> np.ndarray:
        """Return what is where in a frame, uint8 (H, W): 0 is background, k + 1 is object k."""
        return self.clip.labels[self._shown(frame_index)]

    def clicked(self, frame_index: int, number: int) -> int:
        """Return the object that a click is on; ``number`` chooses among those visible in that frame."""
        labels = self.labels(frame_index)
        visible = [k for k in range(len(self.clip.objects)) if (labels == k + 1).any()]
        return visible[number % len(visible)]

    def click(self, frame_index: int, number: int) -> PointPrompt:
        """Return a click on one of the objects visible in that frame; ``number`` chooses it and names the prompt."""
        rng = np.random.default_rng(number)
        clicked, shown = self.clicked(frame_index, number), self._shown(frame_index)
        region = region_prompt(self.clip, clicked, shown, rng, "point")
        return PointPrompt(f"click-{number}", points_px=np.array([region.point_xy], float))

    def _shown(self, frame_index: int) -> int:
        played = frame_index % len(self._images)
        return played if played < len(self.clip.frames) else len(self._images) - played

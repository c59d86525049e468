"""Measure whether a prompt holds on to one object, also among objects that look alike.

Generated clips, prompted on their first frame; every prompt of a clip is a target of one session. A target is right
on a frame when its mask and the prompted object have an IoU of at least one half; otherwise its mask lies on another
object (the one it covers best, IoU of at least one fifth), is a poor mask, or is empty.

"apart": the twins, of one shape, colour, size and texture, never touch and are at least half visible all the time;
"hidden": they never touch, but one is hidden or outside for a while; "crossing": they touch. "distinct": an object of a
plain scene that no other resembles. In all of them the prompted object is well visible on the first and last frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from scene_cases import HEIGHT, HELD_OUT_SEED, UNIQUE_KINDS, WIDTH, Episode, as_prompt
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.cli.eval_scenes import MIN_VISIBLE
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS, StreamSession
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.training.scenes import Clip, distinct, generate_clip, referring_phrases, region_prompt
from x2sam_ros.types import BoolArray, Frame, MaskPrompt, Prompt, TextPrompt, Uint8Array

SCENES = {"twins, apart": "twins", "twins, hidden": "twins", "twins, crossing": "twins", "distinct": "plain"}
"""What is measured, and the generator's kind of scene that it is drawn from."""

PROMPTS = ("point", "box", "mask", "text")
SKETCH = 96, 128
"""Size at which a scene is drawn first, to see whether it is one of those that are wanted."""

WELL_VISIBLE = 0.9
"""Visible share of a prompted object on the first frame."""

RIGHT_IOU, OTHER_IOU = 0.5, 0.2
HEADER = ("scene, prompt", "cases", "right at first", "std error", "right after {}", "std error")
MORE = ("on another", "poor mask", "none", "mean J")


@dataclass
class Tally:
    """How the prompts of one kind went."""

    first: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    j: list[float] = field(default_factory=list)


def look_alikes(clip: Clip, index: int) -> list[int]:
    """Return the other objects of an object's shape and colour."""
    me = clip.objects[index]
    return [k for k, o in enumerate(clip.objects) if k != index and (o.shape, o.colour) == (me.shape, me.colour)]


def touch(clip: Clip, first: int, second: int) -> bool:
    """Return whether the discs of two objects' areas meet on any frame."""
    height, width = clip.labels.shape[1:]
    scale = np.array([width, height]) / min(width, height)  # to units of the radius, the short side
    a, b = clip.objects[first], clip.objects[second]
    return bool((np.linalg.norm((a.centre - b.centre) * scale, axis=1) < a.radius + b.radius).any())


def scene_of(clip: Clip, index: int) -> str:
    """Return which of ``SCENES`` an object of a clip belongs to; "" where it is none."""
    shown, alike = clip.visible, look_alikes(clip, index)
    if shown[0, index] < WELL_VISIBLE or shown[-1, index] < MIN_VISIBLE:
        return ""
    if clip.kind == "plain":
        return "distinct" if distinct(clip, index) else ""
    if not alike or shown[0, alike].min() < WELL_VISIBLE:
        return ""
    if any(touch(clip, index, k) for k in alike):
        return "twins, crossing"
    return "twins, apart" if shown[:, [index, *alike]].min() >= MIN_VISIBLE else "twins, hidden"


def prompts_for(clip: Clip, index: int, rng: np.random.Generator) -> dict[str, Prompt]:
    """Return a prompt of every kind for an object; a text where some words are true of it alone."""
    prompts: dict[str, Prompt] = {}
    for kind in ("point", "box"):
        prompts[kind] = as_prompt(region_prompt(clip, index, 0, rng, kind))
    prompts["mask"] = MaskPrompt("mask", mask=region_prompt(clip, index, 0, rng, "mask").mask)
    kinds = UNIQUE_KINDS if distinct(clip, index) else ("position", "combo")
    texts = [p.text for p in referring_phrases(clip, rng) if p.kind in kinds and p.object_indices == (index,)]
    if texts:
        prompts["text"] = TextPrompt("text", text=texts[int(rng.integers(len(texts)))])
    return prompts


def instance_cases(scene: str, count: int, num_frames: int, first_seed: int) -> Iterator[Episode]:
    """Yield ``count`` cases of a scene from ascending seeds, one of a clip."""
    seed, made = first_seed, 0
    while made < count:
        sketch = generate_clip(seed, num_frames, *SKETCH, kind=SCENES[scene])
        objects = [sketch.target] if sketch.kind == "twins" else range(len(sketch.objects))
        fitting = [k for k in objects if scene_of(sketch, k) == scene]
        if fitting:
            rng = np.random.default_rng(seed)
            clip = generate_clip(seed, num_frames, HEIGHT, WIDTH, kind=SCENES[scene])
            index = fitting[int(rng.integers(len(fitting)))]
            made += 1
            yield Episode(clip, index, prompts_for(clip, index, rng))
        seed += 1


def outcome(mask: BoolArray, labels: Uint8Array, index: int) -> str:
    """Say where a mask (H, W) lies on a frame whose objects are labelled from 1: "right", "other", "poor" or "none"."""
    if region_similarity(mask, labels == index + 1) >= RIGHT_IOU:
        return "right"
    if not mask.any():
        return "none"
    iou = [region_similarity(mask, labels == k) for k in range(1, int(labels.max()) + 1)]
    best = int(np.argmax(iou)) if iou else index
    return "other" if best != index and iou[best] >= OTHER_IOU else "poor"


def follow(session: StreamSession, case: Episode) -> Iterator[dict[str, BoolArray]]:
    """Stream a case through a fresh session; yield each prompt's mask (H, W) frame by frame."""
    for prompt in case.prompts.values():
        session.submit(prompt)
    ids: dict[str, tuple[int, ...]] = {}
    for index, image in enumerate(case.clip.frames):
        result = session.step(Frame(image, index * FRAME_INTERVAL_NS, index))
        ids.update((grounding.prompt_id, grounding.target_ids) for grounding in result.groundings)
        yield {kind: result.masks[np.isin(result.target_ids, ids.get(kind, ()))].any(axis=0) for kind in case.prompts}


def measure(open_session: Callable[[], StreamSession], cases: Iterable[Episode]) -> dict[str, Tally]:
    """Follow every prompt of every case through a session of the case's own."""
    tallies = {kind: Tally() for kind in PROMPTS}
    for case in cases:
        labels, last = case.clip.labels, len(case.clip.labels) - 1
        j: dict[str, list[float]] = {kind: [] for kind in case.prompts}
        for index, masks in enumerate(follow(open_session(), case)):
            for kind, mask in masks.items():
                j[kind].append(region_similarity(mask, labels[index] == case.index + 1))
                if index == 0:
                    tallies[kind].first.append(outcome(mask, labels[index], case.index))
                if index == last:
                    tallies[kind].last.append(outcome(mask, labels[index], case.index))
        for kind, values in j.items():
            tallies[kind].j.append(float(np.mean(values)))
    return tallies


def rows(scene: str, tallies: Mapping[str, Tally]) -> list[tuple[str, ...]]:
    """Return a row for each kind of prompt."""
    table = []
    for kind, tally in tallies.items():
        count = len(tally.first)
        if not count:
            continue
        cells = [f"{scene}, {kind}", str(count)]
        for outcomes in (tally.first, tally.last):
            share = outcomes.count("right") / count
            cells += [number(share), number((share * (1 - share) / count) ** 0.5)]
        ends = Counter(tally.last)
        cells += [number(ends[end] / count) for end in ("other", "poor", "none")]
        table.append((*cells, number(float(np.mean(tally.j)))))
    return table


def main() -> None:
    """Run the clips and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--memory-policy", default=NodeConfig.memory_policy)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="what to measure")
    parser.add_argument("--clips", type=int, default=100, help="clips of each scene")
    parser.add_argument("--frames", type=int, default=40, help="frames after the prompted one")
    parser.add_argument("--first-seed", type=int, default=HELD_OUT_SEED, help="seed of the first clip looked at")
    options = parser.parse_args()
    if options.clips < 1 or options.frames < 1:
        parser.error("--clips and --frames are at least 1")
    model = load_model(options.model, options.device)

    def open_session() -> StreamSession:
        return Session(model, memory_policy=options.memory_policy)

    with printed_into(options.into, "instances"):
        print(f"{options.model}: {hardware_line(options.device)}; memory policy {options.memory_policy}")
        table = []
        for scene in options.scenes:
            cases = instance_cases(scene, options.clips, options.frames + 1, options.first_seed)
            table += rows(scene, measure(open_session, progress(cases, scene, options.clips)))
        header = tuple(name.format(options.frames) for name in (*HEADER, *MORE))
        print_table("One object among others, held-out clips", header, table, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

"""Compare the memory policies on long generated clips with occlusion, re-entry, look-alikes and distractors.

Every policy follows the same prompts, a click and, where some words are true of the object alone, a text. J is the mean
over all frames from the prompted one on, those on which the object is hidden included. A target is regained when its
mean J over frames 3 to 12 after the object is half visible again is at least 0.5. It is itself after a crossing when,
over the last ten frames, its masks cover the object better than its twin.

"wall": something wide passes in front and hides the object, which no other resembles, for at least the given number of
frames; "reentry" counts as an occlusion too where the object is gone as long. "crossing": twins that meet and part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from scene_cases import HELD_OUT_SEED, UNIQUE_KINDS, Episode, as_prompt
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.cli.eval_scenes import MIN_VISIBLE
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.grounding import Grounder, Picture, View
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import Seen, Tracker
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import MEMORY_POLICIES, installed_plugins
from x2sam_ros.training.scenes import Clip, distinct, generate_clip, referring_phrases, region_prompt
from x2sam_ros.types import BoolArray, Frame, Prompt, TextPrompt

SCENES = {
    "plain": "plain",
    "occlusion": "occlusion",
    "wall": "distractors",
    "reentry": "reentry",
    "distractors": "distractors",
    "crossing": "twins",
}
"""What is measured, and the generator's kind of scene that it is drawn from."""

HEIGHT, WIDTH = 240, 320
SKETCH = 48, 64
"""Size at which a scene is drawn first, to see whether it is one of those that are wanted."""

WELL_VISIBLE = 0.9
"""Visible share of a prompted object on the first frame."""

WALL_SPEED = 0.02
"""How far the wall moves in a frame, in widths of the image."""

WALL_START = 12
"""Frame on which the wall hides the object."""

WALL_MARGIN = 1.4
"""Half of what the wall hides, in radii of the object's disc of equal area."""

GONE = 0.02
"""Visible share below which an object is hidden."""

REGAIN = slice(2, 12)
"""Which of the frames after an occlusion are judged."""

RIGHT = 0.5
LAST_FRAMES = 10
"""Frames at a clip's end that are judged after a crossing."""

EVENTS = "itself after a crossing", "KiB held", "ms a frame"
Key = tuple[str, str]
"""Policy, with its stride where it has one of its own, and kind of prompt."""

PARTED = 1.5
"""Distance of twins at the end, in sums of their radii, at which they have parted."""


@dataclass
class Tally:
    """How one policy did."""

    j: list[float] = field(default_factory=list)
    regained: dict[str, list[bool]] = field(default_factory=dict)
    itself: list[bool] = field(default_factory=list)


def walled(clip: Clip, index: int, hidden: int) -> Clip:
    """Let a wall as high as the image pass in front of an object and hide it for some frames.

    The wall is there from the first frame on. Its edges move at one speed; they are placed so that the object, which
    moves too, is covered on the first and on the last of these frames.
    """
    num_frames, _, width = clip.labels.shape
    item, time = clip.objects[index], np.arange(num_frames)
    half = WALL_MARGIN * float(item.radius.max()) * min(clip.labels.shape[1:]) / width
    start, stop = WALL_START, WALL_START + hidden - 1
    x = item.centre[[start, min(stop, num_frames - 1)], 0]
    sign = 1.0 if x[0] >= 0.5 else -1.0  # it comes from the farther side, so that it does not hide the object at first
    front = x[0] + sign * (half + WALL_SPEED * (time - start))
    back = x[1] - sign * (half - WALL_SPEED * (time - stop))
    columns = (np.arange(width) + 0.5) / width
    low, high = np.minimum(front, back)[:, None], np.maximum(front, back)[:, None]
    covered = (columns >= low) & (columns <= high)  # (T, W)
    frames, labels = clip.frames.copy(), clip.labels.copy()
    noise = np.random.default_rng(index).normal(0, 2.5, frames.shape[1:3])
    for t in range(num_frames):
        shade = 90 + 12 * np.sin(40 * (columns - low[t])) + noise
        frames[t][:, covered[t]] = np.clip(shade[:, covered[t], None], 0, 255).astype(np.uint8)
        labels[t][:, covered[t]] = 0
    areas = [np.stack([(x == k + 1).sum((1, 2)) for k in range(len(clip.objects))], 1) for x in (clip.labels, labels)]
    visible = clip.visible * areas[1] / np.maximum(areas[0], 1)
    return replace(clip, frames=frames, labels=labels, visible=visible.astype(np.float32))


def occlusion(visible: Sequence[float]) -> tuple[int, int] | None:
    """Return the longest run of frames on which an object is hidden, as its first frame and the one behind the last."""
    best, start = (0, 0), 0
    for index, share in enumerate([*visible, 1.0]):
        if share > GONE:
            best = max(best, (start, index), key=lambda run: run[1] - run[0])
            start = index + 1
    return best if best[1] > best[0] else None


def seen_again(visible: Sequence[float], hidden: int) -> list[int]:
    """Return the frames that show whether an object is regained after so many hidden ones; [] where none do."""
    run = occlusion(visible)
    if run is None or run[1] - run[0] < hidden:
        return []
    after = [index for index in range(run[1], len(visible)) if visible[index] >= MIN_VISIBLE][REGAIN]
    return after if len(after) == REGAIN.stop - REGAIN.start else []


def twin_of(clip: Clip, index: int) -> int | None:
    """Return the object that an object crosses: one like it, which it meets and from which it has parted at the end."""
    me = clip.objects[index]
    height, width = clip.labels.shape[1:]
    scale = np.array([width, height]) / min(width, height)  # to units of the radius, the short side
    for k, other in enumerate(clip.objects):
        if k == index or (other.shape, other.colour) != (me.shape, me.colour):
            continue
        distance = np.linalg.norm((me.centre - other.centre) * scale, axis=1) / (me.radius + other.radius)
        ends = distance[[0, *range(-LAST_FRAMES, 0)]]
        if distance.min() < 1 and ends.min() > PARTED and clip.visible[-LAST_FRAMES:, [index, k]].min() >= MIN_VISIBLE:
            return k
    return None


def is_wanted(clip: Clip, scene: str, hidden: int) -> bool:
    """Tell whether a clip's object is prompted well, and shows what the scene is about."""
    index, shown = clip.target, clip.visible[:, clip.target]
    if shown[0] < WELL_VISIBLE:
        return False
    if scene == "wall":
        return distinct(clip, index) and bool(seen_again(shown.tolist(), hidden))
    return scene != "crossing" or twin_of(clip, index) is not None


def draw(scene: str, seed: int, num_frames: int, size: tuple[int, int], hidden: int) -> Clip:
    """Draw the clip of a seed at a size of (height, width)."""
    clip = generate_clip(seed, num_frames, *size, kind=SCENES[scene], aspect=WIDTH / HEIGHT)
    return walled(clip, clip.target, hidden) if scene == "wall" else clip


def episodes(scene: str, count: int, num_frames: int, hidden: int, first_seed: int) -> Iterator[Episode]:
    """Yield ``count`` episodes of a scene from ascending seeds, one of a clip."""
    seed, made = first_seed, 0
    while made < count:
        if is_wanted(draw(scene, seed, num_frames, SKETCH, hidden), scene, hidden):
            clip = draw(scene, seed, num_frames, (HEIGHT, WIDTH), hidden)
            rng = np.random.default_rng(seed)
            prompts: dict[str, Prompt] = {"click": as_prompt(region_prompt(clip, clip.target, 0, rng, "point"))}
            texts = [
                phrase.text
                for phrase in referring_phrases(clip, rng)
                if phrase.kind in UNIQUE_KINDS and phrase.object_indices == (clip.target,)
            ]
            if texts:
                prompts["text"] = TextPrompt("text", text=texts[int(rng.integers(len(texts)))])
            made += 1
            yield Episode(clip, clip.target, prompts)
        seed += 1


def understand(model: X2SAM, tracker: Tracker, seen: Seen, prompts: Mapping[str, Prompt]) -> dict[str, Group]:
    """Run the language pass of prompts on their frame; return a group for each."""
    config = EngineConfig()
    grounder = Grounder(model, open_policy("fifo", config), config)
    picture = Picture(model, seen.frame.image, len(prompts), seen.features)
    view = View(seen.frame.size, seen.features, picture)
    groups = {}
    for kind, prompt in prompts.items():
        group = grounder.ground(grounder.ask(prompt, view), picture)
        if isinstance(group, Group):
            groups[kind] = group
    return groups


def follow(model: X2SAM, policies: Mapping[str, EngineConfig], episode: Episode) -> Iterator[dict[Key, BoolArray]]:
    """Follow every prompt with every policy; yield the masks (H, W) of all of them frame by frame.

    They go through the network side by side, as the targets of one session do: a frame is encoded once.
    """
    tracker, ids = Tracker(model, EngineConfig()), count(1)
    groups: dict[Key, Group] = {}
    for index, image in enumerate(episode.clip.frames):
        seen = tracker.encode(Frame(image, index * FRAME_INTERVAL_NS, index))
        if index:
            tracker.advance(seen, list(groups.values()), lambda group: next(ids))
        else:
            for kind, group in understand(model, tracker, seen, episode.prompts).items():
                for name, config in policies.items():
                    memory = MaskMemory(open_policy(policy_of(name), config))
                    groups[name, kind] = replace(group, memory=memory, targets={})
            tracker.begin(seen, list(groups.values()), lambda group: next(ids))
        place = tracker.place(seen.frame)
        yield {key: mask_of(group, place) for key, group in groups.items()}


def mask_of(group: Group, place: Placement) -> BoolArray:
    """Return the mask (H, W) of a conversation's targets at the image's size."""
    logits = [target.logits for target in group.targets.values() if target.logits is not None]
    if not logits:
        return np.zeros(place.image_size, bool)
    mask: BoolArray = (place.enlarge(torch.stack(logits)) > 0).any(0).cpu().numpy()
    return mask


@torch.inference_mode()
def measure(
    model: X2SAM, policies: Mapping[str, EngineConfig], scene: str, cases: Iterable[Episode], hidden: int
) -> dict[str, Tally]:
    """Follow every prompt of every episode with every policy."""
    tallies = {name: Tally() for name in policies}
    for case in cases:
        truth, twin = case.clip.labels == case.index + 1, twin_of(case.clip, case.index)
        again = seen_again(case.clip.visible[:, case.index].tolist(), hidden)
        own: dict[Key, list[float]] = {}
        other: dict[Key, list[float]] = {}
        for index, masks in enumerate(follow(model, policies, case)):
            for key, mask in masks.items():
                own.setdefault(key, []).append(region_similarity(mask, truth[index]))
                if twin is not None:
                    other.setdefault(key, []).append(region_similarity(mask, case.clip.labels[index] == twin + 1))
        for (name, kind), values in own.items():
            tally = tallies[name]
            tally.j.append(float(np.mean(values)))
            if again:
                tally.regained.setdefault(kind, []).append(float(np.mean([values[t] for t in again])) >= RIGHT)
            if twin is not None:
                last = (np.mean(x[-LAST_FRAMES:]) for x in (values, other[name, kind]))
                tally.itself.append(bool(next(last) > next(last)))
    return tallies


@dataclass
class Cost:
    """What a policy costs with one target.

    Args:
        nbytes: most bytes of its memory entries.
        step_ms: median time of a session's step.
    """

    nbytes: int
    step_ms: float


def cost(model: X2SAM, policies: Mapping[str, EngineConfig], num_frames: int) -> dict[str, Cost]:
    """Step a session of every policy through one clip, frame by frame in turn, so that all see the same machine."""
    (case,) = episodes("plain", 1, num_frames, 1, HELD_OUT_SEED)
    sessions = {name: Session(model, config, policy_of(name)) for name, config in policies.items()}
    step_ms: dict[str, list[float]] = {name: [] for name in policies}
    nbytes = dict.fromkeys(policies, 0)
    for session in sessions.values():
        session.submit(case.prompts["click"])
    for index, image in enumerate(case.clip.frames):
        for name, session in sessions.items():
            result = session.step(Frame(image, index * FRAME_INTERVAL_NS, index))
            step_ms[name].append(result.timings_ms["total"])
            nbytes[name] = max(nbytes[name], session.nbytes)
    return {name: Cost(nbytes[name], float(np.median(step_ms[name][1:]))) for name in policies}


def share(outcomes: Sequence[bool]) -> str:
    """Return a share and what it is of."""
    return f"{np.mean(outcomes):.2f} ({len(outcomes)})" if outcomes else "-"


def j_rows(results: Mapping[str, Mapping[str, Tally]], names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return a row for each policy, with the mean J of every scene and of all of them."""
    rows = []
    for name in names:
        means = [float(np.mean(tallies[name].j)) for tallies in results.values()]
        rows.append((name, *(number(mean) for mean in means), number(float(np.mean(means)))))
    return rows


def event_rows(results: Mapping[str, Mapping[str, Tally]], costs: Mapping[str, Cost]) -> list[tuple[str, ...]]:
    """Return a row for each policy, with what became of its targets, and what it costs."""
    rows = []
    for name, costing in costs.items():
        own = {scene: tallies[name] for scene, tallies in results.items()}
        cells = [
            share(own[scene].regained.get(kind, []) if scene in own else [])
            for scene in ("wall", "reentry")
            for kind in ("text", "click")
        ]
        cells.append(share(own["crossing"].itself if "crossing" in own else []))
        rows.append((name, *cells, number(costing.nbytes / 1024, 0), number(costing.step_ms, 1)))
    return rows


def policy_of(name: str) -> str:
    """Return the policy of "policy" or "policy/stride"."""
    return name.partition("/")[0]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    built_in = [name for name in installed_plugins().names(MEMORY_POLICIES) if name != "fifo"]
    parser.add_argument(
        "--policies",
        nargs="+",
        default=["fifo", "fifo/5", *built_in],
        help="names of policies; NAME/5 stores every fifth frame",
    )
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="what to measure")
    parser.add_argument("--clips", type=int, default=20, help="clips of each scene")
    parser.add_argument("--frames", type=int, default=72, help="length of the clips")
    parser.add_argument("--hidden", type=int, default=15, help="frames for which an object is hidden at least")
    parser.add_argument("--first-seed", type=int, default=HELD_OUT_SEED, help="seed of the first clip looked at")
    options = parser.parse_args()
    if options.clips < 1 or options.hidden < 1 or options.frames < WALL_START + options.hidden + REGAIN.stop:
        parser.error(f"--clips and --hidden are at least 1, --frames at least --hidden and {WALL_START + REGAIN.stop}")
    return options


def main() -> None:
    """Run the clips and print the tables."""
    options = parse()
    model = load_model(options.model, options.device)
    policies = {name: EngineConfig(memory_stride=int(name.partition("/")[2] or 1)) for name in options.policies}
    markdown = options.markdown or bool(options.into)
    with printed_into(options.into, "memory-policies"):
        results = {}
        for scene in options.scenes:
            cases = episodes(scene, options.clips, options.frames, options.hidden, options.first_seed)
            results[scene] = measure(model, policies, scene, progress(cases, scene, options.clips), options.hidden)
        costs = cost(model, policies, options.frames)
        print(f"{options.model}: {hardware_line(options.device)}")
        title = f"{options.clips} held-out clips of {options.frames} frames of each kind"
        print_table(f"J, {title}", ("policy", *results, "all"), j_rows(results, policies), markdown)
        header = ("policy", "wall, text", "wall, click", "re-entry, text", "re-entry, click", *EVENTS)
        print_table(f"Regained after {options.hidden} frames, {title}", header, event_rows(results, costs), markdown)


if __name__ == "__main__":
    main()

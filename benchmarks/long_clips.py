"""J&F at the beginning and at the end of long streamed clips: what is followed for longer must not be followed worse.

A clip is prompted once, on its first frame, and followed by a session as the node's. Its first and its last frames are
scored apart, so that the difference has a standard error of its own, each clip one sample. In these scenes objects
travel and bounce all the time; nothing happens once, sooner or later with the length. But they start apart and may
meet later, so "asked anew" follows the last frames by a session that was asked there: what it does better is what the
long way has cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count as counted
from itertools import islice

import numpy as np
from followed import Follower, settings
from pieces import Notes, in_pieces, mean_and_error, stop_after
from scene_cases import HEIGHT, HELD_OUT_SEED, WIDTH, is_fit, prompt_for
from tables import arguments, at_least, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import NodeConfig
from x2sam_ros.evaluation.metrics.masks import score_clip
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes import Clip, distinct, generate_clip
from x2sam_ros.types import BoolArray

SCENES = {"text": ("plain", "distractors"), "point": ("plain", "distractors", "twins")}
"""Kinds of scene that go on as they begin, for each way to ask; no words tell twins apart."""

WINDOW = 40
"""Frames that are scored at either end."""

HEADER = (
    *("prompt", "clips", "first", "last", "last - first", "std error"),
    *("last, asked anew", "last - asked anew", "std error"),
)
Scores = tuple[float, float, float]
"""J&F of the first frames, of the last, and of the last when asked anew."""


def meant(clip: Clip, scene: str, late: int, rng: np.random.Generator) -> int | None:
    """Return an object that is fit to be prompted on the first frame and on frame ``late``, if there is one."""
    options = [clip.target]
    if scene != "twins":
        options = [int(k) for k in rng.permutation(len(clip.objects)) if distinct(clip, int(k))]
    return next((k for k in options if is_fit(clip, k, 0) and is_fit(clip, k, late)), None)


def jf(masks: Mapping[int, BoolArray], clip: Clip, index: int) -> float:
    """Return J&F of an object over the frames that there are masks of."""
    return score_clip(masks.values(), (clip.labels[frame] == index + 1 for frame in masks)).jf_mean


def scores(model: X2SAM, policy: str, length: int, prompt_kind: str, scene: str, seed: int) -> Scores | None:
    """Follow an object of the clip of a seed; None where none is fit for it."""
    clip, rng = generate_clip(seed, length, HEIGHT, WIDTH, kind=scene), np.random.default_rng(seed)
    first, last = range(WINDOW), range(length - WINDOW, length)
    index = meant(clip, scene, last.start, rng)
    if index is None:
        return None
    prompt = prompt_for(clip, index, first.start, prompt_kind, rng)
    anew = prompt if prompt_kind == "text" else prompt_for(clip, index, last.start, prompt_kind, rng)
    assert prompt is not None and anew is not None  # an object like no other has words, a region is always found
    follower, other = Follower(model, policy, prompt), Follower(model, policy, anew)
    masks = {frame: follower.step(clip, frame) for frame in range(length)}
    windows = ({t: masks[t] for t in first}, {t: masks[t] for t in last}, {t: other.step(clip, t) for t in last})
    begins, ends, again = (jf(window, clip, index) for window in windows)
    return begins, ends, again


def measured(model: X2SAM, notes: Notes, policy: str, length: int, prompt_kind: str, count: int) -> Iterator[Scores]:
    """Yield the scores of ``count`` clips of each kind of scene."""
    for scene in SCENES[prompt_kind]:
        name = f"{prompt_kind}, {scene}"
        found = (
            notes.of(f"{name}, {seed}", partial(scores, model, policy, length, prompt_kind, scene, seed))
            for seed in counted(HELD_OUT_SEED)
        )
        yield from progress(islice((one for one in found if one is not None), count), name, count)


def row(prompt_kind: str, found: Sequence[Scores]) -> tuple[str, ...]:
    """Return the row of a kind of prompt."""
    first, last, anew = np.array(found).T
    means = (number(mean_and_error(values)[0]) for values in (first, last))
    drift, cost = ([number(x) for x in mean_and_error(values)] for values in (last - first, last - anew))
    return prompt_kind, str(len(found)), *means, *drift, number(mean_and_error(anew)[0]), *cost


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--memory-policy", default=NodeConfig.memory_policy)
    parser.add_argument("--clips", type=at_least(1), default=20, help="clips of each kind of scene")
    parser.add_argument("--frames", type=at_least(1), default=200, help=f"length of the clips, {2 * WINDOW} or more")
    in_pieces(parser)
    options = parser.parse_args()
    if options.frames < 2 * WINDOW:
        parser.error(
            f"--frames is {options.frames}, expected {2 * WINDOW} or more: the parts that are scored lie apart"
        )
    stop_after(options.minutes)
    notes = Notes(options.out, {**settings(options), "frames": options.frames})
    model = load_model(options.model, options.device)
    with printed_into(options.into, "long-clips"):
        print(f"{options.model}: {hardware_line(options.device)}")
        follow = partial(measured, model, notes, options.memory_policy, options.frames)
        rows = [row(prompt_kind, list(follow(prompt_kind, options.clips))) for prompt_kind in SCENES]
        title = f"J&F of the first and the last {WINDOW} of {options.frames} frames, streaming"
        print_table(title, HEADER, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

"""Measure whether the Mask Memory decides anything.

Twins: one of two that look alike is meant, by words that fit both. Its true mask is in the memory of the first frame.
J of the query surest of the words, at the network's own resolution, with that memory and without any; each twin is
meant once, so that without a memory nothing but luck remains.

Occlusion: a target is hidden for at least ten frames among others of its colour, followed by a session as the node's.
"Right afterwards" is the share of clips in which, five frames after half of the target is visible again, the mask has
a J of 0.5 or more with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scene_cases import HELD_OUT_SEED, UNIQUE_KINDS, as_prompt, first_visible
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import NodeConfig, SceneConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.memory_use import MemoryUse, memory_use, twins
from x2sam_ros.training.scenes import Clip, distinct, generate_clip, referring_phrases, region_prompt
from x2sam_ros.types import Frame, Prompt, TextPrompt

HIDDEN = 10
"""Frames in a row that show nothing of the target."""

AFTER = 5
"""Frames from the target's return to the one that is judged."""

NUM_FRAMES = 40
HEIGHT, WIDTH = 480, 640
SCENES = SceneConfig(min_objects=4, hidden_frames=(HIDDEN + 1.0, HIDDEN + 4.0), one_colour=True)
TWINS_HEADER = ("twins", "prompts", "J with memory", "J without", "gain", "std error", "J with the other twin")
OCCLUSION_HEADER = ("prompt", "clips", "right before", "right afterwards", "std error")


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of what is no NaN, and its standard error."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else float("nan")


def twin_rows(uses: list[MemoryUse]) -> list[tuple[str, ...]]:
    """Return a row for the frame after the memory, and one for all frames; each clip is one sample of the error."""
    rows = []
    for name, part in (("next frame", slice(0, 1)), ("all frames", slice(None))):
        true, none, other = (
            np.array([float(getattr(use, kind)[part].nanmean()) for use in uses]) for kind in ("true", "none", "other")
        )
        gain, error = mean_and_error(true - none)
        means = [number(mean_and_error(x)[0]) for x in (true, none)]
        count = str(sum(use.true.shape[1] for use in uses))
        rows.append((name, count, *means, number(gain), number(error), number(mean_and_error(other)[0])))
    return rows


def hidden_span(visible: np.ndarray) -> tuple[int, int] | None:
    """Return the first frame that shows nothing and the first that shows half of the object again.

    Args:
        visible: float (T,), the visible share of the object in each frame.
    """
    gone = np.flatnonzero(visible < 0.01)
    if not len(gone):
        return None
    back = np.flatnonzero((np.arange(len(visible)) > gone[0]) & (visible >= 0.5))
    if not len(back) or back[0] + AFTER >= len(visible) or (visible[gone[0] : back[0]] < 0.01).sum() < HIDDEN:
        return None
    return int(gone[0]), int(back[0])


def occluded(count: int, prompt_kind: str) -> Iterator[tuple[Clip, Prompt, int, int]]:
    """Yield held-out clips whose target is hidden, its prompt for the first frame, and `hidden_span`."""
    seed, made = HELD_OUT_SEED, 0
    while made < count:
        rng = np.random.default_rng(seed)
        sketch = generate_clip(seed, NUM_FRAMES, HEIGHT // 10, WIDTH // 10, SCENES, kind="occlusion")
        span = hidden_span(sketch.visible[:, sketch.target])
        if span and distinct(sketch, sketch.target) and len(sketch.objects) > 2:
            clip = generate_clip(seed, NUM_FRAMES, HEIGHT, WIDTH, SCENES, kind="occlusion")
            prompt = _prompt(clip, prompt_kind, rng) if first_visible(clip, clip.target) == 0 else None
            if prompt is not None:
                made += 1
                yield clip, prompt, *span
        seed += 1


def _prompt(clip: Clip, kind: str, rng: np.random.Generator) -> Prompt | None:
    if kind != "text":
        return as_prompt(region_prompt(clip, clip.target, 0, rng, kind))
    phrases = [p for p in referring_phrases(clip, rng) if p.kind in UNIQUE_KINDS and p.object_indices == (clip.target,)]
    return TextPrompt("text", text=phrases[int(rng.integers(len(phrases)))].text) if phrases else None


def follow(session: Session, clip: Clip, prompt: Prompt, before: int, after: int) -> tuple[float, float]:
    """Return J of the last frame ahead of frame ``before``, and of frame ``after``."""
    found = {}
    session.submit(prompt)
    for index, image in enumerate(clip.frames[: after + 1]):
        result = session.step(Frame(image, index * FRAME_INTERVAL_NS, index))
        if index == after or (clip.visible[index, clip.target] > 0.5 and index < before):
            mask = np.asarray(result.masks.any(axis=0), bool)
            found[index == after] = region_similarity(mask, clip.labels[index] == clip.target + 1)
    return found[False], found[True]


def occlusion_row(model: X2SAM, kind: str, count: int, policy: str) -> tuple[str, ...]:
    """Follow ``count`` hidden targets."""
    right = np.array(
        [
            follow(Session(model, memory_policy=policy), clip, prompt, gone, back + AFTER)
            for clip, prompt, gone, back in progress(occluded(count, kind), kind, count)
        ]
    )
    shares, errors = zip(*(mean_and_error((column >= 0.5).astype(float)) for column in right.T))
    return kind, str(len(right)), number(shares[0]), number(shares[1]), number(errors[1])


def main() -> None:
    """Measure and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--memory-policy", default=NodeConfig.memory_policy)
    parser.add_argument("--twins", type=int, default=100, help="clips of twins; 0 leaves them out")
    parser.add_argument("--occlusions", type=int, default=40, help="clips of each kind of prompt; 0 leaves them out")
    options = parser.parse_args()
    markdown = options.markdown or bool(options.into)
    model = load_model(options.model, options.device)
    with printed_into(options.into, "memory-use"):
        print(f"{options.model}: {hardware_line(options.device)}")
        if options.twins:
            batches = twins(options.twins, model.config, model.tokenizer)
            uses = [memory_use(model, batch) for batch in progress(batches, "twins", len(batches))]
            print_table("Held-out twins, the truth in the first memory", TWINS_HEADER, twin_rows(uses), markdown)
        if options.occlusions:
            rows = [occlusion_row(model, k, options.occlusions, options.memory_policy) for k in ("text", "point")]
            title = f"Hidden for {HIDDEN} frames or more among others of the same colour"
            print_table(title, OCCLUSION_HEADER, rows, markdown)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

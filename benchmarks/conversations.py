"""Measure what merging prompts into one conversation saves, and what it costs in quality.

Cost: one frame of a stream with 1, 2, 4, ... targets, each prompted by a click, and the frame that adds the last of
them, its language pass carried out inline. Quality: held-out clips in which every object that nothing resembles is
prompted, by a text or by a click, all on the first frame, or one after another, so that conversations are joined. J is
the mean over a target's frames from its prompt on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scene_cases import HEIGHT, HELD_OUT_SEED, UNIQUE_KINDS, WIDTH, JpegCamera, apart, as_prompt
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes import Clip, generate_clip, referring_phrases, region_prompt
from x2sam_ros.types import Frame, GroundingStatus, Prompt, TextPrompt

MODES = {mode: EngineConfig(conversations=mode, max_targets=64) for mode in ("separate", "merged")}
KINDS = ("text", "click")
PACES = {"at once": 0, "one after another": 5}
"""Frames between one prompt and the next."""

WARM_UP = 8
"""Frames before any is timed: memories fill, and threads start."""


@dataclass(frozen=True)
class Scene:
    """A clip, and a prompt of one kind for each of several objects, to be given on frame ``0, pace, 2 * pace, ...``."""

    clip: Clip
    prompts: Mapping[int, Prompt]
    pace: int

    def frames_of_prompts(self) -> dict[int, list[int]]:
        """Return the objects that are prompted on each frame."""
        due: dict[int, list[int]] = {}
        for order, index in enumerate(self.prompts):
            due.setdefault(order * self.pace, []).append(index)
        return due


def prompt_for(clip: Clip, index: int, at: int, kind: str, rng: np.random.Generator) -> Prompt | None:
    """Return a prompt for an object on a frame; None where no words are true of it alone."""
    if kind == "click":
        return replace(as_prompt(region_prompt(clip, index, at, rng, "point")), prompt_id=f"object {index}")
    texts = [
        p.text for p in referring_phrases(clip, rng, at) if p.kind in UNIQUE_KINDS and p.object_indices == (index,)
    ]
    return TextPrompt(f"object {index}", text=texts[int(rng.integers(len(texts)))]) if texts else None


def scenes(kind: str, pace: int, count: int, num_frames: int, first_seed: int) -> Iterator[Scene]:
    """Yield ``count`` clips with at least two objects to prompt."""
    seed = first_seed
    while count:
        rng = np.random.default_rng(seed)
        clip = generate_clip(seed, num_frames, HEIGHT, WIDTH)
        prompts: dict[int, Prompt] = {}
        for index in apart(clip):
            at = len(prompts) * pace
            fit = at < num_frames and clip.visible[at, index] >= 0.5
            prompt = prompt_for(clip, index, at, kind, rng) if fit else None
            if prompt is not None:
                prompts[index] = prompt
        if len(prompts) >= 2:
            count -= 1
            yield Scene(clip, prompts, pace)
        seed += 1


def follow(model: X2SAM, config: EngineConfig, scene: Scene) -> tuple[list[float], int]:
    """Stream a clip; return each prompted object's J, and how many conversations there were in the end."""
    session, due = Session(model, config), scene.frames_of_prompts()
    ids: dict[str, tuple[int, ...]] = {}
    j: dict[int, list[float]] = {}
    for number_, image in enumerate(scene.clip.frames):
        for index in due.get(number_, []):
            j[index] = []
            session.submit(scene.prompts[index])
        result = session.step(Frame(image, number_ * FRAME_INTERVAL_NS, number_))
        ids.update((g.prompt_id, g.target_ids) for g in result.groundings if g.status is GroundingStatus.OK)
        for index, values in j.items():
            mine = np.isin(result.target_ids, ids.get(scene.prompts[index].prompt_id, ()))
            mask = result.masks[mine].any(axis=0)
            values.append(region_similarity(mask, scene.clip.labels[number_] == index + 1))
    return [float(np.mean(values)) for values in j.values()], len(session.conversations)


def quality_rows(model: X2SAM, count: int, num_frames: int, first_seed: int) -> list[tuple[str, ...]]:
    """Return a row for each kind of prompt and pace."""
    rows = []
    for kind in KINDS:
        for pace, frames in PACES.items():
            what = f"{kind}, {pace}"
            j: dict[str, list[float]] = {mode: [] for mode in MODES}
            groups: dict[str, list[int]] = {mode: [] for mode in MODES}
            for scene in progress(scenes(kind, frames, count, num_frames, first_seed), what, count):
                for mode, config in MODES.items():
                    values, conversations = follow(model, config, scene)
                    j[mode] += values
                    groups[mode].append(conversations)
            difference = np.array(j["merged"]) - np.array(j["separate"])
            error = float(difference.std(ddof=1) / len(difference) ** 0.5)
            cells = [number(float(np.mean(j[mode]))) for mode in MODES]
            passes = [number(float(np.mean(groups[mode])), 1) for mode in MODES]
            rows.append((what, str(len(difference)), *cells, number(float(difference.mean())), number(error), *passes))
    return rows


def frame_ms(model: X2SAM, config: EngineConfig, camera: JpegCamera, count: int, frames: int) -> tuple[float, float]:
    """Return the median milliseconds of a frame with ``count`` targets, and those of the frame that adds the last."""
    session, index, adding = Session(model, config), 0, 0.0
    for number_ in range(count):
        session.submit(camera.click(index, number_))
        adding, index = _step(session, camera, index), index + 1
    for _ in range(WARM_UP):
        _, index = _step(session, camera, index), index + 1
    times = [_step(session, camera, index + step) for step in range(frames)]
    if len(session.target_ids) != count:
        raise SystemExit(f"{len(session.target_ids)} of {count} clicks became targets; the times would mean nothing")
    return float(np.median(times)), adding


def _step(session: Session, camera: JpegCamera, index: int) -> float:
    """Return the milliseconds of a frame; decoding the picture is not counted."""
    frame = camera.frame(index)
    started = time.perf_counter()
    session.step(frame)
    return 1e3 * (time.perf_counter() - started)


def cost_rows(model: X2SAM, counts: Sequence[int], frames: int) -> list[tuple[str, ...]]:
    """Return a row for each number of targets."""
    camera = JpegCamera(frames)
    frame_ms(model, MODES["separate"], camera, 1, 2)
    rows = []
    for count in progress(counts, "cost", len(counts)):
        took = {mode: frame_ms(model, config, camera, count, frames) for mode, config in MODES.items()}
        separate, merged = took["separate"], took["merged"]
        cells = [number(value, 1) for value in (separate[0], merged[0])]
        adding = [number(value, 1) for value in (separate[1], merged[1])]
        rows.append((str(count), *cells, f"{separate[0] / merged[0]:.2f}x", *adding))
    return rows


def main() -> None:
    """Run the clips and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of targets to time")
    parser.add_argument("--timed", type=int, default=30, help="frames that are timed")
    parser.add_argument("--clips", type=int, default=10, help="clips of each kind; 0 measures the cost alone")
    parser.add_argument("--frames", type=int, default=40, help="length of the clips")
    parser.add_argument("--first-seed", type=int, default=HELD_OUT_SEED, help="seed of the first clip looked at")
    options = parser.parse_args()
    if options.clips < 0 or options.frames < 16 or options.timed < 1 or min(options.targets) < 1:
        parser.error("--clips is at least 0, --frames 16, --timed and --targets 1")
    model = load_model(options.model, options.device)
    markdown = options.markdown or bool(options.into)
    with printed_into(options.into, "conversations"):
        print(f"{options.model}: {hardware_line(options.device)}")
        header = ("targets", "separate, ms", "merged, ms", "gain", "adding one, separate", "adding one, merged")
        print_table("A frame", header, cost_rows(model, options.targets, options.timed), markdown)
        if options.clips:
            header = ("prompts", "targets", "J separate", "J merged", "difference", "std error", "passes", "merged")
            rows = quality_rows(model, options.clips, options.frames, options.first_seed)
            print_table(f"{options.clips} held-out clips of {options.frames} frames each", header, rows, markdown)


if __name__ == "__main__":
    main()

"""Compare approximate profiles with the exact one: speed in the same run, and agreement of the masks.

Every profile follows the same prompts through the same frames, in sessions that are stepped in turn, so that all see
the same machine. Agreement is the mean IoU of a profile's masks with the exact one's, over the frames behind the
prompted one on which either sees the target; J is that with the truth. Generated clips are prompted with a click and
with words, real ones (--data, by default X2SAM_DATA or ../shared/data) with the first frame's mask.

On a CPU one more profile has int8 weights. Of a model that is too small to gain from them every layer is rounded all
the same, which `weights: int8` would not do, to show why.

`--release-side` adds a segmentor of release size with random weights on a square of that side: one target, a full
memory. What it costs does not depend on the weights; 1024 is the size of the published model, and takes minutes a frame
on a CPU. With random weights only the share of equal signs in the masks' values can be compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from memory_policies import episodes
from scene_cases import HELD_OUT_SEED, JpegCamera
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.stepper import Stepper
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.model.int8 import LEAST_WEIGHTS, quantise
from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import BoolArray, Frame, FrameResult, MaskPrompt, Prompt, Uint8Array

DATA = Path(os.environ.get("X2SAM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SCENES = "plain", "occlusion", "distractors"
EXACT = "exact"
WINDOWS, KEYS = {"memory_window": 8, "memory_pool": 4}, {"memory_key_pool": 2}
PROFILES: Mapping[str, Mapping[str, int]] = {
    EXACT: {},
    "windows of 8, pools of 4": WINDOWS,
    "windows, stored keys pooled by 2": {**WINDOWS, **KEYS},
    "refresh 2": {"finest_refresh": 2},
    "refresh 4": {"finest_refresh": 4},
    "refresh 8": {"finest_refresh": 8},
    "windows, pooled keys, refresh 4": {**WINDOWS, **KEYS, "finest_refresh": 4},
    "side 3/4": {"input_side": 3},
    "side 1/2": {"input_side": 2},
    "side 3/4, refresh 4": {"input_side": 3, "finest_refresh": 4},
}
"""What is compared; ``input_side`` in quarters of the model's own."""

NO_OTHERS: Mapping[str, X2SAM] = {}
"""For profiles that all have one network."""

WARM_UP = 6
"""Frames that are not timed: memories fill during them."""


@dataclass(frozen=True)
class Case:
    """A clip, its prompts, and the true mask of what they all mean (T, H, W)."""

    frames: Uint8Array
    prompts: tuple[Prompt, ...]
    truth: BoolArray


@dataclass
class Tally:
    """How one profile did."""

    agreement: list[float] = field(default_factory=list)
    j: list[float] = field(default_factory=list)


def config_of(profile: Mapping[str, int], side: int) -> EngineConfig:
    """Return the engine's parameters of a profile for a model that sees squares of a side."""
    quarters = profile.get("input_side", 0)
    return EngineConfig(**{**profile, "input_side": side * quarters // 4 // 32 * 32})


def generated_cases(count: int, num_frames: int) -> Iterator[Case]:
    """Yield ``count`` clips of every scene, the same for all profiles."""
    for scene in SCENES:
        for episode in episodes(scene, count, num_frames, 1, HELD_OUT_SEED):
            truth = episode.clip.labels == episode.index + 1
            yield Case(episode.clip.frames, tuple(episode.prompts.values()), truth)


def real_cases(data: Path, num_frames: int) -> Iterator[Case]:
    """Yield the first frames of every real clip whose labelled object is seen on the first one."""
    index = data / "sequences.json"
    if not index.is_file():
        return
    for clip in json.loads(index.read_text(encoding="utf-8")):
        if not clip["real"]:
            continue
        folder, shown = data / clip["dir"], range(min(clip["n_frames"], num_frames))
        frames = [cv2.imread(str(folder / (clip["frames"] % t)), cv2.IMREAD_COLOR) for t in shown]
        masks = [cv2.imread(str(folder / (clip["masks"] % t)), cv2.IMREAD_GRAYSCALE) for t in shown]
        truth = np.stack(masks) == clip["objects"][0]["mask_value"]
        if truth[0].any():
            yield Case(np.stack(frames)[..., ::-1], (MaskPrompt("mask", mask=truth[0]),), truth)


def masks_by_prompt(
    result: FrameResult, ids: dict[str, tuple[int, ...]], prompts: tuple[Prompt, ...]
) -> list[BoolArray]:
    """Return the mask (H, W) of each prompt; ``ids`` learns whose targets are whose."""
    ids.update((grounding.prompt_id, grounding.target_ids) for grounding in result.groundings if grounding.target_ids)
    return [result.masks[np.isin(result.target_ids, ids.get(p.prompt_id, ()))].any(axis=0) for p in prompts]


def int8_profile(model: str, device: str) -> dict[str, X2SAM]:
    """Return the network of the profile with int8 weights by its name; nothing where they are not for the device."""
    if device != "cpu":
        return {}
    network = load_model(model, device)
    sizes = [m.in_features * m.out_features for m in network.segmentor.modules() if type(m) is torch.nn.Linear]
    pays = max(sizes, default=0) >= LEAST_WEIGHTS
    quantise(network.segmentor, LEAST_WEIGHTS if pays else 1)
    return {"int8 weights" if pays else "int8 weights, forced on small layers": network}


def follow(
    model: X2SAM,
    profiles: Mapping[str, EngineConfig],
    case: Case,
    tallies: Mapping[str, Tally],
    others: Mapping[str, X2SAM] = NO_OTHERS,
) -> None:
    """Follow a case's prompts with every profile, frame by frame in turn; ``others`` are networks of single ones."""
    sessions = {name: Session(others.get(name, model), config) for name, config in profiles.items()}
    ids: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in profiles}
    for session in sessions.values():
        for prompt in case.prompts:
            session.submit(prompt)
    for index, image in enumerate(case.frames):
        frame = Frame(np.ascontiguousarray(image), index * FRAME_INTERVAL_NS, index)
        masks = {name: masks_by_prompt(s.step(frame), ids[name], case.prompts) for name, s in sessions.items()}
        if index == 0:
            continue
        for name, found in masks.items():
            pairs = [(mask, exact) for mask, exact in zip(found, masks[EXACT]) if mask.any() or exact.any()]
            tallies[name].agreement += [region_similarity(*pair) for pair in pairs]
            tallies[name].j += [region_similarity(mask, case.truth[index]) for mask in found]


def step_ms(
    model: X2SAM,
    profiles: Mapping[str, EngineConfig],
    targets: int,
    num_frames: int,
    others: Mapping[str, X2SAM] = NO_OTHERS,
) -> dict[str, float]:
    """Return the median milliseconds of a session's step with so many clicked targets, profile by profile in turn."""
    camera = JpegCamera()
    sessions = {name: Session(others.get(name, model), config) for name, config in profiles.items()}
    times: dict[str, list[float]] = {name: [] for name in profiles}
    for session in sessions.values():
        for click in range(targets):
            session.submit(camera.click(0, click))
    for index in range(WARM_UP + num_frames):
        frame = camera.frame(index)
        for name, session in sessions.items():
            ms = session.step(frame).timings_ms["total"]
            if index >= WARM_UP:
                times[name].append(ms)
    # a mean, since a refresh makes some frames dearer than others; less what the machine did meanwhile
    return {name: float(np.mean(_without_outliers(values))) for name, values in times.items()}


def _without_outliers(values: list[float]) -> list[float]:
    return [value for value in values if value <= 3 * float(np.median(values))]


def nano_rows(
    names: Mapping[str, EngineConfig], ms: Mapping[int, Mapping[str, float]], tallies: Mapping[str, Mapping[str, Tally]]
) -> list[tuple[str, ...]]:
    """Return a row for each profile."""
    rows = []
    for name in names:
        cells = []
        for times in ms.values():
            cells += [number(times[name], 1), number(times[EXACT] / times[name], 2)]
        for tally in tallies.values():
            own = tally[name]
            cells += [number(float(np.mean(values)) if values else np.nan) for values in (own.agreement, own.j)]
        rows.append((name, *cells))
    return rows


def release_rows(side: int, repeats: int) -> list[tuple[str, ...]]:
    """Time a segmentor of release size on random input, one target with a full memory."""
    torch.manual_seed(0)
    segmentor = Segmentor(replace(SegmentorConfig(), image_size=side)).eval().requires_grad_(False)
    width, slots = segmentor.config.decoder.hidden, segmentor.config.memory.num_maskmem
    keep = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    states = torch.randn(7, width).split((2, 4, 1))
    words = PromptCondition(states[0][None], keep[0], states[1][None], keep[1], states[2][None])
    pixels, rows = torch.randn(1, 3, side, side), []
    decoded = segmentor.decode_pixels(segmentor.encode_image(pixels), first=False)
    entry = segmentor.write_memory(decoded, segmentor.step(decoded, words))
    memory = MemoryBatch.stack([entry] * slots, range(slots, 0, -1))
    large = {"memory_window": 32, "memory_pool": 8}  # cells of a map that is eight times nano's
    rounded = copy.deepcopy(segmentor)
    quantise(rounded)
    profiles = {
        EXACT: (segmentor, {}),
        "windows of 32, pools of 8": (segmentor, large),
        "and stored keys pooled by 2": (segmentor, {**large, **KEYS}),
        "int8 weights": (rounded, {}),
        "int8 weights, windows, pooled keys": (rounded, {**large, **KEYS}),
    }
    steppers = {name: Stepper(network, EngineConfig(**profile)) for name, (network, profile) in profiles.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in profiles}
    equal: dict[str, float] = {}
    for index in progress(range(repeats + 1), f"release size at {side}", repeats + 1):
        for name, stepper in steppers.items():
            ms, masks = release_ms(stepper, pixels, words, memory)
            if name == EXACT:  # the first of them
                signs = masks > 0
            equal[name] = float(((masks > 0) == signs).double().mean())
            if index:  # the first time round warms up
                times[name].append(ms)
    typical = {name: np.median(values, axis=0) for name, values in times.items()}
    exact_ms = typical[EXACT].sum()
    for name, (rest, look) in typical.items():
        for row, cost, same in (
            (name, rest + look, number(equal[name], 4)),
            (f"{name}, refresh 4", rest + look / 4, "-"),
        ):
            rows.append((row, number(cost, 0), number(exact_ms / cost, 2), same))
    return rows


def release_ms(
    stepper: Stepper, pixels: torch.Tensor, words: PromptCondition, memory: MemoryBatch
) -> tuple[tuple[float, float], torch.Tensor]:
    """Return a frame's milliseconds without its look into the finest memory, those of that look, and the masks."""
    marks = [time.perf_counter()]
    seen = stepper.decode_pixels(stepper.encode(pixels), first=False)
    marks.append(time.perf_counter())
    finest = stepper.recall(seen, memory)
    marks.append(time.perf_counter())
    output = stepper.step(seen, words, memory, finest)
    stepper.write(seen, output)
    marks.append(time.perf_counter())
    shared, look, step = (1e3 * float(ms) for ms in np.diff(marks))
    return (shared + step, look), output.mask_logits


def main() -> None:
    """Run everything and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=20, help="generated clips of each scene")
    parser.add_argument("--frames", type=int, default=40, help="frames of a generated clip, and timed ones")
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 8], help="numbers of targets that are timed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real clips")
    parser.add_argument("--real-frames", type=int, default=40, help="frames of a real clip")
    parser.add_argument("--release-side", type=int, default=0, help="of the release-size segmentor; 0: none")
    parser.add_argument("--release-repeats", type=int, default=1, help="timed frames of it")
    options = parser.parse_args()
    if min(options.clips, options.frames, options.real_frames, options.release_repeats, *options.targets) < 1:
        parser.error("--clips, --frames, --real-frames, --release-repeats and --targets are at least 1")
    with printed_into(options.into, "profiles"):
        run(options)


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Measure, then print."""
    model, markdown = load_model(options.model, options.device), options.markdown or bool(options.into)
    profiles = {name: config_of(each, model.config.segmentor.image_size) for name, each in PROFILES.items()}
    others = int8_profile(options.model, options.device)
    profiles |= {name: EngineConfig() for name in others}
    print(f"{options.model}: {hardware_line(options.device)}")
    counts = progress(options.targets, "timing", len(options.targets))
    ms = {count: step_ms(model, profiles, count, options.frames, others) for count in counts}
    real = list(real_cases(options.data, options.real_frames))
    if not real:
        print(f"No real clips: {options.data} has no sequences.json; set --data or X2SAM_DATA.")
    kinds = {"generated": (generated_cases(options.clips, options.frames), options.clips * len(SCENES))}
    if real:
        kinds["real"] = (iter(real), len(real))
    tallies = {kind: {name: Tally() for name in profiles} for kind in kinds}
    for kind, (cases, total) in kinds.items():
        for case in progress(cases, kind, total):
            follow(model, profiles, case, tallies[kind], others)
    header = ["profile"]
    for count in options.targets:
        header += [f"ms, {count} target{'s' * (count != 1)}", "speed-up"]
    for kind in kinds:
        header += [f"IoU with exact, {kind}", f"J, {kind}"]
    print_table("Approximate profiles", header, nano_rows(profiles, ms, tallies), markdown)
    if options.release_side:
        title = f"Release size, random weights, {options.release_side} pixels, one target"
        rows = release_rows(options.release_side, options.release_repeats)
        print_table(title, ("profile", "ms a frame", "speed-up", "equal signs"), rows, markdown)


if __name__ == "__main__":
    main()

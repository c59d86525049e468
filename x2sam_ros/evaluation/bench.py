"""Measure what following costs: against the number of targets, against the length of a stream, and beside peers.

Variants run frame by frame in turns, in another order on every frame, so that a machine that becomes slower does so for
all of them.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Sam2VideoModel

from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.engine.frame_buffer import MIB
from x2sam_ros.engine.process_memory import resident_mib
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench_model import BenchModel
from x2sam_ros.evaluation.bench_report import BenchReport, Cost, LengthPoint, ModelFacts, StageTime
from x2sam_ros.evaluation.bench_runners import Runner, Stepped, merged, naive, per_clip, separate
from x2sam_ros.evaluation.bench_scene import BenchScene
from x2sam_ros.evaluation.hardware import hardware
from x2sam_ros.evaluation.sam2_peer import Sam2Peer, build_sam2, describe

MAX_TARGETS = 256
LENGTH_WINDOW = 50
"""Newest frames that a point of the long stream is the median of."""

LENGTH_POINTS = (50, 100, 200, 500)
"""Frames after which the long stream is looked at; then at every doubling, and at its end."""

Advance = Callable[[], None]


@dataclass(frozen=True)
class BenchOptions:
    """How much is measured.

    Args:
        targets: the numbers of targets.
        frames: timed frames of each variant, whole clips.
        stream_frames: length of the long stream; 0 leaves it out.
        stream_targets: its number of targets.
        peers: whether to run the naive way, the published one and SAM 2.
    """

    targets: tuple[int, ...] = (1, 2, 4, 8, 16)
    frames: int = CLIP_LENGTH
    stream_frames: int = 200
    stream_targets: int = 1
    peers: bool = True

    def __post_init__(self) -> None:
        counts = (*self.targets, self.stream_targets)
        if not self.targets or not all(1 <= count <= MAX_TARGETS for count in counts):
            raise ConfigError(f"targets are {list(counts)}, expected numbers from 1 to {MAX_TARGETS}")
        if self.frames < CLIP_LENGTH or self.frames % CLIP_LENGTH:
            raise ConfigError(
                f"frames is {self.frames}, expected a multiple of {CLIP_LENGTH}, the length of a published clip"
            )
        if self.stream_frames and self.stream_frames < LENGTH_POINTS[0]:
            raise ConfigError(f"stream frames are {self.stream_frames}, expected 0 or at least {LENGTH_POINTS[0]}")

    @property
    def steps(self) -> int:
        """How often `run` says that it has advanced."""
        streams = 1 + self.peers
        return CLIP_LENGTH + self.frames + streams * self.stream_frames


@dataclass
class _Taken:
    """What the timed frames of a runner took."""

    runner: Runner
    steps: list[Stepped] = field(default_factory=list)
    gpu_bytes: int = 0
    gpu_peak: int = 0


def run(opened: BenchModel, scene: BenchScene, options: BenchOptions, advance: Advance = lambda: None) -> BenchReport:
    """Measure everything.

    Args:
        opened: the network.
        scene: what it looks at.
        options: how much is measured.
        advance: called ``options.steps`` times.
    """
    device = opened.model.device
    sam2 = build_sam2(opened) if options.peers else None
    counts = sorted(set(options.targets))
    taken = [_Taken(runner) for runner in _runners(opened, scene, counts, sam2)]
    _take_turns(taken, scene, options.frames, device, advance)
    costs = tuple(_cost(item) for item in taken)
    stages = tuple(stage for item in taken if item.runner.variant == "separate" for stage in _stages(item))
    resident, on_gpu = resident_mib(), max(item.gpu_peak for item in taken)
    taken.clear()
    length: list[LengthPoint] = []
    if options.stream_frames:
        length += _long_stream(separate(opened, scene, options.stream_targets), scene, options, device, advance)
        if sam2 is not None:
            length += _long_stream(Sam2Peer(opened, options.stream_targets, sam2), scene, options, device, advance)
    return BenchReport(
        hardware=hardware(device),
        model=_facts(opened),
        image_size=scene.size,
        timed_frames=options.frames,
        stream_targets=options.stream_targets,
        stages=stages,
        costs=costs,
        length=tuple(length),
        resident_mib=max([resident, *(point.resident_mib for point in length)]),
        gpu_mib=max(on_gpu, _most_on_gpu(device)) / MIB,
        sam2={} if sam2 is None else describe(sam2),
    )


def _runners(
    opened: BenchModel, scene: BenchScene, counts: Sequence[int], sam2: Sam2VideoModel | None
) -> Iterator[Runner]:
    makers = (separate, merged) if sam2 is None else (separate, merged, naive, per_clip)
    for make in makers:
        for targets in counts:
            yield make(opened, scene, targets)
    if sam2 is not None:
        for targets in counts:
            yield Sam2Peer(opened, targets, sam2)


def _take_turns(
    taken: Sequence[_Taken], scene: BenchScene, frames: int, device: torch.device, advance: Advance
) -> None:
    """Step all runners through a clip that is not timed, in which memories fill, and through the timed frames."""
    order = random.Random(0)
    for index in range(CLIP_LENGTH + frames):
        for item in order.sample(list(taken), len(taken)):
            held = _watch_gpu(device)
            stepped = item.runner.step(scene, index)
            if index >= CLIP_LENGTH:
                item.steps.append(stepped)
                item.gpu_bytes = max(item.gpu_bytes, _most_on_gpu(device) - held)
                item.gpu_peak = max(item.gpu_peak, _most_on_gpu(device))
        advance()


def _cost(item: _Taken) -> Cost:
    total = np.array([step.total_ms for step in item.steps])
    language = np.array([step.language_ms for step in item.steps])
    own = total - language
    asked = _by_place(language)
    return Cost(
        variant=item.runner.variant,
        targets=item.runner.targets,
        frame_ms=_by_place(own) + asked,
        median_ms=float(np.median(own)),
        p95_ms=float(np.percentile(own, 95)),
        language_ms=asked,
        followed=float(np.mean([step.followed for step in item.steps])),
        held_mib=item.runner.nbytes / MIB,
        gpu_mib=item.gpu_bytes / MIB,
    )


def _by_place(values: np.ndarray) -> float:
    """Return the mean over a frame's places in a clip of the median there: clips are not alike from end to end."""
    return float(np.median(values.reshape(-1, CLIP_LENGTH), axis=0).mean())


def _stages(item: _Taken) -> Iterator[StageTime]:
    spent = [step.stages_ms for step in item.steps if step.stages_ms is not None]
    for stage in dict.fromkeys(name for stages in spent for name in stages):
        values = [stages.get(stage, 0.0) for stages in spent]
        median, p95 = float(np.median(values)), float(np.percentile(values, 95))
        yield StageTime(item.runner.targets, stage, median, p95)


def _long_stream(
    runner: Runner, scene: BenchScene, options: BenchOptions, device: torch.device, advance: Advance
) -> Iterator[LengthPoint]:
    gc.collect()
    times: list[float] = []
    points = set(_points(options.stream_frames))
    for index in range(options.stream_frames):
        stepped = runner.step(scene, index)
        times = [*times, stepped.total_ms - stepped.language_ms][-LENGTH_WINDOW:]
        advance()
        if index + 1 in points:
            on_gpu = torch.cuda.memory_allocated(device) / MIB if device.type == "cuda" else 0.0
            held = runner.nbytes / MIB
            yield LengthPoint(runner.variant, index + 1, float(np.median(times)), held, resident_mib(), on_gpu)


def _points(length: int) -> list[int]:
    points = list(LENGTH_POINTS)
    while points[-1] < length:
        points.append(2 * points[-1])
    return [*(point for point in points if point < length), length]


def _watch_gpu(device: torch.device) -> int:
    """Begin to watch for the most GPU memory; return what is allocated now."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _most_on_gpu(device: torch.device) -> int:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0


def _facts(opened: BenchModel) -> ModelFacts:
    config = opened.model.config
    return ModelFacts(
        name=opened.name,
        preset=config.preset,
        sha256=opened.model.identity,
        parameters=opened.parameters,
        dtype=str(opened.dtype).removeprefix("torch."),
        image_side=config.segmentor.image_size,
        notes=opened.notes,
    )

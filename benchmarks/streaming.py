"""Time the stream of a camera: JPEG decoding, the session's step, building and serialising the messages.

640x480 generated images; the frame on which targets are added is listed apart. Also counts how often the mask
encoder and the pixel decoder ran. The stages within the step, and peers, are what `x2sam bench` measures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from scene_cases import JpegCamera
from tables import arguments, hardware_line, number, print_table
from torch import nn

from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.messages import MASK_ARRAY_TYPE, build_message, tracked_mask_array_fields
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.session import Session
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import FrameResult

TYPES = message_types()
WARM_UP = 10
"""Frames after the first that are not timed: the memory fills during them."""


class CallCounter:
    """Counts how often a module runs, until it is closed."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        self._hook = module.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.calls += 1

    def close(self) -> None:
        """Stop counting."""
        self._hook.remove()


@dataclass
class Timings:
    """Milliseconds per frame by stage, and what was counted."""

    num_targets: int = 0
    first_ms: float = 0.0
    stages: dict[str, list[float]] = field(default_factory=dict)
    encoder_calls: float = 0.0
    pixel_decoder_calls: float = 0.0

    def add(self, stage: str, seconds: float) -> None:
        """Append the time of one frame."""
        self.stages.setdefault(stage, []).append(1e3 * seconds)

    def mean(self, stage: str) -> float:
        """Return the mean milliseconds per frame."""
        return float(np.mean(self.stages[stage]))


def message_bytes(result: FrameResult) -> int:
    """Build and serialise the masks' message; return its size."""
    fields = tracked_mask_array_fields(result)
    message = build_message(MASK_ARRAY_TYPE, fields, TYPES.types.__getitem__)
    return len(TYPES.serialize_cdr(message, MASK_ARRAY_TYPE))


def measure(model: X2SAM, camera: JpegCamera, num_targets: int, num_frames: int) -> Timings:
    """Stream ``num_frames`` timed frames with ``num_targets`` targets, all clicked on frame 0."""
    session, timings = Session(model), Timings()
    encoder = CallCounter(model.segmentor.encoder)
    pixel_decoder = CallCounter(model.segmentor.pixel_decoder)
    for number_of_click in range(num_targets):
        session.submit(camera.click(0, number_of_click))
    for index in range(1 + WARM_UP + num_frames):
        start = time.perf_counter()
        frame = camera.frame(index)
        decoded = time.perf_counter()
        result = session.step(frame)
        stepped = time.perf_counter()
        message_bytes(result)
        built = time.perf_counter()
        if index == 0:
            timings.first_ms = 1e3 * (built - start)
        if index == WARM_UP:
            encoder.calls = pixel_decoder.calls = 0
        if index <= WARM_UP:
            continue
        timings.add("decode JPEG", decoded - start)
        timings.add("session step", stepped - decoded)
        timings.add("build message", built - stepped)
        timings.add("frame", built - start)
    timings.num_targets = len(session.target_ids)
    timings.encoder_calls = encoder.calls / num_frames
    timings.pixel_decoder_calls = pixel_decoder.calls / num_frames
    encoder.close()
    pixel_decoder.close()
    return timings


def print_report(runs: list[Timings], markdown: bool) -> None:
    """Print cost against the number of targets, then the stages."""
    header = ("targets", "frames/s", "median ms", "p95 ms", "first ms", "encoder runs", "pixel decoder runs")
    rows = []
    for run in runs:
        frame_ms = run.stages["frame"]
        columns = (1e3 / run.mean("frame"), np.median(frame_ms), np.percentile(frame_ms, 95), run.first_ms)
        calls = (run.encoder_calls, run.pixel_decoder_calls)
        rows.append((str(run.num_targets), *(number(float(v), 1) for v in columns), *(number(v, 2) for v in calls)))
    print_table("Streaming 640x480 JPEG, decoding and messages included", header, rows, markdown)
    names = [f"{run.num_targets} target{'s' * (run.num_targets != 1)}" for run in runs]
    stages = list(dict.fromkeys(stage for run in runs for stage in run.stages))
    table = [(stage, *(number(run.mean(stage), 2) if stage in run.stages else "-" for run in runs)) for stage in stages]
    print_table("Mean milliseconds per frame", ("stage", *names), table, markdown)


def main() -> None:
    """Measure every number of targets and print the tables."""
    parser = arguments(__doc__, pages=False)
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--frames", type=int, default=200, help="timed frames of each run")
    options = parser.parse_args()
    model, camera = load_model(options.model, options.device), JpegCamera()
    runs = [measure(model, camera, count, options.frames) for count in options.targets]
    print(f"{options.model}: {hardware_line(options.device)}")
    print_report(runs, options.markdown)


if __name__ == "__main__":
    main()

"""Time how training batches of generated scenes are made: chosen on the host, then drawn on the host or on a device.

"choose" is layouts, prompts and their tokens, on one core of the host whoever draws. "host" draws with OpenCV on one
core and "device" with torch on --device, each up to the tensors that are learnt from. On a CPU both have one core.
Clips are shown to the language side whole. Times are medians: on the host those of the core, whatever else it does, on
a GPU those of the clock, with the device waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from tables import arguments, at_least, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import TrainConfig
from x2sam_ros.evaluation.hardware import wait_for
from x2sam_ros.training.samples import SceneBatches, collate

HEADER = ("phase", "clips a batch", "work", "ms a clip", "clips a second", "frames a second")
PHASES = ("image", "video", "words")


def seconds(work: Callable[[int], object], rounds: int, device: torch.device) -> float:
    """Return the median seconds of ``rounds`` runs after one that is not counted; each is given its number."""
    clock, times = time.process_time if device.type == "cpu" else time.perf_counter, []
    for index in range(rounds + 1):
        wait_for(device)
        started = clock()
        work(index)
        wait_for(device)
        times.append(clock() - started)
    return median(times[1:])


def rows_of(data: SceneBatches, rounds: int, device: torch.device) -> list[tuple[str, ...]]:
    """Return the rows of one phase and size of batch."""
    plans = [data.plan(index) for index in range(rounds + 1)]
    packed = [plan.to("cpu") for plan in plans]
    clips, frames = data.shape.clips, data.shape.frames
    timed = {
        "choose": seconds(data.plan, rounds, torch.device("cpu")),
        "draw: host": seconds(lambda index: collate(plans[index], data.model), rounds, torch.device("cpu")),
        f"draw: device ({device.type})": seconds(
            lambda index: collate(packed[index].to(device), data.model), rounds, device
        ),
    }
    return [
        (data.phase, str(clips), work, number(1e3 * s / clips, 2), number(clips / s, 0), number(clips * frames / s, 0))
        for work, s in timed.items()
    ]


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=at_least(1), nargs="*", default=[], help="further sizes of batches")
    parser.add_argument("--rounds", type=at_least(1), default=8, help="batches of each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, config, device = load_model(options.model), TrainConfig(), torch.device(options.device)
    rows = []
    for phase in PHASES:
        shape = config.phase(phase)
        for clips in (shape.clips, *options.clips):
            changed = replace(config, clip_share=1.0, **{phase: replace(shape, clips=clips)})
            data = SceneBatches(changed, model.config, model.tokenizer, phase, 0, options.rounds + 1)
            rows += rows_of(data, options.rounds, device)
    with printed_into(options.into, "scene-rendering"):
        print(hardware_line(options.device))
        print_table("Making batches of generated scenes", HEADER, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

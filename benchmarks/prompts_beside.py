"""Measure what a prompt every second does to the frames of a camera, and how soon its first mask is there.

640x480 generated images at a camera's pace; a frame that is late is skipped, as the node does. One target is followed
all the time; every prompt adds another, in turn by words and by a click on the newest image, which is removed once
it is reported. "Interval" is the time from one result to the next, "first mask" that from the prompt to its result.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scene_cases import JpegCamera
from tables import arguments, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, GroundingStatus, Prompt, TextPrompt

WARM_UP_S = 2.0
"""Seconds that are not timed: the memory fills during them."""

GOAL_INTERVAL, GOAL_TEXT_MS, GOAL_CLICK_MS = 1.5, 1000, 500


@dataclass
class Measured:
    """Milliseconds."""

    intervals: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    click: list[float] = field(default_factory=list)
    rejected: int = 0


def prompt_of(camera: JpegCamera, turn: int, frame: Frame) -> Prompt:
    """Return the prompt of a turn, about a frame that was shown."""
    if turn % 2:
        return replace(camera.click(frame.frame_index, turn), prompt_id=f"click-{turn}", stamp_ns=frame.stamp_ns)
    item = camera.clip.objects[turn // 2 % len(camera.clip.objects)]
    return TextPrompt(f"text-{turn}", stamp_ns=frame.stamp_ns, text=f"the {item.colour} {item.shape}")


def measure(model: X2SAM, camera: JpegCamera, lane: str, rate: float, seconds: float) -> Measured:
    """Stream for some seconds; ``lane`` is where prompts are carried out, '' without any."""
    measured, asked = Measured(), dict[str, float]()
    with Session(model, EngineConfig(language_lane=lane or "inline")) as session:
        session.submit(camera.click(0, 0))
        began = time.perf_counter()
        previous, last, turn = 0.0, -1, 0
        while (now := time.perf_counter() - began) < WARM_UP_S + seconds:
            index = int(now * rate)
            if index == last:
                time.sleep(max(0.0, (index + 1) / rate - now))
                continue
            last, frame = index, camera.frame(index)
            result = session.step(frame)
            done = time.perf_counter() - began
            if previous > WARM_UP_S:
                measured.intervals.append(1e3 * (done - previous))
            previous = done
            for grounding in result.groundings:
                since = asked.pop(grounding.prompt_id, None)
                if since is None:
                    continue
                measured.rejected += grounding.status is GroundingStatus.REJECTED
                kind = measured.text if grounding.prompt_id.startswith("text") else measured.click
                kind.append(1e3 * (done - since))
                for target_id in grounding.target_ids:
                    session.remove(target_id)
            if lane and done > WARM_UP_S + turn:
                prompt = prompt_of(camera, turn, frame)
                asked[prompt.prompt_id], turn = done, turn + 1
                session.submit(prompt)
    return measured


def row(name: str, measured: Measured, base: Measured) -> tuple[str, ...]:
    """Return a line of the table."""
    p50, p95 = np.percentile(measured.intervals, (50, 95))
    times = [
        number(float(np.percentile(values, share)), 0) if values else "-"
        for values in (measured.text, measured.click)
        for share in (50, 95)
    ]
    ratio = p95 / np.percentile(base.intervals, 95)
    shown = (str(len(measured.intervals)), number(float(p50), 1), number(float(p95), 1), f"{ratio:.2f}")
    return (name, *shown, *times, str(measured.rejected))


def main() -> None:
    """Measure without prompts, inline and beside, and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second of the camera")
    parser.add_argument("--seconds", type=float, default=30.0, help="timed seconds of each run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, camera = load_model(options.model, options.device), JpegCamera()
    with printed_into(options.into, "prompts-beside"):
        print(f"{options.model}: {hardware_line(options.device)}, load {os.getloadavg()[0]:.1f}")
        runs = {
            name: measure(model, camera, lane, options.rate, options.seconds)
            for name, lane in (("no prompts", ""), ("inline", "inline"), ("beside", "beside"))
        }
        header = (
            "lane",
            "frames",
            "interval p50 ms",
            "p95 ms",
            "times",
            "text p50",
            "p95",
            "click p50",
            "p95",
            "rejected",
        )
        title = (
            f"A prompt every second, camera of {options.rate:g} Hz; goals: p95 interval {GOAL_INTERVAL} times that "
            f"without, first mask of a text {GOAL_TEXT_MS} ms, of a click {GOAL_CLICK_MS} ms"
        )
        rows = [row(name, measured, runs["no prompts"]) for name, measured in runs.items()]
        print_table(title, header, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()

"""Measure what the node costs beside the model, with a model that costs nothing, in a process of its own over DDS.

The time is that from the call that publishes the image, in this process, to the arrival of the masks with its stamp,
less what the model took. "arrived" is the part of it between the image's arrival at the node and the publishing of its
masks, "transport" the rest: two ways through DDS, and this process. "Small memory" are Fast DDS's own settings, the
others those of config/fastdds.xml. "rclpy alone" is a node that does not look at the image and answers with as many
bytes (echo_node.py): the least there is in Python. A second table has a model slower than the camera.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from node_process import (
    CAMERA,
    CHEAP_NODE,
    ECHO_NODE,
    NODE,
    Camera,
    Ear,
    load_average,
    own_graph,
    running,
    scenery,
    stamp_of,
)
from rclpy.serialization import deserialize_message
from tables import arguments, hardware_line, number, print_table, printed_into

from x2sam_ros.msg import Timings, TrackedMaskArray

GOAL_MEDIAN_MS, GOAL_P95_MS = 6.0, 12.0
GOAL_PERIODS = 2.0
SIZE = (720, 1280)
RATE = 30.0
WARM_UP_S = 2.0
"""Seconds that are not timed."""

SETTLE_S = 1.0
"""What is still on its way may come as late as this."""


@dataclass
class Stream:
    """What became of images, by stamp; all times in milliseconds."""

    published: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    stages: dict[int, Mapping[str, float]] = field(default_factory=dict)
    cpu_share: float = 0.0

    def hear(self, ear: Ear) -> None:
        """Subscribe to masks and timings."""
        ear.hear(TrackedMaskArray, f"{NODE}/masks", self._on_masks)
        ear.hear(Timings, f"{NODE}/timings", self._on_timings)

    def _on_masks(self, data: bytes) -> None:
        self.answered.setdefault(stamp_of(data), 1e3 * time.monotonic())

    def _on_timings(self, data: bytes) -> None:
        message = deserialize_message(data, Timings)
        stages = dict(zip(message.stages, message.stage_ms))
        self.stages[stamp_of(data)] = {**stages, "arrived": message.latency_ms}

    def columns(self) -> dict[str, np.ndarray]:
        """Return the parts of the latency of every answered image that was timed."""
        stamps = [stamp for stamp in self.published if stamp in self.answered and stamp in self.stages]
        total = np.array([self.answered[stamp] - self.published[stamp] for stamp in stamps])
        parts = {
            name: np.array([self.stages[stamp][name] for stamp in stamps])
            for name in ("step", "decode", "publish", "arrived")
        }
        return {
            "latency": total,
            "overhead": total - parts["step"],
            "arrived": parts["arrived"] - parts["step"],
            "transport": total - parts["arrived"],
            "decode": parts["decode"],
            "publish": parts["publish"],
        }


@dataclass(frozen=True)
class Way:
    """How images come.

    Args:
        jpeg: compressed, else rgb8.
        reliable: QoS of camera and node; best effort as by default.
        large: Fast DDS has the shared memory of config/fastdds.xml, else its own.
        step_ms: what the model takes.
        echo: the node is echo_node.py.
    """

    jpeg: bool = False
    reliable: bool = False
    large: bool = True
    step_ms: float = 0.0
    echo: bool = False

    def command(self, targets: int) -> tuple[str, ...]:
        """Return how the node is started."""
        if not self.echo:
            return (*CHEAP_NODE, "--targets", str(targets), "--step-ms", str(self.step_ms))
        options = [*(["--jpeg"] if self.jpeg else []), *(["--reliable"] if self.reliable else [])]
        return (*ECHO_NODE, "--targets", str(targets), *options)


def measure(way: Way, seconds: float, targets: int) -> Stream:
    """Stream images for some seconds; once in a process, since Fast DDS reads its profiles once."""
    topic = f"{CAMERA}/compressed" if way.jpeg else CAMERA
    parameters = [f"image_transport:={'compressed' if way.jpeg else 'raw'}"]
    if way.reliable:
        parameters.append(f"qos_overrides.{topic}.subscription.reliability:=reliable")
    stream = Stream()
    with own_graph(way.large) as ear, running(ear, way.command(targets), parameters) as process:
        stream.hear(ear)
        camera = Camera(ear, scenery(*SIZE), way.jpeg, way.reliable)
        ear.spin_until(time.monotonic() + 10.0, lambda: camera.is_heard)
        ear.spin_until(time.monotonic() + 0.5)
        begun_s, cpu_s = time.monotonic(), 0.0
        for index in range(int((WARM_UP_S + seconds) * RATE)):
            ear.spin_until(begun_s + index / RATE)
            stamp_ns = time.time_ns()
            published_s = camera.publish(stamp_ns)
            if index >= WARM_UP_S * RATE:
                cpu_s = cpu_s or process.cpu_s
                stream.published[stamp_ns] = 1e3 * published_s
        stream.cpu_share = (process.cpu_s - cpu_s) / seconds
        ear.spin_until(time.monotonic() + SETTLE_S + 2e-3 * way.step_ms)
    return stream


WAYS = {
    "rgb8, best effort": Way(),
    "rgb8, reliable": Way(reliable=True),
    "JPEG, best effort": Way(jpeg=True),
    "JPEG, reliable": Way(jpeg=True, reliable=True),
    "rgb8, best effort, rclpy alone": Way(echo=True),
    "JPEG, best effort, rclpy alone": Way(echo=True, jpeg=True),
    "rgb8, best effort, small memory": Way(large=False),
    "rgb8, reliable, small memory": Way(reliable=True, large=False),
}


def measured(way: Way, seconds: float, targets: int) -> Stream:
    """Measure in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, way, seconds, targets).result()


def overhead_row(name: str, stream: Stream) -> tuple[str, ...]:
    """Return a line of the first table."""
    found = stream.columns()
    spread = [number(float(np.percentile(found["overhead"], share)), 2) for share in (50, 95, 100)]
    parts = [number(float(np.median(found[part])), 2) for part in ("arrived", "decode", "publish", "transport")]
    counts = (str(len(stream.published)), str(len(found["overhead"])))
    return (name, *counts, *spread, *parts, f"{stream.cpu_share:.0%}")


def slow_row(step_ms: float, stream: Stream) -> tuple[str, ...]:
    """Return a line of the second table; the last column compares the last quarter with the first."""
    latency = stream.columns()["latency"]
    quarter = max(1, len(latency) // 4)
    growth = float(np.median(latency[-quarter:]) - np.median(latency[:quarter]))
    spread = [number(float(np.percentile(latency, share)), 1) for share in (50, 95, 100)]
    periods = number(float(latency.max()) / step_ms, 2)
    return (f"{step_ms:g} ms", str(len(stream.published)), str(len(latency)), *spread, periods, number(growth, 1))


def main() -> None:
    """Measure every way in, then the slow model, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--targets", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="timed seconds of each run")
    parser.add_argument("--slow-ms", type=float, default=100.0, help="what the slow model takes")
    options = parser.parse_args()
    with printed_into(options.into, "node"):
        rows = [overhead_row(name, measured(way, options.seconds, options.targets)) for name, way in WAYS.items()]
        slow = slow_row(options.slow_ms, measured(Way(step_ms=options.slow_ms), options.seconds, options.targets))
        markdown = options.markdown or bool(options.into)
        print(f"{hardware_line(options.device)}, {load_average()}  ")
        what = f"{SIZE[1]}x{SIZE[0]}, {RATE:g} Hz, {options.targets} targets"
        print_table(
            f"Overhead in ms, {what}; goals: median {GOAL_MEDIAN_MS:g}, p95 {GOAL_P95_MS:g}",
            ("camera", "sent", "timed", "median", "p95", "max", "arrived", "decode", "publish", "transport", "CPU"),
            rows,
            markdown,
        )
        print_table(
            f"Latency in ms of a model slower than the camera, {what}; goal: under {GOAL_PERIODS:g} of its periods",
            ("model", "sent", "answered", "median", "p95", "max", "max in periods", "growth"),
            [slow],
            markdown,
        )


if __name__ == "__main__":
    main()

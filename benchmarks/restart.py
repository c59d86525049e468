"""Measure how long a node that follows targets is away when it is restarted amid the stream, with a session file.

The real node and model, 640x480 generated images, three clicked targets, and images go on all the while. "Process":
SIGTERM ends the old one, the new one starts as soon as the old one has ended. "Lifecycle": deactivate, clean up,
configure, activate. "away" is the time from the signal or first request to the arrival of the first masks with the same
ids, "old ends" the part of it until the old process has ended, "of this, new" the part since then, and "until ready"
since then until the node is active. Most of a new process is the import of torch and transformers, here from compiled
files as after any first start. J is that of the targets on the last image before and the first one after.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import NODE, REAL_NODE, Camera, Ear, NodeProcess, load_average, own_graph, stamp_of
from rclpy.serialization import deserialize_message
from scene_cases import HEIGHT, HELD_OUT_SEED, WIDTH
from tables import arguments, hardware_line, number, print_table, printed_into

from x2sam_ros.bag.messages import read_tracked_mask_array
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.msg import Prompt, TrackedMaskArray
from x2sam_ros.srv import SetPrompt
from x2sam_ros.training.scenes import Clip, generate_clip
from x2sam_ros.types import FrameResult

GOAL_S = 3.0
RATE = 10.0
NUM_FRAMES = 60
NUM_TARGETS = 3
FOLLOW_S = 3.0
"""How long the targets are followed before the end of a process, so that their memories are full."""

TIMEOUT_S = 60.0


class Restart(NamedTuple):
    """Seconds, and whether it was the same targets."""

    kind: str
    end_s: float
    ready_s: float
    masks_s: float
    away_s: float
    same_ids: bool
    before_j: float
    after_j: float


class Stream:
    """The clip as a camera, forwards and backwards, and the masks that come back."""

    def __init__(self, ear: Ear, clip: Clip) -> None:
        self.ear, self.clip = ear, clip
        self.newest: tuple[float, FrameResult] | None = None
        self.shown: dict[int, int] = {}
        self._sent, self._due_s = 0, 0.0
        self._camera = Camera(ear, clip.frames[0])
        ear.hear(TrackedMaskArray, f"{NODE}/masks", self._on_masks)

    def until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        """Go on until a condition holds.

        Raises:
            SystemExit: it did not in time.
        """
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                raise SystemExit("the node did not answer in time")
            if time.monotonic() >= self._due_s:
                self._send()
            self.ear.spin_until(min(self._due_s, time.monotonic() + 0.02), condition)

    def rest(self, seconds: float) -> None:
        """Go on for some seconds."""
        end_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end_s)

    def masks_of(self, count: int) -> FrameResult:
        """Go on until masks of so many targets have come since the call."""
        self.newest = None
        self.until(lambda: self.newest is not None and len(self.newest[1].target_ids) >= count)
        assert self.newest is not None
        return self.newest[1]

    def similarity(self, result: FrameResult, objects: list[int]) -> float:
        """Return the mean J of targets, in the order of their ids, against these objects."""
        labels = self.clip.labels[self.shown[result.stamp_ns]]
        return float(np.mean([region_similarity(m, labels == k + 1) for m, k in zip(result.masks, objects)]))

    def _send(self) -> None:
        there_and_back = 2 * (NUM_FRAMES - 1)
        place = self._sent % there_and_back
        index = min(place, there_and_back - place)
        self._sent, self._due_s = self._sent + 1, time.monotonic() + 1 / RATE
        stamp_ns = time.time_ns()
        self.shown[stamp_ns] = index
        self._camera.show(self.clip.frames[index])
        self._camera.publish(stamp_ns)

    def _on_masks(self, data: bytes) -> None:
        if stamp_of(data) in self.shown:
            self.newest = time.monotonic(), read_tracked_mask_array(deserialize_message(data, TrackedMaskArray))


def click_all(stream: Stream, objects: list[int]) -> None:
    """Click on objects, one after the other."""
    service = stream.ear.create_client(SetPrompt, f"{NODE}/set_prompt")
    stream.until(service.service_is_ready)
    for index in objects:
        stamp_ns, shown = list(stream.shown.items())[-1]
        rows, columns = np.nonzero(stream.clip.labels[shown] == index + 1)
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        prompt = Prompt(kind=Prompt.KIND_POINTS, points_px=[float(columns[middle]), float(rows[middle])])
        prompt.point_labels = [Prompt.POINT_POSITIVE]
        prompt.image_stamp.sec, prompt.image_stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        answer = service.call_async(SetPrompt.Request(prompt=prompt))
        stream.until(answer.done)
        if not answer.result().success:
            raise SystemExit(f"the click on object {index} was refused: {answer.result().message}")


class Subject:
    """The node that is restarted.

    Args:
        stream: shows it images.
        parameters, environment: of its process.
    """

    def __init__(self, stream: Stream, parameters: list[str], environment: dict[str, str]) -> None:
        self._stream, self._given = stream, (REAL_NODE, parameters, environment)
        self._change = stream.ear.create_client(ChangeState, f"{NODE}/change_state")
        self.process = NodeProcess(*self._given)

    def end(self, process: bool) -> None:
        """End the process, or deactivate and clean up."""
        if process:
            self.process.terminate()
            self._stream.until(lambda: not self.process.is_alive)
        else:
            self._transit(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        self._stream.ear.is_ready = False

    def begin(self, process: bool) -> None:
        """Start a process, or configure and activate; return when the node is active."""
        if process:
            self.process = NodeProcess(*self._given)
        else:
            self._transit(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        self._stream.until(lambda: self._stream.ear.is_ready)

    def _transit(self, *transitions: int) -> None:
        for transition in transitions:
            answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self._stream.until(answer.done)
            if not answer.result().success:
                raise SystemExit(f"transition {transition} failed:\n{self.process.log}")


def restart(stream: Stream, subject: Subject, process: bool, objects: list[int]) -> Restart:
    """Restart the node amid the stream."""
    before = stream.masks_of(len(objects))
    told_s = time.monotonic()
    subject.end(process)
    end_s = time.monotonic()
    subject.begin(process)
    ready_s = time.monotonic()
    after = stream.masks_of(1)
    masks_s = stream.newest[0] if stream.newest else 0.0
    same = before.target_ids.tolist() == after.target_ids.tolist()
    scores = (stream.similarity(before, objects), stream.similarity(after, objects) if same else float("nan"))
    times = (end_s - told_s, ready_s - end_s, masks_s - end_s, masks_s - told_s)
    return Restart("process" if process else "lifecycle", *times, same, *scores)


def main() -> int:
    """Restart some times and print the table; the exit code is 1 where ids were not the same."""
    parser = arguments(__doc__)
    parser.add_argument("--times", type=int, default=5, help="restarts")
    options = parser.parse_args()
    clip = generate_clip(HELD_OUT_SEED, NUM_FRAMES, HEIGHT, WIDTH)
    objects = sorted(range(len(clip.objects)), key=lambda k: -clip.visible[:, k].min())[:NUM_TARGETS]
    runs: list[Restart] = []
    with printed_into(options.into, "restart"), own_graph() as ear, tempfile.TemporaryDirectory() as folder:
        is_preset = not Path(options.model).exists()
        parameters = [f"{'preset' if is_preset else 'checkpoint'}:={options.model}", f"device:={options.device}"]
        parameters.append(f"session_file:={folder}/session.safetensors")
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        stream = Stream(ear, clip)
        subject = Subject(stream, parameters, environment)
        try:
            ear.wait_ready(subject.process)
            stream.masks_of(0)
            click_all(stream, objects)
            for process in (True, False):
                for _ in range(options.times):
                    stream.rest(FOLLOW_S)
                    runs.append(restart(stream, subject, process, objects))
        finally:
            subject.process.stop()
        print(f"{options.model}: {hardware_line(options.device)}, {load_average()}  ")
        rows = [
            (
                run.kind,
                *(number(value, 2) for value in (run.away_s, run.end_s, run.masks_s, run.ready_s)),
                "yes" if run.same_ids else "no",
                *(number(value, 2) for value in (run.before_j, run.after_j)),
            )
            for run in runs
        ]
        header = ("restart", "away s", "old ends", "of this, new", "until ready", "same ids", "J before", "J after")
        title = f"Restart amid the stream, {len(objects)} targets, seconds; goal: same ids within {GOAL_S:g} s"
        print_table(title, header, rows, options.markdown or bool(options.into))
    return int(not all(run.same_ids for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())

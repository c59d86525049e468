"""Loop a recording into the node for half an hour, with a service call every second and a goal now and then.

The model costs nothing. Stamps jump back at each loop, as in `ros2 bag play --loop`. Checked are: every service and
every goal is answered, as it should be; every published mask has the stamp of an image that was sent in this loop, or
at its turn in the last one, and no image is answered twice; the node's memory stays within 2 % of what it was after one
minute, in which bursts of images fill every queue; threads, open files, topics and services of the node do not grow.
Ctrl-C ends it early, with what it has.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from action_msgs.msg import GoalStatus
from node_process import CHEAP_NODE, NODE, Camera, Ear, NodeProcess, load_average, own_graph, running, scenery, stamp_of
from rclpy.action import ActionClient
from std_srvs.srv import Trigger
from tables import number, print_table

from x2sam_ros.action import Follow
from x2sam_ros.msg import Prompt, TrackedMaskArray
from x2sam_ros.srv import ListTargets, SetPrompt

RATE = 30.0
START_NS = 1_700_000_000_000_000_000
REFERENCE_S = 60.0
TOLERANCE = 0.02
REPLY_S = 5.0
"""A reply that takes longer is lost."""

LATE_S = 1.0
"""Masks that come longer after their image than this belong to no image of this loop."""

MIN_ANSWERED = 0.1
"""Share of the images that must be answered at least: with best effort, a machine that is busy loses many."""

BURST, BURST_EVERY = 20, 30
"""In the first minute so many images come at once, every so many images: every queue has then been full."""

GOAL_EVERY = 10
"""Calls between two goals; every other goal is cancelled."""


Turns = Generator[tuple[str, Any], None, Any]
"""What is called and the future of its reply, one after the other; '' to be asked again."""


class Sample(NamedTuple):
    """The node at one moment."""

    time_s: float
    resident_mib: float
    anonymous_mib: float
    threads: int
    files: int
    entities: int


@dataclass
class Ledger:
    """What happened, and what should not have."""

    sent: dict[int, tuple[int, float]] = field(default_factory=dict)
    answered: dict[int, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    begun_s: float = field(default_factory=time.monotonic)

    def send(self, stamp_ns: int) -> None:
        """Note an image that is published now."""
        self.counts["images"] += 1
        self.sent[stamp_ns] = self.counts["images"], time.monotonic()

    def hear(self, data: bytes) -> None:
        """Check masks."""
        stamp_ns = stamp_of(data)
        self.counts["masks"] += 1
        number_of_image, at_s = self.sent.get(stamp_ns, (0, 0.0))
        if not number_of_image:
            self.fault(f"masks have the stamp {stamp_ns}, which no image had")
        elif time.monotonic() - at_s > LATE_S:
            self.fault(f"masks have the stamp {stamp_ns} of an image of {time.monotonic() - at_s:.1f} s ago")
        elif self.answered.get(stamp_ns) == number_of_image:
            self.fault(f"image {number_of_image} was answered twice")
        self.answered[stamp_ns] = number_of_image

    def fault(self, what: str) -> None:
        """Note what should not have happened."""
        self.counts["faults"] += 1
        if len(self.faults) < 100:
            self.faults.append(f"{time.monotonic() - self.begun_s:.1f} s: {what}")

    def sample(self, ear: Ear, process: NodeProcess) -> None:
        """Look at the node."""
        name = NODE.lstrip("/")
        found = (
            ear.get_publisher_names_and_types_by_node(name, "/"),
            ear.get_subscriber_names_and_types_by_node(name, "/"),
            ear.get_service_names_and_types_by_node(name, "/"),
        )
        now_s = time.monotonic() - self.begun_s
        entities = sum(map(len, found))
        memory = process.resident_mib, process.anonymous_mib
        self.samples.append(Sample(now_s, *memory, process.threads, process.open_files, entities))


class Caller:
    """Calls services and sends goals, one after the other, and checks what comes back."""

    def __init__(self, ear: Ear, ledger: Ledger) -> None:
        self._ear, self._ledger = ear, ledger
        self._prompt = ear.create_client(SetPrompt, f"{NODE}/set_prompt")
        self._list = ear.create_client(ListTargets, f"{NODE}/list_targets")
        self._reset = ear.create_client(Trigger, f"{NODE}/reset")
        self._follow = ActionClient(ear, Follow, f"{NODE}/follow")
        self._numbers = itertools.count(1)
        self._expected: set[int] | None = None  # unknown
        self._turns = self._script()
        self._waits: tuple[str, Any, float] | None = None

    def wait(self) -> None:
        """Wait until everything is there to be called."""
        for client in (self._prompt, self._list, self._reset):
            client.wait_for_service(10.0)
        self._follow.wait_for_server(10.0)

    def turn(self) -> None:
        """Go on once the last reply is there; to be called often."""
        if self._waits is not None:
            what, future, since_s = self._waits
            if not future.done():
                if time.monotonic() - since_s < REPLY_S:
                    return
                self._ledger.fault(f"{what} had no reply within {REPLY_S:g} s")
                self._ledger.counts["lost replies"] += 1
                self._turns = self._script()
            self._waits = None
        what, future = next(self._turns)
        if what:
            self._ledger.counts[what] += 1
            self._waits = what, future, time.monotonic()

    def _script(self) -> Turns:
        """Call, check, and rest until the next second, for ever."""
        for turn in itertools.count():
            due_s = time.monotonic() + 1.0
            if turn % GOAL_EVERY == GOAL_EVERY - 1:
                yield from self._goal(cancelled=turn // GOAL_EVERY % 2 == 1)
            elif turn % 60 == 30:
                yield from self._call("reset", self._reset, Trigger.Request())
                self._expected = set()
            elif turn % 3 == 0:
                name = f"soak-{next(self._numbers)}"
                found = yield from self._call(
                    "add", self._prompt, SetPrompt.Request(prompt=Prompt(text="a", prompt_id=name))
                )
                if self._expected is not None:
                    self._expected |= set(found.target_ids)
            elif turn % 3 == 1 and self._expected:
                oldest = min(self._expected)
                prompt = Prompt(action=Prompt.ACTION_REMOVE, target_id=oldest)
                yield from self._call("remove", self._prompt, SetPrompt.Request(prompt=prompt))
                self._expected.discard(oldest)
            else:
                yield from self._check_list()
            while time.monotonic() < due_s:
                yield "", None

    def _call(self, what: str, client: Any, request: Any) -> Turns:
        future = client.call_async(request)
        yield what, future
        response = future.result()
        if not response.success:
            self._ledger.fault(f"{what} failed: {response.message}")
        return response

    def _check_list(self) -> Turns:
        response = yield from self._call("list", self._list, ListTargets.Request())
        listed = {target.target_id for camera in response.cameras for target in camera.targets}
        if self._expected is not None and listed != self._expected:
            self._ledger.fault(f"targets are {sorted(listed)}, expected {sorted(self._expected)}")
        self._expected = listed

    def _goal(self, cancelled: bool) -> Turns:
        """Follow something, and forget it again."""
        name = f"goal-{next(self._numbers)}"
        accepted = self._follow.send_goal_async(Follow.Goal(prompt=Prompt(text="a", prompt_id=name)))
        yield "goal", accepted
        handle = accepted.result()
        if not handle.accepted:
            self._ledger.fault(f"{name} was not accepted")
            return
        if cancelled:
            yield "cancel", handle.cancel_goal_async()
        ended = handle.get_result_async()
        yield "result", ended
        status = ended.result().status
        fine = {GoalStatus.STATUS_SUCCEEDED} | ({GoalStatus.STATUS_CANCELED} if cancelled else set())
        if status not in fine:
            self._ledger.fault(f"{name} ended with status {status}: {ended.result().result.message}")
        if status == GoalStatus.STATUS_SUCCEEDED:
            prompt = Prompt(action=Prompt.ACTION_REMOVE, prompt_id=name)
            yield from self._call("remove", self._prompt, SetPrompt.Request(prompt=prompt))


def soak(ear: Ear, process: NodeProcess, ledger: Ledger, seconds: float, frames: int, size: tuple[int, int]) -> None:
    """Loop the recording and call services."""
    camera, caller = Camera(ear, scenery(*size)), Caller(ear, ledger)
    ear.hear(TrackedMaskArray, f"{NODE}/masks", ledger.hear)
    caller.wait()
    ear.spin_until(time.monotonic() + 10.0, lambda: camera.is_heard)
    ear.spin_until(time.monotonic() + 0.5)
    ledger.begun_s = time.monotonic()
    for index in itertools.count():
        due_s = ledger.begun_s + index / RATE
        if due_s > ledger.begun_s + seconds:
            break
        while time.monotonic() < due_s:
            ear.spin_until(min(due_s, time.monotonic() + 0.01))
            caller.turn()
        if not process.is_alive:
            ledger.fault(f"the node died:\n{process.log[-2000:]}")
            break
        if index % RATE == 0:
            ledger.sample(ear, process)
        stamp_ns = START_NS + int(index % frames * 1e9 / RATE)
        early = index / RATE < min(REFERENCE_S, seconds / 3)
        for late in range(BURST if early and index % BURST_EVERY == BURST_EVERY - 1 else 1):
            ledger.send(stamp_ns + late)
            camera.publish(stamp_ns + late)
        caller.turn()
    ear.spin_until(time.monotonic() + LATE_S)


def judge(ledger: Ledger, tolerance: float) -> tuple[float, float]:
    """Note what grew; return the resident size at the reference, and the growth since."""
    reference_s = min(REFERENCE_S, ledger.samples[-1].time_s / 3)
    early = [sample for sample in ledger.samples if reference_s <= sample.time_s < 1.2 * reference_s + 1]
    late = ledger.samples[-max(3, len(ledger.samples) // 20) :]
    before, after = (float(np.median([sample.resident_mib for sample in part])) for part in (early, late))
    growth = after / before - 1
    if growth > tolerance:
        ledger.fault(
            f"resident size grew by {growth:.1%}, from {before:.1f} to {after:.1f} MiB; allowed {tolerance:.0%}"
        )
    for name in ("threads", "files", "entities"):
        most, last = (max(getattr(sample, name) for sample in part) for part in (early, late))
        if last > most:
            ledger.fault(f"{name} of the node grew from {most} to {last}")
    if ledger.counts["masks"] < MIN_ANSWERED * ledger.counts["images"]:
        ledger.fault(f"only {ledger.counts['masks']} of {ledger.counts['images']} images were answered")
    return before, growth


def plot(samples: Sequence[Sample], reference_mib: float, tolerance: float, path: Path) -> None:
    """Draw the resident size over time, with the band it may not leave."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.plot([sample.time_s / 60 for sample in samples], [sample.resident_mib for sample in samples], label="resident")
    low, high = (1 - tolerance) * reference_mib, (1 + tolerance) * reference_mib
    axes.axhspan(low, high, alpha=0.2, label=f"within {tolerance:.0%} of minute one")
    axes.set(xlabel="minutes", ylabel="MiB", title="The node while a recording loops", ylim=(0, 1.3 * reference_mib))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(ledger: Ledger, before_mib: float, growth: float, markdown: bool) -> None:
    """Print what was counted, and the node at some moments."""
    rows = [(name, f"{times:,}") for name, times in ledger.counts.items()]
    print_table("What happened", ("what", "times"), rows, markdown)
    steps = max(1, len(ledger.samples) // 6)
    shown = [*ledger.samples[::steps], ledger.samples[-1]]
    lines = [
        (f"{sample.time_s / 60:.1f} min", *(number(size, 1) for size in sample[1:3]), *map(str, sample[3:]))
        for sample in shown
    ]
    print_table(
        "The node",
        ("after", "resident MiB", "allocated MiB", "threads", "open files", "topics and services"),
        lines,
        markdown,
    )
    print(f"\nResident {before_mib:.1f} MiB early, {growth:+.2%} since.")


def main() -> int:
    """Run, print the tables and draw the plot; the exit code is 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--loop-s", type=float, default=10.0, help="length of the recording")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="growth of the memory that is allowed")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    ledger = Ledger()
    with own_graph() as ear, running(ear, CHEAP_NODE) as process:
        try:
            soak(ear, process, ledger, 60 * options.minutes, int(options.loop_s * RATE), tuple(options.size))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        if process.is_alive and (code := process.stop()) != 0:
            ledger.fault(f"the node ended with code {code}")
        if "Traceback" in process.log:
            ledger.fault(f"the log has a traceback:\n{process.log[-3000:]}")
    if not ledger.samples:
        return 1
    before_mib, growth = judge(ledger, options.tolerance)
    print(f"{os.cpu_count()} cores, {load_average()}  ")
    report(ledger, before_mib, growth, options.markdown)
    if options.plot is not None:
        plot(ledger.samples, before_mib, options.tolerance, options.plot)
    for fault in ledger.faults:
        print(f"fault: {fault}", file=sys.stderr)
    return int(ledger.counts["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Depth beside the images of one camera: masks never wait for it, and meet it whichever comes last. No ROS.

Colour and depth are paired by message_filters, from their stamps alone: nothing is decoded here. Its callback runs
under its lock and ours, so it only puts things where the worker finds them. All that is kept is bounded: at most
QUEUE_SIZE + MAX_PAIRS + 1 + MAX_READY depth images, and QUEUE_SIZE + MAX_READY results.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from x2sam_ros.errors import FrameError
from x2sam_ros.ros.cdr import read_stamp

try:
    from builtin_interfaces.msg import Time
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter
except ImportError:
    from x2sam_ros.ros.message_filters import ApproximateTimeSynchronizer, SimpleFilter, Time

Result = TypeVar("Result")

QUEUE_SIZE = 10
"""Images and depth images that may wait for each other: a third of a second at 30 Hz."""

MAX_PAIRS = 4
"""Newest depth images that are kept for results to come. The image at hand is one of them, or is named by ``begin``."""

MAX_READY = 4
"""Results with depth that may wait for the worker."""

JUMP_BACK_NS = 1_000_000_000
"""A stamp this much older than the newest of its topic is of a clock that was set back, as when a bag loops."""


@dataclass
class DepthCounters:
    """What became of depth and of results: every result ends up joined, replaced, without depth, or still waits.

    Args:
        received: depth messages.
        damaged: of these, those whose header cannot be read.
        paired: of these, those that belong to an image.
        unmatched: of these, those that no image belonged to in time.
        joined: results with depth.
        replaced: of these, those that the worker did not fetch before newer ones came.
        without_depth: results whose image has no depth.
    """

    received: int = 0
    damaged: int = 0
    paired: int = 0
    unmatched: int = 0
    joined: int = 0
    replaced: int = 0
    without_depth: int = 0


@dataclass(frozen=True)
class Joined(Generic[Result]):
    """A result and the depth of its time, still serialised."""

    stamp_ns: int
    result: Result
    depth: bytes
    depth_stamp_ns: int


class _Header(NamedTuple):
    stamp: Time


class _Token(NamedTuple):
    """What message_filters sees of a message."""

    header: _Header
    stamp_ns: int
    data: bytes


@dataclass
class _Side:
    """One of the two topics: stamps that still may find a partner, and the last ones that came."""

    source: SimpleFilter
    open: dict[int, None] = field(default_factory=dict)
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=QUEUE_SIZE))


class DepthPairing(Generic[Result]):
    """Joins the results of one camera with depth. Any thread may use it.

    Args:
        colour_topic, depth_topic: how messages call them.
        slop_ms: how far the stamps of an image and its depth may lie apart.
        wake: told that something is ready; called by the thread that brought the depth, outside all locks.
        problem: takes what is wrong with a message.
    """

    def __init__(
        self,
        colour_topic: str,
        depth_topic: str,
        slop_ms: float,
        wake: Callable[[], object] = lambda: None,
        problem: Callable[[str], object] = lambda message: None,
    ) -> None:
        self.counters = DepthCounters()
        self._colour_topic, self._depth_topic, self._slop_ms = colour_topic, depth_topic, slop_ms
        self._wake, self._problem = wake, problem
        self._lock = threading.Lock()
        self._told = DepthCounters()
        self._said: str | None = None
        self._gaps_ns: deque[int] = deque(maxlen=4 * QUEUE_SIZE)
        self._pairs: dict[int, _Token] = {}  # depth by the stamp of its image
        self._begun: int | None = None
        self._ready: deque[Joined[Result]] = deque(maxlen=MAX_READY)
        self._restart()

    def offer_colour(self, data: bytes) -> None:
        """Take an image, before the worker does. One that is damaged is left to the worker to report."""
        try:
            token = _token(data, keep=False)
        except FrameError:
            return
        with self._lock:
            self._feed(token, self._colour, self._depth)

    def offer_depth(self, data: bytes) -> None:
        """Take a depth image."""
        try:
            token = _token(data, keep=True)
        except FrameError as error:
            with self._lock:
                self.counters.received += 1
                self.counters.damaged += 1
            self._problem(f"depth on {self._depth_topic}: {error}")
            return
        with self._lock:
            self.counters.received += 1
            joined = self.counters.joined
            self._feed(token, self._depth, self._colour)
            woken = self.counters.joined > joined
        if woken:
            self._wake()

    def begin(self, stamp_ns: int) -> None:
        """Keep the depth of this image until its result comes, or until another one begins."""
        with self._lock:
            self._begun = stamp_ns

    def result(self, stamp_ns: int, result: Result) -> None:
        """Take the result of an image, which waits for depth as long as the image may still find some."""
        with self._lock:
            if stamp_ns in self._pairs:
                self._join(stamp_ns, result, self._pairs.pop(stamp_ns))
            elif stamp_ns in self._colour.open:
                self.counters.without_depth += stamp_ns in self._waiting
                self._waiting[stamp_ns] = result
            else:
                self.counters.without_depth += 1

    def take_ready(self) -> list[Joined[Result]]:
        """Return the results that have their depth by now, oldest first; each is returned once."""
        with self._lock:
            ready = list(self._ready)
            self._ready.clear()
        return ready

    def warning(self) -> str | None:
        """Say why most results since the last call have no depth, or None; without results, what was said last.

        For one caller, about once a second.
        """
        with self._lock:
            before, now = self._told, replace(self.counters)
            gap_ns = min(self._gaps_ns, default=None)
            unstamped = bool(self._depth.recent) and not any(self._depth.recent)
        if (before.without_depth, before.joined) != (now.without_depth, now.joined):
            self._told, self._said = now, self._reason(before, now, gap_ns, unstamped)
        return self._said

    def _reason(self, before: DepthCounters, now: DepthCounters, gap_ns: int | None, unstamped: bool) -> str | None:
        """Say why most results between two counts have no depth; None where most have."""
        missing = now.without_depth - before.without_depth
        results = missing + now.joined - before.joined
        usable = now.received - now.damaged - before.received + before.damaged
        if 2 * missing <= results:
            return None
        depth, fate = f"depth of {self._depth_topic}", f"{missing} of {results} images have no depth"
        if not usable:
            return f"no usable depth came on {self._depth_topic}: {fate}; check its name, its QoS and the camera"
        if unstamped:
            return f"{depth} has stamps of zero: {fate}; let the camera's driver stamp it as it stamps the images"
        if gap_ns is not None and gap_ns > self._slop_ms * 1e6:
            return (
                f"{depth} is {_duration(gap_ns)} off the images of {self._colour_topic}, more than depth_slop_ms "
                f"{self._slop_ms:g}: {fate}; check that the camera's depth and colour are synchronised"
            )
        return (
            f"{depth} fits the images of {self._colour_topic}, but comes too seldom or too late: {fate}, "
            f"{usable} depth images came; check both rates and the camera's load"
        )

    def _restart(self) -> None:
        """Pair anew, with empty queues."""
        self._colour, self._depth = _Side(SimpleFilter()), _Side(SimpleFilter())
        slop_s = (self._slop_ms * 1e6 + 1.5) * 1e-9  # message_filters wants less, and cuts to whole nanoseconds
        synchronizer = ApproximateTimeSynchronizer([self._colour.source, self._depth.source], QUEUE_SIZE, slop_s)
        synchronizer.registerCallback(self._on_pair)
        self._waiting: dict[int, Result] = {}  # results by the stamp of their image, which is open

    def _feed(self, token: _Token, side: _Side, other: _Side) -> None:
        """Note a message and let message_filters have it."""
        if side.recent and token.stamp_ns < max(side.recent) - JUMP_BACK_NS:
            # Else the queues keep the old clock's messages, since these look newer, and nothing is ever paired again.
            colour = side is self._colour
            self._drop_open()
            self._restart()
            side, other = (self._colour, self._depth) if colour else (self._depth, self._colour)
        side.recent.append(token.stamp_ns)
        if other.recent:
            self._gaps_ns.append(min(abs(token.stamp_ns - stamp_ns) for stamp_ns in other.recent))
        if token.stamp_ns in side.open:  # message_filters keeps the newer one
            self._drop(side, token.stamp_ns)
        side.open[token.stamp_ns] = None
        if len(side.open) > QUEUE_SIZE:
            self._drop(side, min(side.open))
        side.source.signalMessage(token)

    def _on_pair(self, colour: _Token, depth: _Token) -> None:
        """Take a pair from message_filters; whoever feeds it holds the lock."""
        self._colour.open.pop(colour.stamp_ns, None)  # an exception here would leave message_filters locked for good
        self._depth.open.pop(depth.stamp_ns, None)
        self.counters.paired += 1
        if colour.stamp_ns in self._waiting:
            self._join(colour.stamp_ns, self._waiting.pop(colour.stamp_ns), depth)
            return
        self._pairs.pop(colour.stamp_ns, None)
        self._pairs[colour.stamp_ns] = depth
        spare = [stamp_ns for stamp_ns in self._pairs if stamp_ns != self._begun]
        if len(spare) > MAX_PAIRS:
            del self._pairs[spare[0]]

    def _join(self, stamp_ns: int, result: Result, depth: _Token) -> None:
        self.counters.joined += 1
        self.counters.replaced += len(self._ready) == MAX_READY
        self._ready.append(Joined(stamp_ns, result, depth.data, depth.stamp_ns))

    def _drop(self, side: _Side, stamp_ns: int) -> None:
        """Give up a message that found no partner, and the result that waits for it."""
        del side.open[stamp_ns]
        if side is self._depth:
            self.counters.unmatched += 1
        elif stamp_ns in self._waiting:
            del self._waiting[stamp_ns]
            self.counters.without_depth += 1

    def _drop_open(self) -> None:
        for side in (self._colour, self._depth):
            for stamp_ns in tuple(side.open):
                self._drop(side, stamp_ns)


def _token(data: bytes, keep: bool) -> _Token:
    sec, nanosec = read_stamp(data)
    return _Token(_Header(Time(sec=sec, nanosec=nanosec)), sec * 1_000_000_000 + nanosec, data if keep else b"")


def _duration(time_ns: int) -> str:
    return f"{time_ns * 1e-6:.4g} ms" if time_ns < 10_000_000_000 else f"{time_ns * 1e-9:.4g} s"

"""What we use of the Python package message_filters, for where it is not installed. Same names, same behaviour.

Source: https://github.com/ros2/message_filters, its documented interface and its rules.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Time(NamedTuple):
    """The two fields of builtin_interfaces/Time."""

    sec: int
    nanosec: int


class SimpleFilter:
    """Hands every message on to those who registered."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Call ``cb`` with each message and then ``args``; return the number of the connection."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Pass a message, or a set of them, on."""
        for cb, args in tuple(self.callbacks.values()):
            cb(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription that is a filter.

    Args:
        args: the node, then what its ``create_subscription`` takes before the callback: type and topic.
        kwargs: for ``create_subscription``; ``qos_profile`` is 10 by default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node, self.topic = args[0], args[2]
        kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:], self.signalMessage, **kwargs)

    def getTopic(self) -> str:
        """Return the topic as it was given."""
        return str(self.topic)


class TimeSynchronizer(SimpleFilter):
    """Hands on sets of messages, one from each filter, whose stamps are equal.

    Callbacks are called under its lock, one set at a time: they must only hand over.

    Args:
        fs: the filters.
        queue_size: messages of each filter that may wait for others; those of the smallest stamps go first.
    """

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.Lock()
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[SimpleFilter]) -> None:
        """Listen to filters, with an empty queue for each."""
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.input_connections = [
            source.registerCallback(self.add, queue, index)
            for index, (source, queue) in enumerate(zip(fs, self.queues))
        ]

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int) -> None:
        """Take a message, and hand on the set that it completes."""
        stamp_ns = self._stamp_ns(msg)
        if stamp_ns is None:
            return
        with self.lock:
            my_queue[stamp_ns] = msg
            while len(my_queue) > self.queue_size:
                del my_queue[min(my_queue)]
            stamps = self._complete(stamp_ns, my_queue_index) if stamp_ns in my_queue else None
            if stamps is not None:
                self.signalMessage(*[queue.pop(stamp) for queue, stamp in zip(self.queues, stamps)])

    def _stamp_ns(self, msg: Any) -> int | None:
        stamp = msg.header.stamp
        return int(stamp.nanoseconds if hasattr(stamp, "nanoseconds") else stamp.sec * 1_000_000_000 + stamp.nanosec)

    def _complete(self, stamp_ns: int, index: int) -> Sequence[int] | None:
        """Return the stamps of the set that the new message completes, in the order of the filters."""
        return [stamp_ns] * len(self.queues) if all(stamp_ns in queue for queue in self.queues) else None


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """Hands on sets of messages, one from each filter, whose stamps lie less than ``slop`` seconds apart.

    A set is handed on as soon as there is one: of those that the new message completes, the one with the nearest
    stamps, the first filter's counting most. Its messages are used up.

    Args:
        fs, queue_size: as for TimeSynchronizer.
        slop: seconds.
        allow_headerless: messages without a header have the time of their arrival; else they are left out.
    """

    def __init__(
        self, fs: Sequence[SimpleFilter], queue_size: int, slop: float, allow_headerless: bool = False
    ) -> None:
        super().__init__(fs, queue_size)
        self.slop_ns = int(slop * 1e9)
        self.allow_headerless = allow_headerless

    def _stamp_ns(self, msg: Any) -> int | None:
        if hasattr(msg, "header") and hasattr(msg.header, "stamp"):
            return super()._stamp_ns(msg)
        return time.time_ns() if self.allow_headerless else None

    def _complete(self, stamp_ns: int, index: int) -> Sequence[int] | None:
        nearest = [
            [stamp_ns]
            if other == index
            else sorted((s for s in queue if abs(s - stamp_ns) <= self.slop_ns), key=lambda s: abs(s - stamp_ns))
            for other, queue in enumerate(self.queues)
        ]
        sets = itertools.product(*nearest)
        return next((stamps for stamps in sets if max(stamps) - min(stamps) < self.slop_ns), None)

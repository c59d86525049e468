"""Results meet the depth of their time in whatever order things come; what finds none is counted, and said why."""

from __future__ import annotations

import random
import struct
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from tests.ros.harness import own_graph
from x2sam_ros.errors import FrameError
from x2sam_ros.ros import depth_pairing
from x2sam_ros.ros.cdr import read_stamp
from x2sam_ros.ros.depth_pairing import DepthPairing

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
COLOUR, DEPTH = "/front/image_raw", "/front/depth"


def raw(stamp_ns: int, rest: bytes = b"", order: str = "<") -> bytes:
    head = b"\0\1\0\0" if order == "<" else b"\0\0\0\0"
    return head + struct.pack(order + "iI", *divmod(stamp_ns, 1_000_000_000)) + rest


def at(ms: float) -> int:
    return START_NS + round(ms * MS)


class Bench:
    """A pairing, and what it said."""

    def __init__(self, slop_ms: float = 20.0) -> None:
        self.woken = 0
        self.problems: list[str] = []
        self.pairing: DepthPairing[str] = DepthPairing(COLOUR, DEPTH, slop_ms, self.wake, self.problems.append)

    def wake(self) -> None:
        self.woken += 1

    def colour(self, ms: float) -> None:
        self.pairing.offer_colour(raw(at(ms)))

    def depth(self, ms: float) -> None:
        self.pairing.offer_depth(raw(at(ms), f"depth {ms:g}".encode()))

    def result(self, ms: float) -> None:
        self.pairing.result(at(ms), f"masks {ms:g}")

    def taken(self) -> list[tuple[str, str]]:
        return [(joined.result, joined.depth[12:].decode()) for joined in self.pairing.take_ready()]


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_the_stamp_is_read_without_decoding(kind: type) -> None:
    message: Any = kind()
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = 1_700_000_001, 23, "lens"
    assert read_stamp(serialize_message(message)) == (1_700_000_001, 23)
    assert read_stamp(raw(5_000_000_007, order=">")) == (5, 7)
    assert read_stamp(b"\0\7\0\0" + raw(5)[4:]) == (0, 5), "XCDR2"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "message of 0 bytes, beginning with none, is not CDR"),
        (raw(1)[:11], "message of 11 bytes, beginning 00010000, is not CDR"),
        (b"\7\7" + raw(1)[2:], "beginning 07070000, is not CDR"),
        (b"\0\1\0\0" + struct.pack("<iI", -1, 0), "stamp is -1 s and 0 ns, expected no negative time"),
        (b"\0\1\0\0" + struct.pack("<iI", 1, 2**32 - 1), "stamp is 1 s and 4294967295 ns"),
    ],
)
def test_damaged_depth_is_a_counted_problem(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        read_stamp(data)
    bench = Bench()
    bench.pairing.offer_depth(data)
    bench.pairing.offer_colour(data)
    assert (
        len(bench.problems) == 1 and reason in bench.problems[0] and bench.problems[0].startswith(f"depth on {DEPTH}")
    )
    assert (bench.pairing.counters.received, bench.pairing.counters.damaged) == (1, 1)
    bench.colour(0)
    bench.depth(0)
    bench.result(0)
    assert bench.taken() == [("masks 0", "depth 0")]


@pytest.mark.parametrize("order", ["cdr", "dcr", "crd"])
def test_whichever_comes_last_joins(order: str) -> None:
    bench = Bench()
    for step in order:
        assert bench.taken() == []
        {"c": bench.colour, "d": bench.depth, "r": bench.result}[step](15.0 if step == "d" else 0.0)
    assert bench.taken() == [("masks 0", "depth 15")] and bench.taken() == []
    assert bench.woken == order.endswith("d"), "the worker knows by itself what it brought itself"


@pytest.mark.parametrize(("slop_ms", "off_ms", "fits"), [(20, 20, True), (20, 20.000001, False), (0, 0, True)])
def test_slop_is_the_largest_difference(slop_ms: float, off_ms: float, fits: bool) -> None:
    bench = Bench(slop_ms)
    bench.colour(0)
    bench.depth(-off_ms)
    bench.result(0)
    assert len(bench.taken()) == fits


def test_the_image_at_hand_keeps_its_depth_however_long_it_takes() -> None:
    bench = Bench()
    for ms in range(0, 33_000, 33):
        bench.colour(ms)
        bench.depth(ms)
        if ms == 33:
            bench.pairing.begin(at(33))
    bench.result(33)
    bench.result(66)
    assert bench.taken() == [("masks 33", "depth 33")], "others are not kept: memory is bounded"
    assert bench.pairing.counters.without_depth == 1


def test_of_many_joins_the_newest_wait_for_the_worker() -> None:
    bench = Bench()
    for ms in range(0, 800, 100):
        bench.colour(ms)
        bench.depth(ms)
        bench.result(ms)
    assert [result for result, _ in bench.taken()] == ["masks 400", "masks 500", "masks 600", "masks 700"]
    assert (bench.pairing.counters.joined, bench.pairing.counters.replaced) == (8, 4)


@pytest.mark.parametrize("back_ms", [60_000, 1_700_000_000_000])
def test_a_clock_that_is_set_back_does_not_stop_the_pairing(back_ms: int) -> None:
    bench = Bench()
    for ms in range(0, 1_000, 33):
        bench.colour(ms)
        bench.depth(ms + 400)  # nothing matches: the queues are full of what looks newer than all that follows
        bench.result(ms)
    for ms in range(-back_ms, 330 - back_ms, 33):
        bench.colour(ms)
        bench.depth(ms + 1)
        bench.result(ms)
    assert bench.pairing.counters.joined >= 9 and len(bench.taken()) == 4
    assert bench.pairing.counters.without_depth <= 32


def run(
    bench: Bench, *, period_ms: float, depth_period_ms: float | None, off_ms: float, count: int = 130
) -> str | None:
    """Send images that are answered at once, and depth whose clock is off."""
    events = [(number * period_ms, "c") for number in range(count)]
    if depth_period_ms is not None:
        depths = int(count * period_ms / depth_period_ms)
        events += [(number * depth_period_ms, "d") for number in range(depths)]
    for ms, kind in sorted(events):
        if kind == "c":
            bench.colour(ms)
            bench.result(ms)
        else:
            bench.depth(ms + off_ms)
    return bench.pairing.warning()


def test_depth_that_is_off_is_said_with_how_much() -> None:
    assert run(Bench(), period_ms=100, depth_period_ms=100, off_ms=45) == (
        "depth of /front/depth is 45 ms off the images of /front/image_raw, more than depth_slop_ms 20: 120 of 120 "
        "images have no depth; check that the camera's depth and colour are synchronised"
    )
    said = run(Bench(), period_ms=33, depth_period_ms=33, off_ms=-3_600_000)
    assert said is not None and " is 3600 s off " in said


def test_depth_that_is_missing_seldom_damaged_or_unstamped_is_said() -> None:
    said = run(Bench(), period_ms=33, depth_period_ms=None, off_ms=0)
    assert said is not None and said.startswith(
        "no usable depth came on /front/depth: 120 of 120 images have no depth;"
    )
    said = run(Bench(), period_ms=33, depth_period_ms=330, off_ms=0)
    assert said is not None and "comes too seldom or too late: 10" in said and ", 13 depth images came" in said
    bench = Bench()
    for ms in range(0, 1_000, 33):
        bench.colour(ms)
        bench.result(ms)
        bench.pairing.offer_depth(raw(0))
    said = bench.pairing.warning()
    assert said is not None and "has stamps of zero: 21 of 21 images" in said


def test_nothing_is_said_where_most_results_have_depth() -> None:
    assert run(Bench(), period_ms=33, depth_period_ms=33, off_ms=10) is None
    assert run(Bench(), period_ms=33, depth_period_ms=66, off_ms=0) is None, "half of them have"
    bench = Bench()
    assert bench.pairing.warning() is None, "nothing came"
    said = run(bench, period_ms=33, depth_period_ms=None, off_ms=0)
    assert said is not None and bench.pairing.warning() == said, "it holds until there are results again"
    for ms in range(10_000, 11_000, 33):
        bench.colour(ms)
        bench.depth(ms)
        bench.result(ms)
    assert bench.pairing.warning() is None, "it is well by now, but for those that waited"


steps = st.lists(st.tuples(st.sampled_from("cdrbt"), st.integers(0, 60)), max_size=120)


@settings(max_examples=300, deadline=None)
@given(steps=steps, slop_ms=st.sampled_from([0, 3, 12]), spacing_ms=st.sampled_from([1, 10, 700]))
def test_every_result_and_every_depth_has_one_fate(steps: list[tuple[str, int]], slop_ms: int, spacing_ms: int) -> None:
    """Any order, doubles and jumps back included."""
    bench = Bench(slop_ms)
    pairing, counters, results, used = bench.pairing, bench.pairing.counters, 0, []
    for kind, number in steps:
        ms = number * spacing_ms
        if kind == "c":
            bench.colour(ms)
        elif kind == "d":
            pairing.offer_depth(raw(at(ms), struct.pack("<I", counters.received)))
        elif kind == "b":
            pairing.begin(at(ms))
        elif kind == "r":
            bench.result(ms)
            results += 1
        else:
            for joined in pairing.take_ready():
                assert joined.result == f"masks {(joined.stamp_ns - START_NS) // MS:g}"
                assert abs(joined.stamp_ns - joined.depth_stamp_ns) <= slop_ms * MS
                assert read_stamp(joined.depth) == divmod(joined.depth_stamp_ns, 1_000_000_000)
                used.append(joined.depth[12:])
        assert results == counters.joined + counters.without_depth + len(pairing._waiting)
        assert counters.received == counters.paired + counters.unmatched + len(pairing._depth.open)
        assert len(pairing._waiting) <= 10 and len(pairing._pairs) <= 5 and len(pairing._ready) <= 4
    assert len(set(used)) == len(used), "a depth image belongs to one result"


def test_threads_lose_nothing_and_a_wake_may_ask_at_once() -> None:
    got: list[Any] = []
    pairing: DepthPairing[int] = DepthPairing(COLOUR, DEPTH, 5.0, lambda: got.extend(pairing.take_ready()))
    count, begin = 1_500, threading.Barrier(3)
    turns = [threading.Semaphore(0) for _ in range(2)]  # depth and results follow images, but not each other
    room = threading.Semaphore(2)

    def colour() -> None:
        begin.wait(10)
        for number in range(count):
            room.acquire()
            room.acquire()
            pairing.offer_colour(raw(at(number * 10)))
            for turn in turns:
                turn.release()

    def follow(turn: threading.Semaphore, bring: Any) -> None:
        begin.wait(10)
        for number in range(count):
            turn.acquire()
            bring(number)
            room.release()

    bringers = (
        lambda number: pairing.offer_depth(raw(at(number * 10 + 2))),
        lambda number: (pairing.result(at(number * 10), number), got.extend(pairing.take_ready())),
    )
    threads = [threading.Thread(target=colour)]
    threads += [threading.Thread(target=follow, args=pair) for pair in zip(turns, bringers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(joined.result for joined in got) == list(range(count))
    assert pairing.counters.unmatched == pairing.counters.without_depth == pairing.counters.replaced == 0


def test_over_dds_every_answered_image_gets_its_own_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw bytes of a jittered camera that loses one message in six of each kind; depth comes three images late."""
    rng = random.Random(11)
    with own_graph(monkeypatch) as client:
        pairing: DepthPairing[str] = DepthPairing("/rgb", "/depth", 12.0)
        seen: list[int] = []

        def on_colour(data: bytes) -> None:
            pairing.offer_colour(data)
            sec, nanosec = read_stamp(data)
            seen.append(sec * 1_000_000_000 + nanosec)

        client.create_subscription(Image, "/rgb", on_colour, 100, raw=True)
        client.create_subscription(Image, "/depth", pairing.offer_depth, 100, raw=True)
        publishers = [client.create_publisher(Image, topic, 100) for topic in ("/rgb", "/depth")]
        client.wait(lambda: all(publisher.get_subscription_count() for publisher in publishers))
        kept = [{number for number in range(60) if rng.random() > 1 / 6} for _ in publishers]
        joined: dict[str, str] = {}
        for number in range(75):
            for publisher, sent, numbers in zip(publishers, (number, number - 3), kept):
                if sent in numbers:
                    stamp_ns = at(33 * sent + rng.uniform(-3, 3))
                    image = Image(height=1, width=1, encoding="16UC1", step=2, data=[sent, 0])
                    image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
                    publisher.publish(image)
            client.rest(0.004)
            while seen:  # as the worker would answer, each image at once
                stamp_ns = seen.pop(0)
                pairing.result(stamp_ns, str(round((stamp_ns - START_NS) / MS / 33)))
            for item in pairing.take_ready():
                joined[item.result] = str(deserialize_message(item.depth, Image).data[0])
    both = kept[0] & kept[1]
    assert joined == {str(number): str(number) for number in both}
    counters = pairing.counters
    assert (counters.received, counters.paired, counters.joined) == (len(kept[1]), len(both), len(both))
    left = len(pairing._waiting)
    assert counters.without_depth + left == len(kept[0] - kept[1]) and left <= depth_pairing.QUEUE_SIZE

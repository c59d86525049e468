"""Sets of messages by their stamps: ours and, where it is installed, the real message_filters, against brute force."""

from __future__ import annotations

import importlib.util
import itertools
import random
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from tests.ros.harness import own_graph
from x2sam_ros.ros import message_filters as ours

MS = 1_000_000


def implementations() -> list[Any]:
    real = importlib.util.find_spec("message_filters")
    if real is None:
        skip = pytest.mark.skip("message_filters is not installed")
        return [pytest.param(ours, id="ours"), pytest.param(None, id="real", marks=skip)]
    return [pytest.param(ours, id="ours"), pytest.param(importlib.import_module("message_filters"), id="real")]


both = pytest.mark.parametrize("filters", implementations())


def message(stamp_ns: int, name: Any = None) -> Any:
    stamp = Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=name)


def collect(synchronizer: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    synchronizer.registerCallback(lambda *messages: found.append(tuple(item.name for item in messages)))
    return found


def brute_force(
    events: list[tuple[int, int]], count: int, size: int, slop_ns: int | None
) -> list[tuple[tuple[int, int, int], ...]]:
    """Try every combination after every message; (filter, number of the event, stamp) for each message of a set."""
    queues: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    found = []
    for number, (index, stamp) in enumerate(events):
        new = (index, number, stamp)
        place = next((place for place, old in enumerate(queues[index]) if old[2] == stamp), len(queues[index]))
        queues[index][place : place + 1] = [new]
        while len(queues[index]) > size:
            queues[index].remove(min(queues[index], key=lambda item: item[2]))
        sets = []
        for chosen in itertools.product(*queues):
            stamps = [item[2] for item in chosen]
            spread = max(stamps) - min(stamps)
            if new in chosen and (spread == 0 if slop_ns is None else spread < slop_ns):
                places = [queue.index(item) for queue, item in zip(queues, chosen)]
                sets.append(([(abs(item - stamp), place) for item, place in zip(stamps, places)], chosen))
        if sets:
            best = min(sets)[1]
            found.append(best)
            for queue, item in zip(queues, best):
                queue.remove(item)
    return found


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Messages of two or three filters: any stamps, equal ones and ones out of order."""
    count = draw(st.integers(2, 3))
    top = draw(st.sampled_from([5, 40, 400]))
    event = st.tuples(st.integers(0, count - 1), st.integers(0, top).map(lambda stamp: stamp * MS))
    return count, draw(st.lists(event, max_size=25))


@both
@settings(max_examples=300, deadline=None)
@given(stream=streams(), size=st.integers(1, 6), slop_ms=st.sampled_from([0, 1, 3, 20, 500]))
def test_approximate_sets_are_those_of_brute_force(
    filters: ModuleType, stream: tuple[int, list[tuple[int, int]]], size: int, slop_ms: int
) -> None:
    count, events = stream
    sources = [filters.SimpleFilter() for _ in range(count)]
    synchronizer = filters.ApproximateTimeSynchronizer(sources, size, slop_ms * 1e-3)
    found = collect(synchronizer)
    for number, (index, stamp) in enumerate(events):
        sources[index].signalMessage(message(stamp, (index, number, stamp)))
        assert all(len(queue) <= size for queue in synchronizer.queues)
    assert found == brute_force(events, count, size, slop_ms * MS)


@both
@settings(max_examples=150, deadline=None)
@given(stream=streams(), size=st.integers(1, 6))
def test_exact_sets_are_those_of_brute_force(
    filters: ModuleType, stream: tuple[int, list[tuple[int, int]]], size: int
) -> None:
    count, events = stream
    sources = [filters.SimpleFilter() for _ in range(count)]
    found = collect(filters.TimeSynchronizer(sources, size))
    for number, (index, stamp) in enumerate(events):
        sources[index].signalMessage(message(stamp, (index, number, stamp)))
    assert found == brute_force(events, count, size, None)


@both
def test_a_filter_hands_on_with_what_was_registered(filters: ModuleType) -> None:
    source, heard = filters.SimpleFilter(), []
    assert [source.registerCallback(lambda *got: heard.append(got), *extra) for extra in ((), ("x", 2))] == [0, 1]
    source.signalMessage("a", "b")
    assert heard == [("a", "b"), ("a", "b", "x", 2)]


@both
def test_messages_without_a_header_count_by_their_arrival_only_where_allowed(filters: ModuleType) -> None:
    for allowed in (False, True):
        sources = [filters.SimpleFilter(), filters.SimpleFilter()]
        found = collect(filters.ApproximateTimeSynchronizer(sources, 5, 10.0, allow_headerless=allowed))
        for index, source in enumerate(sources):
            source.signalMessage(SimpleNamespace(name=index))
        assert found == ([(0, 1)] if allowed else [])


def test_a_callback_that_raises_leaves_ours_usable() -> None:
    sources = [ours.SimpleFilter(), ours.SimpleFilter()]
    synchronizer = ours.TimeSynchronizer(sources, 5)
    synchronizer.registerCallback(lambda *_: 1 / 0)
    sources[0].signalMessage(message(1))
    with pytest.raises(ZeroDivisionError):
        sources[1].signalMessage(message(1))
    assert not synchronizer.lock.locked() and not any(synchronizer.queues)


@both
def test_threads_that_bring_messages_at_once_lose_none(filters: ModuleType) -> None:
    sources = [filters.SimpleFilter(), filters.SimpleFilter()]
    found = collect(filters.ApproximateTimeSynchronizer(sources, 1_000, 0.002))
    begin = threading.Barrier(2)

    def bring(index: int) -> None:
        begin.wait(10)
        for number in range(500):
            sources[index].signalMessage(message(number * 10 * MS + index * MS, number))

    threads = [threading.Thread(target=bring, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(number, number) for number in range(500)]


@both
def test_images_and_depth_meet_over_dds(filters: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jittered stamps, one in five lost on each side, late depth: every image that has depth gets its own."""
    rng = random.Random(5)
    with own_graph(monkeypatch) as client:
        topics = ("/rgb/image", "/depth/image")
        publishers = [client.create_publisher(Image, topic, 100) for topic in topics]
        subscribers = [
            filters.Subscriber(client, Image, topics[0], qos_profile=100),
            filters.Subscriber(client, Image, topics[1], qos_profile=100),
        ]
        found: list[tuple[str, str]] = []
        synchronizer = filters.ApproximateTimeSynchronizer(subscribers, 10, 0.015)
        synchronizer.registerCallback(lambda *pair: found.append(tuple(item.header.frame_id for item in pair)))
        client.wait(lambda: all(publisher.get_subscription_count() for publisher in publishers))
        assert [subscriber.getTopic() for subscriber in subscribers] == list(topics)
        kept: list[set[int]] = [{n for n in range(60) if rng.random() > 0.2} for _ in topics]
        for number in range(60 + 3):
            for index, late in ((0, 0), (1, 3)):
                if (sent := number - late) in kept[index]:
                    stamp = message((1 + sent) * 33 * MS + rng.randint(-3, 3) * MS).header.stamp
                    image = Image()
                    image.header.stamp, image.header.frame_id = stamp, str(sent)
                    publishers[index].publish(image)
            client.spinner.spin_once(timeout_sec=0.002)
        expected = {(str(number), str(number)) for number in kept[0] & kept[1]}
        client.wait(lambda: len(found) >= len(expected))
    assert set(found) == expected and len(found) == len(expected)

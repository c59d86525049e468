"""Whose turn it is: nobody starves, nobody is behind another twice, and every frame is counted, in whatever order."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from x2sam_ros.ros.frame_slots import FrameSlots


def test_the_newest_frame_of_each_camera_waits() -> None:
    slots: FrameSlots[int] = FrameSlots(["a", "b"])
    assert slots.take() is None and len(slots) == 0
    for number in range(3):
        slots.put("a", number)
    slots.put("b", 10)
    assert len(slots) == 2
    assert [slots.take(), slots.take(), slots.take()] == [("a", 2), ("b", 10), None]
    assert (slots.counters["a"].received, slots.counters["a"].replaced, slots.counters["b"].dropped) == (3, 2, 0)
    with pytest.raises(KeyError):
        slots.put("c", 0)


def test_a_newer_frame_keeps_the_place_of_the_one_it_replaces() -> None:
    slots: FrameSlots[str] = FrameSlots(["a", "b", "c"])
    for camera in "cba":
        slots.put(camera, "old")
    slots.put("a", "new")
    assert [slots.take(), slots.take()] == [("a", "new"), ("b", "old")]
    slots.put("a", "next")
    slots.put("b", "next")
    assert [slots.take() for _ in range(3)] == [("c", "old"), ("a", "next"), ("b", "next")]


def test_a_slow_camera_is_next_after_the_frame_at_hand_of_a_fast_one() -> None:
    slots: FrameSlots[int] = FrameSlots(["fast", "slow"])
    for round_ in range(50):
        slots.put("fast", round_)
        assert slots.take() == ("fast", round_)
        slots.put("slow", round_)
        for number in range(100):
            slots.put("fast", number)
        assert slots.take() == ("slow", round_)
        assert slots.take() == ("fast", 99)


@pytest.mark.parametrize("seed", range(100))
def test_a_waiting_camera_is_overtaken_by_each_other_one_at_most_once(seed: int) -> None:
    """Any interleaving of arrivals and takes, at rates that differ up to a hundredfold."""
    rng = random.Random(seed)
    cameras = [f"camera {number}" for number in range(rng.randint(1, 6))]
    rates = [10 ** rng.uniform(0, 2) for _ in cameras]
    slots: FrameSlots[int] = FrameSlots(cameras)
    overtaken: dict[str, Counter[str]] = {}
    taken = Counter[str]()
    number = 0
    for _ in range(400):
        if rng.random() < rng.choice((0.3, 0.7)):
            camera = rng.choices(cameras, rates)[0]
            number += 1
            slots.put(camera, number)
            overtaken.setdefault(camera, Counter())
        elif (served := slots.take()) is not None:
            overtaken.pop(served[0])
            taken[served[0]] += 1
            for others in overtaken.values():
                others[served[0]] += 1
                assert others[served[0]] == 1
                assert others.total() < len(cameras)
    assert len(slots) == len(overtaken)
    for camera in cameras:
        counters = slots.counters[camera]
        assert counters.received == taken[camera] + counters.replaced + (camera in overtaken)


def test_all_cameras_get_the_same_share_when_all_always_wait() -> None:
    slots: FrameSlots[int] = FrameSlots("abcde")
    taken = Counter[str]()
    for turn in range(500):
        for camera in "abcde":
            slots.put(camera, turn)
        served = slots.take()
        assert served is not None
        taken[served[0]] += 1
    assert set(taken.values()) == {100}


def test_threads_that_offer_at_once_lose_no_count() -> None:
    slots: FrameSlots[int] = FrameSlots("abcd")
    begin = threading.Barrier(5)
    taken = Counter[str]()

    def offer(camera: str) -> None:
        begin.wait(10)
        for number in range(2_000):
            slots.put(camera, number)

    threads = [threading.Thread(target=offer, args=(camera,)) for camera in "abcd"]
    for thread in threads:
        thread.start()
    begin.wait(10)
    while any(thread.is_alive() for thread in threads) or len(slots):
        if (served := slots.take()) is not None:
            taken[served[0]] += 1
    for camera in "abcd":
        assert slots.counters[camera].received == 2_000 == taken[camera] + slots.counters[camera].replaced

"""The ring of newest frames: bounds, search by stamp, what came since."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.unit.engine.sessions import click, run, session
from tests.unit.model.networks import FRAME_PERIOD_NS, frames
from x2sam_ros.engine.frame_buffer import FrameBuffer


def test_it_keeps_the_newest_within_both_bounds() -> None:
    stream = frames(6)
    size = stream[0].image.nbytes
    by_count, by_bytes, tiny = FrameBuffer(3, 1 << 30), FrameBuffer(100, 2 * size + 1), FrameBuffer(100, 1)
    for frame in stream:
        for buffer in (by_count, by_bytes, tiny):
            buffer.add(frame)
    assert [len(buffer) for buffer in (by_count, by_bytes, tiny)] == [3, 2, 1], "the newest always stays"
    assert by_count.nbytes == 3 * size and by_count.newest is not None and by_count.newest.frame is stream[-1]
    by_count.newest.masks = {1: torch.zeros(8, 8, dtype=torch.bool)}
    assert by_count.nbytes == 3 * size + 64
    by_count.clear()
    assert len(by_count) == 0 and by_count.newest is None and by_count.span_ns() is None


@pytest.mark.parametrize(
    ("offset_ns", "tolerance_ns", "expected"),
    [
        (0, 0, 2),
        (FRAME_PERIOD_NS // 3, FRAME_PERIOD_NS, 2),
        (FRAME_PERIOD_NS // 2, FRAME_PERIOD_NS, 3),
        (FRAME_PERIOD_NS // 3, 10, None),
        (-9 * FRAME_PERIOD_NS, 7 * FRAME_PERIOD_NS, 0),
        (-9 * FRAME_PERIOD_NS, 7 * FRAME_PERIOD_NS - 1, None),
    ],
)
def test_find_returns_the_nearest_within_the_tolerance(offset_ns: int, tolerance_ns: int, expected: int | None) -> None:
    stream, buffer = frames(5), FrameBuffer(10, 1 << 30)
    kept = [buffer.add(frame) for frame in stream]
    found = buffer.find(stream[2].stamp_ns + offset_ns, tolerance_ns)
    assert found is (None if expected is None else kept[expected])


def test_since_goes_by_arrival_not_by_index() -> None:
    buffer, frame = FrameBuffer(10, 1 << 30), frames(1)[0]
    kept = [buffer.add(frame) for _ in range(4)]
    assert buffer.since(kept[1]) == tuple(kept[2:]) and buffer.since(kept[3]) == ()
    buffer.discard(kept[3])
    assert buffer.newest is kept[2]
    buffer.discard(kept[3])
    assert len(buffer) == 3


def test_threads_may_search_while_frames_arrive() -> None:
    stream, buffer, failures = frames(8), FrameBuffer(4, 1 << 30), list[Exception]()
    buffer.add(stream[0])
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                found = buffer.find(stream[5].stamp_ns, 1 << 60)
                assert found is not None and len(buffer.since(found)) <= 4
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(200):
        for frame in stream:
            buffer.add(frame)
    done.set()
    thread.join()
    assert not failures and len(buffer) == 4


def test_a_session_holds_no_more_frames_than_it_may() -> None:
    live = session(buffer_frames=4)
    run(live, frames(9), {0: [click()]})
    assert len(live._buffer) == 4
    held = live._buffer.nbytes
    assert 4 * frames(1)[0].image.nbytes < held < 4 * frames(1)[0].image.nbytes + 4 * 2_000, "pictures and masks"
    live.reset()
    assert len(live._buffer) == 0

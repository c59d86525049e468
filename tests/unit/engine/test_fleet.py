"""What sessions of several cameras share: ids that no two targets have, and one language pass at a time on a CPU."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import classes, click, only, run, same, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.fleet import MAX_TARGET_ID, Fleet, TargetIds, Turns
from x2sam_ros.engine.language_lane import LanguageLane, limit_threads
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import SavedSessionError
from x2sam_ros.types import GroundingStatus

PATIENCE_S = 60.0
CONFIG = EngineConfig(score_threshold=0.0)


class Holder:
    """Has the targets it is told to have."""

    def __init__(self, *target_ids: int) -> None:
        self.target_ids = target_ids


def two(**options: Any) -> tuple[Session, Session]:
    fleet = Fleet()
    config = EngineConfig(**{"score_threshold": 0.0, **options})
    return Session(nano(), config, fleet=fleet), Session(nano(), config, fleet=fleet)


def test_ids_go_round_and_leave_out_those_that_anybody_has() -> None:
    ids, one, other = TargetIds(), Holder(1, 3), Holder(2, MAX_TARGET_ID)
    ids.join(one)
    ids.join(other)
    assert [ids.take(), ids.take()] == [4, 5]
    ids.next = MAX_TARGET_ID - 1
    assert [ids.take(), ids.take()] == [MAX_TARGET_ID - 1, 4], "the last one is taken, numbering starts again"
    ids.restart()
    assert ids.next == 5, "somebody has a target"
    one.target_ids = other.target_ids = ()
    ids.restart()
    assert ids.take() == 1


def test_there_is_no_id_when_all_are_taken_and_one_that_is_gone_holds_none() -> None:
    ids, holder = TargetIds(), Holder(*range(1, MAX_TARGET_ID + 1))
    ids.join(holder)
    assert ids.take() is None
    del holder
    gc.collect()
    assert ids.take() == 1


def test_targets_of_two_sessions_never_have_the_same_id() -> None:
    left, right = two()
    stream = frames(6)
    seen: list[set[int]] = []
    for index, frame in enumerate(stream):
        for live, name in ((left, "left"), (right, "right")):
            live.submit(click(f"{name} {index}", 20 + 10 * index, 30))
            live.step(frame)
        if index == 2:
            left.remove(left.target_ids[0])
        assert not set(left.target_ids) & set(right.target_ids)
        seen.append({*left.target_ids, *right.target_ids})
    assert max(seen[-1]) == 12 and len(seen[-1]) == 11


def test_sharing_numbers_changes_no_mask() -> None:
    stream = frames(4)
    alone = run(session(), stream, {0: [click(), text()]})
    left, right = two()
    right.submit(classes("other"))
    right.step(stream[0])
    shared = run(left, stream, {0: [click(), text()]})
    taken = set(right.target_ids)
    for a, b in zip(alone, shared):
        assert np.array_equal(a.masks, b.masks) and np.array_equal(a.scores, b.scores)
        assert not taken & set(b.target_ids.tolist())


def test_a_reset_starts_at_1_only_when_no_session_has_a_target() -> None:
    left, right = two()
    stream = frames(3)
    run(left, stream[:1], {0: [click()]})
    run(right, stream[:1], {0: [click()]})
    left.reset()
    assert only(run(left, stream[1:2], {0: [click()]})[0]).target_ids == (3,)
    left.reset()
    right.reset()
    assert only(run(right, stream[2:], {0: [click()]})[0]).target_ids == (1,)


def test_saved_sessions_of_two_cameras_are_loaded_together_unless_their_ids_meet(tmp_path: Path) -> None:
    left, right = two()
    stream = frames(3)
    for live, name in ((left, "left"), (right, "right")):
        run(live, stream[:2], {0: [click()]})
        live.save(tmp_path / name)
    fleet = Fleet()
    again = [Session.load(tmp_path / name, nano(), CONFIG, fleet=fleet) for name in ("left", "right")]
    assert [live.target_ids for live in again] == [(1,), (2,)]
    assert same(again[0].step(replace(stream[2], frame_index=0)), left.step(stream[2]))
    last = replace(frames(4)[3], frame_index=1)
    assert only(run(again[0], [last], {0: [click("new")]})[0]).target_ids == (3,)
    with pytest.raises(SavedSessionError, match="has target 2, as another camera has"):
        Session.load(tmp_path / "right", nano(), CONFIG, fleet=fleet)


def test_turns_come_in_the_order_of_asking_and_never_two_at_once() -> None:
    turns, order, working, most = Turns(), [], [], []

    def work(number: int) -> None:
        with turns.turn(given_up=lambda: False):
            working.append(number)
            most.append(len(working))
            order.append(number)
            time.sleep(0.001)
            working.remove(number)

    release = threading.Event()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with turns.turn(given_up=release.is_set):
        for count, thread in enumerate(threads, start=2):
            thread.start()
            while len(turns._line) < count:
                time.sleep(0.0005)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == list(range(8)) and set(most) == {1} and not turns.is_taken


def test_a_turn_that_is_not_wanted_any_more_is_given_up() -> None:
    turns, unwanted, ended = Turns(), threading.Event(), threading.Event()

    def wait() -> None:
        with turns.turn(given_up=unwanted.is_set):
            ended.set()

    with turns.turn(given_up=lambda: False):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not ended.wait(0.05)
        unwanted.set()
        turns.recall()
        assert ended.wait(PATIENCE_S)
        thread.join(PATIENCE_S)
        assert turns.is_taken, "the other one goes on"
    assert not turns.is_taken


def test_busy_lanes_work_one_at_a_time_and_frames_give_up_the_threads_of_one() -> None:
    before, release, began = torch.get_num_threads(), threading.Event(), threading.Event()
    at_once, most, lane_threads = [], [], []

    def work(jobs: Any) -> list[Any]:
        at_once.append(1)
        most.append(len(at_once))
        lane_threads.append(torch.get_num_threads())
        began.set()
        release.wait(PATIENCE_S)
        at_once.pop()
        return []

    torch.set_num_threads(4)
    turns = Turns()
    lanes = [LanguageLane(work, torch.device("cpu"), CONFIG, turns) for _ in range(4)]
    try:
        lanes[0].put([])
        assert began.wait(PATIENCE_S)
        for lane in lanes[1:-1]:
            with lane.sharing():
                assert torch.get_num_threads() == 3, "it gives up threads for the other camera's prompt"
                lane.put([])
        with lanes[-1].sharing():
            assert torch.get_num_threads() == 3, "one lane's, although three have something to do"
            assert not lanes[-1].is_busy
        release.set()
        assert all(lane.wait(PATIENCE_S) for lane in lanes)
        assert set(most) == {1} and lane_threads == [1, 1, 1]
        born: list[int] = []
        later = threading.Thread(target=lambda: born.append(torch.get_num_threads()))
        later.start()
        later.join(PATIENCE_S)
        assert born == [4], "threads that begin later have all of them"
        with lanes[0].sharing():
            assert torch.get_num_threads() == 4
    finally:
        release.set()
        for lane in lanes:
            lane.close()
        torch.set_num_threads(before)


def test_threads_that_limit_themselves_at_once_leave_the_others_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(4) as limited, ThreadPoolExecutor(1) as later:
            list(limited.map(lambda _: limit_threads(1, 4), range(40)))
            assert set(limited.map(lambda _: torch.get_num_threads(), range(40))) == {1}
            assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


def test_a_session_is_closed_while_it_waits_for_its_turn() -> None:
    stream = frames(2)
    fleet = Fleet()
    config = EngineConfig(score_threshold=0.0, language_lane="beside")
    with Session(nano(), config, fleet=fleet) as live, fleet.turns.turn(given_up=lambda: False):
        live.submit(text())
        assert live.step(stream[0]).groundings == ()
        assert not live.wait(0.05)
        started_s = time.monotonic()
        live.close()
        assert time.monotonic() - started_s < 2.0
    assert live.step(stream[1]).groundings == () and live.target_ids == ()


def test_prompts_beside_are_answered_for_every_session_of_a_fleet() -> None:
    stream, fleet = frames(3), Fleet()
    config = EngineConfig(score_threshold=0.0, language_lane="beside")
    lives = [Session(nano(), config, fleet=fleet) for _ in range(3)]
    try:
        for live in lives:
            live.submit(text())
            live.step(stream[0])
        assert all(live.wait(PATIENCE_S) for live in lives)
        found = [only(live.step(stream[1])) for live in lives]
        assert all(grounding.status is GroundingStatus.OK for grounding in found)
        assert sorted(i for live in lives for i in live.target_ids) == [1, 2, 3]
    finally:
        for live in lives:
            live.close()

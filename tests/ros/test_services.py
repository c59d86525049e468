"""Every service as its clients meet it: what it does, what it refuses in which state, and that no reply is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from std_srvs.srv import SetBool, Trigger

from tests.ros.served import CAMERA, INACTIVE, Caller, Served, jammed_once, own_domain, served
from tests.ros.threshold_session import ThresholdSession
from x2sam_ros.msg import Prompt, Target
from x2sam_ros.srv import ListTargets, SessionFile, SetPrompt


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Caller]]:
    with served(monkeypatch) as made:
        yield made


def add(node: Served, caller: Caller, text: str = "the red square", camera: str = CAMERA) -> int:
    """Add a target and return its id."""
    made = caller.client(SetPrompt, "set_prompt")
    answer = made.call_async(SetPrompt.Request(prompt=Prompt(text=text, camera=camera)))
    caller.rest(0.2)
    node.send(camera)
    caller.wait(answer.done)
    assert answer.result().success, answer.result().message
    return int(answer.result().target_ids[0])


def listed(caller: Caller, camera: str = "") -> dict[str, list[int]]:
    response = caller.ask(ListTargets, "list_targets", camera=camera)
    assert response.success, response.message
    return {item.camera: [target.target_id for target in item.targets] for item in response.cameras}


def test_a_prompt_is_answered_when_it_is_carried_out(both: tuple[Served, Caller]) -> None:
    node, caller = both
    assert add(node, caller) == 1
    away = caller.ask(SetPrompt, "set_prompt", prompt=Prompt(action=Prompt.ACTION_REMOVE, target_id=1))
    assert away.success and list(away.target_ids) == [1]
    wrong = caller.ask(SetPrompt, "set_prompt", prompt=Prompt(action=Prompt.ACTION_REMOVE, target_id=77))
    assert not wrong.success and "77" in wrong.message
    made = caller.client(SetPrompt, "set_prompt")
    absent = made.call_async(SetPrompt.Request(prompt=Prompt(text="the pink square")))
    caller.rest(0.2)
    node.send()
    caller.wait(absent.done)
    assert not absent.result().success and absent.result().message == "nothing in the image fits the prompt"


def test_targets_are_listed_by_camera_with_the_newest_images_header(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = {"/front/image": ThresholdSession(), "/rear/image": ThresholdSession()}
    with served(monkeypatch, sessions) as (node, caller):
        assert listed(caller) == {"/front/image": [], "/rear/image": []}
        add(node, caller, camera="/rear/image")
        response = caller.ask(ListTargets, "list_targets")
        front, rear = response.cameras
        assert front.header.stamp.sec == 0 and not front.targets
        assert (rear.header.stamp.sec, rear.header.frame_id) == (node.sent, "optical")
        target = rear.targets[0]
        assert (target.target_id, target.label, target.prompt_id) == (1, "the red square", "prompt-1")
        assert target.state == Target().state + 1 and target.last_seen.sec == node.sent
        assert list(listed(caller, "/rear/image")) == ["/rear/image"]
        wrong = caller.ask(ListTargets, "list_targets", camera="/side/image")
        assert not wrong.success and "/front/image, /rear/image" in wrong.message and not wrong.cameras


def test_a_reset_forgets_all_and_answers_who_waits(both: tuple[Served, Caller]) -> None:
    node, caller = both
    add(node, caller)
    waits = caller.client(SetPrompt, "set_prompt").call_async(SetPrompt.Request(prompt=Prompt(text="the blue square")))
    caller.rest(0.2)
    assert caller.ask(Trigger, "reset").success
    caller.wait(waits.done)
    assert not waits.result().success and "a reset came" in waits.result().message
    assert listed(caller) == {CAMERA: []}


def test_disabled_frames_are_counted_prompts_rejected_and_targets_kept(both: tuple[Served, Caller]) -> None:
    node, caller = both
    add(node, caller)
    waits = caller.client(SetPrompt, "set_prompt").call_async(SetPrompt.Request(prompt=Prompt(text="the blue square")))
    caller.rest(0.2)
    assert caller.ask(SetBool, "enable", data=False).success
    caller.wait(waits.done)
    counters, answered = node.worker.counters[CAMERA], len(node.results)
    for _ in range(4):
        node.send()
    caller.rest(0.2)
    refused = caller.ask(SetPrompt, "set_prompt", prompt=Prompt(text="the red square"))
    for response in (waits.result(), refused):
        assert not response.success and "ros2 service call /served/enable std_srvs/srv/SetBool" in response.message
    assert len(node.results) == answered and counters.received == answered + 4 and counters.replaced == 3
    assert listed(caller) == {CAMERA: [1]} and not node.worker.enabled
    assert caller.ask(SetBool, "enable", data=True).success
    node.send()
    caller.wait(lambda: len(node.results) > answered)
    assert node.results[-1].target_ids.tolist() == [1] and not node.results[-1].groundings


def test_what_is_refused_while_the_node_is_not_active(
    both: tuple[Served, Caller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, caller = both
    add(node, caller)
    file = str(tmp_path / "saved")
    node.refusal = INACTIVE
    prompt = Prompt(text="the blue square")
    for kind, name, fields in (
        (SetPrompt, "set_prompt", {"prompt": prompt}),
        (Trigger, "reset", {}),
        (SetBool, "enable", {"data": False}),
        (SessionFile, "load_session", {"path": "no matter"}),
    ):
        response = caller.ask(kind, name, **fields)
        assert (response.success, response.message) == (False, INACTIVE), name
    assert listed(caller) == {CAMERA: [1]}
    assert caller.ask(SessionFile, "save_session", path=file).success
    monkeypatch.setattr(node.asker, "_worker", lambda: None)
    for kind, name in ((ListTargets, "list_targets"), (SessionFile, "save_session")):
        response = caller.ask(kind, name)
        assert (response.success, response.message) == (False, INACTIVE), name


def test_sessions_are_saved_and_loaded_and_a_failed_load_loses_nothing(
    both: tuple[Served, Caller], tmp_path: Path
) -> None:
    node, caller = both
    add(node, caller)
    file = tmp_path / "saved"
    saved = caller.ask(SessionFile, "save_session", path=str(file))
    assert saved.success and list(saved.target_ids) == [1] and saved.message == ""
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert add(node, caller, "the blue square") == 2
    (tmp_path / "damaged").write_text("no session")
    for path, said in (
        (tmp_path / "damaged", "is damaged"),
        (tmp_path / "absent", "there is no file"),
        (tmp_path / "nowhere" / "saved", "expected a file in a folder that exists"),
        (tmp_path, "expected a file"),
        ("saved", "expected an absolute one"),
        ("/tmp/\0", "expected a file"),
        ("", "no path is given, and the parameter session_file is empty"),
    ):
        response = caller.ask(SessionFile, "load_session", path=str(path))
        assert not response.success and said in response.message, response.message
        assert listed(caller) == {CAMERA: [1, 2]}
    loaded = caller.ask(SessionFile, "load_session", path=str(file))
    assert loaded.success and list(loaded.target_ids) == [1]
    node.send()
    caller.wait(lambda: node.results[-1].stamp_ns == node.sent * 1_000_000_000)
    assert node.results[-1].target_ids.tolist() == [1] and listed(caller) == {CAMERA: [1]}
    assert not node.groundings[3:], "files are no prompts"


def test_of_several_cameras_each_has_a_file_and_all_are_loaded_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sessions = {"/front/image": ThresholdSession(), "/rear/image": ThresholdSession(numbers=iter(range(5, 99)))}
    with served(monkeypatch, sessions, tmp_path / "robot.x2") as (node, caller):
        assert (add(node, caller, camera="/front/image"), add(node, caller, camera="/rear/image")) == (1, 5)
        saved = caller.ask(SessionFile, "save_session")
        assert saved.success and list(saved.target_ids) == [1, 5]
        front, rear = tmp_path / "robot.front.x2", tmp_path / "robot.rear.x2"
        whole = rear.read_text()
        caller.ask(Trigger, "reset")
        add(node, caller, "the blue square", camera="/front/image")
        for text, said in (("damaged", "is damaged"), (front.read_text(), "have the same target")):
            rear.write_text(text)
            response = caller.ask(SessionFile, "load_session")
            assert not response.success and said in response.message
            assert listed(caller) == {"/front/image": [2], "/rear/image": []}
        rear.write_text(whole)
        assert caller.ask(SessionFile, "load_session").success
        assert listed(caller) == {"/front/image": [1], "/rear/image": [5]}
        front.unlink()
        response = caller.ask(SessionFile, "load_session")
        assert response.success and "/front/image had no file" in response.message
        assert listed(caller) == {"/front/image": [], "/rear/image": [5]}


def test_waiting_prompts_are_answered_when_a_session_is_loaded(both: tuple[Served, Caller], tmp_path: Path) -> None:
    _, caller = both
    file = tmp_path / "saved"
    file.write_text(json.dumps({"targets": {}, "prompt_ids": []}))
    waits = caller.client(SetPrompt, "set_prompt").call_async(SetPrompt.Request(prompt=Prompt(text="the red square")))
    caller.rest(0.2)
    assert caller.ask(SessionFile, "load_session", path=str(file)).success
    caller.wait(waits.done)
    assert not waits.result().success and "a saved session was loaded" in waits.result().message


def test_requests_that_cannot_be_decoded_cost_no_reply(
    both: tuple[Served, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, caller = both
    made = caller.client(SetPrompt, "set_prompt")
    waits = made.call_async(SetPrompt.Request(prompt=Prompt(text="the red square")))
    caller.rest(0.2)
    with jammed_once(monkeypatch, node.executor, "_take_service"):
        made.call_async(SetPrompt.Request(prompt=Prompt(text="not text")))
        caller.wait(lambda: node.problems)
    after = made.call_async(SetPrompt.Request(prompt=Prompt(text="the blue square")))
    caller.rest(0.2)
    node.send()
    caller.wait(lambda: waits.done() and after.done())
    assert waits.result().success and after.result().success
    assert len(node.problems) == 1 and "UnicodeDecodeError" in node.problems[0]


def test_many_calls_at_once_are_all_answered(both: tuple[Served, Caller]) -> None:
    node, caller = both
    made, asked = caller.client(SetPrompt, "set_prompt"), []
    stop = threading.Event()
    frames = threading.Thread(target=lambda: [node.send() for _ in iter(lambda: stop.wait(0.01), True)], daemon=True)
    frames.start()
    for number in range(60):
        prompt = Prompt(text=f"the red square {number}", camera="/other" if number % 3 == 0 else "")
        asked.append(made.call_async(SetPrompt.Request(prompt=prompt)))
        caller.rest(0.01)
    caller.wait(lambda: all(answer.done() for answer in asked), what="a reply was lost")
    stop.set()
    frames.join()
    said = [answer.result() for answer in asked]
    assert all(response.success or response.message for response in said) and sum(r.success for r in said) > 20


def test_the_end_of_the_node_answers_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_domain(monkeypatch):
        node, caller = Served({CAMERA: ThresholdSession()}), Caller()
        made: Any = caller.client(SetPrompt, "set_prompt")
        waits = made.call_async(SetPrompt.Request(prompt=Prompt(text="the red square")))
        caller.rest(0.2)
        node.end()
        caller.wait(waits.done)
        assert (waits.result().success, waits.result().message) == (False, "the node ends")
        caller.end()

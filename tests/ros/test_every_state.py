"""Every service and action is answered in every lifecycle state, with the reason where it cannot be carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from std_srvs.srv import SetBool, Trigger

from tests.ros.harness import THRESHOLD_NODE, own_graph, running_node
from x2sam_ros.action import Chat, Follow
from x2sam_ros.msg import Prompt
from x2sam_ros.srv import ListTargets, SessionFile, SetPrompt

NODE = "/x2sam_node"


def test_every_service_and_action_answers_in_every_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    services: dict[str, tuple[type, Any]] = {
        "set_prompt": (SetPrompt, SetPrompt.Request(prompt=Prompt(text="the red square"))),
        "list_targets": (ListTargets, ListTargets.Request()),
        "reset": (Trigger, Trigger.Request()),
        "enable": (SetBool, SetBool.Request(data=True)),
        "save_session": (SessionFile, SessionFile.Request(path=str(tmp_path / "saved"))),
        "load_session": (SessionFile, SessionFile.Request(path=str(tmp_path / "saved"))),
    }
    goals = {"follow": (Follow, Follow.Goal(prompt=Prompt(text="red"))), "chat": (Chat, Chat.Goal(text="what is it?"))}
    with own_graph(monkeypatch) as client, running_node(THRESHOLD_NODE, "autostart:=false", log=tmp_path / "node.log"):
        clients = {name: client.create_client(kind, f"{NODE}/{name}") for name, (kind, _) in services.items()}
        actions = {name: ActionClient(client, kind, f"{NODE}/{name}") for name, (kind, _) in goals.items()}
        change = client.create_client(ChangeState, f"{NODE}/change_state")
        client.wait(lambda: all(one.service_is_ready() for one in (*clients.values(), change)))
        client.wait(lambda: all(one.server_is_ready() for one in actions.values()))

        def step(transition: int) -> None:
            reply = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            client.wait(reply.done)
            assert reply.result().success

        def replies() -> dict[str, str]:
            """What each of them says: '' where it was done."""
            asked = {name: made.call_async(services[name][1]) for name, made in clients.items()}
            sent = {name: made.send_goal_async(goals[name][1]) for name, made in actions.items()}
            client.wait(lambda: all(one.done() for one in (*asked.values(), *sent.values())))
            ended = {name: goal.result().get_result_async() for name, goal in sent.items()}
            client.wait(lambda: all(one.done() for one in ended.values()))
            said = {name: reply.result() for name, reply in asked.items()}
            said |= {name: result.result().result for name, result in ended.items()}
            return {name: "" if reply.success else reply.message for name, reply in said.items()}

        for words in ("is unconfigured; ", "is unconfigured; "):
            assert all(words in message for message in replies().values())
            step(Transition.TRANSITION_CONFIGURE)
            step(Transition.TRANSITION_CLEANUP)
        step(Transition.TRANSITION_CONFIGURE)
        said = replies()
        done = {name for name, message in said.items() if not message}
        assert done == {"list_targets", "save_session"}, said
        assert all("is inactive; " in message for name, message in said.items() if name not in done)

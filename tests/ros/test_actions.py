"""Follow and chat as their clients meet them, in a context of their own: progress, results, cancelling, all ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from action_msgs.msg import GoalStatus
from std_srvs.srv import SetBool, Trigger

from tests.ros.served import CAMERA, INACTIVE, Caller, Sent, Served, jammed_once, own_domain, served
from tests.ros.threshold_session import ThresholdSession
from tests.unit.engine.sessions import make_say
from tests.unit.model.networks import nano
from x2sam_ros.action import Chat, Follow
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.msg import Grounding, Prompt
from x2sam_ros.ros import actions
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, PromptStage
from x2sam_ros.types import Grounding as Outcome

WAITING, GROUNDING, ANSWERING, FOLLOWING = range(4)
SUCCEEDED, CANCELED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED


class TalkingSession(ThresholdSession):
    """Answers what begins with "say" in so many words, a word each 20 ms; "where" is answered with a target, too."""

    def _carry_out(self, prompt: Any, frame: Frame) -> Outcome:
        words = getattr(prompt, "text", "").split()
        if words[:1] not in (["say"], ["where"]):
            return super()._carry_out(prompt, frame)
        for count in range(1, len(words)):
            time.sleep(0.02)
            self._tell(prompt, PromptStage.ANSWERING, " ".join(words[1 : 1 + count]))
        outcome = Outcome(prompt.prompt_id, GroundingStatus.OK, prompt.text, " ".join(words[1:]))
        found = super()._carry_out(prompt, frame) if words[0] == "where" else outcome
        return Outcome(prompt.prompt_id, GroundingStatus.OK, prompt.text, outcome.response, target_ids=found.target_ids)


class HidingSession(ThresholdSession):
    """Finds targets whose masks stay empty for two more frames, as one that was covered meanwhile."""

    hidden = 2

    def step(self, frame: Frame) -> FrameResult:
        result = super().step(frame)
        if len(result.target_ids) and self.hidden:
            self.hidden -= 1
            result.masks[:] = False
        return result


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Caller]]:
    with served(monkeypatch, {CAMERA: TalkingSession()}) as made:
        yield made


def follow(caller: Caller, client: Any = None, **prompt: Any) -> Sent:
    client = client or caller.action(Follow, "follow")
    return Sent(caller, client, Follow.Goal(prompt=Prompt(**prompt)))


def chat(caller: Caller, text: str, **goal: Any) -> Sent:
    return Sent(caller, caller.action(Chat, "chat"), Chat.Goal(text=text, **goal))


def test_a_prompt_is_followed_to_its_first_mask_and_told_on_the_way(both: tuple[Served, Caller]) -> None:
    node, caller = both
    other = follow(caller, text="the blue square")
    sent = follow(caller, text="the red square", prompt_id="mine")
    caller.wait(lambda: sent.told and other.told)
    assert sent.stages == [WAITING] and not sent.is_over
    node.send()
    status, result = sent.end()
    assert status == SUCCEEDED and result.success and result.message == ""
    assert result.grounding.prompt_id == "mine" and result.grounding.status == Grounding.OK
    assert [mask.target_id for mask in result.first.masks] == list(result.grounding.target_ids) == [2]
    assert result.first.masks[0].area_px == 900 and result.first.header.stamp.sec == 1
    assert result.first.header.frame_id == result.grounding.header.frame_id == "optical"
    assert (result.first.image_width, result.first.image_height) == (128, 96)
    assert sent.stages in ([WAITING, GROUNDING, FOLLOWING], [WAITING, GROUNDING])  # the result may overtake the last
    assert [mask.target_id for mask in other.end()[1].first.masks] == [1]
    assert node.asker.is_idle and not node.problems
    for _ in range(20):
        if FOLLOWING in sent.stages:
            break
        sent = follow(caller, text="the red square")
        caller.wait(lambda sent=sent: sent.told)
        node.send()
        sent.end()
    assert sent.stages == [WAITING, GROUNDING, FOLLOWING]


def test_it_lasts_until_a_mask_is_there_or_the_targets_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    session = HidingSession()
    with served(monkeypatch, {CAMERA: session}) as (node, caller):
        sent = follow(caller, text="the red square")
        for _ in range(3):
            assert not sent.is_over
            count = len(node.results)
            caller.wait(lambda: sent.told)
            node.send()
            caller.wait(lambda count=count: len(node.results) > count)
        status, result = sent.end()
        assert status == SUCCEEDED and result.first.header.stamp.sec == 3 and result.grounding.header.stamp.sec == 1
        session.hidden = 9
        gone = follow(caller, text="the blue square")
        caller.wait(lambda: gone.told)
        node.send()
        caller.wait(lambda: len(session.target_ids) == 2)
        assert caller.ask(Trigger, "reset").success
        node.send()
        status, result = gone.end()
        assert status == ABORTED and result.message == "its targets were removed before they were seen"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"text": ""}, "prompt text is empty"),
        ({"text": "the red square", "camera": "/other"}, "there is no camera '/other'"),
        ({"text": "the pink square"}, "nothing in the image fits"),
        ({"kind": 9}, "kind is 9"),
    ],
)
def test_what_cannot_be_is_aborted_with_the_reason(
    prompt: dict[str, Any], said: str, both: tuple[Served, Caller]
) -> None:
    node, caller = both
    sent = follow(caller, **prompt)
    caller.rest(0.2)
    node.send()
    status, result = sent.end()
    assert status == ABORTED and not result.success and said in result.message and not result.first.masks
    assert result.grounding.status in (Grounding.REJECTED, Grounding.NO_TARGET)


def test_while_inactive_goals_are_aborted_and_giving_up_ends_those_that_wait(both: tuple[Served, Caller]) -> None:
    node, caller = both
    waits, asks = follow(caller, text="the red square"), chat(caller, "say hello")
    caller.wait(lambda: waits.told and asks.told)

    def deactivate() -> None:
        node.refusal = INACTIVE
        node.asker.give_up("served was deactivated")

    node.call(deactivate)
    for sent in (waits, asks):
        status, result = sent.end()
        assert status == ABORTED and result.message == "served was deactivated"
    for sent in (follow(caller, text="the red square"), chat(caller, "say hello")):
        status, result = sent.end()
        assert status == ABORTED and not result.success and result.message == INACTIVE
    node.refusal = ""
    node.send()
    caller.wait(lambda: node.results)
    assert not node.results[0].groundings, "what was given up is not carried out later"


@pytest.mark.parametrize("service", ["reset", "enable"])
def test_a_reset_and_a_pause_abort_what_waits(service: str, both: tuple[Served, Caller]) -> None:
    _, caller = both
    sent = follow(caller, text="the red square")
    caller.wait(lambda: sent.told)
    assert (caller.ask(Trigger, "reset") if service == "reset" else caller.ask(SetBool, "enable", data=False)).success
    status, result = sent.end()
    assert status == ABORTED and ("reset" if service == "reset" else "is disabled") in result.message
    assert result.grounding.status == Grounding.REJECTED


def test_cancelling_forgets_one_prompt_and_no_other(both: tuple[Served, Caller]) -> None:
    node, caller = both
    first, second = follow(caller, text="the red square", prompt_id="a"), follow(caller, text="the blue square")
    caller.wait(lambda: first.told and second.told)
    cancelled = first.handle.cancel_goal_async()
    status, result = first.end()
    assert cancelled.done() or caller.wait(cancelled.done) is None
    assert len(cancelled.result().goals_canceling) == 1
    assert status == CANCELED and not result.success and result.message == "it was cancelled"
    assert result.grounding.prompt_id == "a" and result.grounding.status == Grounding.REMOVED
    node.send()
    assert second.end()[0] == SUCCEEDED
    assert [outcome.query for outcome in node.results[0].groundings] == ["the blue square"]
    assert len(node.results[0].target_ids) == 1


def test_cancelling_removes_what_was_found_and_not_what_a_refused_goal_was_named_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = HidingSession()
    with served(monkeypatch, {CAMERA: session}) as (node, caller):
        sent = follow(caller, text="the red square", prompt_id="same")
        caller.wait(lambda: sent.told)
        node.send()
        caller.wait(lambda: session.target_ids)
        refused = follow(caller, text="the blue square", prompt_id="same")
        assert refused.end()[0] == ABORTED
        refused.handle.cancel_goal_async()
        caller.rest(0.2)
        assert session.target_ids == (1,)
        sent.handle.cancel_goal_async()
        assert sent.end()[0] == CANCELED
        caller.wait(lambda: not session.target_ids)


def test_an_answer_is_told_as_it_grows_ten_times_a_second_at_most(both: tuple[Served, Caller]) -> None:
    node, caller = both
    words = " ".join(map(str, range(40)))
    sent = chat(caller, f"say {words}")
    caller.wait(lambda: sent.told)
    node.send()
    status, result = sent.end()
    assert status == SUCCEEDED and result.success and result.response == words and result.message == ""
    assert sent.stages == [WAITING, GROUNDING, ANSWERING]
    said = [(response, at) for stage, response, at in sent.told if stage == ANSWERING]
    assert 3 <= len(said) <= 12 and all(words.startswith(response) for response, _ in said)
    assert [len(response) for response, _ in said] == sorted(len(response) for response, _ in said)


def test_what_a_chat_points_at_is_not_followed(both: tuple[Served, Caller]) -> None:
    node, caller = both
    sent = chat(caller, "where is the red square")
    caller.wait(lambda: sent.told)
    node.send()
    assert sent.end()[1].response == "is the red square"
    node.send()
    caller.wait(lambda: len(node.results) == 2)
    assert len(node.results[1].target_ids) == 0
    assert chat(caller, " ").end()[1].message.startswith("prompt text is empty")


def test_a_client_that_disappears_harms_nobody(both: tuple[Served, Caller]) -> None:
    node, caller = both
    gone = Caller()
    sent = follow(gone, text="the red square")
    gone.wait(lambda: sent.told)
    gone.end()
    node.send()
    caller.wait(lambda: node.results and node.asker.is_idle)
    assert node.results[0].target_ids.tolist() == [1] and not node.problems
    after = follow(caller, text="the blue square")
    caller.wait(lambda: after.told)
    node.send()
    assert after.end()[0] == SUCCEEDED


def test_finished_goals_are_forgotten_also_where_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "RESULT_TIMEOUT_S", 1)
    with served(monkeypatch, use_sim_time=True) as (node, caller):
        node.refusal = INACTIVE
        client = caller.action(Follow, "follow")
        for _ in range(60):
            assert follow(caller, client, text="the red square").end()[0] == ABORTED
        server = node.actions.opened[0]
        node.refusal = ""
        sent = follow(caller, client, text="the red square")
        caller.wait(lambda: sent.told)
        caller.wait(lambda: len(server._goal_handles) == 1, what="goals stay")
        assert not sent.is_over and node.asker.is_idle is False
        node.send()
        assert sent.end()[0] == SUCCEEDED
        caller.wait(lambda: not server._goal_handles and not server._result_futures, what="goals stay")


def test_a_goal_that_cannot_be_decoded_jams_nothing(
    both: tuple[Served, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, caller = both
    waits = follow(caller, text="the red square")
    caller.wait(lambda: waits.told)
    client = caller.action(Follow, "follow")
    caller.rest(0.3)  # its request for the result has been taken
    with jammed_once(monkeypatch, node.actions.opened[0], "take_data"):
        client.send_goal_async(Follow.Goal(prompt=Prompt(text="lost")))
        caller.wait(lambda: node.problems)
    after = follow(caller, client, text="the blue square")
    caller.wait(lambda: after.told)
    node.send()
    assert waits.end()[0] == after.end()[0] == SUCCEEDED
    assert len(node.problems) == 1 and "spin: UnicodeDecodeError" in node.problems[0]


def test_the_end_of_the_node_is_told_to_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_domain(monkeypatch):
        node, caller = Served({CAMERA: ThresholdSession()}), Caller()
        sent = [follow(caller, text=f"the red square {number}") for number in range(3)]
        caller.wait(lambda: all(item.told for item in sent))
        node.end()
        for item in sent:
            status, result = item.end()
            assert status == ABORTED and result.message == "the node ends"
        caller.end()


@pytest.mark.parametrize("lane", ["inline", "beside"])
def test_the_real_model_follows_and_answers(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "a red square and a blue one on black"
    session = Session(nano(), EngineConfig(score_threshold=0.0, language_lane=lane))
    with served(monkeypatch, {CAMERA: session}) as (node, caller):

        def over(sent: Sent) -> tuple[int, Any]:
            while not sent.is_over:
                caller.wait(lambda: sent.told)
                node.send()
                caller.rest(0.2)
                assert node.sent < 200
            return sent.end()

        status, result = over(follow(caller, text="the red square"))
        assert status == SUCCEEDED and result.first.masks[0].area_px
        assert list(result.grounding.target_ids) == [1]
        make_say(monkeypatch, answer)
        sent = chat(caller, "what is there")
        status, result = over(sent)
        assert status == SUCCEEDED and result.response == answer
        assert sent.stages == [WAITING, GROUNDING, ANSWERING] and session.target_ids == (1,)

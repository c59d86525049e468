"""The node's actions: follow carries out a prompt until its first mask, chat asks a question; both tell their progress.

A goal is always accepted: ROS 2 has no words for a rejection. One that is refused is aborted at once, with the reason
in its result, and so is every goal when the node is deactivated, reset or shut down. A client that disappears changes
nothing: its goal is carried out, as a prompt on a topic is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType

from x2sam_ros.action import Chat, Follow
from x2sam_ros.errors import PromptError
from x2sam_ros.msg import TrackedMaskArray
from x2sam_ros.ros import convert
from x2sam_ros.ros.asking import Asker, Reply
from x2sam_ros.ros.requests import Answer, Outcome, RemovePrompt, Request, Submit, has_succeeded
from x2sam_ros.ros.services import message_of
from x2sam_ros.types import Grounding, GroundingStatus, Progress

if TYPE_CHECKING:
    from rclpy.action.server import ServerGoalHandle
    from rclpy.node import Node

RESULT_TIMEOUT_S = 60
"""How long the result of a goal is kept for a client that asks late."""

FEEDBACK_PERIOD_S = 0.1
"""Least time between two feedbacks of one stage."""


class _End(NamedTuple):
    """How a goal ended: what became of its prompt, and where its targets were first seen."""

    outcome: Outcome
    first: TrackedMaskArray | None = None


class _Goal:
    """One goal while it is carried out.

    Args:
        handle: of rclpy.
        feedback: class of its feedback.
        read: makes its request, on the worker's thread.
        reply: settled with an ``_End``.
        wait_for_masks: called with it, on the worker's thread, once it has targets; None where it ends then.
    """

    def __init__(
        self,
        handle: ServerGoalHandle,
        feedback: type[Any],
        read: Callable[[], Request],
        reply: Reply,
        wait_for_masks: Callable[[_Goal], None] | None,
    ) -> None:
        self._handle, self._feedback, self._read, self._reply = handle, feedback, read, reply
        self._wait_for_masks = wait_for_masks
        self._submitted: Submit | None = None  # as long as there is something to remove; of the worker's thread
        self._outcome: Grounding | None = None
        self._camera = ""
        self._told = (-1, 0.0)  # newest feedback: stage, and when

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._reply.is_settled

    def read(self) -> Request:
        """Return the request, watched."""
        request = self._read()
        if isinstance(request, Submit):
            request = self._submitted = replace(request, watch=self._watch)
        return request

    def done(self, outcome: Grounding) -> None:
        """Take what became of the prompt."""
        if outcome.status != GroundingStatus.OK:
            self._submitted = None
        elif outcome.target_ids and self._wait_for_masks is not None:
            self._outcome = outcome
            self._wait_for_masks(self)
            return
        self._reply.settle(_End(outcome))

    def saw(self, camera: str, masks: TrackedMaskArray) -> None:
        """Look for its targets in masks that were published; those of its own camera come first after ``done``."""
        self._camera = self._camera or camera
        if self._outcome is None or camera != self._camera:
            return
        mine = [mask for mask in masks.masks if mask.target_id in self._outcome.target_ids]
        if not mine:
            self._reply.settle(_End(Answer(False, "its targets were removed before they were seen")))
        elif any(mask.area_px for mask in mine):
            first = TrackedMaskArray(
                header=masks.header,
                image_width=masks.image_width,
                image_height=masks.image_height,
                masks=mine,
                latency_ms=masks.latency_ms,
                frames_dropped=masks.frames_dropped,
                frame_index=masks.frame_index,
            )
            self.tell(Follow.Feedback.FOLLOWING, self._outcome.response)
            self._reply.settle(_End(self._outcome, first))

    def removal(self) -> Request | None:
        """Return what forgets its prompt and all that it found; None where there is nothing."""
        if self._submitted is None:
            return None
        return RemovePrompt(self._submitted.prompt_id, self._submitted.camera)

    def cancel(self) -> None:
        """End it."""
        self._reply.settle(_End(Answer(False, "it was cancelled")))

    def _watch(self, progress: Progress) -> None:
        stage, told_s = self._told
        if progress.stage != stage or time.monotonic() - told_s >= FEEDBACK_PERIOD_S:
            self.tell(int(progress.stage), progress.response)

    def tell(self, stage: int, response: str) -> None:
        """Publish feedback, from any thread."""
        if self._reply.is_settled:
            return
        self._told = (stage, time.monotonic())
        with suppress(Exception):  # the server is gone, and so is whoever would listen
            self._handle.publish_feedback(self._feedback(stage=stage, response=response))


class _WallClockNode:
    """A node as an action server sees it: results expire by a clock that no simulation stops or turns back."""

    def __init__(self, node: Node) -> None:
        self._node, self._clock = node, Clock(clock_type=ClockType.SYSTEM_TIME)

    def get_clock(self) -> Clock:
        return self._clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


class Actions:
    """Opens the actions of a node, once for its life. Any number of goals is carried out at the same time.

    Args:
        node: has them.
        asker: puts requests to the worker; its ``give_up`` ends all goals.
        new_id: makes a prompt id from a word; called on the worker's thread.
    """

    def __init__(self, node: Node, asker: Asker, new_id: Callable[[str], str]) -> None:
        self._asker, self._new_id = asker, new_id
        self._goals: dict[bytes, _Goal] = {}  # those that are carried out; of the executor's thread
        self._unseen: list[_Goal] = []  # those whose targets have no mask yet; of the worker's thread
        group = ReentrantCallbackGroup()
        self.opened = [
            ActionServer(
                _WallClockNode(node),
                kind,
                name,
                execute,
                callback_group=group,
                cancel_callback=self._cancel,
                result_timeout=RESULT_TIMEOUT_S,
            )
            for kind, name, execute in ((Follow, "~/follow", self._follow), (Chat, "~/chat", self._chat))
        ]

    @property
    def is_waiting(self) -> bool:
        """Whether a goal waits for its first mask; of the worker's thread."""
        return bool(self._unseen)

    def saw(self, camera: str, masks: TrackedMaskArray) -> None:
        """Take the masks of a camera's frame; to be called on the worker's thread after they were published."""
        for goal in self._unseen:
            goal.saw(camera, masks)
        self._unseen = [goal for goal in self._unseen if not goal.is_over]

    def destroy(self) -> None:
        """Close the actions, after ``Asker.finish``."""
        for server in self.opened:
            server.destroy()

    async def _follow(self, handle: ServerGoalHandle) -> Follow.Result:
        prompt = handle.request.prompt
        end = await self._carry_out(
            handle,
            Follow.Feedback,
            lambda: convert.request_from_prompt(prompt, self._new_id),
            lambda goal: self._unseen.append(goal),
        )
        outcome, result = end.outcome, Follow.Result()
        result.success, result.message = has_succeeded(outcome), message_of(outcome)
        if not isinstance(outcome, Grounding):
            status = GroundingStatus.REMOVED if handle.is_cancel_requested else GroundingStatus.REJECTED
            outcome = Grounding(prompt.prompt_id, status, message=outcome.message)
        result.grounding = convert.from_grounding(outcome, "" if end.first is None else end.first.header.frame_id)
        if end.first is not None:
            result.first = end.first
        return _finished(handle, result)

    async def _chat(self, handle: ServerGoalHandle) -> Chat.Result:
        goal = handle.request
        end = await self._carry_out(handle, Chat.Feedback, lambda: convert.request_from_chat(goal, self._new_id), None)
        outcome = end.outcome
        response = outcome.response if isinstance(outcome, Grounding) else ""
        result = Chat.Result(success=has_succeeded(outcome), response=response, message=message_of(outcome))
        return _finished(handle, result)

    async def _carry_out(
        self,
        handle: ServerGoalHandle,
        feedback: type[Any],
        read: Callable[[], Request],
        wait_for_masks: Callable[[_Goal], None] | None,
    ) -> _End:
        """Put a goal to the worker and wait for its end."""
        key = bytes(handle.goal_id.uuid)
        with self._asker.open() as reply:
            goal = _Goal(handle, feedback, read, reply, wait_for_masks)
            self._goals[key] = goal
            try:
                if handle.is_cancel_requested:  # before it began
                    goal.cancel()
                else:
                    self._asker.post(goal.read, goal.done)
                end = await reply
                return end if isinstance(end, _End) else _End(end)
            except PromptError as error:
                return _End(Answer(False, str(error)))
            finally:
                del self._goals[key]

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Cancel a goal; refused only where the worker's queue is full, so that its prompt could not be forgotten."""
        goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is None:
            return CancelResponse.ACCEPT
        try:
            self._asker.post(goal.removal, when_inactive=True)
        except PromptError:
            return CancelResponse.REJECT
        goal.cancel()
        return CancelResponse.ACCEPT


def _finished(handle: ServerGoalHandle, result: Any) -> Any:
    """Bring a goal into the state that its result has."""
    if handle.is_cancel_requested:
        result.success, result.message = False, "it was cancelled"
        handle.canceled()
    elif result.success:
        handle.succeed()
    else:
        handle.abort()
    return result

"""The node's services. Each is answered in every state of the node, with the reason where it cannot be carried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from std_srvs.srv import SetBool, Trigger

from x2sam_ros.errors import ConfigError
from x2sam_ros.ros import convert
from x2sam_ros.ros.asking import Asker
from x2sam_ros.ros.requests import (
    Answer,
    Enable,
    ListTargets,
    LoadSession,
    Outcome,
    Request,
    Reset,
    SaveSession,
    has_succeeded,
)
from x2sam_ros.ros.result_messages import target_array
from x2sam_ros.srv import ListTargets as ListTargetsSrv
from x2sam_ros.srv import SessionFile, SetPrompt

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.service import Service

NOTHING_FITS = "nothing in the image fits the prompt"
"""What a client is told of a prompt that was understood and has no target."""


def message_of(outcome: Outcome) -> str:
    """Return why what was asked for was not done; '' where it was."""
    return "" if has_succeeded(outcome) else outcome.message or NOTHING_FITS


class Services:
    """Opens the services of a node, once for its life. They answer when what they were asked for is done.

    Args:
        node: has them.
        asker: puts requests to the worker.
        new_id: makes a prompt id from a word; called on the worker's thread.
        paths: the files of the cameras for the path of a request; raises ConfigError where there can be none.
    """

    def __init__(
        self,
        node: Node,
        asker: Asker,
        new_id: Callable[[str], str],
        paths: Callable[[str], Mapping[str, Path]],
    ) -> None:
        self._node, self._asker, self._new_id, self._paths = node, asker, new_id, paths
        self._group = ReentrantCallbackGroup()
        self.opened: list[Service] = []
        self._open(SetPrompt, "~/set_prompt", self._set_prompt)
        self._open(ListTargetsSrv, "~/list_targets", self._list_targets)
        self._open(Trigger, "~/reset", self._reset)
        self._open(SetBool, "~/enable", self._enable)
        self._open(SessionFile, "~/save_session", self._save)
        self._open(SessionFile, "~/load_session", self._load)

    def _open(self, kind: Any, name: str, answer: Callable[[Any, Any], Awaitable[Any]]) -> None:
        callback: Any = answer  # rclpy awaits a coroutine, its annotations do not say so
        self.opened.append(self._node.create_service(kind, name, callback, callback_group=self._group))

    async def _set_prompt(self, request: SetPrompt.Request, response: SetPrompt.Response) -> SetPrompt.Response:
        outcome = await self._asker.ask(lambda: convert.request_from_prompt(request.prompt, self._new_id))
        response.target_ids = list(outcome.target_ids)
        return _answered(response, outcome)

    async def _list_targets(
        self, request: ListTargetsSrv.Request, response: ListTargetsSrv.Response
    ) -> ListTargetsSrv.Response:
        outcome = await self._asker.ask(lambda: ListTargets(request.camera), when_inactive=True)
        for listing in outcome.listings if isinstance(outcome, Answer) else ():
            header = convert.to_header(listing.stamp_ns, listing.frame_id)
            response.cameras.append(target_array(header, listing.camera, listing.targets))
        return _answered(response, outcome)

    async def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return _answered(response, await self._asker.ask(lambda: Reset(self._new_id("reset"))))

    async def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        name = self._node.get_fully_qualified_name()
        hint = f"ros2 service call {name}/enable std_srvs/srv/SetBool '{{data: true}}'"
        reason = "" if request.data else f"{name} is disabled; enable it first: {hint}"
        return _answered(response, await self._asker.ask(lambda: Enable(request.data, reason)))

    async def _save(self, request: SessionFile.Request, response: SessionFile.Response) -> SessionFile.Response:
        return await self._with_files(SaveSession, request, response, when_inactive=True)

    async def _load(self, request: SessionFile.Request, response: SessionFile.Response) -> SessionFile.Response:
        return await self._with_files(LoadSession, request, response, when_inactive=False)

    async def _with_files(
        self,
        order: Callable[[Mapping[str, Path]], Request],
        request: SessionFile.Request,
        response: SessionFile.Response,
        when_inactive: bool,
    ) -> SessionFile.Response:
        outcome: Outcome = Answer(False, self._asker.refused(when_inactive))
        if not outcome.message:
            try:
                paths = self._paths(request.path)
                outcome = await self._asker.ask(lambda: order(paths), when_inactive)
            except ConfigError as error:
                outcome = Answer(False, str(error))
        response.target_ids = list(outcome.target_ids)
        response = _answered(response, outcome)
        response.message = outcome.message  # also where all went well but for something
        return response


def _answered(response: Any, outcome: Outcome) -> Any:
    response.success, response.message = has_succeeded(outcome), message_of(outcome)
    return response

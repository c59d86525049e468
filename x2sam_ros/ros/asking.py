"""Between the node's callbacks and the worker: what clients ask goes there, its outcome comes back to be awaited."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.task import Future

from x2sam_ros.errors import PromptError, X2SamError, described
from x2sam_ros.ros.requests import Answer, GiveUp, Outcome, Request

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from rclpy.node import Node
    from rclpy.service import Service

    from x2sam_ros.ros.worker import Worker


LAST_WORDS_S = 0.05
"""How long the executor goes on once nobody waits: results of goals go out after the goals have ended."""


class Reply:
    """An outcome that any thread settles, once, and a callback of the node awaits.

    Args:
        executor: runs that callback.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor, self._future = executor, Future(executor=executor)
        self.is_settled = False

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the outcome."""
        return self._future.__await__()

    def settle(self, outcome: Any) -> None:
        """Let this be the outcome, unless there is one."""
        self.is_settled = True
        with suppress(Exception):  # an executor that has ended, and with it whoever waits
            # as a task: that wakes the executor, where `set_result` alone leaves the callback asleep
            self._executor.create_task(self._set, outcome)

    def _set(self, outcome: Any) -> None:
        if not self._future.done():
            self._future.set_result(outcome)


class Asker:
    """Puts requests of clients to the worker. What is awaited is answered in every case, if need be by ``give_up``.

    Args:
        node: its executor runs the callbacks.
        worker: returns the worker; None where there is none.
        refusal: returns why the node carries out nothing at the moment; '' while it does.
    """

    def __init__(self, node: Node, worker: Callable[[], Worker | None], refusal: Callable[[], str]) -> None:
        self._node, self._worker, self._refusal = node, worker, refusal
        self._open: set[Reply] = set()  # of the executor's thread

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an outcome."""
        return not self._open

    @contextmanager
    def open(self) -> Iterator[Reply]:
        """Make a reply that ``give_up`` settles for the duration of the block."""
        executor = self._node.executor
        assert executor is not None, "callbacks run in one"
        reply = Reply(executor)
        self._open.add(reply)
        try:
            yield reply
        finally:
            self._open.discard(reply)

    def post(
        self,
        read: Callable[[], Request | None],
        done: Callable[[Any], None] | None = None,
        when_inactive: bool = False,
    ) -> None:
        """Queue a request; see ``Worker.post``.

        Args:
            read, done: as there.
            when_inactive: whether the worker may carry it out while the node is not active.

        Raises:
            PromptError: it is refused.
        """
        worker = self._worker()
        refused = self.refused(when_inactive)
        if worker is None or refused:
            raise PromptError(refused)
        worker.post(read, done)

    def refused(self, when_inactive: bool = False) -> str:
        """Return why nothing is carried out; '' while it is."""
        if self._worker() is None:
            return self._refusal() or "there is no model yet; configure the node first"
        return "" if when_inactive else self._refusal()

    async def ask(self, read: Callable[[], Request | None], when_inactive: bool = False) -> Outcome:
        """Queue a request and wait for its outcome; a refusal is one, too."""
        with self.open() as reply:
            try:
                self.post(read, reply.settle, when_inactive)
            except X2SamError as error:
                return Answer(False, str(error))
            outcome: Outcome = await reply
            return outcome

    def give_up(self, reason: str) -> None:
        """Answer all that is awaited with a reason, and let the worker forget those prompts."""
        for reply in tuple(self._open):
            reply.settle(Answer(False, reason))
        with suppress(PromptError):  # without a worker, or with a full queue at its end, nothing is left to forget
            self.post(lambda: GiveUp(reason), when_inactive=True)

    def finish(self, executor: Executor, reason: str, timeout_s: float) -> bool:
        """Give up, and spin until all clients have their answer; for the end of the node.

        Returns:
            Whether they had in time.
        """
        self.give_up(reason)
        end_s = time.monotonic() + timeout_s
        while not self.is_idle and time.monotonic() < end_s:
            self._spin(executor)
        end_s = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < end_s:
            self._spin(executor)
        return self.is_idle

    def _spin(self, executor: Executor) -> None:
        try:
            executor.spin_once(timeout_sec=0.01)
        except Exception:  # one request that cannot be taken keeps no other from its answer
            unjam(self._node)
            time.sleep(0.001)  # or ROS has ended


def unjam(node: Node) -> None:
    """Let what an exception in rclpy has jammed be heard again; to be called after any that left ``spin_once``.

    Where a request cannot be taken, because its bytes are damaged or its text is no UTF-8, rclpy raises before the
    callback, and service, action server and callback group stay marked as busy for ever. Making them anew would lose
    the replies that are under way; lifting the mark does not.
    """
    for entity in _entities(node):
        if getattr(entity, "_executor_event", False):
            entity._executor_event = False
            with suppress(AssertionError):  # it had not begun
                entity.callback_group.ending_execution(entity)


def answer_in_any_case(node: Node, report: Callable[[str], object]) -> None:
    """Let rclpy's own services answer where their callback raises, as at a parameter of a type that there is not.

    Args:
        node: has them; a coroutine is taken to answer anyway.
        report: takes what went wrong.
    """
    for service in node.services:
        if not inspect.iscoroutinefunction(service.callback):
            service.callback = _answering(service, service.callback, report)


def _answering(service: Service, callback: Callable[..., Any], report: Callable[[str], object]) -> Callable[..., Any]:
    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:
            reason = described(error)
            report(f"{service.srv_name} failed: {reason}")
            refusal, refused = SetParametersResult(successful=False, reason=reason), type(response)()
            if hasattr(refused, "results"):
                refused.results = [refusal for _ in request.parameters]  # clients count them
            elif hasattr(refused, "result"):
                refused.result = refusal
            return refused

    return answer


def _entities(node: Node) -> list[Any]:
    return [*node.services, *node.waitables, *node.subscriptions, *node.clients, *node.timers]

"""x2sam_node: cameras and prompts in, tracked masks out; a managed node.

Every subscription is taken as raw bytes. rclpy decodes a message before it calls the callback, and where that raises
(damaged bytes; text that is not UTF-8, depending on the distribution) the exception leaves `spin`, and subscription
and callback group stay marked as busy, so that none of them ever fires again. Decoding on the worker's thread makes
such a message one counted problem, and frames that a newer one replaces are never decoded at all.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool

from x2sam_ros.errors import ConfigError, X2SamError, described
from x2sam_ros.ros import convert
from x2sam_ros.ros.actions import Actions
from x2sam_ros.ros.asking import Asker, answer_in_any_case, unjam
from x2sam_ros.ros.diagnostics import ACTIVE, Diagnostics, Report
from x2sam_ros.ros.interface import TOPICS
from x2sam_ros.ros.params import Parameters
from x2sam_ros.ros.pipeline import OpenSessions, Pipeline, resolve_topic
from x2sam_ros.ros.policy import topic_names
from x2sam_ros.ros.problem_log import ProblemLog
from x2sam_ros.ros.qos import Direction, QosMonitor, check_override_names, create_publisher
from x2sam_ros.ros.services import Services
from x2sam_ros.ros.session_files import asked_paths
from x2sam_ros.ros.worker import Answered, StreamSession, Worker

if TYPE_CHECKING:
    from x2sam_ros.config import NodeConfig

SPIN_PERIOD_S = 0.1
"""How long one wait of the executor lasts at most: how late a signal is noticed."""

STOP_TIMEOUT_S = 1.2
"""How long shutdown waits for the frame at hand."""

ANSWER_TIMEOUT_S = 0.3
"""How long shutdown waits until every client has an answer."""

ADVICE = {"unconfigured": ("configure", "activate"), "inactive": ("activate",)}
"""Transitions that lead to where prompts are carried out."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch and what is built on it in three quarters of the time, once in a process.

    The garbage collector would look at a million new objects again and again. It rests meanwhile, and passes over them
    from then on.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def open_sessions(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, StreamSession]:
    """Load the model that the parameters name and open a session on it for each camera. Slow: it imports torch."""
    with quick_imports():
        from x2sam_ros.checkpoint.load import load_model
        from x2sam_ros.engine.fleet import Fleet
        from x2sam_ros.engine.session import Session

    model = load_model(config.checkpoint or config.preset, config.device, config.dtype, config.weights)
    fleet = Fleet()
    return {camera: Session(model, config.engine, config.memory_policy, fleet=fleet) for camera in cameras}


def release_memory() -> None:
    """Give back what a model that nobody refers to any more has taken, GPU memory included."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class X2SamNode(LifecycleNode):
    """A managed node: loads on configure, listens while active, forgets all on cleanup.

    Services and actions answer in every state, with the reason where they cannot do what they are asked.

    Args:
        open_sessions: builds the sessions.
        stop: set when the process is to end: a model that is being loaded is then not waited for.

    Raises:
        ConfigError: a parameter has a value that it cannot have.
    """

    def __init__(self, open_sessions: OpenSessions = open_sessions, stop: threading.Event | None = None) -> None:
        try:
            super().__init__("x2sam_node", automatically_declare_parameters_from_overrides=True)
        except ValueError as error:  # that is what rclpy makes of an empty list, which has no type
            raise ConfigError(f"a parameter has no value; give it one, or leave it out ({error})") from error
        self._open_sessions = open_sessions
        self._stop = threading.Event() if stop is None else stop
        self._pipeline: Pipeline | None = None
        self.failure: BaseException | None = None
        self.parameters = Parameters(self, lambda: self._pipeline is not None, self._on_change)
        check_override_names(self.parameters.others, tuple(self._endpoints()))
        self.problems = ProblemLog(self._say, self.config.log_period_s)
        self._monitor = QosMonitor(self.get_logger().warning)
        self._ready = create_publisher(self, self._monitor, Bool, "~/ready", "latched")
        self.asker = Asker(self, self._worker, lambda: self.refusal)
        self._served = Services(self, self.asker, self._new_id, self._asked_paths)
        self._goals = Actions(self, self.asker, self._new_id)
        self._diagnostics = Diagnostics(self, self._monitor, self._report)
        self._guard_transitions()
        answer_in_any_case(self, lambda reason: self.problems.report("request", reason))

    @property
    def config(self) -> NodeConfig:
        """The parameters at present."""
        return self.parameters.config

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        label: str = self._state_machine.current_state[1]
        return label

    @property
    def refusal(self) -> str:
        """Why the node carries out no prompt in its state; '' where it does."""
        state, name = self.state, self.get_fully_qualified_name()
        if state == ACTIVE:
            return ""
        steps = " and then ".join(f"ros2 lifecycle set {name} {step}" for step in ADVICE.get(state, ()))
        return f"{name} is {state}; " + (f"first run {steps}" if steps else "try again later")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make publishers and load the model; where that fails, say why and stay unconfigured."""
        self.failure = None
        try:
            self._pipeline = Pipeline(
                self, self.config, self._open_sessions, self._monitor, self.problems, self._show_to_goals
            )
            self._pipeline.open()
            while not self._pipeline.worker.wait_ready(SPIN_PERIOD_S):
                self._diagnostics.publish_due()
                if self._stop.is_set():  # what loads is left to the end of the process
                    return TransitionCallbackReturn.FAILURE
            self.check()
        except Exception as error:
            self.failure = error
            self._say(f"configure failed: {described(error)}")
            self._end()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen to cameras and prompts."""
        assert self._pipeline is not None
        try:
            self._pipeline.activate()
        except Exception as error:
            self.failure = error
            self._say(f"activate failed: {described(error)}")
            self._pipeline.deactivate()
            return TransitionCallbackReturn.FAILURE
        self._ready.publish(Bool(data=True))
        cameras = ", ".join(camera.topic for camera in self._pipeline.cameras)
        self.get_logger().info(f"ready: {self.config.checkpoint or self.config.preset} on {cameras}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hear nothing more, and answer who waits; targets and memories stay."""
        assert self._pipeline is not None
        self._ready.publish(Bool(data=False))
        self._pipeline.deactivate()
        self.asker.give_up(f"{self.get_fully_qualified_name()} was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save the sessions, forget them and the model, and give their memory back."""
        self.asker.give_up(f"{self.get_fully_qualified_name()} was cleaned up")
        return TransitionCallbackReturn.SUCCESS if self._end() else TransitionCallbackReturn.FAILURE

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End from any state; the process ends, too."""
        self._stop.set()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        self.asker.give_up(f"{self.get_fully_qualified_name()} failed")
        return TransitionCallbackReturn.SUCCESS if self._end() else TransitionCallbackReturn.FAILURE

    def close(self, timeout_s: float) -> bool:
        """Forget sessions and model; False where the frame at hand, or a model that loads, did not end in time."""
        if self._pipeline is not None and not self._pipeline.close(timeout_s):
            return False
        self._pipeline = None
        release_memory()
        return True

    def _end(self) -> bool:
        """Close, however long the frame at hand takes: a worker that was told to end cannot go on. False at the end."""
        while not self.close(SPIN_PERIOD_S):
            self._diagnostics.publish_due()
            if self._stop.is_set():
                return False
        return True

    def check(self) -> None:
        """Raise what ended the worker, if anything did."""
        if self._pipeline is not None and self._pipeline.worker.failure is not None:
            raise self._pipeline.worker.failure

    def autostart(self) -> None:
        """Configure and activate.

        Raises:
            X2SamError: that failed; whatever else the model's loading raised.
        """
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                if self.failure is not None:
                    raise self.failure
                return  # the process is to end

    def _worker(self) -> Worker | None:
        return None if self._pipeline is None else self._pipeline.worker

    def _new_id(self, word: str) -> str:
        assert self._pipeline is not None  # the worker asks, and it is the pipeline's
        return self._pipeline.new_id(word)

    def _asked_paths(self, path: str) -> dict[str, Path]:
        cameras = () if self._pipeline is None else self._pipeline.cameras
        return asked_paths(path, self.config.session_file, cameras)

    def _show_to_goals(self, camera: str, answered: Answered) -> None:
        if self._goals.is_waiting and self._pipeline is not None:
            dropped = self._pipeline.worker.counters[camera].dropped
            self._goals.saw(camera, convert.from_result(answered.result, dropped))

    def _on_change(self, config: NodeConfig) -> None:
        if self._pipeline is not None:
            self._pipeline.reconfigure(config)
        self.problems.period_s = config.log_period_s

    def _endpoints(self) -> Iterator[tuple[str, Direction]]:
        """Yield every topic that the node may have, in full; ConfigError where a parameter names none."""
        config = self.config
        for parameter in ("depth_topics", "camera_info_topics", "clicked_point_topic"):
            given = getattr(config, parameter)
            for name in filter(None, [given] if isinstance(given, str) else given):
                resolve_topic(self, parameter, name)
        images = tuple(resolve_topic(self, "image_topics", name) for name in config.image_topics)
        config = replace(config, image_topics=images)  # remapped: what lies beside them is named after that
        directions: dict[str, Direction] = {"in": "subscription", "out": "publisher"}
        for topic in TOPICS:
            for name in topic_names(topic, config, self.get_namespace()):
                yield self.resolve_topic_name(name), directions[topic.direction]

    def _report(self) -> Report:
        config, pipeline = self.config, self._pipeline
        failure = self.failure if pipeline is None else pipeline.worker.failure
        common = Report(
            state=self.state,
            model=config.checkpoint or config.preset,
            device=config.device,
            dtype=config.dtype,
            failure=described(failure) if isinstance(failure, Exception) else "",
            problems=self.problems.totals,
            limits=config.diagnostics,
        )
        if pipeline is None:
            return common
        enabled = pipeline.worker.enabled
        return replace(common, enabled=enabled, held=pipeline.held, cameras=pipeline.windows(), depth=pipeline.depth())

    def _guard_transitions(self) -> None:
        """Let a transition that the state does not have be answered with False: rclpy raises out of `spin`."""
        service = self._service_change_state
        change = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except Exception as error:
                asked = request.transition.label or request.transition.id
                self._say(f"there is no transition {asked} from {self.state} ({type(error).__name__})")
                response.success = False
                return response

        service.callback = guarded

    def _say(self, line: str) -> None:
        self.get_logger().error(line)


def spin(node: X2SamNode, stop: threading.Event) -> None:
    """Run callbacks until ``stop`` is set or the worker fails; a message that cannot be taken does not end it.

    Raises:
        Exception: what ended the worker, or kept the node from starting by itself.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.config.autostart:
            node.autostart()
        while not stop.is_set():
            node.check()
            try:
                executor.spin_once(timeout_sec=SPIN_PERIOD_S)
            except ExternalShutdownException:
                return
            except UnicodeDecodeError as error:
                node.problems.report("request", f"it holds text that is not UTF-8 ({error.reason}); send UTF-8")
                unjam(node)
            except Exception as error:  # rclpy raises where a request is damaged
                node.problems.report("request", f"rclpy could not take it, or a callback failed: {described(error)}")
                unjam(node)
    finally:
        node.asker.finish(executor, f"{node.get_fully_qualified_name()} is shut down", ANSWER_TIMEOUT_S)
        executor.remove_node(node)


def main(args: list[str] | None = None, open_sessions: OpenSessions = open_sessions) -> None:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: command line; that of the process by default.
        open_sessions: builds the sessions.

    Raises:
        SystemExit: with code 2 when a parameter or the model was refused; the reason is printed in one line.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        try:
            node = X2SamNode(open_sessions, stop)
        except RuntimeError as error:  # rclpy's, for example of a missing security enclave
            raise ConfigError(f"the node cannot be made: {error}") from error
        try:
            spin(node, stop)
        finally:
            if not node.close(STOP_TIMEOUT_S):
                if node.config.session_file:
                    node.get_logger().warning("ended before the targets were saved; the file is that of the last save")
                node.destroy_node()  # else others see it in the graph until its lease ends
                # Interpreter shutdown would wait for, or crash in, a model that is still loading or inferring.
                sys.stderr.flush()
                os._exit(0 if sys.exc_info()[0] is None else 2)
        node.destroy_node()
    except X2SamError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        rclpy.try_shutdown()
        gc.freeze()  # else the interpreter's end takes a second more, to take torch apart


if __name__ == "__main__":
    main()

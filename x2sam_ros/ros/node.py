"""x2sam_node: cameras and prompts in, tracked masks out.

Every subscription is taken as raw bytes. rclpy decodes a message before it calls the callback, and where that raises
(damaged bytes; text that is not UTF-8, depending on the distribution) the exception leaves `spin`, and subscription
and callback group stay marked as busy, so that none of them ever fires again. Decoding on the worker's thread makes
such a message one counted problem, and frames that a newer one replaces are never decoded at all.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import rclpy
from geometry_msgs.msg import Point, PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, String

from x2sam_ros.errors import ConfigError, PromptError, X2SamError
from x2sam_ros.msg import Grounding as GroundingMsg
from x2sam_ros.msg import Prompt as PromptMsg
from x2sam_ros.msg import TrackedMaskArray
from x2sam_ros.ros import convert
from x2sam_ros.ros.cameras import Camera, name_cameras
from x2sam_ros.ros.params import declare_parameters
from x2sam_ros.ros.problem_log import ProblemLog
from x2sam_ros.ros.requests import Reject, Request
from x2sam_ros.ros.session_files import SessionFiles, session_paths
from x2sam_ros.ros.worker import Outputs, StreamSession, Worker
from x2sam_ros.srv import SetPrompt
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus

if TYPE_CHECKING:
    from x2sam_ros.config import NodeConfig

SPIN_PERIOD_S = 0.1
"""How long one wait of the executor lasts at most: how late a signal is noticed."""

STOP_TIMEOUT_S = 1.5
"""How long shutdown waits for the frame at hand."""


OpenSessions = Callable[["NodeConfig", Sequence[str]], Mapping[str, StreamSession]]
"""Builds a session for each camera from the parameters. Called once, on the worker's thread."""


def open_sessions(config: NodeConfig, cameras: Sequence[str]) -> Mapping[str, StreamSession]:
    """Load the model that the parameters name and open a session on it for each camera. Slow: it imports torch."""
    from x2sam_ros.checkpoint.load import load_model
    from x2sam_ros.engine.fleet import Fleet
    from x2sam_ros.engine.session import Session

    model = load_model(config.checkpoint or config.preset, config.device, config.dtype, config.weights)
    fleet = Fleet()
    return {camera: Session(model, config.engine, config.memory_policy, fleet=fleet) for camera in cameras}


class _Results(NamedTuple):
    """The publishers of one camera."""

    masks: Publisher
    label_image: Publisher
    overlay: Publisher


class X2SamNode(Node):
    """Wires topics to the worker. Its callbacks only hand over; they never infer and never raise.

    Args:
        open_sessions: builds the sessions.

    Raises:
        ConfigError: a parameter has a value that it cannot have.
    """

    def __init__(self, open_sessions: OpenSessions = open_sessions) -> None:
        try:
            super().__init__("x2sam_node", automatically_declare_parameters_from_overrides=True)
        except ValueError as error:  # that is what rclpy makes of an empty list, which has no type
            raise ConfigError(f"a parameter has no value; give it one, or leave it out ({error})") from error
        self.config = declare_parameters(self)
        self._numbers = itertools.count(1)
        self.problems = ProblemLog(self._log_error, self.config.log_period_s)
        self._group = ReentrantCallbackGroup()
        self._cameras = self._find_cameras()
        self.worker = Worker(
            [camera.topic for camera in self._cameras],
            lambda cameras: open_sessions(self.config, cameras),
            Outputs(
                self._publish_ready,
                self._publish_result,
                self._publish_grounding,
                self._report_problem,
                lambda camera, message: self._log_error(f"fault on {camera}: {message}"),
            ),
            self.config.max_pending_commands,
            SessionFiles(
                session_paths(self.config.session_file, self._cameras),
                self.config.session_period_s,
                self._report_problem,
            ),
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._ready = self.create_publisher(Bool, "~/ready", latched)
        self._results = {
            camera.topic: _Results(
                self.create_publisher(TrackedMaskArray, camera.own("~/masks"), 10),
                self.create_publisher(Image, camera.own("~/label_image"), 5),
                self.create_publisher(Image, camera.own("~/overlay"), 5),
            )
            for camera in self._cameras
        }
        self._groundings = self.create_publisher(GroundingMsg, "~/groundings", 50)
        self._subscribe()
        self._service: Service = self._open_service()
        self.worker.start()

    def _find_cameras(self) -> tuple[Camera, ...]:
        topics = []
        for topic in self.config.image_topics:
            try:
                validate_topic_name(topic)
                topics.append(self.resolve_topic_name(topic))
            except InvalidTopicNameException as error:
                reason = " ".join(str(error).split())
                raise ConfigError(f"image_topics has {topic!r}, which is not a topic name: {reason}") from error
        return name_cameras(topics, self.get_namespace())

    def _subscribe(self) -> None:
        compressed = self.config.image_transport == "compressed"
        reliability = ReliabilityPolicy[self.config.image_reliability.upper()]
        camera_qos = QoSProfile(depth=qos_profile_sensor_data.depth, reliability=reliability)
        for camera in self._cameras:
            source, kind = (f"{camera.topic}/compressed", CompressedImage) if compressed else (camera.topic, Image)
            self._listen(kind, source, self._image_callback(camera.topic, kind, source), camera_qos)
            self._hear(PointStamped, camera.own("~/click"), self._click_reader(camera.topic))
            self._hear(Point, f"{camera.topic}_mouse_left", self._click_reader(camera.topic))
            self._hear(String, camera.own("~/text"), self._text_reader(camera.topic))
        if len(self._cameras) > 1:  # what does not say which is rejected with the names
            self._hear(PointStamped, "~/click", self._click_reader(""))
            self._hear(String, "~/text", self._text_reader(""))
        self._hear(PromptMsg, "~/prompt", lambda message: convert.request_from_prompt(message, self._new_id))

    def _click_reader(self, camera: str) -> Callable[[Any], Request]:
        return lambda message: convert.request_from_click(message, self._new_id, camera)

    def _text_reader(self, camera: str) -> Callable[[Any], Request]:
        return lambda message: convert.request_from_text(message, self._new_id, camera)

    def _hear(self, message_type: type, topic: str, to_request: Callable[[Any], Request]) -> None:
        """Take prompts from a topic."""
        self._listen(message_type, topic, self._prompt_callback(message_type, topic, to_request), 50)

    def _listen(self, message_type: type, topic: str, callback: Callable[[bytes], None], qos: Any) -> None:
        self.create_subscription(message_type, topic, callback, qos, callback_group=self._group, raw=True)

    def reopen_service(self) -> None:
        """Offer ~/set_prompt anew: requests are not raw, and one that is not valid text jams the service."""
        self.destroy_service(self._service)
        self._service = self._open_service()

    def _open_service(self) -> Service:
        answer: Any = self._on_set_prompt  # rclpy awaits a coroutine, its annotations do not say so
        return self.create_service(SetPrompt, "~/set_prompt", answer, callback_group=ReentrantCallbackGroup())

    def _new_id(self, word: str) -> str:
        taken = self.worker.prompt_ids  # also by prompts from before a restart
        return next(name for number in self._numbers if (name := f"{word}-{number}") not in taken)

    def _image_callback(self, camera: str, kind: type, source: str) -> Callable[[bytes], None]:
        """Make the callback of a camera: it hands over the bytes, which are decoded if no newer ones come."""

        def read(data: bytes, frame_index: int) -> Frame:
            return convert.to_frame(deserialize_message(data, kind), frame_index, source)

        return lambda data: self.worker.offer_frame(camera, lambda frame_index: read(data, frame_index))

    def _prompt_callback(
        self, message_type: type, topic: str, to_request: Callable[[Any], Request]
    ) -> Callable[[bytes], None]:
        """Make the callback of a prompt topic: it queues the bytes, or publishes why it cannot."""

        def read(data: bytes) -> Request:
            try:
                return to_request(deserialize_message(data, message_type))
            except UnicodeDecodeError as error:
                return Reject("", f"message on {topic} holds text that is not UTF-8 ({error.reason}); send UTF-8")

        def callback(data: bytes) -> None:
            try:
                self.worker.post(lambda: read(data))
            except PromptError as error:
                self._publish_grounding(Grounding("", GroundingStatus.REJECTED, message=str(error)))

        return callback

    async def _on_set_prompt(self, request: SetPrompt.Request, response: SetPrompt.Response) -> SetPrompt.Response:
        answer = Future(executor=self.executor)
        try:
            self.worker.post(lambda: convert.request_from_prompt(request.prompt, self._new_id), answer.set_result)
            outcome = await answer
        except PromptError as error:
            outcome = Grounding(request.prompt.prompt_id, GroundingStatus.REJECTED, message=str(error))
        response.success = outcome.status in (GroundingStatus.OK, GroundingStatus.REMOVED)
        response.target_ids = list(outcome.target_ids)
        response.message = "" if response.success else outcome.message or "nothing in the image fits the prompt"
        return response

    def _publish_ready(self) -> None:
        self._ready.publish(Bool(data=True))
        self.get_logger().info(f"ready: {self.config.checkpoint or self.config.preset} on {', '.join(self._results)}")

    def _publish_result(self, camera: str, frame: Frame, result: FrameResult, received_ns: int) -> None:
        results = self._results[camera]
        message = convert.from_result(result, self.worker.counters[camera].dropped)
        message.latency_ms = (time.monotonic_ns() - received_ns) * 1e-6
        results.masks.publish(message)
        if results.label_image.get_subscription_count():
            results.label_image.publish(convert.label_image(result))
        if results.overlay.get_subscription_count():
            results.overlay.publish(convert.overlay_image(frame, result))

    def _publish_grounding(self, outcome: Grounding, frame_id: str = "") -> None:
        if outcome.status == GroundingStatus.REJECTED:
            self.get_logger().warning(f"prompt {outcome.prompt_id!r} rejected: {outcome.message}")
        self._groundings.publish(convert.from_grounding(outcome, frame_id))

    def _report_problem(self, camera: str, cause: str, message: str) -> None:
        several = camera and len(self._cameras) > 1
        self.problems.report(f"{cause} of {camera}" if several else cause, message)

    def _log_error(self, line: str) -> None:
        self.get_logger().error(line)


def spin(node: X2SamNode, stop: threading.Event) -> None:
    """Run callbacks until ``stop`` is set or the worker fails; a message that cannot be taken does not end it."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set() and node.worker.failure is None:
            try:
                executor.spin_once(timeout_sec=SPIN_PERIOD_S)
            except ExternalShutdownException:
                return
            except UnicodeDecodeError as error:
                node.problems.report("service request", f"text that is not UTF-8 ({error.reason}); send UTF-8")
                node.reopen_service()
    finally:
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
        node = X2SamNode(open_sessions)
        spin(node, stop)
        if not node.worker.stop(STOP_TIMEOUT_S):
            if node.config.session_file:
                node.get_logger().warning("ended before the targets were saved; the file is that of the last save")
            # Interpreter shutdown would wait for, or crash in, a model that is still loading or inferring.
            sys.stderr.flush()
            os._exit(0)
        node.destroy_node()
        if node.worker.failure is not None:
            raise node.worker.failure
    except X2SamError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()

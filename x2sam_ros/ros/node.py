"""x2sam_node: a camera and prompts in, tracked masks out.

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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rclpy
from geometry_msgs.msg import Point, PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
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
from x2sam_ros.ros.params import declare_parameters
from x2sam_ros.ros.worker import Outputs, Reject, Request, StreamSession, Worker
from x2sam_ros.srv import SetPrompt
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus

if TYPE_CHECKING:
    from x2sam_ros.config import NodeConfig

SPIN_PERIOD_S = 0.1
"""How long one wait of the executor lasts at most: how late a signal is noticed."""

STOP_TIMEOUT_S = 1.5
"""How long shutdown waits for the frame at hand."""


def open_session(config: NodeConfig) -> StreamSession:
    """Load the model that the parameters name and open a session on it. Slow: it imports torch."""
    from x2sam_ros.checkpoint.load import load_model
    from x2sam_ros.engine.session import Session

    model = load_model(config.checkpoint or config.preset, config.device, config.dtype)
    return Session(model, config.engine, memory_policy=config.memory_policy)


class X2SamNode(Node):
    """Wires topics to the worker. Its callbacks only hand over; they never infer and never raise.

    Args:
        make_session: builds the session from the parameters, on the worker's thread.

    Raises:
        ConfigError: a parameter has a value that it cannot have.
    """

    def __init__(self, make_session: Callable[[NodeConfig], StreamSession] = open_session) -> None:
        super().__init__("x2sam_node", automatically_declare_parameters_from_overrides=True)
        self.config = declare_parameters(self)
        self._numbers = itertools.count(1)
        self._problems: dict[str, tuple[int, float]] = {}
        self._group = ReentrantCallbackGroup()
        self.worker = Worker(
            lambda: make_session(self.config),
            Outputs(self._publish_ready, self._publish_result, self._publish_grounding, self.report_problem),
            self.config.max_pending_commands,
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._ready = self.create_publisher(Bool, "~/ready", latched)
        self._masks = self.create_publisher(TrackedMaskArray, "~/masks", 10)
        self._label_image = self.create_publisher(Image, "~/label_image", 5)
        self._overlay = self.create_publisher(Image, "~/overlay", 5)
        self._groundings = self.create_publisher(GroundingMsg, "~/groundings", 50)
        self._subscribe()
        self._service: Service = self._open_service()
        self.worker.start()

    def _subscribe(self) -> None:
        try:
            validate_topic_name(self.config.image_topic)
            self._camera = self.resolve_topic_name(self.config.image_topic)
        except InvalidTopicNameException as error:
            raise ConfigError(f"image_topic is not a topic name: {' '.join(str(error).split())}") from error
        compressed = self.config.image_transport == "compressed"
        self._camera_type = CompressedImage if compressed else Image
        self._source = f"{self._camera}/compressed" if compressed else self._camera
        reliability = ReliabilityPolicy[self.config.image_reliability.upper()]
        camera_qos = QoSProfile(depth=qos_profile_sensor_data.depth, reliability=reliability)
        self._listen(self._camera_type, self._source, self._on_image, camera_qos)
        prompts: tuple[tuple[type, str, Callable[[Any], Request]], ...] = (
            (PromptMsg, "~/prompt", lambda message: convert.request_from_prompt(message, self._camera, self._new_id)),
            (String, "~/text", lambda message: convert.request_from_text(message, self._new_id)),
            (PointStamped, "~/click", lambda message: convert.request_from_click(message, self._new_id)),
            (Point, f"{self._camera}_mouse_left", lambda message: convert.request_from_click(message, self._new_id)),
        )
        for message_type, topic, read in prompts:
            self._listen(message_type, topic, self._prompt_callback(message_type, topic, read), 50)

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
        return f"{word}-{next(self._numbers)}"

    def _on_image(self, data: bytes) -> None:
        def read(frame_index: int) -> Frame:
            message = deserialize_message(data, self._camera_type)
            return convert.to_frame(message, frame_index, self._source)

        self.worker.offer_frame(read)

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
            self.worker.post(
                lambda: convert.request_from_prompt(request.prompt, self._camera, self._new_id), answer.set_result
            )
            outcome = await answer
        except PromptError as error:
            outcome = Grounding(request.prompt.prompt_id, GroundingStatus.REJECTED, message=str(error))
        response.success = outcome.status in (GroundingStatus.OK, GroundingStatus.REMOVED)
        response.target_ids = list(outcome.target_ids)
        response.message = "" if response.success else outcome.message or "nothing in the image fits the prompt"
        return response

    def _publish_ready(self) -> None:
        self._ready.publish(Bool(data=True))
        self.get_logger().info(f"ready: {self.config.checkpoint or self.config.preset} on {self._source}")

    def _publish_result(self, frame: Frame, result: FrameResult, received_ns: int, frames_dropped: int) -> None:
        message = convert.from_result(result, frames_dropped)
        message.latency_ms = (time.monotonic_ns() - received_ns) * 1e-6
        self._masks.publish(message)
        if self._label_image.get_subscription_count():
            self._label_image.publish(convert.label_image(result))
        if self._overlay.get_subscription_count():
            self._overlay.publish(convert.overlay_image(frame, result))

    def _publish_grounding(self, outcome: Grounding, frame_id: str = "") -> None:
        if outcome.status == GroundingStatus.REJECTED:
            self.get_logger().warning(f"prompt {outcome.prompt_id!r} rejected: {outcome.message}")
        self._groundings.publish(convert.from_grounding(outcome, frame_id))

    def report_problem(self, cause: str, message: str) -> None:
        """Log a problem, at most once per cause and ``log_period_s``, with how often it came since the last time."""
        times, logged_s = self._problems.get(cause, (0, float("-inf")))
        times += 1
        if time.monotonic() - logged_s < self.config.log_period_s:
            self._problems[cause] = (times, logged_s)
            return
        self._problems[cause] = (0, time.monotonic())
        self.get_logger().error(f"{cause} dropped ({times} since the last report): {message}")


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
                node.report_problem("service request", f"text that is not UTF-8 ({error.reason}); send UTF-8")
                node.reopen_service()
    finally:
        executor.remove_node(node)


def main(args: list[str] | None = None, make_session: Callable[[NodeConfig], StreamSession] = open_session) -> None:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: command line; that of the process by default.
        make_session: builds the session from the parameters, on the worker's thread.

    Raises:
        SystemExit: with code 2 when a parameter or the model was refused; the reason is printed in one line.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = X2SamNode(make_session)
        spin(node, stop)
        if not node.worker.stop(STOP_TIMEOUT_S):
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

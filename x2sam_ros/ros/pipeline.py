"""What the node has while it is configured: cameras in, the worker between, results out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.msg import Grounding as GroundingMsg
from x2sam_ros.ros import convert
from x2sam_ros.ros.camera_infos import CameraInfos
from x2sam_ros.ros.cameras import Camera, camera_info_topic, name_cameras, topics_beside
from x2sam_ros.ros.diagnostics import Depth, Held, held_by
from x2sam_ros.ros.frame_statistics import Statistics, Window
from x2sam_ros.ros.image_bridge import open_bridge, read_picture
from x2sam_ros.ros.problem_log import ProblemLog
from x2sam_ros.ros.prompt_topics import PromptTopics
from x2sam_ros.ros.qos import Publishers, QosMonitor, create_raw_subscription
from x2sam_ros.ros.requests import Request
from x2sam_ros.ros.result_messages import ResultPublishers
from x2sam_ros.ros.session_files import SessionFiles, session_paths
from x2sam_ros.ros.space_messages import camera_model
from x2sam_ros.ros.space_results import Seen, SpaceResults
from x2sam_ros.ros.worker import Answered, Outputs, StreamSession, Worker
from x2sam_ros.types import Frame, Grounding, GroundingStatus, TargetInfo

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

    from x2sam_ros.config import NodeConfig

OpenSessions = Callable[["NodeConfig", Sequence[str]], Mapping[str, StreamSession]]
"""Builds a session for each camera from the parameters. Called once, on the worker's thread."""


def resolve_topic(node: Node, parameter: str, topic: str) -> str:
    """Return the full name of a topic.

    Raises:
        ConfigError: it is none; names the parameter that it is from.
    """
    try:
        validate_topic_name(topic)
        resolved: str = node.resolve_topic_name(topic)
    except InvalidTopicNameException as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{parameter} has {topic!r}, which is not a topic name: {reason}") from error
    return resolved


class Pipeline:
    """Cameras, prompts, worker and results of one configuration of the node.

    Its callbacks only hand over; they never infer and never raise. Publishers are there between ``open`` and ``close``,
    subscriptions between ``activate`` and ``deactivate``.

    Args:
        node: has the topics.
        config: its parameters.
        open_sessions: builds the sessions.
        monitor: is told of quality of service that does not fit.
        problems: takes what went wrong.
        saw: told, on the worker's thread, of every result after it was published.

    Raises:
        ConfigError: a parameter has a value that it cannot have.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        open_sessions: OpenSessions,
        monitor: QosMonitor,
        problems: ProblemLog,
        saw: Callable[[str, Answered], None],
    ) -> None:
        self._node, self._config, self._monitor, self._problems, self._saw = node, config, monitor, problems, saw
        self._publishers = Publishers(node, monitor)
        self._numbers = itertools.count(1)
        self._group = ReentrantCallbackGroup()
        self._subscriptions: list[Subscription] = []
        self._sizes: dict[str, tuple[int, int]] = {}
        self._bridge = open_bridge()
        self.held = Held()
        self.cameras = self._find_cameras()
        infos = topics_beside(config.camera_info_topics, config.image_topics)
        self._info_topics = {
            camera.topic: resolve_topic(node, "camera_info_topics", given or camera_info_topic(camera.topic))
            for camera, given in zip(self.cameras, infos)
        }
        self._infos = CameraInfos(self._info_topics, camera_model)
        self._files = SessionFiles(
            session_paths(config.session_file, self.cameras), config.session_period_s, self._report_problem
        )
        self.worker = Worker(
            [camera.topic for camera in self.cameras],
            lambda cameras: open_sessions(config, cameras),
            self._outputs(),
            config.max_pending_commands,
            self._files,
        )
        self.statistics = Statistics(self.worker.counters)
        self._results: dict[str, ResultPublishers] = {}
        self._space: dict[str, SpaceResults] = {}
        clicked = config.clicked_point_topic
        self._prompts = PromptTopics(
            node,
            self.cameras,
            clicked and resolve_topic(node, "clicked_point_topic", clicked),
            self._infos,
            self._sizes,
            self.new_id,
            self.worker.post,
            self._publish_grounding,
        )

    def open(self) -> None:
        """Make the publishers, and begin to load the model; where this raises, ``close``.

        Raises:
            ConfigError: a parameter has a value that it cannot have.
        """
        self._groundings = self._publishers.open(GroundingMsg, "~/groundings", "prompt")
        for camera in self.cameras:
            quality = self._config.overlay_jpeg_quality
            self._results[camera.topic] = ResultPublishers(self._publishers, camera, quality)
        self._space.update(self._open_space())
        self.worker.start()

    def activate(self) -> None:
        """Subscribe to cameras and prompts."""
        compressed = self._config.image_transport == "compressed"
        for camera in self.cameras:
            source, kind = (f"{camera.topic}/compressed", CompressedImage) if compressed else (camera.topic, Image)
            self._listen(kind, source, self._image_callback(camera.topic, kind, source), "sensor")
            self._listen(CameraInfo, self._info_topics[camera.topic], self._info_callback(camera.topic), "sensor")
            if camera.topic in self._space:
                space = self._space[camera.topic]
                self._listen(space.depth_type, space.depth_topic, space.pairing.offer_depth, "sensor")
        self._prompts.open(self._listen)
        self.statistics.restart()

    def deactivate(self) -> None:
        """Hear nothing more."""
        self._prompts.close()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def close(self, timeout_s: float) -> bool:
        """End for good; sessions are saved. False where the worker did not end in time."""
        self.deactivate()
        if not self.worker.stop(timeout_s):
            return False
        self._publishers.close()
        return True

    def reconfigure(self, config: NodeConfig) -> None:
        """Take over live parameters, between two frames.

        Raises:
            PromptError: too many requests are waiting.
        """

        def take_over() -> None:
            for session in self.worker.sessions:
                session.reconfigure(config.engine, config.memory_policy)
            self._files.period_s = config.session_period_s

        self.worker.post(take_over)

    def windows(self) -> dict[str, Window]:
        """Return what became of the images of each camera lately."""
        return self.statistics.read()

    def depth(self) -> dict[str, Depth]:
        """Return what became of the depth of each camera that has any; for one caller, about once a second."""
        return {
            topic: Depth(vars(space.pairing.counters), space.pairing.warning() or space.trouble)
            for topic, space in self._space.items()
        }

    def new_id(self, word: str) -> str:
        """Make a prompt id from a word; of the worker's thread."""
        taken = self.worker.prompt_ids  # also by prompts from before a restart
        return next(name for number in self._numbers if (name := f"{word}-{number}") not in taken)

    def _outputs(self) -> Outputs:
        log = self._node.get_logger()
        return Outputs(
            begun=self._begin,
            result=self._publish_result,
            targets=self._publish_targets,
            grounding=self._publish_grounding,
            problem=self._report_problem,
            fault=lambda camera, message: log.error(f"fault on {camera}: {message}"),
        )

    def _find_cameras(self) -> tuple[Camera, ...]:
        topics = [resolve_topic(self._node, "image_topics", topic) for topic in self._config.image_topics]
        return name_cameras(topics, self._node.get_namespace())

    def _open_space(self) -> list[tuple[str, SpaceResults]]:
        config, opened = self._config, []
        for camera, topic in zip(self.cameras, topics_beside(config.depth_topics, config.image_topics)):
            if topic:
                results = SpaceResults(
                    self._publishers,
                    camera,
                    resolve_topic(self._node, "depth_topics", topic),
                    config.depth_slop_ms,
                    config.max_cloud_points,
                    self._infos,
                    self._wake,
                    self._report_problem,
                )
                opened.append((camera.topic, results))
        return opened

    def _listen(self, kind: type, topic: str, callback: Callable[[bytes], None], qos: str) -> None:
        made = create_raw_subscription(self._node, self._monitor, kind, topic, callback, qos, self._group)
        self._subscriptions.append(made)

    def _image_callback(self, camera: str, kind: type, source: str) -> Callable[[bytes], None]:
        """Make the callback of a camera: it hands over the bytes, which are decoded if no newer ones come."""
        space = self._space.get(camera)

        def read(data: bytes, frame_index: int) -> Frame:
            return convert.to_frame(read_picture(data, kind), frame_index, source, self._bridge)

        def callback(data: bytes) -> None:
            if space is not None:
                space.pairing.offer_colour(data)
            self.worker.offer_frame(camera, lambda frame_index: read(data, frame_index))

        return callback

    def _info_callback(self, camera: str) -> Callable[[bytes], None]:
        return lambda data: self._infos.offer(camera, data)

    def _wake(self) -> None:
        """Let the worker publish what has its depth by now, from any thread."""

        def publish() -> Request | None:
            for space in self._space.values():
                space.publish_ready()
            return None

        with suppress(PromptError):  # with so much to do, the next result will
            self.worker.post(publish)

    def _begin(self, camera: str, frame: Frame) -> None:
        if camera in self._space:
            self._space[camera].pairing.begin(frame.stamp_ns)

    def _publish_result(self, camera: str, answered: Answered) -> None:
        frame, result, space = answered.frame, answered.result, self._space.get(camera)
        self._sizes[camera] = frame.size[1], frame.size[0]
        if space is not None:
            space.pairing.result(frame.stamp_ns, Seen(frame, result))
        latency_ms = self._results[camera].publish(
            frame,
            result,
            answered.received_ns,
            self.worker.counters[camera],
            answered.targets,
            answered.decode_ms,
            0 if space is None else space.pairing.counters.without_depth,
        )
        self.statistics.answered(camera, latency_ms)
        self._saw(camera, answered)
        if space is not None:
            space.publish_ready()
        self.held = held_by(self.worker.sessions)

    def _publish_targets(self, camera: str, targets: tuple[TargetInfo, ...]) -> None:
        self._results[camera].publish_targets(targets)
        self.held = held_by(self.worker.sessions)

    def _publish_grounding(self, outcome: Grounding, frame_id: str = "") -> None:
        """Tell what became of a prompt; a rejection is logged, and counted where many come."""
        if outcome.status == GroundingStatus.REJECTED:
            self._problems.report("rejected prompt", f"{outcome.prompt_id!r}: {outcome.message}")
        self._groundings.publish(convert.from_grounding(outcome, frame_id))

    def _report_problem(self, camera: str, cause: str, message: str) -> None:
        several = camera and len(self.cameras) > 1
        self._problems.report(f"{cause} of {camera}" if several else cause, message)

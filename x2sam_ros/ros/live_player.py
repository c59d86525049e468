"""Play frames and prompts into a running node as a camera and a person would, and keep what it answers, and when.

Every sequence begins with ``~/reset``, so that nothing of the one before survives. Its stamps are moved to the present,
at their own distances; what is handed back has the recorded ones.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import cv2
import rclpy
from rclpy.context import Context
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from x2sam_ros.bag.media import NOMINAL_FPS
from x2sam_ros.bag.messages import read_stamp_ns, read_tracked_mask_array
from x2sam_ros.errors import ConfigError
from x2sam_ros.msg import Prompt as PromptMsg
from x2sam_ros.msg import TrackedMaskArray
from x2sam_ros.ros import convert
from x2sam_ros.ros.node_link import ANSWER_TIMEOUT_S, FIND_TIMEOUT_S, NodeLink
from x2sam_ros.ros.player import restamp
from x2sam_ros.types import Frame, FrameResult, Grounding, Prompt

REPEAT_S = 1.0
"""Wait before the same is sent again while nobody knows whether the other side can hear it yet."""

LATE_S = 0.5
"""How long a message may be on its way from a node that has nothing left to do."""

LEAD_S = 0.1
"""How long before its image a prompt is sent at most, so that it is there first."""

AHEAD = 16
"""Images that are read before their time."""

LATE_IMAGE_MS = 50.0
"""An image that is sent later than this after its time is worth a note."""

JPEG_QUALITY = 95


@dataclass(frozen=True)
class PlayedFrame:
    """What became of one image.

    Args:
        frame_index, stamp_ns, size, source: of the frame.
        latency_ms: from its publishing to the receipt of its masks, wall time; None where none came.
        arrived_ns: when they came, on the clock of the recorded stamps; the stamp where none came.
        message: the masks.
    """

    frame_index: int
    stamp_ns: int
    size: tuple[int, int]
    source: str
    latency_ms: float | None
    arrived_ns: int
    message: TrackedMaskArray | None

    def result(self) -> FrameResult | None:
        """Decode the masks; stamp and frame index are those of the recording."""
        if self.message is None:
            return None
        return replace(read_tracked_mask_array(self.message), stamp_ns=self.stamp_ns, frame_index=self.frame_index)


@dataclass(frozen=True)
class Played:
    """What became of one sequence.

    Args:
        frames: one for each image, in order.
        groundings: what became of the prompts, in the order it came; stamps are the recorded ones.
        owners: target id to the id of the prompt that it answers.
        problems: what was not as it should be.
    """

    frames: tuple[PlayedFrame, ...]
    groundings: tuple[Grounding, ...]
    owners: Mapping[int, str]
    problems: tuple[str, ...]


class _Packed(NamedTuple):
    """A frame, and the message that it is sent as but for its stamp."""

    frame_index: int
    stamp_ns: int
    size: tuple[int, int]
    source: str
    data: bytes


class _Sent(NamedTuple):
    """A frame that was sent, with the stamp it was sent with and the moment (``time.time_ns``)."""

    frame: _Packed
    stamp_ns: int
    sent_ns: int


class LivePlayer(NodeLink):
    """Plays into one camera of a node. Of one thread.

    Args:
        target, is_alive, context: see ``NodeLink``.
        rate: speed; 2.0 plays twice as fast.

    Raises:
        ConfigError: the rate is not above 0, or the name is none.
    """

    def __init__(
        self,
        target: str,
        rate: float = 1.0,
        is_alive: Callable[[], bool] = lambda: True,
        context: Context | None = None,
    ) -> None:
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"rate is {rate}, expected a number above 0; 1 is that of the recording")
        super().__init__(target, is_alive, context)
        self._rate, self._is_warm = rate, False
        self._newest_ns = 0  # of all stamps that were sent
        self._dropped = 0  # images that the node had dropped when the sequence began
        self._resetting = self.create_client(Trigger, f"{target}/reset")

    def play(
        self,
        frames: Iterable[Frame],
        prompts: Mapping[int, Sequence[Prompt]],
        on_frame: Callable[[], None] = lambda: None,
    ) -> Played:
        """Play a sequence in real time and wait for its last answer.

        Args:
            frames: in order.
            prompts: frame index to the prompts that are given on that image; their ids are unique in the sequence.
            on_frame: called when an image was sent.

        Raises:
            NodeError: the node ended, or answers nothing any more.
            PromptError: a prompt that cannot be sent.
            X2SamError: whatever reading the frames raises.
        """
        token = f"{uuid.uuid4().hex[:8]}/"  # ids are the node's, and others may use them
        to_give = {
            index: [
                convert.from_prompt(replace(prompt, prompt_id=token + prompt.prompt_id), self._camera)
                for prompt in given
            ]
            for index, given in prompts.items()
        }
        with closing(_read_ahead((self._pack(frame) for frame in frames), self._listen_until)) as packed:
            first = next(packed, None)
            if first is None:
                return Played((), (), {}, ())
            self._begin(first)
            sent, problems = self._send(chain([first], packed), to_give, on_frame)
        self._drain(sent[-1].stamp_ns)
        return self._collect(sent, token, problems)

    def _pack(self, frame: Frame) -> _Packed:
        message: Image | CompressedImage
        if self._image_topic == self._camera:
            height, width = frame.size
            message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
            message.data.frombytes(frame.image.tobytes())
        else:
            message = CompressedImage(format="jpeg")
            bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            message.data.frombytes(cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes())
        message.header.frame_id = frame.frame_id
        return _Packed(frame.frame_index, frame.stamp_ns, frame.size, frame.source, serialize_message(message))

    def _begin(self, first: _Packed) -> None:
        """Let the node forget everything; before the first sequence, see that an image of it comes through."""
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while not self._is_warm:
            stamp_ns = self._new_stamp()
            self._image.publish(restamp(first.data, stamp_ns))
            self.spin_while(lambda: not self._masks and self._is_alive(), REPEAT_S)
            self._check(bool(self._masks) or time.monotonic() < end_s, self._why_no_masks)
            if self._masks:
                self._drain(stamp_ns)
                self._is_warm = True
        self._groundings.clear()
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while not self._groundings:  # a reset is answered there, too
            self._call(self._resetting, Trigger.Request())
            self.spin_while(lambda: not self._groundings and self._is_alive(), REPEAT_S)
            self._check(time.monotonic() < end_s, lambda: f"nothing came on {self._target}/groundings; check its QoS")
        if self._masks:
            self._dropped = self._masks[-1][0].frames_dropped
        self._masks.clear()
        self._groundings.clear()
        self._owners.clear()

    def _send(
        self, packed: Iterator[_Packed], prompts: Mapping[int, Sequence[PromptMsg]], on_frame: Callable[[], None]
    ) -> tuple[list[_Sent], list[str]]:
        """Publish images at the distances of their stamps, each after its prompts; say what was odd, too."""
        sent: list[_Sent] = []
        late_ms, unordered = 0.0, 0
        start_ns = stamp_ns = self._new_stamp()
        lead_s = min(LEAD_S, 0.5 / self._rate)  # nodes wait for stamps that are not too far ahead
        started_s = time.monotonic() + lead_s
        for frame in packed:
            if sent:
                step_ns = frame.stamp_ns - sent[-1].frame.stamp_ns
                unordered += step_ns <= 0
                stamp_ns += step_ns if step_ns > 0 else round(1e9 / NOMINAL_FPS)
            due_s = started_s + (stamp_ns - start_ns) * 1e-9 / self._rate
            self.spin_while(self._is_alive, due_s - lead_s - time.monotonic())
            for prompt in prompts.get(frame.frame_index, ()):
                prompt.image_stamp = convert.to_header(stamp_ns, "").stamp
                self._prompts.publish(prompt)
            self.spin_while(self._is_alive, max(due_s - time.monotonic(), 1e-3))
            self._check(True)
            late_ms = max(late_ms, 1e3 * (time.monotonic() - due_s))
            sent.append(_Sent(frame._replace(data=b""), stamp_ns, time.time_ns()))
            self._image.publish(restamp(frame.data, stamp_ns))
            on_frame()
        self._newest_ns = stamp_ns
        problems = []
        if unordered:
            problems.append(
                f"{unordered} images have no later stamp than the one before; sent {1 / NOMINAL_FPS} s after it"
            )
        if late_ms > LATE_IMAGE_MS:
            problems.append(
                f"images were sent up to {late_ms:.0f} ms after their time: reading or this machine was too slow"
            )
        return sent, problems

    def _drain(self, stamp_ns: int) -> None:
        """Wait until the image of a stamp is answered, or no image is left to be."""

        def is_unanswered() -> bool:
            return not self._masks or read_stamp_ns(self._masks[-1][0].header) < stamp_ns

        for _ in range(2):  # orders are carried out between two images, and one image may wait behind that at hand
            if is_unanswered():
                self._list_targets()
        self.spin_while(is_unanswered, LATE_S)
        self._list_targets()

    def _collect(self, sent: Sequence[_Sent], token: str, problems: list[str]) -> Played:
        received: dict[int, tuple[TrackedMaskArray, int]] = {}
        for message, received_ns in self._masks:
            received.setdefault(read_stamp_ns(message.header), (message, received_ns))
        frames = []
        for frame, stamp_ns, sent_ns in sent:
            answer, received_ns = received.get(stamp_ns, (None, sent_ns))
            wait_ns = received_ns - sent_ns
            arrived_ns = frame.stamp_ns + round(wait_ns * self._rate)
            latency_ms = None if answer is None else wait_ns * 1e-6
            frames.append(PlayedFrame(*frame[:4], latency_ms, arrived_ns, answer))
        if lost := sum(frame.message is None for frame in frames):
            dropped = self._masks[-1][0].frames_dropped - self._dropped if self._masks else 0
            problems.append(f"{lost} of {len(frames)} images got no answer; the node counts {dropped} as dropped")
        recorded_ns = {item.stamp_ns: item.frame.stamp_ns for item in sent}
        groundings = tuple(
            replace(
                item,
                prompt_id=item.prompt_id.removeprefix(token),
                stamp_ns=recorded_ns.get(item.stamp_ns, item.stamp_ns),
            )
            for item in self.groundings()
            if item.prompt_id.startswith(token)
        )
        owners = {target_id: item.prompt_id for item in groundings for target_id in item.target_ids}
        for target_id, prompt_id in self._owners.items():
            if prompt_id.startswith(token):
                owners[target_id] = prompt_id.removeprefix(token)
        return Played(tuple(frames), groundings, owners, tuple(problems))

    def _new_stamp(self) -> int:
        """Return the present, or what comes after all stamps that were sent."""
        self._newest_ns = max(time.time_ns(), self._newest_ns + 1_000_000_000)
        return self._newest_ns

    def _listen_until(self, done: Callable[[], bool]) -> None:
        """Hear what comes while an image is still being read."""
        while not done():
            self.spin_while(lambda: not done(), REPEAT_S)
            self._check(True)

    def _why_no_masks(self) -> str:
        return (
            f"{self._target} answered no image on {self._image_topic} within {ANSWER_TIMEOUT_S:.0f} s: nothing came on "
            f"{self._masks_topic}; its log and /diagnostics say why"
        )


@contextmanager
def open_live_player(
    target: str,
    image_topic: str | None = None,
    rate: float = 1.0,
    is_alive: Callable[[], bool] = lambda: True,
    start_timeout_s: float = FIND_TIMEOUT_S,
) -> Iterator[LivePlayer]:
    """Join the ROS graph, connect to a node, and leave the graph at the end; see ``LivePlayer``."""
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        with closing(LivePlayer("/" + target.lstrip("/"), rate, is_alive, context)) as player:
            player.connect(image_topic, start_timeout_s)
            yield player
    finally:
        rclpy.try_shutdown(context=context)


def _read_ahead(
    items: Generator[_Packed, None, None], wait: Callable[[Callable[[], bool]], None]
) -> Generator[_Packed, None, None]:
    """Yield items that another thread prepares before they are asked for; ``wait`` waits for one that is late."""
    pool = ThreadPoolExecutor(1)
    coming: deque[Future[_Packed | None]] = deque()
    try:
        coming.extend(pool.submit(next, items, None) for _ in range(AHEAD))
        while True:
            future = coming.popleft()
            wait(future.done)
            item = future.result()
            if item is None:
                return
            coming.append(pool.submit(next, items, None))
            yield item
    finally:
        for future in coming:
            future.cancel()
        pool.submit(items.close)  # in the thread that opened what they come from
        pool.shutdown()

"""What the replay tests share: pictures, messages, and a tiny but real session that segments by colour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import cv2
import numpy as np
from rosbags.typesys import Stores, get_typestore

from x2sam_ros.types import (
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    PointPrompt,
    Prompt,
    TargetState,
    TextPrompt,
)

TYPES = get_typestore(Stores.ROS2_JAZZY)
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
HEIGHT, WIDTH = 48, 64


def picture(index: int) -> np.ndarray:
    """A red square that moves right and a blue one that stays, on grey."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[10:20, 4 + 3 * index : 14 + 3 * index] = (230, 20, 20)
    image[30:40, 40:52] = (20, 20, 230)
    return image


def header(index: int) -> Any:
    stamp = divmod(START_NS + index * STEP_NS, 1_000_000_000)
    time = TYPES.types["builtin_interfaces/msg/Time"](*stamp)
    return TYPES.types["std_msgs/msg/Header"](time, "camera")


def image_message(index: int, **changes: Any) -> Any:
    values = {
        "header": header(index),
        "height": HEIGHT,
        "width": WIDTH,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": WIDTH * 3,
        "data": picture(index).reshape(-1),
    }
    return TYPES.types[IMAGE](**{**values, **changes})


def compressed_message(index: int) -> Any:
    png = cv2.imencode(".png", picture(index)[..., ::-1])[1].reshape(-1)
    return TYPES.types[COMPRESSED](header(index), "png", png)


class ColourSession:
    """Targets are what has the colour under a click, or the colour a text names."""

    COLOURS: ClassVar = {"red": (230, 20, 20), "blue": (20, 20, 230)}

    def __init__(self) -> None:
        self.pending: list[Prompt] = []
        self.colours: dict[int, np.ndarray] = {}
        self.labels: dict[int, str] = {}
        self.refined: list[tuple[int, int]] = []
        self.frames = 0

    def submit(self, prompt: Prompt) -> None:
        self.pending.append(prompt)

    def step(self, frame: Frame) -> FrameResult:
        groundings = tuple(self._carry_out(prompt, frame) for prompt in self.pending)
        self.pending.clear()
        self.frames += 1
        ids = sorted(self.colours)
        distance = [np.abs(frame.image.astype(int) - self.colours[i]).sum(axis=2) for i in ids]
        masks = np.array([d < 60 for d in distance], bool).reshape(len(ids), *frame.size)
        states = tuple(TargetState.TRACKED if mask.any() else TargetState.LOST for mask in masks)
        return FrameResult(
            frame.stamp_ns,
            frame.frame_index,
            frame.frame_id,
            frame.size,
            masks,
            np.full(len(ids), 0.75, np.float32),
            tuple(self.labels[i] for i in ids),
            np.array(ids, np.int64),
            states,
            groundings,
        )

    def _carry_out(self, prompt: Prompt, frame: Frame) -> Grounding:
        def answer(status: GroundingStatus, ids: tuple[int, ...] = (), message: str = "") -> Grounding:
            return Grounding(prompt.prompt_id, status, target_ids=ids, message=message, stamp_ns=frame.stamp_ns)

        if prompt.task_name == "chat":
            return replace(answer(GroundingStatus.OK), response="I see [red].")
        if prompt.target_id is not None:
            self.refined.append((prompt.target_id, frame.frame_index))
            return answer(GroundingStatus.OK, (prompt.target_id,))
        if isinstance(prompt, PointPrompt):
            x, y = np.round(prompt.points_px[0]).astype(int)
            if not (0 <= x < frame.size[1] and 0 <= y < frame.size[0]):
                return answer(GroundingStatus.REJECTED, message=f"click {x},{y} is outside the image")
            colour, label = frame.image[y, x], ""
        elif isinstance(prompt, TextPrompt) and prompt.text in self.COLOURS:
            colour, label = np.array(self.COLOURS[prompt.text]), prompt.text
        else:
            return answer(GroundingStatus.NO_TARGET)
        target_id = len(self.colours) + 1
        self.colours[target_id], self.labels[target_id] = colour.astype(int), label
        return answer(GroundingStatus.OK, (target_id,))

"""The node with a segmenter that needs no weights, and judges the order of its frames as the real one does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tests.ros.threshold_session import ThresholdSession
from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.engine.timeline import Timeline
from x2sam_ros.ros.node import main
from x2sam_ros.types import Frame, FrameResult


class CarefulSession(ThresholdSession):
    """Refuses late frames."""

    def __init__(self, config: EngineConfig, numbers: Iterator[int]) -> None:
        super().__init__(0.0, numbers)
        self._timeline = Timeline(config)

    def step(self, frame: Frame) -> FrameResult:
        self._timeline.judge(frame)
        result = super().step(frame)
        self._timeline.accept(frame)
        return result


def open_sessions(config: NodeConfig, cameras: Sequence[str]) -> dict[str, CarefulSession]:
    numbers = itertools.count(1)
    return {camera: CarefulSession(config.engine, numbers) for camera in cameras}


if __name__ == "__main__":
    main(open_sessions=open_sessions)

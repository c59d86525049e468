"""Run x2sam_node with a model that costs nothing: every image gets the same masks, at once or after a while.

    benchmarks/cheap_node.py --targets 5 --step-ms 100 --ros-args -p session_file:=/tmp/cheap.json

Targets come and go with prompts, whatever those say; each has a blob of its own size, shape and place.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.errors import PromptError, SavedSessionError
from x2sam_ros.types import (
    BoolArray,
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    Progress,
    Prompt,
    PromptStage,
    TargetInfo,
    TargetState,
    TextPrompt,
)

RADII = (0.05, 0.1, 0.15, 0.22, 0.3)
"""Mean radii of the blobs, in turn, as shares of the image's height."""

NUM_PLACES = 16
"""Blobs that differ; the next target has the first one again."""

MAX_PROMPT_IDS = 1024
"""As many are remembered as by the real session."""


@lru_cache(maxsize=4)
def blobs(height: int, width: int) -> BoolArray:
    """Draw filled, wavy outlines, each with at least one pixel: bool (NUM_PLACES, height, width)."""
    masks = np.zeros((NUM_PLACES, height, width), np.uint8)
    for place, mask in enumerate(masks):
        rng = np.random.default_rng(place)
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        waves = sum(rng.uniform(0, 0.12) * np.cos(k * angles + rng.uniform(0, 7)) for k in range(2, 7))
        radii = RADII[place % len(RADII)] * height * (1 + waves)
        centre = rng.uniform(0.25, 0.75, 2) * (width, height)
        outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    return masks.view(bool)


@dataclass(frozen=True)
class Saved:
    """What a session follows, as its file has it."""

    targets: Mapping[int, tuple[str, str]]
    prompt_ids: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def target_ids(self) -> set[int]:
        return set(self.targets)

    def write(self, path: str | Path) -> None:
        try:
            Path(path).write_text(json.dumps({"targets": self.targets, "prompt_ids": self.prompt_ids}))
        except OSError as error:
            raise SavedSessionError(f"{path} cannot be written: {error}") from error


class CheapSession:
    """What the node's worker asks of a session (ros/worker.py)."""

    faults: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, num_targets: int, step_s: float, max_targets: int, numbers: Iterator[int]) -> None:
        self._step_s, self._max_targets, self._numbers = step_s, max_targets, numbers
        self._targets: dict[int, tuple[str, str]] = {}  # label and prompt id
        self._used: deque[str] = deque(maxlen=MAX_PROMPT_IDS)
        self._waiting: list[tuple[Prompt, Callable[[Progress], None]]] = []
        self._seen_ns = 0
        for _ in range(num_targets):
            self._targets[next(numbers)] = ("given", "given")

    @property
    def target_ids(self) -> tuple[int, ...]:
        return tuple(self._targets)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        return tuple(self._used)

    @property
    def targets(self) -> tuple[TargetInfo, ...]:
        return tuple(
            TargetInfo(number, label, prompt_id, TargetState.TRACKED, self._seen_ns)
            for number, (label, prompt_id) in self._targets.items()
        )

    def submit(self, prompt: Prompt, *, watch: Callable[[Progress], None] | None = None) -> None:
        if prompt.prompt_id in self._used:
            raise PromptError(f"prompt id {prompt.prompt_id!r} was used before; choose another one")
        if prompt.target_id is not None and prompt.target_id not in self._targets:
            raise PromptError(f"there is no target {prompt.target_id}")
        if len(self._targets) + len(self._waiting) >= self._max_targets:
            raise PromptError(f"{self._max_targets} targets are followed already; remove one")
        self._used.append(prompt.prompt_id)
        self._waiting.append((prompt, watch or (lambda progress: None)))
        self._waiting[-1][1](Progress(prompt.prompt_id, PromptStage.WAITING))

    def remove(self, target_id: int) -> None:
        if self._targets.pop(target_id, None) is None:
            raise PromptError(f"there is no target {target_id}")

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        mine = tuple(number for number, (_, owner) in self._targets.items() if owner == prompt_id)
        left = [entry for entry in self._waiting if entry[0].prompt_id != prompt_id]
        if not mine and len(left) == len(self._waiting):
            raise PromptError(f"there is no prompt {prompt_id!r}")
        self._waiting = left
        for number in mine:
            del self._targets[number]
        return mine

    def reset(self) -> None:
        self._targets.clear()
        self._used.clear()
        self._waiting.clear()

    def reconfigure(self, config: EngineConfig, memory_policy: str) -> None:
        self._max_targets = config.max_targets

    def step(self, frame: Frame) -> FrameResult:
        begun_s = time.monotonic()
        time.sleep(self._step_s)
        groundings = tuple(self._carry_out(*entry, frame) for entry in self._waiting)
        self._waiting.clear()
        self._seen_ns = frame.stamp_ns
        masks = blobs(*frame.size)[[number % NUM_PLACES for number in self._targets]]  # new ones, as of a model
        return FrameResult(
            frame.stamp_ns,
            frame.frame_index,
            frame.frame_id,
            frame.size,
            masks,
            np.full(len(masks), 0.9, np.float32),
            tuple(label for label, _ in self._targets.values()),
            np.array(list(self._targets), np.int64),
            (TargetState.TRACKED,) * len(masks),
            groundings,
            {"step": 1e3 * (time.monotonic() - begun_s)},
        )

    def snapshot(self) -> Saved:
        return Saved(dict(self._targets), tuple(self._used))

    def read(self, path: str | Path) -> Saved:
        try:
            content = json.loads(Path(path).read_text())
            targets = {int(number): (label, owner) for number, (label, owner) in content["targets"].items()}
            return Saved(targets, tuple(content["prompt_ids"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SavedSessionError(f"{path} cannot be read: {error}") from error

    def resume(self, state: Saved) -> None:
        self.reset()
        self._targets.update(state.targets)
        self._used.extend(state.prompt_ids)
        newest = max(state.targets, default=0)
        while self._targets and next(self._numbers) < newest:
            pass

    def restore(self, path: str | Path) -> None:
        self.resume(self.read(path))

    def close(self) -> None:
        self.reset()

    def _carry_out(self, prompt: Prompt, watch: Callable[[Progress], None], frame: Frame) -> Grounding:
        watch(Progress(prompt.prompt_id, PromptStage.GROUNDING))
        label = prompt.text if isinstance(prompt, TextPrompt) else ""
        target_id = prompt.target_id or next(self._numbers)
        if prompt.target_id is None:
            self._targets[target_id] = (label, prompt.prompt_id)
        return Grounding(prompt.prompt_id, GroundingStatus.OK, label, target_ids=(target_id,), stamp_ns=frame.stamp_ns)


def main() -> None:
    """Run the node."""
    from x2sam_ros.ros.node import main as run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=5, help="targets of each camera from the start")
    parser.add_argument("--step-ms", type=float, default=0.0, help="how long the model takes")
    options, _ = parser.parse_known_args()  # the rest is ROS's
    numbers = itertools.count(1)

    def open_sessions(config: NodeConfig, cameras: Sequence[str]) -> dict[str, CheapSession]:
        given = options.targets, options.step_ms * 1e-3, config.engine.max_targets
        return {camera: CheapSession(*given, numbers) for camera in cameras}

    run(open_sessions=open_sessions)


if __name__ == "__main__":
    main()

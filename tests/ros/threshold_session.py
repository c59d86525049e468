"""A segmenter that needs no weights: a target is every pixel near one colour. As a program, a node that runs it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.errors import PromptError, SavedSessionError
from x2sam_ros.types import (
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    PointPrompt,
    Progress,
    Prompt,
    PromptStage,
    TargetInfo,
    TargetState,
    TextPrompt,
)

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
TOLERANCE = 60


@dataclass(frozen=True)
class SavedColours:
    """What ThresholdSession follows."""

    content: str

    def write(self, path: str | Path) -> None:
        try:
            Path(path).write_text(self.content)
        except OSError as error:
            raise SavedSessionError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True)
class ReadColours:
    """What ThresholdSession reads from a file."""

    targets: dict[int, tuple[str, np.ndarray]]
    prompt_ids: set[str]
    left_out: tuple[str, ...] = ()

    @property
    def target_ids(self) -> set[int]:
        return set(self.targets)


class ThresholdSession:
    """Has the interface of engine.session.Session and finds what is coloured as the words or the click say."""

    faults: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, step_s: float = 0.0, numbers: Iterator[int] | None = None) -> None:
        self.step_s = step_s
        self._numbers = numbers or itertools.count(1)
        self._pending: list[Prompt] = []
        self._watches: dict[str, Callable[[Progress], None] | None] = {}
        self._prompts: dict[int, str] = {}
        self._seen_ns: dict[int, int] = {}
        self._ids: set[str] = set()
        self._targets: dict[int, tuple[str, np.ndarray]] = {}

    @property
    def target_ids(self) -> tuple[int, ...]:
        return tuple(self._targets)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        return tuple(self._ids)

    @property
    def targets(self) -> tuple[TargetInfo, ...]:
        return tuple(
            TargetInfo(number, label, self._prompts.get(number, ""), TargetState.TRACKED, self._seen_ns.get(number, 0))
            for number, (label, _) in self._targets.items()
        )

    def submit(self, prompt: Prompt, *, watch: Callable[[Progress], None] | None = None) -> None:
        if prompt.prompt_id in self._ids:
            raise PromptError(f"prompt id {prompt.prompt_id!r} was used before; choose another one")
        self._ids.add(prompt.prompt_id)
        self._pending.append(prompt)
        self._watches[prompt.prompt_id] = watch
        self._tell(prompt, PromptStage.WAITING)

    def remove(self, target_id: int) -> None:
        if target_id not in self._targets:
            raise PromptError(f"target {target_id} does not exist")
        del self._targets[target_id]

    def remove_prompt(self, prompt_id: str) -> tuple[int, ...]:
        if prompt_id not in self._ids:
            raise PromptError(f"prompt {prompt_id!r} does not exist")
        self._pending = [prompt for prompt in self._pending if prompt.prompt_id != prompt_id]
        self._watches.pop(prompt_id, None)
        mine = tuple(number for number in self._targets if self._prompts.get(number) == prompt_id)
        for number in mine:
            del self._targets[number]
        return mine

    def reset(self) -> None:
        self._pending.clear()
        self._watches.clear()
        self._ids.clear()
        self._targets.clear()

    def reconfigure(self, config: EngineConfig, memory_policy: str) -> None:
        self.config, self.memory_policy = config, memory_policy

    def step(self, frame: Frame) -> FrameResult:
        time.sleep(self.step_s)
        due: list[Prompt] = []
        early: list[Prompt] = []
        for prompt in self._pending:
            (early if (prompt.stamp_ns or 0) > frame.stamp_ns else due).append(prompt)
        self._pending = early
        for prompt in due:
            self._tell(prompt, PromptStage.GROUNDING)
        groundings = tuple(self._carry_out(prompt, frame) for prompt in due)
        for prompt in due:
            self._watches.pop(prompt.prompt_id, None)
        distances = [np.abs(frame.image.astype(int) - colour).max(axis=2) for _, colour in self._targets.values()]
        self._seen_ns = dict.fromkeys(self._targets, frame.stamp_ns)
        masks = np.array([distance < TOLERANCE for distance in distances]).reshape(-1, *frame.size)
        return FrameResult(
            frame.stamp_ns,
            frame.frame_index,
            frame.frame_id,
            frame.size,
            masks.astype(bool),
            np.ones(len(masks), np.float32),
            tuple(label for label, _ in self._targets.values()),
            np.array(list(self._targets), np.int64),
            (TargetState.TRACKED,) * len(masks),
            groundings,
        )

    def snapshot(self) -> SavedColours:
        targets = {number: [label, np.asarray(colour).tolist()] for number, (label, colour) in self._targets.items()}
        return SavedColours(json.dumps({"targets": targets, "prompt_ids": sorted(self._ids)}))

    def restore(self, path: str | Path) -> None:
        self.resume(self.read(path))

    def read(self, path: str | Path) -> ReadColours:
        try:
            content = json.loads(Path(path).read_text())
            targets = {int(k): (label, np.array(c)) for k, (label, c) in content["targets"].items()}
            return ReadColours(targets, set(content["prompt_ids"]))
        except (OSError, ValueError) as error:
            raise SavedSessionError(f"{path} is damaged: {error}") from error

    def resume(self, state: ReadColours) -> None:
        self._ids, self._targets = set(state.prompt_ids), dict(state.targets)
        for _ in range(max(self._targets, default=0)):
            next(self._numbers)

    def close(self) -> None:
        self.reset()

    def _tell(self, prompt: Prompt, stage: PromptStage, response: str = "") -> None:
        watch = self._watches.get(prompt.prompt_id)
        if watch is not None:
            watch(Progress(prompt.prompt_id, stage, response))

    def _carry_out(self, prompt: Prompt, frame: Frame) -> Grounding:
        if isinstance(prompt, TextPrompt):
            if "slow" in prompt.text:
                time.sleep(30.0)
            colour = next((value for name, value in COLOURS.items() if name in prompt.text), None)
            if colour is None:
                return Grounding(prompt.prompt_id, GroundingStatus.NO_TARGET, prompt.text, stamp_ns=frame.stamp_ns)
            return self._add(prompt.prompt_id, prompt.text, np.array(colour), frame)
        if isinstance(prompt, PointPrompt):
            x, y = prompt.points_px[0].astype(int)
            if not (0 <= x < frame.size[1] and 0 <= y < frame.size[0]):
                message = f"click at {x},{y} is outside the {frame.size[1]}x{frame.size[0]} image"
                return Grounding(prompt.prompt_id, GroundingStatus.REJECTED, message=message, stamp_ns=frame.stamp_ns)
            return self._add(prompt.prompt_id, "", frame.image[y, x].astype(int), frame)
        message = f"{type(prompt).__name__} is not understood"
        return Grounding(prompt.prompt_id, GroundingStatus.REJECTED, message=message, stamp_ns=frame.stamp_ns)

    def _add(self, prompt_id: str, label: str, colour: np.ndarray, frame: Frame) -> Grounding:
        target_id = next(self._numbers)
        self._targets[target_id], self._prompts[target_id] = (label, colour), prompt_id
        return Grounding(prompt_id, GroundingStatus.OK, label, target_ids=(target_id,), stamp_ns=frame.stamp_ns)


def open_sessions(config: NodeConfig, cameras: Sequence[str]) -> dict[str, ThresholdSession]:
    numbers = itertools.count(1)
    return {camera: ThresholdSession(0.02, numbers) for camera in cameras}


if __name__ == "__main__":
    from x2sam_ros.ros.node import main

    main(open_sessions=open_sessions)
